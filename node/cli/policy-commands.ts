import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { HOOKS } from '../../src/policies/hooks.ts'
import { arg, count, flag, text, UsageError, type Command, type Context } from './command.ts'
import { readJson } from './json-file.ts'
import { pretty, shortId, table } from './output.ts'

const answered = z.object({ data: json })
const submitted = z.object({ job_id: z.string() })
const job = z.object({ job_id: z.string(), job_status: z.string(), job_output_data: json, node_id: z.string(), policy_rule_uri: z.string() }).loose()
const executor = z.object({ executor_id: z.string(), executor_status: z.string(), node_id: z.string() }).loose()
const fn = z.object({ function_id: z.string(), function_policy_rule_uri: z.string(), replicas: z.array(z.object({ replica: z.string(), host: z.string() })) }).loose()
const graph = z.object({ graph_uri: z.string(), graph_function_ids: z.array(z.string()) }).loose()

const INPUT = { name: 'input', value: 'FILE|-', what: 'the input, as JSON (default {})' }
const PARAMETERS = { name: 'parameters', value: 'FILE|-', what: 'parameters of this call, over those of the rule' }
const ON = { name: 'on', value: 'EXECUTOR', what: 'which executor, a peer id or a name (default: the idlest)' }
const LOOK_MS = 250

export const policyCommands: readonly Command[] = [
  {
    words: ['policy', 'show'], args: 'URI', count: [1, 1], what: 'one policy rule: schemas, parameters, commands',
    run: context => show(context, `/policy/${name(context)}`),
  },
  {
    words: ['policy', 'withdraw'], args: 'URI', count: [1, 1], what: 'take a version of a rule back; what names it exactly goes on asking it',
    async run(context) {
      await (await context.daemon()).send('DELETE', `/policy/${name(context)}`)
      context.out.result({ withdrawn: arg(context, 0) }, () => `withdrew ${arg(context, 0)}`)
    },
  },
  {
    words: ['policy', 'call'], args: 'URI', count: [1, 1], what: 'evaluate a rule once, here or on another peer', options: [INPUT, PARAMETERS, ON],
    async run(context) {
      const body = { policy_rule_uri: arg(context, 0), input_data: await given(context, 'input'), parameters: await given(context, 'parameters') }
      await post(context, `/executor/${encodeURIComponent(text(context, 'on') ?? '')}${text(context, 'on') === undefined ? '' : '/'}execute_policy`, body)
    },
  },
  {
    words: ['policy', 'command'], args: 'URI ACTION', count: [2, 2], what: 'give a management command to the rule that answers in a scope of this peer (a block, a vDAG)',
    options: [{ name: 'with', value: 'FILE|-', what: 'what goes with it, as JSON' }, { name: 'scope', value: 'ID', what: 'block id or vDAG URI' }],
    async run(context) {
      const scope = text(context, 'scope')
      await post(context, `/policy/${name(context)}/management`, { action: arg(context, 1), data: await given(context, 'with'), ...(scope === undefined ? {} : { scope }) })
    },
  },
  {
    words: ['policy', 'hooks'], args: '', count: [0, 0], what: 'where rules are asked, what they get and what they must answer',
    async run(context) {
      context.out.result(HOOKS, () => Object.entries(HOOKS).map(([id, hook]) => `${id} (${hook.names.join(', ')})\n  asked   ${hook.asked}\n  input   ${hook.input}\n  answer  ${hook.answer}\n  fails   ${hook.onFailure}`).join('\n\n'))
    },
  },
  {
    words: ['policy', 'executors'], args: '', count: [0, 0], what: 'peers that run policies for others',
    async run(context) {
      const rows = z.array(executor).parse(await data(context, 'GET', '/executors'))
      context.out.result(rows, () => table(['EXECUTOR', 'STATUS', 'PEER'], rows.map(row => [row.executor_id, row.executor_status, shortId(row.node_id)])))
    },
  },
  {
    words: ['policy', 'job'], args: 'URI', count: [1, 1], what: 'run a rule once and long, wherever it can be finished',
    options: [INPUT, PARAMETERS, ON, { name: 'name', value: 'NAME', what: 'what to call it' }, { name: 'no-wait', what: 'print the job id and leave' }],
    async run(context) {
      const daemon = await context.daemon()
      const on = text(context, 'on')
      const { job_id: id } = submitted.parse(await daemon.send('POST', `/jobs/submit${on === undefined ? '' : `/${encodeURIComponent(on)}`}`, { name: text(context, 'name') ?? arg(context, 0), policy_rule_uri: arg(context, 0), inputs: await given(context, 'input'), policy_rule_parameters: await given(context, 'parameters') }))
      if (flag(context, 'no-wait')) return context.out.result({ job_id: id }, () => id)
      for (;;) {
        const found = job.parse(await data(context, 'GET', `/jobs/${id}`))
        if (found.job_status === 'failed') throw new MeshError('POLICY_FAILED', `job ${id} failed: ${pretty(found.job_output_data)}`)
        if (found.job_status === 'completed') return context.out.result(found, () => pretty(found.job_output_data))
        await new Promise(resolve => setTimeout(resolve, LOOK_MS))
        context.signal.throwIfAborted()
      }
    },
  },
  {
    words: ['policy', 'jobs'], args: '', count: [0, 0], what: 'jobs of the network',
    async run(context) {
      const rows = z.array(job).parse(await data(context, 'POST', '/jobs/query', {}))
      context.out.result(rows, () => table(['JOB', 'STATUS', 'PEER', 'POLICY'], rows.map(row => [row.job_id, row.job_status, shortId(row.node_id), row.policy_rule_uri])))
    },
  },
  {
    words: ['function', 'deploy'], args: 'NAME URI', count: [2, 2], what: 'keep a rule running, with its state',
    options: [ON, PARAMETERS, { name: 'replicas', value: 'N', what: 'copies (default 1)' }, { name: 'max', value: 'N', what: 'scale up to so many copies' }, { name: 'target', value: 'PERCENT', what: 'how busy a copy should be (default 50)' }],
    async run(context) {
      const on = text(context, 'on')
      const replicas = count(context, 'replicas', 1)
      const most = text(context, 'max') === undefined ? undefined : count(context, 'max', 1)
      const autoscaling: Readonly<Record<string, Json>> = most === undefined ? {} : { autoscaling: { enabled: true, min_replicas: replicas, max_replicas: most, target_cpu_utilization_percentage: count(context, 'target', 50) } }
      const made = await data(context, 'POST', `/function/deployments/create${on === undefined ? '' : `/${encodeURIComponent(on)}`}`, { name: arg(context, 0), policy_rule_uri: arg(context, 1), policy_rule_parameters: await given(context, 'parameters'), replicas, ...autoscaling })
      context.out.result(made, () => `deployed ${arg(context, 0)}: ${fn.parse(made).replicas.map(({ host }) => shortId(host)).join(', ')}`)
    },
  },
  {
    words: ['function', 'list'], args: '', count: [0, 0], what: 'functions of the network',
    async run(context) {
      const rows = z.array(fn).parse(await data(context, 'POST', '/function/query', {}))
      context.out.result(rows, () => table(['FUNCTION', 'POLICY', 'COPIES'], rows.map(row => [row.function_id, row.function_policy_rule_uri, row.replicas.map(({ host }) => shortId(host)).join(' ')])))
    },
  },
  { words: ['function', 'call'], args: 'NAME', count: [1, 1], what: 'call a function', options: [INPUT], run: async context => post(context, `/function/call_function/${name(context)}`, await given(context, 'input')) },
  {
    words: ['function', 'command'], args: 'NAME ACTION', count: [2, 2], what: 'give a management command to every copy', options: [{ name: 'with', value: 'FILE|-', what: 'what goes with it, as JSON' }],
    run: async context => post(context, `/function/mgmt/${name(context)}`, { action: arg(context, 1), data: await given(context, 'with') }),
  },
  {
    words: ['function', 'logs'], args: 'NAME', count: [1, 1], what: 'what its copies noted', options: [{ name: 'tail', value: 'N', what: 'lines (default 100)' }],
    async run(context) {
      const lines = z.array(z.string()).parse(await data(context, 'GET', `/function/get_logs/${name(context)}?tail=${count(context, 'tail', 100)}`))
      context.out.result(lines, () => lines.join('\n'))
    },
  },
  {
    words: ['function', 'remove'], args: 'NAME', count: [1, 1], what: 'end a function and its state',
    async run(context) {
      await (await context.daemon()).send('DELETE', `/function/deployments/remove/${name(context)}`)
      context.out.result({ removed: arg(context, 0) }, () => `removed ${arg(context, 0)}`)
    },
  },
  {
    words: ['graph', 'create'], args: 'SPEC', count: [1, 1], what: 'publish a graph of functions',
    async run(context) {
      const made = z.object({ graph_uri: z.string() }).parse(await data(context, 'POST', '/graphs', await readJson(arg(context, 0))))
      context.out.result(made, () => `published ${made.graph_uri}`)
    },
  },
  {
    words: ['graph', 'list'], args: '', count: [0, 0], what: 'graphs of functions',
    async run(context) {
      const rows = z.array(graph).parse(await data(context, 'POST', '/graphs/query', {}))
      context.out.result(rows, () => table(['GRAPH', 'FUNCTIONS'], rows.map(row => [row.graph_uri, row.graph_function_ids.join(' ')])))
    },
  },
  { words: ['graph', 'run'], args: 'URI', count: [1, 1], what: 'run a graph of functions', options: [INPUT], run: async context => post(context, '/graph/execute_graph', { graph_uri: arg(context, 0), input_data: await given(context, 'input') }) },
]

function name(context: Context): string {
  return encodeURIComponent(arg(context, 0))
}

async function given(context: Context, option: string): Promise<Json> {
  const file = text(context, option)
  if (file === '') throw new UsageError(`--${option} takes a file, or - for what comes in`)
  return file === undefined ? {} : readJson(file)
}

async function data(context: Context, method: 'GET' | 'POST', path: string, sent?: Json): Promise<Json> {
  const daemon = await context.daemon()
  return answered.parse(method === 'GET' ? await daemon.get(path) : await daemon.send(method, path, sent)).data
}

async function post(context: Context, path: string, sent: Json): Promise<void> {
  const found = await data(context, 'POST', path, sent)
  context.out.result(found, () => pretty(found))
}

async function show(context: Context, path: string): Promise<void> {
  const found = await data(context, 'GET', path)
  context.out.result(found, () => pretty(found))
}
