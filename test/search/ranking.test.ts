import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { Town } from '../clusters/town.ts'

describe('search ranking', function () {
  this.timeout(60_000)
  let town: Town
  const search = async (uri: string, parameters: Readonly<Record<string, Json>> = {}): Promise<readonly Json[]> => {
    const rule = { policyRuleURI: uri, settings: {}, parameters: { filterRule: { matchType: 'cluster', filter: { clusterQuery: { variable: 'status', operator: '==', value: 'live' } } }, ...parameters } }
    const found = await town.do(town.peer(1).inventory.search({ body: { values: { matchType: 'cluster', rankingPolicyRule: { values: rule } } } }))
    assert.deepEqual(found, await town.do(town.peer(1).inventory.search({ matchType: 'cluster', rankingPolicyRule: rule })), 'with and without .values')
    return found.map(one => Object(one).id)
  }

  before(async () => {
    town = await Town.started(3)
  })

  it('orders what the filter found, as the rule says and as many as are asked for', async () => {
    const { policyRuleURI } = await town.rule('by-id', 'class AIOSv1PolicyRule { eval(parameters, input) { return [...input].sort((a, b) => (a.id < b.id ? -1 : 1) * (parameters.down ? -1 : 1)) } }')
    const ids = [0, 1, 2].map(at => town.id(at)).sort()
    assert.deepEqual(await search(policyRuleURI), ids)
    assert.deepEqual(await search(policyRuleURI, { down: true }), [...ids].reverse(), 'the caller’s parameters count')
    assert.deepEqual(await search(policyRuleURI, { return: 1 }), ids.slice(0, 1))
  })

  it('one document is a list of one; a rule that throws leaves the order as it was', async () => {
    const one = await town.rule('only-first', 'class AIOSv1PolicyRule { eval(parameters, input) { return input[0] } }')
    assert.equal((await search(one.policyRuleURI)).length, 1)
    const broken = await town.rule('broken', 'class AIOSv1PolicyRule { eval() { throw new Error("no") } }')
    assert.equal((await search(broken.policyRuleURI)).length, 3)
    assert.equal((await search('none:1-x')).length, 3)
  })

  it('has the metrics of what was found, by the names of AIOS’s metrics systems', async () => {
    const freest = await town.rule('freest', `class AIOSv1PolicyRule {
      constructor(id, settings) { this.settings = settings }
      eval(parameters, found) {
        const known = this.settings.cluster_metrics_api.get
        return found.map(one => ({ id: one.id, clusterId: known[one.id].clusterId, nodes: known[one.id].nodes.length, blocks: typeof this.settings.block_metrics_api.get }))
      }
    }`)
    const rule = { ...freest, settings: {}, parameters: { filterRule: { matchType: 'cluster', filter: { clusterQuery: { variable: 'status', operator: '==', value: 'live' } } } } }
    const found = await town.do(town.peer(1).inventory.search({ matchType: 'cluster', rankingPolicyRule: rule }))
    assert.deepEqual(found, [0, 1, 2].map(at => town.id(at)).sort().map(id => ({ id, clusterId: id, nodes: 1, blocks: 'object' })))
  })
})
