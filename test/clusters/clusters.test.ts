import assert from 'node:assert/strict'
import { clusterRecord } from '../../protocols/cluster.ts'
import { encode } from '../../protocols/codec.ts'
import type { Json } from '../../protocols/ids.ts'
import { askForBid } from '../../protocols/placement.ts'
import { ClusterBook } from '../../src/clusters/cluster-book.ts'
import { carries } from '../../src/placement/rank.ts'
import { at, refusal, Town } from './town.ts'

const FILTER = (clusterQuery: Json): Json => [{ values: { name: 'clusterAllocator', policyRuleURI: 'default', parameters: { filter: { clusterQuery } } } }]

describe('clusters of several hosts', () => {
  let town: Town
  before(async () => {
    town = await Town.started(5)
    await town.component()
    await town.do(town.peer(1).clusters.create({ header: { templateUri: 'Parser/V1' }, body: { spec: { values: { id: 'lab', regionId: 'eu', tags: ['science'], reputation: 4, clusterMetadata: { name: 'The lab', countries: ['DE'] } } } } }))
    await town.do(town.peer(1).clusters.join('lab'))
    await town.pass(1_000)
  })

  const cluster = (peer: number, of: number): string | undefined => town.peer(peer).view.ad(town.id(of))?.cluster

  it('a host enters by an invite of the owner, and by none of anybody else', async () => {
    const { invite } = town.peer(1).clusters.invite('lab', 60_000)
    await town.do(town.peer(2).clusters.join(invite))
    await town.until('everybody takes it for one of the cluster', () => [0, 1, 2, 3].every(peer => cluster(peer, 2) === 'lab'))
    assert.equal((await town.do(refusal(town.peer(3).clusters.join('lab')))).code, 'FORBIDDEN')
    assert.equal((await town.do(refusal(town.peer(3).clusters.join(`${invite.slice(0, -4)}AAAA`)))).code, 'SIGNATURE_INVALID')
    assert.throws(() => town.peer(3).clusters.invite('lab', 60_000), /belongs to/)
    await town.pass(61_000)
    assert.match((await town.do(refusal(town.peer(3).clusters.join(invite)))).message, /expired/)
  })

  it('what its hosts have adds up, and what AIOS\'s owner declares beside them', async () => {
    const before = town.peer(0).clusters.get('lab')
    const totals = [1, 2].map(peer => town.peer(0).view.ad(town.id(peer))!.total)
    const memory = totals.reduce((sum, { memoryMb }) => sum + memoryMb, 0)
    assert.deepEqual([at(before, 'nodes', 'count'), before['memory'], at(before, 'vcpus', 'count')], [2, memory, totals.reduce((sum, { cpuMilli }) => sum + cpuMilli, 0) / 1_000])
    assert.deepEqual([before['regionId'], before['reputation'], before['tags'], at(before, 'clusterMetadata', 'name'), before['status']], ['eu', 4, ['science'], 'The lab', 'live'])
    await town.do(town.peer(1).clusters.addNode({ clusterId: 'lab', id: 'flat', memory: '500', gpus: { count: 1, memory: 24_000, gpus: [{ modelName: 'A10', memory: 24_000 }] } }))
    await town.do(town.peer(1).clusters.addNode({ clusterId: 'lab', nodeData: { id: 'nested', memory: 250, network: { interfaces: 2, txBandwidth: 1_000 } } }))
    await town.pass(1_000)
    const grown = town.peer(0).clusters.get('lab')
    assert.deepEqual([at(grown, 'nodes', 'count'), grown['memory'], at(grown, 'gpus', 'modelNames'), at(grown, 'network', 'interfaces')], [4, memory + 750, ['A10'], 2])
    await town.do(town.peer(1).clusters.removeNode('lab', 'flat'))
    assert.equal(town.peer(1).clusters.get('lab')['memory'], memory + 250)
    const found = await town.do(town.peer(0).inventory.filter({ matchType: 'cluster', filter: { clusterQuery: { logicalOperator: 'AND', conditions: [{ variable: 'reputation', operator: '>=', value: '4' }, { variable: 'clusterMetadata.countries', operator: 'IN', value: ['DE'] }] } } }))
    assert.deepEqual(found.map(({ id }) => id), ['lab'])
  })

  it('a host that says it is of a cluster and is not on its list is a cluster of itself', async () => {
    const liar = town.peer(4)
    await town.do(liar.ports.journal.set('cluster/own', encode({ cluster: 'lab', draining: false })))
    town.world.crash(town.world.hosts[4]!)
    await town.pass(2_000)
    await town.do(town.world.start(town.world.hosts[4]!))
    await town.until('it is back', () => town.peer(0).view.ad(town.id(4)) !== undefined)
    await town.pass(2_000)
    assert.equal(cluster(0, 4), town.id(4))
    assert.equal(at(town.peer(0).clusters.get('lab'), 'nodes', 'count'), 3)
  })

  it('its owner alone changes it, wherever the record is carried', async () => {
    assert.equal((await town.do(refusal(town.peer(0).clusters.update('lab', { regionId: 'us' })))).code, 'FORBIDDEN')
    assert.equal((await town.do(refusal(town.peer(0).clusters.addNode({ clusterId: 'lab', id: 'mine' })))).code, 'FORBIDDEN')
    assert.equal((await town.do(refusal(town.peer(0).clusters.remove('lab')))).code, 'FORBIDDEN')
    assert.equal((await town.do(refusal(town.peer(0).clusters.create({ id: 'lab' })))).code, 'ALREADY_EXISTS')
    assert.equal(town.peer(3).mayOperate(town.id(0), 'clusters', 'lab').ok, false)
    assert.equal(town.peer(3).mayWrite(town.id(0), 'nodes', `${town.id(1)}/lab/mine`).ok, false)
    const changed = await town.do(town.peer(1).clusters.update('lab', { clusterMetadata: { countries: ['DE', 'FR'] } }))
    assert.deepEqual([changed['regionId'], at(changed, 'clusterMetadata', 'countries')], ['eu', ['DE', 'FR']])
    await town.do(town.peer(1).clusters.update('lab', { clusterMetadata: { countries: ['DE'] } }))
    await town.pass(1_000)
  })

  it('data of a country or a region stays with hosts whose cluster is of it, by the word of those hosts too', async () => {
    const wanted = (blockId: string, over: Record<string, Json>): Json => ({ blockId, blockComponentURI: 'node.sample:1-stable', minInstances: 2, maxInstances: 2, ...over })
    await town.do(town.peer(0).actions.createBlock(wanted('german', { labels: { country: 'DE' } })))
    await town.do(town.peer(0).actions.createBlock(wanted('european', { policyRulesSpec: FILTER({ variable: 'regionId', operator: '==', value: 'eu' }) })))
    await town.until('both run', () => town.hostsOf('german').length === 2 && town.hostsOf('european').length === 2)
    for (const block of ['german', 'european']) assert.deepEqual([...new Set(town.hostsOf(block))].filter(host => host !== town.id(1) && host !== town.id(2)), [])
    const { block: french } = await town.do(town.peer(0).actions.createBlock({ ...Object(wanted('french', { labels: { country: 'FR' } })), mode: 'dry_run' }))
    const { chosen, candidates } = await town.do(town.peer(0).placement.explain(french))
    assert.equal(chosen, undefined)
    assert.ok(candidates.some(({ peer, because }) => peer === town.id(1) && /country=DE/.test(because)))
    // Asked by one who does not care.
    const known = await town.peer(0).catalogue.block('european')
    assert.ok(known !== undefined)
    const answer = await town.do(town.peer(0).ports.network.request(town.id(3), askForBid, { id: 'ask-9', block: known, needs: known.needs, steward: town.id(0), epoch: 99, holdMs: 1_000, action: 'allocation', dryRun: true }))
    assert.ok('refusal' in answer && /leaves it out/.test(answer.refusal.because), JSON.stringify(answer))
  })

  it('a host of a region that its cluster does not share serves neither alone', async () => {
    const book = new ClusterBook(town.peer(1).ports.registries)
    await town.do(book.open())
    const ad = town.peer(1).view.ad(town.id(1))
    assert.ok(ad !== undefined)
    assert.equal(book.resolve({ ...ad, labels: { region: 'us' } }).labels['region'], 'us,eu')
    assert.equal(carries({ region: 'us,eu' }, { region: 'eu' }).ok, false)
    assert.equal(carries({ region: 'us,eu' }, { region: 'eu, us' }).ok, true)
  })

  it('a host that is taken off the list drains: its instances run elsewhere before they end, and it bids for nothing meanwhile', async () => {
    await town.do(town.peer(0).actions.createBlock({ blockId: 'steady', blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1, policyRulesSpec: FILTER({ variable: 'id', operator: '==', value: 'lab' }) }))
    await town.until('it runs', () => town.hostsOf('steady').length === 1)
    const [before] = town.hostsOf('steady')
    assert.ok(before !== undefined)
    await town.do(town.peer(1).clusters.removeNode('lab', before))
    let fewest = 1
    await town.until('it runs on the other host alone', () => {
      const hosts = town.hostsOf('steady')
      fewest = Math.min(fewest, hosts.length)
      return hosts.length === 1 && hosts[0] !== before
    })
    assert.equal(fewest, 1, 'there was always one that answers')
    await town.until('what others allow to run there again may run there', () => town.peer(0).view.ad(before)?.labels['aios.draining'] === undefined, 700_000)
    assert.equal(town.peer(0).view.ad(before)?.cluster, before)
  })

  it('a host leaves of its own will, and a cluster that is removed leaves its hosts to themselves', async () => {
    const other = [1, 2].find(peer => cluster(0, peer) !== 'lab')
    assert.ok(other !== undefined)
    await town.do(town.peer(other).clusters.join(town.peer(1).clusters.invite('lab', 60_000).invite))
    await town.until('it is back', () => cluster(0, other) === 'lab')
    await town.do(town.peer(2).clusters.leave(false))
    await town.until('it is out', () => cluster(0, 2) === town.id(2))
    await town.do(town.peer(1).clusters.remove('lab'))
    await town.until('nobody is of it', () => [1, 2].every(peer => cluster(0, peer) === town.id(peer)))
    assert.throws(() => town.peer(0).clusters.get('lab'), /no cluster lab/)
    assert.equal(town.peer(0).clusters.get(town.id(1))['id'], town.id(1))
  })
})

describe('cluster stability', () => {
  it('the rule is asked every minute with what AIOS shows, its verdict is kept and shown, and unstable clusters bid no more', async () => {
    const town = await Town.started(3)
    await town.component()
    await town.rule('quorum', `export default class {
      constructor(id, settings, parameters) { this.least = parameters.least; this.asked = 0 }
      eval(parameters, input) {
        this.asked += 1
        const healthy = input.nodes_data.filter(node => node.status === 'healthy')
        const keys = Object.keys(input.nodes_data[0]).sort().join()
        return { is_stable: healthy.length >= this.least, stability_check_data: { healthy: healthy.length, of: input.nodes_data.length, cluster: input.cluster.id, keys, asked: this.asked } }
      }
      management(action, data) {
        if (action === 'relax') this.least = data.least
        return { least: this.least }
      }
    }`)
    await town.do(town.peer(0).clusters.create({ id: 'trio', config: { stabilityChecker: { policyRuleURI: 'quorum:1-stable', parameters: { least: 2 } } } }))
    await town.do(town.peer(0).clusters.join('trio'))
    await town.do(town.peer(1).clusters.join(town.peer(0).clusters.invite('trio', 600_000).invite))
    await town.until('both are in', () => town.peer(0).view.ads().filter(({ cluster }) => cluster === 'trio').length === 2)
    await town.pass(61_000)
    const first = town.peer(0).stability.last
    assert.equal(first?.is_stable, true)
    assert.deepEqual(first.stability_check_data, { healthy: 2, of: 2, cluster: 'trio', keys: 'cpu_utilization_percent,disk,memory,node_id,status', asked: at(first.stability_check_data, 'asked') })
    assert.equal(at(town.peer(0).clusters.get('trio'), 'stability', 'is_stable'), true)

    town.world.crash(town.world.hosts[1]!)
    await town.until('it is missed', () => town.peer(0).view.ad(town.id(1)) === undefined)
    const second = await town.do(town.peer(0).stability.check())
    assert.deepEqual([second.is_stable, at(second.stability_check_data, 'healthy'), at(second.stability_check_data, 'of')], [false, 1, 2])
    const { block } = await town.do(town.peer(2).actions.createBlock({ blockId: 'b', blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1, mode: 'dry_run' }))
    const { candidates, chosen } = await town.do(town.peer(2).placement.explain(block))
    assert.equal(chosen, town.id(2))
    assert.ok(candidates.some(({ peer, because }) => peer === town.id(0) && /cluster trio is not stable/.test(because)))

    const { result } = await town.do(town.peer(2).parser.perform('executeMgmtCommand', { clusterId: 'trio', service: 'stability_checker', mgmtCommand: 'relax', mgmtData: { least: 1 } }, new AbortController().signal))
    assert.deepEqual(result, { [town.id(0)]: { least: 1 } })
    assert.equal((await town.do(town.peer(0).stability.check())).is_stable, true)
    assert.ok((await town.do(town.peer(2).placement.explain(block))).candidates.some(({ peer, step }) => peer === town.id(0) && step === 'bid'))
    assert.equal((await town.do(refusal(town.peer(2).parser.perform('executeMgmtCommand', { clusterId: 'trio', service: 'executor', mgmtCommand: 'x' }, new AbortController().signal)))).code, 'SPEC_INVALID')
  })
})

describe('around clusters', () => {
  let town: Town
  before(async () => {
    town = await Town.started(3)
  })

  it('a cluster that takes anybody needs no invite, and one whose owner listed a host neither', async () => {
    await town.do(town.peer(0).clusters.create({ id: 'open', config: { allowExternalNodes: true } }))
    await town.do(town.peer(0).clusters.create({ id: 'closed' }))
    await town.pass(1_000)
    await town.do(town.peer(1).clusters.join('open'))
    assert.equal((await town.do(refusal(town.peer(2).clusters.join('closed')))).code, 'FORBIDDEN')
    await town.do(town.peer(0).clusters.addNode({ clusterId: 'closed', id: town.id(2) }))
    await town.pass(1_000)
    assert.equal(town.peer(0).view.ad(town.id(2))?.cluster, town.id(2), 'being listed is not yet being in')
    await town.do(town.peer(2).clusters.join('closed'))
    await town.until('both are in', () => town.peer(0).view.ad(town.id(1))?.cluster === 'open' && town.peer(0).view.ad(town.id(2))?.cluster === 'closed')
    assert.equal((await town.do(refusal(town.peer(0).clusters.join('nowhere')))).code, 'NOT_FOUND')
    assert.equal((await town.do(refusal(town.peer(0).clusters.join('aiosc1xyz')))).code, 'BAD_INPUT')
  })

  it('a host that restarts is of its cluster still', async () => {
    const host = town.world.hosts[2]!
    town.world.crash(host)
    await town.pass(2_000)
    await town.do(town.world.start(host))
    await town.until('it is back in its cluster', () => town.peer(0).view.ad(town.id(2))?.cluster === 'closed')
  })

  it('a lone host may have rules of its own, and nobody makes them for it', async () => {
    await town.component()
    await town.rule('shut', `export default () => ({ allowed: false, input_data: 'closed for today' })`)
    const config = { actionsPolicyMap: { add_block: 'shut:1-stable' } }
    assert.equal((await town.do(refusal(town.peer(1).clusters.create({ id: town.id(0), config })))).code, 'ALREADY_EXISTS')
    await town.do(town.peer(1).ports.registries.open('clusters', clusterRecord).put(town.id(0), clusterRecord.parse({ id: town.id(0), config })))
    await town.pass(1_000)
    const { block } = await town.do(town.peer(1).actions.createBlock({ blockId: 'b', blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1, mode: 'dry_run' }))
    const bids = async (): Promise<readonly string[]> => (await town.do(town.peer(1).placement.explain(block))).candidates.filter(({ step }) => step === 'bid').map(({ peer }) => peer)
    assert.ok((await bids()).includes(town.id(0)))
    await town.do(town.peer(2).clusters.leave(false))
    await town.do(town.peer(2).clusters.create({ id: town.id(2), config }))
    await town.pass(2_000)
    const after = await bids()
    assert.deepEqual([after.includes(town.id(0)), after.includes(town.id(2))], [true, false])
  })

  it('a host is of one cluster at a time', async () => {
    assert.equal((await town.do(refusal(town.peer(1).clusters.join('closed')))).code, 'CONFLICT')
    await town.do(town.peer(1).clusters.leave(false))
    await town.do(town.peer(0).clusters.addNode({ clusterId: 'closed', id: town.id(1) }))
    await town.pass(1_000)
    await town.do(town.peer(1).clusters.join('closed'))
  })

  it('groups of clusters are their maker\'s', async () => {
    const { groups } = town.peer(0)
    const made = await town.do(groups.create({ group_id: 'all', group_children_ids: ['open', 'closed'], group_metadata: { purpose: 'tests' } }))
    assert.deepEqual([made.group_children_ids, made.group_parent_ids], [['open', 'closed'], []])
    assert.equal((await town.do(refusal(groups.create({ group_id: 'all' })))).code, 'ALREADY_EXISTS')
    await town.pass(1_000)
    assert.equal((await town.do(refusal(town.peer(1).groups.update('all', { group_description: 'mine' })))).code, 'FORBIDDEN')
    assert.equal((await town.do(groups.update('all', { group_description: 'both' }))).group_children_ids.length, 2)
    await town.do(groups.remove('all'))
    assert.equal((await town.do(refusal(groups.get('all')))).code, 'NOT_FOUND')
    assert.equal((await town.do(refusal(groups.create({ group_children_ids: 'no list' })))).code, 'SPEC_INVALID')
  })

  it('the network has AIOS\'s document, which its owner alone changes, and every peer reads', async () => {
    const { network } = town.peer(0)
    await town.do(network.update({ metadata: { purpose: 'tests' }, services_map: { parser: 'any peer' } }))
    await town.until('it is everywhere', () => town.peer(2).network.document().services_map['parser'] === 'any peer')
    assert.deepEqual([town.peer(2).network.document().network_name, town.peer(2).network.document().metadata], ['simulated', { purpose: 'tests' }])
    assert.equal((await town.do(refusal(town.peer(1).network.update({ metadata: {} })))).code, 'FORBIDDEN')
    assert.equal((await town.do(refusal(network.update({ policies: { add_node: 7 } })))).code, 'SPEC_INVALID')
  })
})

describe('hosts that drain all at once', () => {
  it('still take in what dies when there is nobody else', async () => {
    const town = await Town.started(3)
    await town.component()
    await town.do(town.peer(0).clusters.create({ id: 'lab' }))
    await town.do(town.peer(0).clusters.join('lab'))
    await town.do(town.peer(1).clusters.join(town.peer(0).clusters.invite('lab', 60_000).invite))
    await town.do(town.peer(0).actions.createBlock({ blockId: 'wide', blockComponentURI: 'node.sample:1-stable', minInstances: 3, maxInstances: 3 }))
    await town.until('each host runs one', () => new Set(town.hostsOf('wide')).size === 3)
    town.world.crash(town.world.hosts[2]!)
    await town.until('the others have taken in its own', () => town.hostsOf('wide').length === 3)
    for (const peer of [1, 0]) await town.do(town.peer(0).clusters.removeNode('lab', town.id(peer)))
    const draining = (peer: number): boolean => town.peer(0).view.ad(town.id(peer))?.labels['aios.draining'] !== undefined
    await town.until('both drain, and neither can take from the other', () => draining(0) && draining(1))
    await town.pass(5_000)
    assert.deepEqual(new Set(town.hostsOf('wide')), new Set([town.id(0), town.id(1)]))
    town.world.crash(town.world.hosts[1]!)
    await town.until('the last one runs all', () => town.hostsOf('wide').filter(host => host === town.id(0)).length === 3)
    assert.ok(draining(0))
  })
})
