import assert from 'node:assert/strict'
import { vdagController } from '../../protocols/controller.ts'
import type { Json } from '../../protocols/ids.ts'
import { at, refusal, Town } from '../clusters/town.ts'

const NEWEST_VERSION = { version: '2', 'release-tag': 'stable' }
const block = (blockId: string): Json => ({ blockId, blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1, tags: ['spare'] })

function graph(vdagName: string, nodes: readonly Json[], over: Record<string, Json> = {}): Json {
  return { vdagName, vdagVersion: { version: '1', 'release-tag': 'stable' }, nodes, graph: { connections: [] }, ...over }
}

describe('vDAG controllers', () => {
  let town: Town
  before(async () => {
    town = await Town.started(4)
    await town.component()
    for (const id of ['first', 'second']) await town.do(town.peer(0).actions.createBlock(block(id)))
    await town.until('both run', () => town.hostsOf('first').length + town.hostsOf('second').length === 2)
  })

  it('a vDAG that names a block which does not exist is refused, by the node and the block', async () => {
    const { code, message } = await town.do(refusal(town.peer(1).actions.createVdag(graph('ghost', [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'nowhere' }]))))
    assert.equal(code, 'GRAPH_INVALID')
    assert.match(message, /node "a": no block is called nowhere/)
  })

  it('a registered converter is put on an edge whose ends do not fit, and without one the edge is refused', async () => {
    const wired: Json = graph('mixed', [
      { nodeLabel: 'a', nodeType: 'block', manualBlockId: 'first', outputProtocol: { celsius: { type: 'number' } } },
      { nodeLabel: 'b', nodeType: 'block', manualBlockId: 'second', inputProtocol: { kelvin: { type: 'number', required: true } } },
    ], { graph: { connections: [{ nodeLabel: 'b', inputs: [{ nodeLabel: 'a' }] }], inputs: [{ nodeLabel: 'a' }], outputs: [{ nodeLabel: 'b' }] } })
    assert.equal((await town.do(refusal(town.peer(1).actions.createVdag(wired)))).code, 'PROTOCOL_MISMATCH')
    await town.rule('kelvin', `export default (parameters, input) => ({ packet: { ...input.packet, data: { kelvin: input.packet.data.celsius + 273.15 } } })`, {}, {
      tags: ['converter'], settings: { converts: { from: { celsius: { type: 'number' } }, to: { kelvin: { type: 'number', required: true } } } },
    })
    await town.do(town.peer(1).actions.createVdag(wired))
    const { spec } = await town.do(town.peer(1).catalogue.vdag('mixed:1-stable'))
    assert.equal(spec.edges[0]?.converter?.policyRuleURI, 'kelvin:1-stable')
  })

  it('a node that names a component or a vDAG is held to its protocols before it is published', async () => {
    const text: Json = { text: { type: 'string', required: true } }
    await town.component('reader', { componentOutputProtocol: text })
    await town.component('counter', { componentInputProtocol: { count: { type: 'integer', required: true } }, componentOutputProtocol: text })
    const reader: Json = { nodeLabel: 'read', componentURI: 'node.reader:1-stable' }
    const counter = { nodeLabel: 'count', componentURI: 'node.counter:1-stable' }
    const edge = (from: string, to: string): Record<string, Json> => ({ graph: { connections: [{ nodeLabel: to, inputs: [{ nodeLabel: from }] }] } })
    const mismatch = async (document: Json, edge: RegExp): Promise<void> => {
      const { code, message } = await town.do(refusal(town.peer(1).actions.createVdag(document)))
      assert.deepEqual([code, edge.test(message)], ['PROTOCOL_MISMATCH', true], message)
    }
    await mismatch(graph('unfit', [reader, counter], edge('read', 'count')), /node "count" cannot take what "read" gives/)
    for (const [name, node] of [['reads', reader], ['counts', counter]] as const) await town.do(town.peer(1).actions.createVdag(graph(name, [node])))
    await mismatch(graph('nested', [{ nodeLabel: 'in', nodeType: 'vdag', vdagURI: 'reads:1-stable' }, { nodeLabel: 'out', nodeType: 'vdag', vdagURI: 'counts:1-stable' }], edge('in', 'out')), /node "out" cannot take what "in" gives/)
    await town.do(town.peer(1).actions.createVdag(graph('fits', [{ ...counter, inputProtocol: text }, { nodeLabel: 'in', nodeType: 'vdag', vdagURI: 'reads:1-stable' }], edge('in', 'count'))))
    assert.equal((await town.do(refusal(town.peer(1).actions.createVdag(graph('itself', [{ nodeLabel: 'a', nodeType: 'vdag', vdagURI: 'itself:1-stable' }]))))).code, 'GRAPH_INVALID')
  })

  it('several controllers of one vDAG stand on any peers, are scaled, and come off again', async () => {
    await town.do(town.peer(0).actions.createVdag(graph('served', [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'first' }])))
    await town.pass(1_000)
    const { controllers } = town.peer(1)
    const named = await town.do(controllers.create({ vdag_controller_id: 'one', vdag_uri: 'served:1-stable', hosts: [town.id(2), town.id(3)] }))
    assert.deepEqual(named.hosts, [town.id(2), town.id(3)])
    await town.do(controllers.create({ vdag_controller_id: 'two', vdag_uri: 'served:1-stable', config: { replicas: 2 } }))
    assert.equal((await town.do(controllers.list('served:1-stable'))).length, 2)
    const scaled = await town.do(controllers.scale('one', 3))
    assert.deepEqual([scaled.hosts.length, scaled.hosts.slice(0, 2)], [3, named.hosts])
    assert.equal((await town.do(refusal(controllers.scale('one', 9)))).code, 'NO_CAPACITY')
    await town.pass(1_000)
    assert.deepEqual(await town.do(town.peer(2).controllers.own()), ['served:1-stable'])
    await town.do(controllers.remove('two'))
    assert.deepEqual((await town.do(controllers.list('served:1-stable'))).map(one => one.vdag_controller_id), ['one'])
  })

  it('a host asks its own cluster’s rule about a controller that somebody else put on it', async () => {
    await town.rule('no-controllers', 'export default (parameters, input) => (input.input_data.search_tags.includes("welcome") ? { allowed: true, input_data: input } : { allowed: false, input_data: "none here" })')
    await town.do(town.peer(3).clusters.create({ id: 'strict', config: { actionsPolicyMap: { add_vdag_controller: 'no-controllers:1-stable' } } }))
    await town.do(town.peer(3).clusters.join('strict'))
    await town.do(town.peer(0).actions.createVdag(graph('put', [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'first' }])))
    await town.pass(1_000)
    const record = { vdag_controller_id: 'put-there', vdag_uri: 'put:1-stable', hosts: [town.id(3)], config: {}, search_tags: [] as string[], metadata: {} }
    const records = town.peer(1).ports.registries.open('controllers', vdagController)
    await town.do(records.put('put-there', record))
    await town.pass(2_000)
    assert.ok(!(await town.do(town.peer(3).controllers.own())).includes('put:1-stable'))
    await town.do(records.put('put-there', { ...record, search_tags: ['welcome'] }))
    await town.pass(2_000)
    assert.ok((await town.do(town.peer(3).controllers.own())).includes('put:1-stable'))
    await town.do(town.peer(1).controllers.remove('put-there'))
    await town.do(town.peer(3).clusters.leave(true))
    await town.do(town.peer(3).clusters.remove('strict'))
    await town.pass(2_000)
  })

  it('a name without a version has the controllers of the newest version, and no others', async () => {
    await town.rule('closed', 'export default () => ({ allowed: false })')
    await town.do(town.peer(0).actions.createVdag(graph('versions', [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'first' }])))
    await town.do(town.peer(0).controllers.create({ vdag_uri: 'versions:1-stable', config: { custom_data: { quotaChecker: { quotaCheckerPolicyRule: { policyRuleURI: 'closed:1-stable' } } } } }))
    assert.equal((await town.do(refusal(town.peer(0).actions.submit('versions', 1, {})))).code, 'RATE_LIMITED')
    await town.do(town.peer(0).actions.createVdag(graph('versions', [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'first' }], { vdagVersion: NEWEST_VERSION })))
    await town.do(town.peer(0).actions.submit('versions', 1, {}))
    assert.equal((await town.do(refusal(town.peer(0).actions.submit('versions:1-stable', 1, {})))).code, 'RATE_LIMITED')
    assert.equal(at(town.peer(0).gate.metrics('versions:2-stable'), 'inference_requests_total'), 1)
  })

  it('the health rule is asked every interval about every block, also those that a policy assigned, and takes commands', async () => {
    await town.rule('assign', `export default (parameters, input) => input.find(block => block.id === parameters.favourite) ?? input[0]`)
    await town.rule('watch', `export default class {
      constructor() { this.seen = [] }
      eval(parameters, input) {
        this.seen.push(input.mode + ':' + Object.entries(input.health_check_data).map(([block, { healthy }]) => block + '=' + healthy).join())
        return { overall_healthy: Object.values(input.health_check_data).every(({ healthy }) => healthy) }
      }
      management(action, data) { return { action, data, seen: this.seen } }
    }`)
    await town.do(town.peer(0).actions.createVdag(graph('watched', [{ nodeLabel: 'a', nodeType: 'block', assignmentPolicyRule: { policyRuleURI: 'assign:1-stable', parameters: { favourite: 'first', filter: { blockQuery: { variable: 'tags', operator: 'IN', value: ['spare'] } } } } }], {
      controller: { healthChecker: { interval: 30, maxRetries: 1, healthCheckerPolicyRule: { policyRuleURI: 'watch:1-stable' } } },
    })))
    await town.pass(1_000)
    await town.do(town.peer(2).controllers.create({ vdag_controller_id: 'watcher', vdag_uri: 'watched:1-stable' }))
    await town.pass(70_000)
    const answer = await town.do(town.peer(2).gate.manage('watched', 'healthChecker', { action: 'tell', data: 1 }, async () => ({})))
    assert.deepEqual([at(answer, 'action'), at(answer, 'data')], ['tell', 1])
    assert.deepEqual([...new Set(at(answer, 'seen') as string[])], ['health_check:first=true'])
    assert.ok((at(answer, 'seen') as string[]).length >= 2)
    assert.equal(town.peer(2).health.last('watched:1-stable')?.overall_healthy, true)
    assert.equal((await town.do(refusal(town.peer(2).gate.manage('watched', 'quotaChecker', { action: 'x', data: null }, async () => ({}))))).code, 'NOT_FOUND')
  })

  it('a block that is gone is replaced by what the assignment rule picks next, and requests go there', async () => {
    const before = town.peer(2).health.last('watched:1-stable')
    assert.deepEqual(before?.assignment, { a: ['first'] })
    await town.do(town.peer(0).actions.remove('first'))
    await town.until('it is gone', () => town.hostsOf('first').length === 0)
    await town.pass(31_000)
    const after = town.peer(2).health.last('watched:1-stable')
    assert.deepEqual(after?.assignment, { a: ['second'] })
    assert.deepEqual(after?.reassigned.map(({ label, from, to }) => ({ label, from, to })), [{ label: 'a', from: ['first'], to: ['second'] }])
    assert.equal(after?.overall_healthy, true)
    const { run } = await town.do(town.peer(3).actions.submit('watched', 1, {}))
    await town.do(town.peer(3).runs.result(run, town.peer(3).ports.clock.deadline(10_000)))
  })

  it('a block named by hand is stood in for where its author said how', async () => {
    await town.do(town.peer(0).actions.createVdag(graph('stand-in', [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'first', componentURI: 'node.sample:1-stable' }])))
    const { spec } = await town.do(town.peer(0).catalogue.vdag('stand-in:1-stable'))
    assert.deepEqual(await town.do(town.peer(0).runs.assignment(spec)), { a: ['second'] })
  })

  it('a block that sleeps is no dead one: a rule may pick it', async () => {
    await town.do(town.peer(0).actions.createBlock({ blockId: 'sleeper', blockComponentURI: 'node.sample:1-stable', minInstances: 0, maxInstances: 1 }))
    await town.do(town.peer(0).actions.createVdag(graph('dreams', [{ nodeLabel: 'a', nodeType: 'block', assignmentPolicyRule: { policyRuleURI: 'assign:1-stable', parameters: { favourite: 'sleeper' } } }])))
    const { spec } = await town.do(town.peer(0).catalogue.vdag('dreams:1-stable'))
    assert.deepEqual(await town.do(town.peer(0).runs.assignment(spec)), { a: ['sleeper'] })
  })

  it('is shown compiled as AIOS shows it, by blocks, and by labels beside', async () => {
    await town.do(town.peer(0).actions.createVdag(graph('shape', ['in', 'left', 'right', 'out'].map(nodeLabel => ({ nodeLabel, nodeType: 'block', manualBlockId: 'second' })), {
      graph: { connections: [{ nodeLabel: 'left', inputs: [{ nodeLabel: 'in' }] }, { nodeLabel: 'right', inputs: [{ nodeLabel: 'in' }] }, { nodeLabel: 'out', inputs: [{ nodeLabel: 'left' }, { nodeLabel: 'right' }] }], inputs: [{ nodeLabel: 'in' }], outputs: [{ nodeLabel: 'out' }] },
    })))
    const { spec } = await town.do(town.peer(0).catalogue.vdag('shape:1-stable'))
    const { compiled_graph_data: compiled, assignment_info } = await town.do(town.peer(0).runs.compiled(spec))
    assert.deepEqual([compiled['head'], compiled['tail'], compiled['t2_graph']], ['second', ['second'], { second: ['second'] }])
    assert.deepEqual(at(compiled, 't3_graph', 'second', 'outputs', 0), { host: town.id(0), port: 0, queue_name: 'second_inputs', block_id: 'second' })
    assert.deepEqual(at(compiled, 'labels', 'out', 'inputs'), ['left', 'right'])
    assert.deepEqual(assignment_info, { in: 'second', left: 'second', right: 'second', out: 'second' })
  })
})
