import assert from 'node:assert/strict'
import { QuickjsSandbox } from '../../node/adapters/quickjs.ts'
import { granted } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { policyRule } from '../../protocols/specs.ts'
import type { JsonObject } from '../../src/lib/json.ts'
import { ruleSettings } from '../../src/metrics/rule-settings.ts'
import { clusterDocument } from '../../src/placement/cluster-document.ts'
import { Policies } from '../../src/policies/calls.ts'
import { HOOKS } from '../../src/policies/hooks.ts'
import type { HookName } from '../../src/roles.ts'
import { started, untilReady } from '../placement/mesh.ts'

/** Calls whatever it was lent, with the block's id where a member is asked for. */
const SOURCE = `export default class {
  constructor(id, settings) { this.settings = settings }
  eval() {
    const said = {}
    for (const name of ['get_metrics', 'query_blocks', 'get_cluster_metrics', 'query_cluster_metrics']) if (this.settings[name] !== undefined) said[name] = this.settings[name]()
    if (this.settings.get_block_by_id) said.get_block_by_id = this.settings.get_block_by_id('b')
    for (const name of ['block_metrics_api', 'cluster_metrics_api', 'cluster_metrics_client']) if (this.settings[name] !== undefined) said[name] = this.settings[name].query()
    if (this.settings.cluster_data) said.cluster_data = this.settings.cluster_data
    if (this.settings.block_metrics_api) said.one = this.settings.block_metrics_api.get_block_metrics('b')
    return said
  }
}`

describe("AIOS's live callables", () => {
  const sandbox = new QuickjsSandbox({ fuel: 1_000 })
  after(() => sandbox[Symbol.asyncDispose]())

  it('answer at every hook whose catalogue entry lends them: get_metrics with the block and its cluster, in AIOS\'s shapes', async () => {
    const { world, block } = await started({ peers: 2 })
    const [peer] = [...world.peers.values()]
    assert.ok(peer)
    await world.drive(peer.catalogue.putBlock(block()))
    await untilReady(world, 'b', 1)
    await world.drive(peer.metrics.blocks(['b']))
    const rule = policyRule.parse({ policyRuleURI: 'looks:1.0-stable', name: 'looks', version: '1.0', releaseTag: 'stable', code: 'bafkreiabcdefgh', codeType: 'js_module_v1', author: '12D3KooWauthor' })
    const policies = new Policies({ clock: { monotonic: () => 0, deadline: () => new AbortController().signal }, sandbox, telemetry: peer.ports.telemetry }, { policy: async () => ({ rule, source: SOURCE }) })
    const records = await world.drive(peer.catalogue.blocks())
    policies.lendFrom((wanted, input, given) => ruleSettings(wanted, input, given, { metrics: peer.metrics, blocks: async () => records, cluster: id => clusterDocument(peer.capacity.ads().filter(ad => ad.cluster === id)) }))
    const lends = (hook: HookName, name: string): boolean => HOOKS[hook].settings.includes(name)
    const hooks = (Object.keys(HOOKS) as HookName[]).filter(hook => HOOKS[hook].settings.some(name => /metrics|block_by_id/.test(name)))
    assert.ok(hooks.length >= 9, hooks.join(', '))
    for (const hook of hooks) {
      const input: Json = lends(hook, 'block_metrics_api') ? [{ blockId: 'b' }] : { block_data: { id: 'b' } }
      const { value, by, because } = await policies.decide<Json>({ hook, rule: { policyRuleURI: rule.policyRuleURI, parameters: {}, settings: {} }, scope: hook, input, accept: answer => granted(answer), fallback: failure => failure ?? null })
      assert.equal(by, 'policy', `${hook}: ${because}`)
      const said = value as JsonObject
      if (lends(hook, 'get_metrics')) {
        const { block_metrics: measured, cluster_metrics: cluster } = said['get_metrics'] as { readonly block_metrics: JsonObject; readonly cluster_metrics: JsonObject }
        assert.equal(measured['blockId'], 'b', hook)
        assert.deepEqual((measured['instances'] as readonly JsonObject[]).map(({ tasks_processed: done }) => done), [0], hook)
        assert.ok(typeof ((cluster['cluster'] as JsonObject)['memory'] as JsonObject)['freeMem'] === 'number' && Array.isArray(cluster['nodes']), hook)
      }
      if (lends(hook, 'cluster_data')) assert.equal((said['cluster_data'] as JsonObject)['status'], 'live', hook)
      if (lends(hook, 'get_block_by_id')) assert.equal((said['get_block_by_id'] as JsonObject)['blockId'], 'b')
      if (lends(hook, 'block_metrics_api')) assert.equal((said['one'] as JsonObject)['blockId'], 'b', hook)
      if (lends(hook, 'cluster_metrics_api')) assert.equal((said['cluster_metrics_api'] as readonly unknown[]).length, 2, hook)
      if (lends(hook, 'query_cluster_metrics')) assert.equal((said['query_cluster_metrics'] as readonly unknown[]).length, 2, hook)
    }
  })
})
