import { definePolicy, list, record, type Json } from 'aios-mesh/sdk'

/** Denied with a reason its reader can act on: AIOS puts it in `input_data`. */
export default definePolicy({
  eval(parameters, input): Json {
    const allowed = list(parameters['regions'] ?? [], 'regions').map(String)
    const region = record(record(input['block_data'] ?? {})['labels'] ?? {})['region']
    if (region === undefined || region === null) return { allowed: false, input_data: `name a region in the block's labels: one of ${allowed.join(', ')}` }
    // A label may name several regions, by commas.
    const outside = String(region).split(',').map(one => one.trim()).filter(one => !allowed.includes(one))
    return outside.length === 0 ? { allowed: true, input_data: input } : { allowed: false, input_data: `blocks may not run in ${outside.join(', ')}; allowed are ${allowed.join(', ')}` }
  },
})
