import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { Devnet, type DevPeer } from '../../node/devnet/devnet.ts'
import { LocalPolicyEvaluator } from '../../sdk/policy-evaluator.ts'
import { asMeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { ECHO, source, wasm } from '../node/wasm-module.ts'

const CLI = fileURLToPath(new URL('../../node/cli/main.ts', import.meta.url))
const answered = z.object({ success: z.literal(true), data: json })
const jobDocument = z.object({ job_status: z.string(), job_output_data: json, node_id: z.string() }).loose()

/** AIOS's documented rule, word for word but for its code, which was Python behind a web address. */
const DOCUMENTED: Readonly<Record<string, Json>> = {
  name: 'ip_allowlist', version: '1.0', release_tag: 'beta',
  metadata: { author_name: 'Prasanna', organization: 'openvision.ai', audience: ['network_admins', 'security_teams'] },
  tags: 'network,security,ip,access,allowlist',
  type: 'python_class_v1',
  policy_input_schema: { ip: { type: 'string', description: 'IP address of the incoming request', pattern: '^\\d{1,3}(\\.\\d{1,3}){3}$' } },
  policy_output_schema: { allowed: { type: 'boolean', description: 'Whether access is allowed' }, input_data: { type: 'any', description: 'Original input data' }, reason: { type: 'string', description: 'Reason for the decision' } },
  policy_settings_schema: { allowlist_api: { type: 'string', description: 'HTTP API endpoint that returns a JSON allowlist', pattern: '^https?://.*' } },
  policy_parameters_schema: { local_allowlist: { type: 'array', max_length: 100, items: { type: 'string', pattern: '^\\d{1,3}(\\.\\d{1,3}){3}$' } } },
  policy_settings: { allowlist_api: 'https://example.com/api/allowlist' },
  policy_parameters: { local_allowlist: ['127.0.0.1', '192.168.0.1'] },
  management_commands_schema: [
    { name: 'update_local_allowlist', description: 'Replace the local allowlist with a new set of IPs', schema: { ips: { type: 'array', items: { type: 'string', pattern: '^\\d{1,3}(\\.\\d{1,3}){3}$' } } } },
    { name: 'get_state', description: 'Return current local and cached remote allowlist', schema: {} },
  ],
  description: 'Policy that checks whether a given IP is allowed based on a local list and a remote allowlist API.',
}
const ALLOWLIST = `class AIOSv1PolicyRule {
  constructor(ruleId, settings, parameters) { this.local = parameters.local_allowlist }
  eval(parameters, input) { const allowed = parameters.local_allowlist.includes(input.ip) || this.local.includes(input.ip); return { allowed, input_data: input, reason: allowed ? 'allowed' : 'denied' } }
  management(action, data) { if (action === 'update_local_allowlist') this.local = data.ips; return { status: 'success', local_allowlist: this.local } }
}`
const PYTHON = 'import requests\n\nclass AIOSv1PolicyRule:\n    def __init__(self, rule_id, settings, parameters):\n        self.settings = settings\n'
const COUNTER_TS = `
type Parameters = { readonly step: number }
export default class AIOSv1PolicyRule {
  n: number = 0
  eval(parameters: Parameters, input: { readonly spin?: number }): object {
    let sum = 0
    for (let i = 0; i < (input.spin ?? 0); i += 1) sum += Math.sqrt(i)
    this.n += parameters.step
    return { n: this.n, spun: sum > 0 }
  }
  management(action: string, data: { readonly to: number }): object { this.n = data.to; return { action, n: this.n } }
}`
/** Some seconds of work. */
const LONG = 15_000_000

async function until<T>(look: () => Promise<T>, good: (value: T) => boolean, limitMs = 60_000): Promise<T> {
  const ends = performance.now() + limitMs
  for (;;) {
    const value = await look()
    if (good(value)) return value
    assert(performance.now() < ends, `not within ${limitMs} ms: ${JSON.stringify(value)}`)
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

describe('the policies system over AIOS\'s doors, on three real peers', function () {
  this.timeout(180_000)
  let dir: string
  let net: Devnet

  const data = async (sent: Promise<Json>): Promise<Json> => answered.parse(await sent).data
  const post = (index: number, path: string, body: Json): Promise<Json> => data(net.peer(index).client.send('POST', path, body))
  const get = (index: number, path: string): Promise<Json> => data(net.peer(index).client.get(path))
  const refusal = async (work: Promise<Json>): Promise<{ readonly code: string; readonly message: string }> => {
    try {
      assert.fail(`expected a refusal, got ${JSON.stringify(await work)}`)
    } catch (error) {
      return asMeshError(error)
    }
  }
  const aios = (peer: DevPeer, ...args: readonly string[]): Json => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, '--data', peer.dataDir, '--json', ...args], { encoding: 'utf8' })
    assert.equal(status, 0, `aios ${args.join(' ')}: ${stderr}${stdout}`)
    return json.parse(JSON.parse(stdout))
  }

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-policies-'))
    net = await Devnet.start(dir, 3)
    await mkdir(join(dir, 'rule', 'code'), { recursive: true })
    await writeFile(join(dir, 'rule', 'policy.json'), JSON.stringify({ name: 'counter', version: '1.0', release_tag: 'stable', policy_parameters: { step: 1 }, policy_parameters_schema: { step: { type: 'integer' } }, management_commands_schema: [{ name: 'set', description: '', schema: { to: { type: 'integer', required: true } } }] }))
    await writeFile(join(dir, 'rule', 'code', 'function.ts'), COUNTER_TS)
    aios(net.peer(0), 'policy', 'publish', join(dir, 'rule'))
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  it('takes AIOS\'s documented policy document, which names no code_type, and answers as documented from every peer', async () => {
    await post(0, '/policy', { ...DOCUMENTED, code: ALLOWLIST })
    await until(() => get(2, '/policy/ip_allowlist:1.0-beta').catch(() => null), found => found !== null)
    const shown = z.looseObject({ policy_rule_uri: z.string(), tags: z.string(), policy_parameters: json, management_commands_schema: z.array(z.looseObject({ name: z.string() })) }).parse(await get(2, '/policy/ip_allowlist:1.0-beta'))
    assert.deepEqual([shown.policy_rule_uri, shown.tags, shown.policy_parameters], ['ip_allowlist:1.0-beta', DOCUMENTED['tags'], DOCUMENTED['policy_parameters']])
    assert.deepEqual(shown.management_commands_schema.map(({ name }) => name).sort(), ['get_state', 'update_local_allowlist'])
    const found = z.array(z.looseObject({ name: z.string() })).parse(await post(1, '/policy/query', { release_tag: 'beta', tags: { $regex: 'security' }, version: { $gte: '1.0' } }))
    assert.deepEqual(found.map(({ name }) => name), ['ip_allowlist'])
    const ask = (ip: string, parameters: Json = {}): Promise<Json> => post(1, `/executor/${net.peer(2).peer}/execute_policy`, { policy_rule_uri: 'ip_allowlist:1.0-beta', input_data: { ip }, parameters })
    assert.deepEqual(await ask('10.0.0.1', { local_allowlist: ['10.0.0.1'] }), { allowed: true, input_data: { ip: '10.0.0.1' }, reason: 'allowed' })
    assert.deepEqual(await ask('10.0.0.1'), { allowed: false, input_data: { ip: '10.0.0.1' }, reason: 'denied' })
    assert.match((await refusal(ask('everywhere'))).message, /ip_allowlist:1\.0-beta: its input does not fit: ip: "everywhere" must be text that matches/)
    assert.match((await refusal(ask('1.2.3.4', { local_allowlist: ['home'] }))).message, /parameters\.local_allowlist\[0\]: "home" must be/)
  })

  it('says what is wrong with a rule that cannot be onboarded: Python, no code, a settings value that breaks its schema', async () => {
    assert.match((await refusal(post(0, '/policy', { ...DOCUMENTED, name: 'snake', code: PYTHON }))).message, /code: is Python.*class AIOSv1PolicyRule/)
    assert.match((await refusal(post(0, '/policy', { ...DOCUMENTED, name: 'snake' }))).message, /code: missing/)
    assert.match((await refusal(post(0, '/policy', { ...DOCUMENTED, name: 'snake', code: ALLOWLIST, policy_settings: { allowlist_api: 'gopher:' } }))).message, /settings\.allowlist_api: "gopher:"/)
    assert.equal((await refusal(post(0, '/policy', { ...DOCUMENTED, description: 'another', code: ALLOWLIST }))).code, 'IMMUTABLE')
    assert.equal((await refusal(data(net.peer(0).client.send('PUT', '/policy/ip_allowlist:1.0-beta', { $set: { 'policy_parameters.local_allowlist': ['8.8.8.8'] } })))).code, 'IMMUTABLE')
    const described = z.looseObject({ description: z.string() }).parse(await data(net.peer(0).client.send('PUT', '/policy/ip_allowlist:1.0-beta', { $set: { description: 'who may come in' } })))
    assert.equal(described.description, 'who may come in')
  })

  it('runs TypeScript and WebAssembly rules, and a rule that was withdrawn is not found', async () => {
    const policy = aios(net.peer(0), 'policy', 'call', 'counter:1.0-stable', '--on', net.peer(1).peer)
    assert.deepEqual(policy, { n: 1, spun: false })
    await post(0, '/policy', { name: 'echo', version: '1', release_tag: 'stable', code_type: 'wasm_v1', code: source(wasm({ eval: ECHO })) })
    assert.deepEqual(await post(0, '/executor/execute_policy', { policy_rule_uri: 'echo:1-stable', input_data: { a: 1 }, settings: { get_metrics: { load: 2 } } }), { parameters: {}, input: { a: 1 }, context: null, settings: { get_metrics: { load: 2 } } })
    await data(net.peer(0).client.send('DELETE', '/policy/echo:1-stable'))
    assert.equal((await refusal(get(0, '/policy/echo:1-stable'))).code, 'NOT_FOUND')
    assert.deepEqual(z.array(z.json()).parse(await post(0, '/policy/query', { name: 'echo' })), [])
  })

  it('callables that the asker sends are functions again at the executor, and one that it does not send is refused with what it sent', async () => {
    await post(0, '/policy', { name: 'loads', version: '1', release_tag: 's', code: 'export default class AIOSv1PolicyRule { constructor(id, settings) { this.settings = settings } eval() { return [this.settings.get_metrics().load, this.settings.cluster_client.get_cluster("c")] } }' })
    const ask = (settings: Json): Promise<Json> => post(0, `/executor/${net.peer(2).peer}/execute_policy`, { policy_rule_uri: 'loads:1-s', input_data: {}, settings })
    await until(() => get(2, '/policy/loads:1-s').catch(() => null), found => found !== null)
    assert.deepEqual(await ask({ get_metrics: { load: 0.5 }, cluster_client: { get_cluster: { c: { id: 'c' } } } }), [0.5, { id: 'c' }])
    assert.match((await refusal(ask({ cluster_client: {} }))).message, /loads:1-s: .*live callables answer from what the asker sends in settings, and it sent cluster_client/)
  })

  it('AIOS\'s LocalPolicyEvaluator evaluates through any peer, with its state, or at an executor without', async () => {
    const { http: url } = net.peer(1)
    const evaluator = new LocalPolicyEvaluator({ policy_rule_uri: 'counter:1.0-stable', parameters: { step: 2 }, url })
    assert.deepEqual([await evaluator.execute_policy_rule({}), await evaluator.execute_policy_rule({})], [{ n: 2, spun: false }, { n: 4, spun: false }])
    assert.deepEqual(await evaluator.execute_mgmt_command('set', { to: 10 }), { action: 'set', n: 10 })
    assert.deepEqual(await evaluator.execute_policy_rule({}), { n: 12, spun: false })
    await assert.rejects(evaluator.execute_mgmt_command('set', { to: 'ten' }), /set: to: "ten" must be a whole number/)
    assert.deepEqual(await new LocalPolicyEvaluator({ policy_rule_uri: 'counter:1.0-stable', url }).execute_policy_rule({}), { n: 1, spun: false }, 'another evaluator, another state')
    const remote = new LocalPolicyEvaluator({ policy_rule_uri: 'counter:1.0-stable', mode: 'remote', executor_id: net.peer(2).peer, url })
    assert.deepEqual([await remote.execute_policy_rule({}), await remote.execute_policy_rule({})], [{ n: 1, spun: false }, { n: 1, spun: false }])
    const custom = new LocalPolicyEvaluator({ custom_class: class { eval(parameters: object, input: { readonly n?: Json }): Json { return { parameters: { ...parameters }, n: input.n ?? null } } management(): Json { return null } }, parameters: { own: true } })
    assert.deepEqual(await custom.execute_policy_rule({ n: 3 }), { parameters: { own: true }, n: 3 })
  })

  it('a rule that loops, bombs or pollutes costs its caller an error and the peer nothing', async () => {
    for (const [index, code] of ['export default () => { for (;;) {} }', 'export default () => { const all = []; for (;;) all.push(new Array(10000).fill(1)) }', 'export default () => { Object.prototype.polluted = 1; return process.env }'].entries()) {
      await post(0, '/policy', { name: `bad${index}`, version: '1', release_tag: 'x', code })
      assert.equal((await refusal(post(0, '/executor/execute_policy', { policy_rule_uri: `bad${index}:1-x`, input_data: {} }))).code, 'POLICY_FAILED')
    }
    assert.equal((await net.peer(0).client.fetch('GET', '/healthz')).status, 200)
    assert.deepEqual(aios(net.peer(0), 'policy', 'call', 'counter:1.0-stable'), { n: 1, spun: false })
  })

  it('functions keep their state where they live, and graphs of them run from any peer', async () => {
    for (const [index, name] of ['first', 'second', 'third'].entries()) await post(index, `/function/deployments/create/${net.peer(index).peer}`, { name, policy_rule_uri: 'counter:1.0-stable', policy_rule_parameters: { step: index + 1 }, replicas: 1, function_tags: ['count'] })
    await until(() => post(2, '/function/query', { function_tags: { $in: ['count'] } }), found => z.array(json).parse(found).length === 3)
    assert.deepEqual(await post(1, '/function/call_function/third', {}), { n: 3, spun: false })
    assert.deepEqual(await post(0, '/function/call_function/third', {}), { n: 6, spun: false })
    const [told] = Object.values(z.record(z.string(), json).parse(await post(0, '/function/mgmt/third', { action: 'set', data: { to: 100 } })))
    assert.deepEqual(told, { action: 'set', n: 100 })
    const graph = await post(0, '/graphs', { graph_name: 'line', graph_version: '1.0', graph_release_tag: 'stable', graph_function_ids: ['first', 'second', 'third'], graph_connection_data: { first: ['second'], second: ['third'] }, graph_search_tags: ['count'] })
    assert.deepEqual(graph, { graph_uri: 'line:1.0-stable' })
    await until(() => get(2, '/graphs/line:1.0-stable').catch(() => null), found => found !== null)
    assert.deepEqual(await post(2, '/graph/execute_graph', { graph_uri: 'line:1.0-stable', input_data: {} }), { n: 103, spun: false })
    await writeFile(join(dir, 'to.json'), '{"to": 200}')
    assert.deepEqual(Object.values(z.record(z.string(), json).parse(aios(net.peer(1), 'function', 'command', 'third', 'set', '--with', join(dir, 'to.json')))), [{ action: 'set', n: 200 }])
    assert.match(JSON.stringify(await get(1, '/function/get_logs/third')), /started/)
    assert.match((await refusal(post(0, '/graphs', { graph_name: 'loop', graph_version: '1', graph_release_tag: 's', graph_function_ids: ['a', 'b'], graph_connection_data: { a: ['b'], b: ['a'] } }))).message, /wait for one another/)
    const { result } = z.object({ result: z.array(z.looseObject({ function_id: z.string() })) }).parse(await net.peer(0).client.send('POST', '/api/filter', { matchType: 'policyFunction', filter: { policyFunctionQuery: { variable: 'function_id', operator: '==', value: 'second' } } }))
    assert.deepEqual(result.map(({ function_id }) => function_id), ['second'])
  })

  it('a job outlives kill -9 of its executor: another takes it, with one result, and its function goes on elsewhere where it was', async () => {
    const executor = net.peer(1)
    const counted = z.looseObject({ n: z.number() })
    const { n: before } = counted.parse(await post(0, '/function/call_function/second', {}))
    const submitted = z.looseObject({ job_id: z.string() }).parse(await post(0, `/jobs/submit/${executor.peer}`, { name: 'long', policy_rule_uri: 'counter:1.0-stable', inputs: { spin: LONG } }))
    assert.equal(jobDocument.parse(await get(2, `/jobs/${submitted.job_id}`)).node_id, executor.peer)
    executor.process.kill('SIGKILL')
    const done = await until(async () => jobDocument.parse(await get(2, `/jobs/${submitted.job_id}`)), ({ job_status }) => job_status !== 'in_progress')
    assert.deepEqual([done.job_status, done.job_output_data], ['completed', { n: 1, spun: true }])
    assert.notEqual(done.node_id, executor.peer)
    const found = z.array(z.looseObject({ job_id: z.string() })).parse(await post(0, '/jobs/query', { 'inputs.spin': LONG }))
    assert.deepEqual(found.map(({ job_id }) => job_id), [submitted.job_id])
    const { n: after } = counted.parse(await until(() => post(0, '/function/call_function/second', {}).catch(() => null), value => value !== null))
    assert.ok(before >= 4 && after >= before + 2, `${after} after ${before}`)
  })
})
