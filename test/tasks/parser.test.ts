import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { componentManifest } from '../../protocols/specs.ts'
import type { TaskRecord } from '../../protocols/tasks.ts'
import { SeededRandom } from '../../simulations/random.ts'
import { ACTIONS } from '../../src/parser/action-names.ts'
import type { Performed } from '../../src/parser.ts'
import { refusal, Town } from '../clusters/town.ts'

const COMPONENT = 'node.commanded:1-stable'
const NEVER = new AbortController().signal

describe("AIOS's parser, on every peer", function () {
  this.timeout(60_000)
  let town: Town

  const perform = (at: number, action: string, document: Json, options = {}): Promise<Performed> => town.do(town.peer(at).parser.perform(action, document, NEVER, options))
  const refused = (at: number, action: string, document: Json, options = {}): Promise<{ readonly code: string; readonly message: string }> => refusal(perform(at, action, document, options))
  const block = (blockId: string): Json => ({ body: { spec: { values: { blockId, blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1 } } } })
  const task = (at: number, id: string): Promise<TaskRecord> => town.do(town.peer(at).tasks.get(id))

  before(async () => {
    town = await Town.started(3)
    const { catalogue, ports } = town.peer(0)
    await town.do(catalogue.publishComponent(componentManifest.parse({
      componentURI: COMPONENT, componentId: { name: 'commanded', version: '1', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node' }, files: [], needs: {}, author: ports.identity.peer,
      componentParameters: { threshold: 0.5 }, componentInitParametersProtocol: { threshold: { type: 'number', min: 0, max: 1 } }, componentInitSettingsProtocol: { mode: { type: 'string', choices: ['fast', 'exact'] } },
      componentManagementCommandsTemplate: { restart: { description: 'starts anew', args: {} }, reload_weights: { description: 'reads the weights again', args: { weights_path: { type: 'string', required: true }, tries: { type: 'number', default: 3 } } } },
    })))
    await town.pass(1_000)
  })

  it('knows every action AIOS names, by any spelling, and says which there are', async () => {
    for (const name of ['createCluster', 'addNode', 'addComponent', 'createBlock', 'createvDAG', 'search', 'filter', 'executeMgmtCommand', 'llmCreate', 'llmVDAGCreate', 'llmVDAGCreateManual', 'parameterUpdate'] as const) assert(ACTIONS.has(name), name)
    assert.deepEqual(await refused(0, 'createBlocks', {}).then(({ code, message }) => [code, /did you mean createBlock\?.*addComponent/.test(message)]), ['NOT_FOUND', true])
    assert.equal((await refused(0, 'create_v_dag', {})).code, 'SPEC_INVALID')
    assert.equal((await refused(0, 'llmVDAGCreateManual', { model_name: 'none:1-x', blocks: ['b'] })).code, 'NOT_FOUND')
  })

  it('adds a component by addComponent, from a shipped spec', async () => {
    const { result } = await perform(1, 'addComponent', { header: { templateUri: 'Parser/V1', parameters: {} }, body: { spec: { values: { componentId: { name: 'proxy', version: '0.1', releaseTag: 'beta' }, componentType: 'node', containerRegistryInfo: { containerImage: 'registry/proxy:1', componentMode: 'aios' } } } } })
    assert.equal(Object(result).componentURI, 'node.proxy:0.1-beta')
  })

  it('makes a block of a spec that says no mode, as a task that any peer can read', async () => {
    const { taskId, result, status } = await perform(1, 'createBlock', block('made'))
    assert.deepEqual([status, Object(result).blockId], ['completed', 'made'])
    assert.equal(town.hostsOf('made').length, 1)
    await town.pass(500)
    const read = await task(2, taskId)
    assert.deepEqual([read.task_type, read.task_status, read.owner, read.subject, read.progress?.what], ['block_allocation', 'completed', town.id(1), 'block made', '1 of 1 instances ready'])
    assert.deepEqual([read.progress?.done, read.progress?.total], [2, 2])
    assert.deepEqual(read.task_data, block('made'))
    assert.deepEqual(await town.do(town.peer(2).tasks.content(read.input!, NEVER)), block('made'), 'the input, by its CID')
    assert.equal(Object(await town.do(town.peer(2).tasks.content(read.output!, NEVER))).blockId, 'made', 'the output, by its CID')
    const found = await town.do(town.peer(2).tasks.list({ type: 'block_allocation', status: 'complete', from: read.task_create_timestamp, to: read.task_create_timestamp }))
    assert.deepEqual(found.map(({ task_id }) => task_id), [taskId])
  })

  it('a failed action is a failed task with its reason, and is told with its id', async () => {
    const failed = await refused(0, 'createBlock', { blockId: 'b', blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1, parameters: { threshold: 7 }, initSettings: { mode: 'slow' } })
    assert.equal(failed.code, 'SPEC_INVALID')
    assert.match(failed.message, /initSettings\.mode: "slow" must be one of "fast", "exact"; parameters\.threshold: 7 must be at most 1/)
    const [last] = await town.do(town.peer(0).tasks.list({ status: 'failed' }))
    assert.match(JSON.stringify(last?.task_status_data), /parameters\.threshold/)
  })

  it('the same key is the same task, from whichever peer, and for that spec alone', async () => {
    const first = await perform(0, 'createBlock', { blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1 }, { key: 'once' })
    await town.pass(500)
    const again = await perform(2, 'createBlock', { blockComponentURI: COMPONENT, minInstances: 1, maxInstances: 1 }, { key: 'once' })
    assert.deepEqual([again.taskId, again.result, again.existing], [first.taskId, first.result, true])
    assert.equal((await refused(2, 'createBlock', block('other'), { key: 'once' })).code, 'CONFLICT')
    assert.equal((await town.do(town.peer(1).catalogue.blocks())).length, 2)
    const [one, two] = await town.do(Promise.all([0, 0].map(() => town.peer(0).parser.perform('createBlock', { blockComponentURI: COMPONENT, minInstances: 0, maxInstances: 1 }, NEVER, { key: 'both' }))))
    assert.equal(one?.taskId, two?.taskId)
  })

  it('answers with the id alone where nobody waits, and goes on', async () => {
    const { taskId, status } = await perform(0, 'createBlock', block('later'), { wait: false })
    assert.equal(status, 'pending')
    await town.pass(3_000)
    assert.equal((await task(1, taskId)).task_status, 'completed')
  })

  it('does a task again, and says of which one it is', async () => {
    const { taskId } = await perform(0, 'filter', { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'made' } } })
    const again = await town.do(town.peer(0).parser.again(taskId, NEVER))
    assert.equal(Object(again.result).length, 1)
    assert.equal((await task(0, again.taskId)).replays, taskId)
    const block = (await town.do(town.peer(1).tasks.list({ action: 'createBlock', status: 'completed' }))).find(({ subject }) => subject === 'block made')
    assert.equal((await refusal(town.do(town.peer(2).parser.again(block!.task_id, NEVER)))).code, 'ALREADY_EXISTS')
  })

  it('a management command is held to what its component declares', async () => {
    const send = (mgmtCommand: string, mgmtData: Json = null, more = {}): Json => ({ blockId: 'made', service: 'instances', mgmtCommand, mgmtData, ...more })
    assert.match((await refused(0, 'executeMgmtCommand', send('restrat'))).message, /mgmtCommand: there is no command "restrat"; did you mean "restart"\?/)
    assert.match((await refused(0, 'executeMgmtCommand', send('reload_weights'))).message, /mgmtData: weights_path: missing; it is required/)
    assert.match((await refused(0, 'executeMgmtCommand', send('reload_weights', { weights_path: 3 }))).message, /weights_path: 3 must be a string/)
    assert.match((await refused(0, 'executeMgmtCommand', send('reload_weights', { weights_path: '/w', weight_path: '/x' }))).message, /mgmtData\.weight_path: "reload_weights" has no such argument; did you mean "weights_path"\?/)
    assert.match((await refused(0, 'executeMgmtCommand', send('restart', { now: true }))).message, /it takes none/)
    assert.match((await refused(0, 'executeMgmtCommand', send('restart', null, { service: 'everything' }))).message, /service: "everything" is not usable here; use one of instances, executor, autoscaler, health, stability_checker/)
    assert.match((await refused(0, 'executeMgmtCommand', { clusterId: 'c', service: 'instances', mgmtCommand: 'x' })).message, /service: "instances" is not usable here; it belongs to a block/)
    assert.match((await refused(0, 'executeMgmtCommand', { mgmtCommand: 'x' })).message, /blockId: missing/)
    const { result } = await perform(0, 'executeMgmtCommand', send('reload_weights', { weights_path: '/w' }))
    assert.equal(Object.keys(Object(result)).length, 1, 'one answer an instance')
    assert.equal(Object.keys(Object((await perform(1, 'executeMgmtCommand', { block_id: 'made', service: 'instances', mgmt_command: 'restart' })).result)).length, 1)
    assert.match((await refused(0, 'executeMgmtCommand', send('restart', null, { clusterId: 'c' }))).message, /clusterId: "c" is not usable here; a command goes to a block or to a cluster/)
    assert.match((await refused(0, 'executeMgmtCommand', { blockId: 'made', mgmtCommand: { run: 'restart' } })).message, /mgmtCommand: an object with run is not usable here; name the command with a text/)
  })

  it('a management command without a name, as AIOS\'s samples have it, runs nothing and tells which there are', async () => {
    const ask = async (values: Json): Promise<readonly string[]> => Object.keys(Object(Object((await perform(1, 'executeMgmtCommand', { header: { templateUri: 'Parser/V1', parameters: {} }, body: { spec: { values } } })).result).commands))
    assert.deepEqual(await ask({ blockId: 'made', service: 'executor', mgmtCommand: '', mgmtData: {} }), ['estimate', 'check_execute', 'health_check', 'get_logs', 'enable_streaming', 'disable_streaming', 'is_streaming_enabled', 'get_streaming_url'])
    assert.deepEqual(await ask({ blockId: 'made', service: 'instances', mgmtCommand: {} }), ['restart', 'reload_weights'])
    assert.deepEqual([await ask({ blockId: 'made', service: 'autoscaler' }), await ask({ blockId: 'made', service: 'health' })], [['status', 'run'], ['status', 'check']])
    const own = town.id(0)
    assert.deepEqual(await ask({ clusterId: own, service: 'stability_checker', mgmtCommand: {}, mgmtData: {} }), [], 'a lone host has no checker')
    assert.equal((await refused(0, 'executeMgmtCommand', { clusterId: 'nobodys', service: 'stability_checker', mgmtCommand: {} })).code, 'NOT_FOUND')
  })

  it('parameters of a running block are held to its template', async () => {
    assert.match((await refused(0, 'parameterUpdate', { blockId: 'made', parameters: { threshold: -1 } })).message, /parameters\.threshold: -1 must be at least 0/)
    assert.equal(Object.keys(Object((await perform(0, 'parameterUpdate', { blockId: 'made', parameters: { threshold: 0.9 } })).result)).length, 1)
  })

  it('a vDAG that names what is not there is refused at once', async () => {
    const vdag = (node: Json): Json => ({ vdagName: 'v', vdagVersion: { version: '1', 'release-tag': 's' }, nodes: [node] })
    const { code, message } = await refused(0, 'createvDAG', vdag({ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'nobody' }))
    assert.deepEqual([code, /node "a": no block is called nobody; create it first/.test(message)], ['GRAPH_INVALID', true])
    assert.match((await refused(0, 'createvDAG', vdag({ nodeLabel: 'a', nodeType: 'vdag', vdagURI: 'none:1-s' }))).message, /no vDAG is called none:1-s/)
    assert.match((await refused(0, 'createvDAG', vdag({ nodeLabel: 'a', nodeType: 'block', componentURI: 'node.none:1-s' }))).message, /no component is called node\.none:1-s/)
    assert.equal(Object((await perform(0, 'createvDAG', vdag({ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'made' }))).result).uri, 'v:1-s')
  })

  it('a policy that nobody has published is taken, with a warning that names it until somebody does', async () => {
    const ruled = { blockId: 'ruled', blockComponentURI: COMPONENT, minInstances: 0, maxInstances: 1, policyRulesSpec: { load_balancer: 'unseen:1-stable', autoscaler: { parameters: { least: 1 } }, 'an author’s own': 'nobody-asks:1-x' } }
    const made = Object((await perform(1, 'createBlock', ruled)).result)
    assert.deepEqual(made.warnings, ['loadBalancer: nobody has published unseen:1-stable, so what is built in stands in for it until somebody does'])
    const graph = (vdagName: string): Json => ({ vdagName, vdagVersion: { version: '1', 'release-tag': 's' }, nodes: [{ nodeLabel: 'a', manualBlockId: 'made', preprocessingPolicyRule: 'unseen', postprocessingPolicyRule: 'default' }] })
    assert.deepEqual(Object((await perform(0, 'createvDAG', graph('before'))).result).warnings, ['node "a".preprocessingPolicyRule: nobody has published unseen, so what is built in stands in for it until somebody does'])
    const soon = town.peer(2).actions.createBlock({ ...ruled, blockId: 'at-once' })
    await town.rule('unseen', 'export default class { eval(parameters, input) { return input } }')
    assert.deepEqual((await town.do(soon)).warnings, [], 'published while it was made')
    const stands = await town.do(town.peer(1).catalogue.block('ruled'))
    assert.deepEqual(await town.do(town.peer(1).actions.warnings(stands!)), [])
    assert.deepEqual(Object((await perform(0, 'createvDAG', graph('after'))).result).warnings, [])
  })
})

describe('tasks of a peer that dies', function () {
  this.timeout(60_000)

  it('are finished by it when it comes back, and closed by another when it does not', async () => {
    const town = await Town.started(4)
    await town.component()
    const spec = (blockId: string, minInstances = 1): Json => ({ blockId, blockComponentURI: 'node.sample:1-stable', minInstances, maxInstances: 4 })
    const [owner, lost] = [town.world.hosts[1]!, town.world.hosts[2]!]
    const cut = async (at: number, document: Json, after: number): Promise<string> => {
      const { taskId } = await town.do(town.peer(at).parser.perform('createBlock', document, NEVER, { wait: false }))
      await town.pass(after)
      return taskId
    }
    const resumed = await cut(1, spec('resumed'), 20)
    town.world.crash(owner)
    await town.pass(2_000)
    const state = async (id: string): Promise<string> => (await town.do(town.peer(0).tasks.get(id))).task_status
    assert.notEqual(await state(resumed), 'completed')
    town.world.restart(owner)
    await town.pass(10_000)
    assert.equal(await state(resumed), 'completed')
    assert.equal(town.hostsOf('resumed').length, 1, 'nothing was made twice')

    // More instances than there are hosts for: it is still waiting when its peer dies.
    const made = await cut(2, { ...Object(spec('made', 2)), needs: { cpuMilli: 3_000_000 } }, 300)
    const begun = await town.do(town.peer(2).tasks.begin({ type: 'block_allocation', action: 'createBlock', input: spec('never') }))
    await town.pass(500)
    assert.deepEqual([await state(made), await state(begun.task_id)], ['in_progress', 'pending'])
    town.world.crash(lost)
    await town.pass(60_000)
    assert.equal(await state(made), 'completed', 'the block it asked for is there')
    const failed = await town.do(town.peer(3).tasks.get(begun.task_id))
    assert.equal(failed.task_status, 'failed')
    assert.match(JSON.stringify(failed.task_status_data), /the peer that was asked is gone/)
    assert.deepEqual(town.peer(0).tasks.unended(), [])
    const again = await town.do(town.peer(3).parser.again(begun.task_id, NEVER))
    assert.equal(Object(again.result).blockId, 'never')
  })
})

describe('tasks, whatever dies when', function () {
  this.timeout(120_000)

  for (const seed of [1, 2]) it(`all end, each key made one block, and what is completed is there (seed ${seed})`, async () => {
    const town = new Town(5, () => ({}), seed)
    await town.world.startAll()
    await town.pass(3_000)
    await town.component()
    const random = new SeededRandom(`tasks ${seed}`)
    const keys = Array.from({ length: 12 }, (_, at) => `key-${at}`)
    const down = new Set<number>()
    const living = (): readonly number[] => town.world.hosts.map((_, at) => at).filter(at => !down.has(at))
    for (let step = 0; step < 40; step += 1) {
      const at = random.pick(living())
      const draw = random.float()
      if (draw < 0.6) {
        const asked = town.peer(at).parser.perform('createBlock', { blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1 }, NEVER, { key: random.pick(keys), wait: random.float() < 0.3 })
        // Its peer may die, or its registry not be written to: whoever asks hears of it or not, the task ends all the same.
        asked.catch(() => undefined)
      } else if (draw < 0.75 && living().length > 2) {
        town.world.crash(town.world.hosts[at]!)
        down.add(at)
      } else if (down.size > 0) {
        const back = random.pick([...down])
        town.world.restart(town.world.hosts[back]!)
        down.delete(back)
      }
      await town.pass(50 + random.below(2_000))
    }
    for (const back of down) town.world.restart(town.world.hosts[back]!)
    await town.pass(120_000)
    const tasks = await town.do(town.peer(0).tasks.list({ action: 'createBlock' }))
    assert(tasks.length >= 5, `${tasks.length} tasks`)
    for (let at = 0; at < 5; at += 1) assert.deepEqual(town.peer(at).tasks.unended(), [], `peer ${at} knows of open tasks`)
    const blocks = new Set((await town.do(town.peer(0).catalogue.blocks())).map(({ blockId }) => blockId))
    const made = new Map<string | undefined, Set<string | undefined>>()
    for (const { task_status, subject, key } of tasks) {
      if (task_status !== 'completed') continue
      assert(subject !== undefined && blocks.has(subject.slice('block '.length)), `${subject} is there`)
      made.set(key, (made.get(key) ?? new Set()).add(subject))
    }
    assert(made.size > 3)
    for (const [key, subjects] of made) assert.equal(subjects.size, 1, `${key} made ${[...subjects].join(', ')}`)
    assert(blocks.size <= keys.length)
  })
})
