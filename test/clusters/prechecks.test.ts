import assert from 'node:assert/strict'
import { clusterRecord } from '../../protocols/cluster.ts'
import type { Json } from '../../protocols/ids.ts'
import { askForBid } from '../../protocols/placement.ts'
import { CLUSTER_PRECHECKS, NETWORK_PRECHECKS } from '../../src/clusters/prechecks.ts'
import { refusal, Town } from './town.ts'

/** Says no, and what it was shown. */
const TELLTALE = `export default (parameters, input) => ({ allowed: false, input_data: 'shown ' + Object.keys(input).sort().join(',') + '|' + Object.keys(input.input ?? {}).sort().join(',') })`

type Deed = { readonly shown: string; readonly run: (town: Town, cluster: string) => Promise<unknown> }

/** What is done at host 1, the owner of a cluster in which block `running` runs, and what AIOS shows a rule of it. */
const DEEDS: Readonly<Record<(typeof CLUSTER_PRECHECKS)[number], Deed>> = {
  add_node: { shown: 'cluster_data,cluster_metrics,node_data|', run: (town, clusterId) => town.peer(1).clusters.addNode({ clusterId, nodeData: { id: 'n9', memory: 1 } }) },
  remove_node: { shown: 'block_instances,cluster_data,cluster_metrics,node_id|', run: (town, cluster) => town.peer(1).clusters.removeNode(cluster, 'declared') },
  add_cluster: { shown: 'cluster_data|', run: (town, cluster) => town.peer(1).clusters.create({ id: `${cluster}-more`, config: { actionsPolicyMap: policies(town, cluster) } }) },
  remove_cluster: { shown: 'cluster_blocks,cluster_data,cluster_metrics|', run: (town, cluster) => town.peer(1).clusters.remove(cluster) },
  update_cluster: { shown: 'cluster_data|', run: (town, cluster) => town.peer(1).clusters.update(cluster, { tags: ['new'] }) },
  add_block: { shown: 'block_data,cluster_data,cluster_metrics|', run: town => town.peer(1).actions.createBlock(block('another')) },
  remove_block: { shown: 'block_data,block_instance_nodes,block_metrics,cluster_data,cluster_metrics|', run: town => town.peer(1).actions.remove('running') },
  scale_block: { shown: 'block_data,input|block_id,instances_count,operation', run: town => town.peer(1).actions.scale('running', 2) },
  block_mgmt: { shown: 'block_data,input|action,payload', run: town => command(town, { blockId: 'running', mgmtCommand: 'reset', mgmtData: {} }) },
  cluster_mgmt: { shown: 'cluster_data,input|action,payload', run: (town, clusterId) => command(town, { clusterId, service: 'stability_checker', mgmtCommand: 'relax', mgmtData: {} }) },
  add_vdag_controller: { shown: 'cluster_data,cluster_metrics,input_data,node_id,vdag_data|', run: (town, cluster) => town.peer(1).controllers.create({ vdag_uri: 'graph:1-stable' }, cluster) },
  remove_vdag_controller: { shown: 'cluster_data,cluster_metrics,input_data,node_id,vdag_controller_data,vdag_data|', run: town => town.peer(1).controllers.remove('door') },
}

/** The rows of AIOS's catalogue. */
const ROWS = [
  'network pre-check add_node', 'network pre-check remove_node', 'network pre-check add_cluster', 'network pre-check remove_cluster',
  'network pre-check update_cluster', 'network pre-check add_block', 'network pre-check remove_block', 'network pre-check scale_block',
  'network pre-check block_mgmt', 'network pre-check cluster_mgmt', 'cluster pre-check add_node', 'cluster pre-check remove_node',
  'cluster pre-check add_cluster', 'cluster pre-check remove_cluster', 'cluster pre-check update_cluster', 'cluster pre-check add_block',
  'cluster pre-check remove_block', 'cluster pre-check scale_block', 'cluster pre-check block_mgmt', 'cluster pre-check cluster_mgmt',
  'cluster pre-check add_vdag_controller', 'cluster pre-check remove_vdag_controller',
]

function block(blockId: string): Json {
  // Where only hosts of the cluster may, its rules cannot be gone around.
  return { blockId, blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 3, policyRulesSpec: [{ values: { name: 'clusterAllocator', policyRuleURI: 'default', parameters: { filter: { clusterQuery: { variable: 'id', operator: 'LIKE', value: 'lab*' } } } } }] }
}

async function command(town: Town, document: Json): Promise<unknown> {
  const { result } = await town.peer(1).parser.perform('executeMgmtCommand', document, new AbortController().signal)
  const said = JSON.stringify(result)
  // Fanned out to instances: each says for itself what became of it.
  if (said.includes('POLICY_DENIED')) return Promise.reject(new Error(said))
  return result
}

function policies(town: Town, cluster: string): Json {
  const found = town.peer(1).clusters.get(cluster)['config']
  return found !== undefined && found !== null && typeof found === 'object' && 'actionsPolicyMap' in found ? found.actionsPolicyMap : {}
}

async function laboratory(): Promise<Town> {
  const town = await Town.started(3)
  await town.component()
  await town.rule('telltale', TELLTALE)
  await town.rule('stable', `export default { eval: () => ({ is_stable: true, stability_check_data: {} }), management: (action, data) => ({ action, data }) }`)
  await town.do(town.peer(1).clusters.create({ id: 'lab', config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' } } }))
  await town.do(town.peer(1).clusters.addNode({ clusterId: 'lab', id: town.id(1) }))
  await town.do(town.peer(1).clusters.addNode({ clusterId: 'lab', id: 'declared', memory: 100 }))
  await town.until('the host is of its cluster', () => town.peer(0).view.ad(town.id(1))?.cluster === 'lab')
  await town.do(town.peer(1).actions.createBlock(block('running')))
  await town.until('the block runs', () => town.hostsOf('running').length === 1)
  await town.do(town.peer(1).actions.createVdag({ vdagName: 'graph', vdagVersion: { version: '1', 'release-tag': 'stable' }, nodes: [{ nodeLabel: 'a', nodeType: 'block', manualBlockId: 'running' }], graph: { connections: [], inputs: [{ nodeLabel: 'a' }], outputs: [{ nodeLabel: 'a' }] } }))
  await town.do(town.peer(1).controllers.create({ vdag_controller_id: 'door', vdag_uri: 'graph:1-stable' }))
  await town.pass(1_000)
  return town
}

describe('pre-checks', () => {
  let town: Town
  before(async () => {
    town = await laboratory()
  })

  async function denied(deed: Deed, whose: RegExp): Promise<void> {
    const failure = await town.do(deed.run(town, 'lab').then(() => 'it was done', (error: unknown) => (error instanceof Error ? error.message : String(error))))
    assert.match(failure, whose)
    assert.ok(failure.includes(`shown ${deed.shown}`), failure)
  }

  it('there is a row for each of them', () => {
    assert.deepEqual(ROWS, [...NETWORK_PRECHECKS.map(action => `network pre-check ${action}`), ...CLUSTER_PRECHECKS.map(action => `cluster pre-check ${action}`)].toSorted((a, b) => ROWS.indexOf(a) - ROWS.indexOf(b)))
  })

  for (const row of ROWS) {
    it(`${row}: is asked before it, is shown what AIOS shows, and its no is final`, async () => {
      const action = CLUSTER_PRECHECKS.find(one => row.endsWith(` ${one}`))
      assert.ok(action !== undefined)
      if (row.startsWith('network')) {
        await town.do(town.peer(0).network.setPolicies({ [action]: 'telltale:1-stable' }))
        await town.pass(1_000)
        await denied(DEEDS[action], /policy of the network/)
        await town.do(town.peer(0).network.setPolicies({ [action]: '' }))
      } else {
        await town.do(town.peer(1).clusters.update('lab', { config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' }, actionsPolicyMap: { [action]: { policyRuleURI: 'telltale:1-stable', parameters: {} } } } }))
        await town.pass(1_000)
        await denied(DEEDS[action], action === 'add_cluster' ? /policy of the cluster itself/ : /policy of cluster lab/)
        await town.do(lift(action))
      }
      await town.pass(1_000)
    })
  }

  /** `update_cluster` forbids its own undoing, by rule; the registry is its owner's. */
  async function lift(action: string): Promise<void> {
    const { clusters, ports } = town.peer(1)
    if (action !== 'update_cluster') {
      await clusters.update('lab', { config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' } } })
      return
    }
    const registry = ports.registries.open('clusters', clusterRecord)
    const known = await registry.get('lab')
    await registry.put('lab', { ...clusterRecord.parse(known?.value), config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' } } })
  }

  it('the network is asked before the cluster, and each may rewrite what the next sees', async () => {
    await town.rule('tags', `export default (parameters, input) => ({ allowed: true, input_data: { node_data: { ...input.node_data, tags: [...input.node_data.tags, parameters.tag] } } })`)
    await town.do(town.peer(0).network.setPolicies({ add_node: { policyRuleURI: 'tags:1-stable', parameters: { tag: 'network' } } }))
    await town.do(town.peer(1).clusters.update('lab', { config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' }, actionsPolicyMap: { add_node: { policyRuleURI: 'tags:1-stable', parameters: { tag: 'cluster' } } } } }))
    await town.pass(1_000)
    const grown = await town.do(town.peer(1).clusters.addNode({ clusterId: 'lab', nodeData: { id: 'tagged', tags: ['own'] } }))
    assert.match(JSON.stringify(grown), /"id":"tagged".*"tags":\["own","network","cluster"\]/)
    await town.do(town.peer(0).network.setPolicies({ add_node: '' }))
  })

  it('the network\'s rule is asked once, however many clusters an action concerns', async () => {
    await town.rule('halves', `export default (parameters, input) => ({ allowed: true, input_data: { input: { ...input.input, instances_count: Math.floor(input.input.instances_count / 2) } } })`)
    await town.do(town.peer(1).actions.createBlock({ blockId: 'spread', blockComponentURI: 'node.sample:1-stable', minInstances: 3, maxInstances: 9 }))
    await town.until('it runs in several clusters', () => town.hostsOf('spread').length === 3 && new Set(town.hostsOf('spread').map(host => town.peer(0).view.ad(host)?.cluster)).size > 1)
    await town.do(town.peer(0).network.setPolicies({ scale_block: 'halves:1-stable' }))
    await town.pass(1_000)
    assert.equal((await town.do(town.peer(1).actions.scale('spread', 7))).minInstances, 5)
    await town.do(town.peer(0).network.setPolicies({ scale_block: '' }))
    await town.do(town.peer(1).actions.remove('spread'))
  })

  it('rules look blocks up as AIOS\'s do, and a cluster\'s its metrics', async () => {
    await town.rule('clerk', `export default class {
      constructor(id, settings) { this.settings = settings }
      eval(parameters, input) {
        const { get_block_by_id, query_blocks, get_metrics } = this.settings
        return { allowed: false, input_data: [get_block_by_id?.running?.blockId, query_blocks?.length > 0, get_metrics?.cluster_metrics?.clusterId].join() }
      }
    }`)
    await town.do(town.peer(0).network.setPolicies({ remove_node: 'clerk:1-stable' }))
    await town.pass(1_000)
    assert.match((await town.do(refusal(town.peer(1).clusters.removeNode('lab', 'declared')))).message, /running,true,/)
    await town.do(town.peer(0).network.setPolicies({ remove_node: '' }))
    await town.do(town.peer(1).clusters.update('lab', { config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' }, actionsPolicyMap: { remove_node: 'clerk:1-stable' } } }))
    await town.pass(1_000)
    assert.match((await town.do(refusal(town.peer(1).clusters.removeNode('lab', 'declared')))).message, /running,true,lab$/)
    await town.do(town.peer(1).clusters.update('lab', { config: { stabilityChecker: { policyRuleURI: 'stable:1-stable' } } }))
  })

  it('a rule that fails denies, and says so', async () => {
    await town.rule('broken', `export default () => { throw new Error('out of order') }`)
    await town.do(town.peer(0).network.setPolicies({ add_cluster: 'broken:1-stable' }))
    await town.pass(1_000)
    const { code, message } = await town.do(refusal(town.peer(2).clusters.create({ id: 'other' })))
    assert.equal(code, 'POLICY_DENIED')
    assert.match(message, /out of order/)
    await town.do(town.peer(0).network.setPolicies({ add_cluster: null }))
  })

  it('nobody but the owner of the network and its admins sets its rules, on any replica', async () => {
    const { code } = await town.do(refusal(town.peer(2).network.setPolicies({ add_block: 'telltale:1-stable' })))
    assert.equal(code, 'FORBIDDEN')
    assert.equal(town.peer(1).mayWrite(town.id(2), 'networks', town.peer(0).admission.membership.network).ok, false)
    await town.do(town.peer(0).network.setAdmins([town.id(2)]))
    await town.pass(1_000)
    await town.do(town.peer(2).network.setPolicies({ scale_block: 'stable:1-stable' }))
    await town.until('the rule is everywhere', () => [0, 1].every(at => town.peer(at).network.rule('scale_block') !== undefined))
    await town.do(town.peer(2).network.setPolicies({ scale_block: '' }))
    assert.equal((await town.do(refusal(town.peer(2).network.setAdmins([town.id(1)])))).code, 'FORBIDDEN')
    assert.equal((await town.do(refusal(town.peer(0).network.setPolicies({ sing: 'telltale:1-stable' })))).code, 'SPEC_INVALID')
  })

  it('a host refuses what the rule of its own cluster denies, also to a buyer that does not ask', async () => {
    await town.rule('no-blocks', `export default (parameters, input) => ({ allowed: input.block_data.blockId !== 'unwanted', input_data: input.block_data.blockId === 'unwanted' ? 'not here' : input })`)
    await town.do(town.peer(1).clusters.update('lab', { config: { actionsPolicyMap: { add_block: 'no-blocks:1-stable' } } }))
    await town.pass(1_000)
    const { catalogue, placement } = town.peer(0)
    const known = await catalogue.block('running')
    assert.ok(known !== undefined)
    const unwanted = { ...known, blockId: 'unwanted' }
    const answer = await town.do(town.peer(0).ports.network.request(town.id(1), askForBid, { id: 'ask-1', block: unwanted, needs: unwanted.needs, steward: town.id(0), epoch: 1, holdMs: 1_000, action: 'allocation', dryRun: false }))
    assert.ok('refusal' in answer)
    assert.match(answer.refusal.because, /policy of cluster lab.*not here/)
    const explained = await town.do(placement.explain(unwanted))
    assert.ok(explained.candidates.some(({ peer, ok, because }) => peer === town.id(1) && !ok && /not here/.test(because)))
  })

  it('a rule of the network or the cluster may rewrite what a host runs, and the steward takes it for the same', async () => {
    await town.rule('quieter', `export default (parameters, input) => ({ allowed: true, input_data: { block_data: { ...input.block_data, parameters: { level: 'low' }, blockId: 'stolen' } } })`)
    await town.do(town.peer(1).clusters.update('lab', { config: { actionsPolicyMap: { add_block: 'quieter:1-stable' } } }))
    await town.pass(1_000)
    await town.do(town.peer(1).actions.createBlock(block('loud')))
    await town.until('it runs', () => town.hostsOf('loud').length === 1)
    const [held] = town.peer(1).placement.contracts().filter(({ contract }) => contract.block === 'loud')
    assert.deepEqual(held?.block.parameters, { level: 'low' })
    assert.equal(held?.block.blockId, 'loud')
    const [first] = town.peer(0).view.instancesOf('loud')
    await town.pass(60_000)
    assert.equal(town.peer(0).view.instancesOf('loud')[0]?.ad.instance, first?.ad.instance)
  })
})
