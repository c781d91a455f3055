import { definePolicy, list, number, record, type Json } from 'aios-mesh/sdk'

/** The mean queue of the instances, as their hosts last told; empty rounds are counted from call to call. */
export default definePolicy({
  init: () => ({ empty: 0 }),
  eval(parameters, input, _context, rule): Json {
    const instances = list(input['current_instances'] ?? [], 'current_instances').map(String)
    const metrics = record(record(snapshot(rule.settings['get_metrics']))['block_metrics'] ?? {})
    const queues = list(metrics['instances'] ?? [], 'instances').map(instance => Number(record(instance)['queue_length'] ?? 0))
    const mean = queues.length === 0 ? 0 : queues.reduce((sum, length) => sum + length, 0) / queues.length
    rule.state.empty = mean === 0 ? rule.state.empty + 1 : 0
    if (mean >= number(parameters['long'] ?? 4, 'long')) return { skip: false, operation: 'upscale', instances_count: 1 }
    const last = instances.at(-1)
    if (last === undefined || instances.length < 2 || rule.state.empty < number(parameters['patience'] ?? 3, 'patience')) return { skip: true }
    rule.state.empty = 0
    return { skip: false, operation: 'downscale', instances_list: [last] }
  },
})

/** AIOS hands a rule what it may ask as a function of its settings. */
function snapshot(get_metrics: unknown): Json {
  return typeof get_metrics === 'function' ? (get_metrics as () => Json)() : (get_metrics as Json | undefined) ?? {}
}
