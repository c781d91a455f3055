import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import type { Fit } from '../../src/placement/adhoc-allocation.ts'
import { refusal, Town } from '../clusters/town.ts'

describe('AIOS’s resource allocator: where would this fit?', function () {
  this.timeout(60_000)
  let town: Town
  const ask = (asked: Json, at = 0): Promise<Fit> => town.do(town.peer(at).allocator.allocate(asked))
  const needs = (cpuMilli: number): Json => ({ needs: { cpuMilli, memoryMb: 64 } })
  const freeCpu = (at: number): number => town.peer(at).placement.free().cpuMilli

  before(async () => {
    town = await Town.started(4, at => ({ region: at < 2 ? 'east' : 'west' }))
    await town.component()
  })

  it('by what the hosts would bid, of a list of clusters, of a filter, of all', async () => {
    const listed = await ask({ clusters: [town.id(2)], inputs: needs(100) })
    assert.deepEqual([listed.cluster_id, listed.node_id, listed.fits, listed.by], [town.id(2), town.id(2), true, 'default'])
    const filtered = await ask({ filter: { matchType: 'cluster', filter: { clusterQuery: { variable: 'regionId', operator: '==', value: 'west' } } }, inputs: needs(100) })
    assert.deepEqual(filtered.candidates.map(({ node_id }) => node_id).sort(), [town.id(2), town.id(3)].sort())
    assert.equal((await ask({ inputs: { componentURI: 'node.sample:1-stable' } })).candidates.length, 4)
    assert.equal((await ask({ input: { blockComponentURI: 'node.sample:1-stable', minInstances: 1, maxInstances: 1, labels: { region: 'east' } }, mode: 'dry_run' })).candidates.filter(({ ok }) => ok).length, 2, 'a block spec as it is')
  })

  it('by search, in AIOS’s own body', async () => {
    const { policyRuleURI } = await town.rule('last-first', 'class AIOSv1PolicyRule { eval(parameters, input) { return [...input].reverse().slice(0, 1) } }')
    const found = await ask({ adhoc: true, policy_rule_uri: '', clusters: [], search: { matchType: 'cluster', rankingPolicyRule: { values: { policyRuleURI, parameters: { filterRule: { matchType: 'cluster', filter: {} } } } } }, inputs: needs(100), parameters: {}, settings: {} })
    assert.equal(found.candidates.length, 1)
    const bare = await ask({ adhoc: true, policy_rule_uri: '', clusters: [], inputs: {}, filter: {}, search: {}, parameters: {}, settings: {} })
    assert.deepEqual([bare.fits, bare.by, bare.candidates.length], [true, 'default', 4], 'as AIOS documents it, all of it empty')
  })

  it('by a rule, which sees clusters with their metrics; what it may not choose is not taken', async () => {
    const source = 'class AIOSv1PolicyRule { constructor(id, settings, parameters) { this.settings = settings } eval(parameters, { cluster_data, inputs }) { const ids = Object.keys(cluster_data).sort(); const id = parameters.first ? "nowhere" : ids.at(-1); return { cluster_id: id, node_id: id, because: typeof cluster_data[ids[0]].metrics.cluster.memory.freeMem + inputs.note + this.settings.cluster_client.get_cluster[ids[0]].status } } }'
    const { policyRuleURI } = await town.rule('last-cluster', source)
    const chosen = await ask({ policy_rule_uri: policyRuleURI, inputs: { note: '!', needs: { cpuMilli: 100 } } })
    assert.deepEqual([chosen.by, chosen.cluster_id, chosen.fits], ['policy', [0, 1, 2, 3].map(at => town.id(at)).sort().at(-1), true])
    assert.match(chosen.because, /number!live/)
    const other = await ask({ policy_rule_uri: policyRuleURI, parameters: { first: true }, inputs: { note: '', needs: { cpuMilli: 100 } } })
    assert.deepEqual([other.by, other.fits, /chose cluster nowhere/.test(other.because)], ['fallback', true, true])
  })

  it('has the host keep the room, for as long as it says and no longer', async () => {
    const before = freeCpu(3)
    const kept = await ask({ clusters: [town.id(3)], inputs: needs(500), reserve_ms: 2_000 })
    assert.equal(kept.reservation?.holdMs, 2_000)
    assert.equal(freeCpu(3), before - 500)
    await town.pass(2_500)
    assert.equal(freeCpu(3), before, 'it expires')
    const again = await ask({ clusters: [town.id(3)], inputs: needs(500), reserve: true }, 1)
    town.peer(1).allocator.release(again.reservation!.id)
    await town.pass(200)
    assert.equal(freeCpu(3), before, 'it is given back')
    assert.throws(() => town.peer(1).allocator.release(again.reservation!.id), /no reservation/)
  })

  it('says why nothing fits', async () => {
    assert.deepEqual(await refusal(ask({ inputs: needs(9_000_000) })).then(({ code, message }) => [code, /CPU|cpu/.test(message)]), ['NO_CAPACITY', true])
    assert.equal((await refusal(ask({ clusters: ['none'], inputs: {} }))).code, 'NOT_FOUND')
    assert.match((await refusal(ask({ clusters: 'all' }))).message, /clusters/)
    assert.equal((await refusal(ask({ filter: { filter: { clusterQuery: { variable: 'regionId', operator: '==', value: 'north' } } } }))).code, 'NO_CAPACITY')
  })
})
