import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { Json } from '../../protocols/ids.ts'
import type { JsonObject } from '../../src/specs/document.ts'
import { parseFilter, type MatchType } from '../../src/specs/filter.ts'
import { evaluate } from '../../src/specs/join.ts'
import type { SearchSources } from '../../src/specs/search.ts'
import { naiveEvaluate } from './naive.ts'

const word = fc.constantFrom('east', 'west', 'model-a', 'model-b', '7', '30', '')
const scalar = fc.oneof(word, fc.integer({ min: -2, max: 40 }), fc.boolean())
const fields: readonly string[] = ['id', 'region', 'tags', 'size', 'parts', 'parts.rank', 'parts.tags', 'deep.inner.size', 'absent.x']
const details = fc.record({ region: word, tags: fc.array(word, { maxLength: 3 }), size: scalar, parts: fc.array(fc.record({ rank: scalar, tags: fc.array(word, { maxLength: 2 }) }), { maxLength: 3 }), deep: fc.record({ inner: fc.record({ size: scalar }) }) }, { requiredKeys: [] })
const ids = (kind: string, count: number): readonly string[] => Array.from({ length: count }, (_, at) => `${kind}-${at}`)
const [CLUSTERS, BLOCKS, COMPONENTS, VDAGS, POLICIES] = [ids('c', 3), ids('b', 4), ids('node.x', 3), ids('v', 3), ids('p', 3)]
const policies = fc.dictionary(fc.constantFrom('loadBalancer', 'autoscaler'), fc.record({ policyRuleURI: fc.constantFrom(...POLICIES) }), { maxKeys: 2 })
const each = (names: readonly string[], key: string, more: fc.Arbitrary<object>): fc.Arbitrary<JsonObject[]> => fc.tuple(...names.map(name => fc.tuple(details, more).map(([detail, extra]) => ({ ...detail, ...extra, [key]: name }) as JsonObject)))

const world: fc.Arbitrary<SearchSources> = fc.record({
  clusters: each(CLUSTERS, 'id', fc.constant({})),
  blocks: each(BLOCKS, 'id', fc.record({ cluster: fc.array(fc.constantFrom(...CLUSTERS).map(id => ({ id })), { maxLength: 2 }), componentUri: fc.constantFrom(...COMPONENTS), policies })),
  components: each(COMPONENTS, 'componentURI', fc.record({ policies })),
  vdags: each(VDAGS, 'vdagURI', fc.record({ nodes: fc.array(fc.record({ blockId: fc.constantFrom(...BLOCKS), componentURI: fc.constantFrom(...COMPONENTS), assignmentPolicyRule: fc.record({ policyRuleURI: fc.constantFrom(...POLICIES) }) }, { requiredKeys: [] }), { maxLength: 2 }) })),
  policies: each(POLICIES, 'policyRuleURI', fc.constant({})),
  clusterMetrics: each(CLUSTERS, 'clusterId', fc.constant({})),
  blockMetrics: each(BLOCKS, 'blockId', fc.constant({})),
})

const leaf = fc.oneof(
  fc.record({ variable: fc.constantFrom(...fields), operator: fc.constantFrom('==', '!=', '>', '>=', '<', '<='), value: scalar }),
  fc.record({ variable: fc.constantFrom(...fields), operator: fc.constant('IN'), value: fc.array(scalar, { minLength: 1, maxLength: 3 }) }),
  fc.record({ variable: fc.constantFrom(...fields), operator: fc.constant('LIKE'), value: fc.constantFrom('*st', 'mod*', 'a', '*', 'm*-*', 'st*') }),
  fc.record({ aggOperator: fc.constantFrom('avg', 'sum', 'min', 'max', 'count'), target: fc.constantFrom('parts.rank', 'tags', 'size', 'absent.x', 'parts.tags'), operator: fc.constantFrom('==', '>', '<=', '!='), value: fc.integer({ min: -2, max: 40 }) }),
)
const { query } = fc.letrec<{ query: JsonObject }>(tie => ({ query: fc.oneof({ maxDepth: 2 }, leaf.map(one => one as JsonObject), fc.record({ logicalOperator: fc.constantFrom('AND', 'OR'), conditions: fc.array(tie('query'), { minLength: 1, maxLength: 3 }) }).map(one => one as JsonObject)) }))
const QUERIES = ['clusterQuery', 'clusterMetricsQuery', 'blockQuery', 'blockMetricsQuery', 'componentQuery', 'vdagQuery', 'policyQuery'] as const
const filters = fc.tuple(fc.constantFrom<MatchType>('cluster', 'block', 'vdag', 'component', 'policy'), fc.dictionary(fc.constantFrom(...QUERIES), query, { minKeys: 1, maxKeys: 3 }))

describe('search: the filter language', () => {
  it('finds what an evaluator without any speed finds, whatever is asked and joined', () => {
    fc.assert(fc.property(world, filters, (sources, [matchType, filter]) => {
      const rule = parseFilter({ matchType, filter: filter as Json })
      const named = (found: readonly JsonObject[]): readonly (Json | undefined)[] => found.map(document => document['id'] ?? document['componentURI'] ?? document['vdagURI'] ?? document['policyRuleURI'])
      assert.deepEqual(named(evaluate(rule, sources)), named(naiveEvaluate(rule, sources)))
    }), { numRuns: 600 })
  })

  it('joins what belongs together: blocks, their clusters, components and policies, and the vDAGs over them', () => {
    const sources: SearchSources = {
      clusters: [{ id: 'east', region: 'e' }, { id: 'west', region: 'w' }],
      components: [{ componentURI: 'model.a:1-s', componentType: 'model', policies: {} }, { componentURI: 'node.b:1-s', componentType: 'node', policies: { loadBalancer: { policyRuleURI: 'lb:1-s' } } }],
      blocks: [{ id: 'a1', componentUri: 'model.a:1-s', cluster: [{ id: 'east' }], policies: {} }, { id: 'b1', componentUri: 'node.b:1-s', cluster: [{ id: 'west' }], policies: { loadBalancer: { policyRuleURI: 'lb:1-s' } } }],
      vdags: [{ vdagURI: 'v:1-s', nodes: [{ blockId: 'a1' }] }, { vdagURI: 'w:1-s', nodes: [{ blockId: 'b1' }] }],
      policies: [{ policyRuleURI: 'lb:1-s', name: 'lb' }, { policyRuleURI: 'other:1-s', name: 'other' }],
    }
    const find = (matchType: string, filter: JsonObject): readonly (Json | undefined)[] => evaluate(parseFilter({ matchType, filter }), sources).map(found => found['id'] ?? found['vdagURI'] ?? found['componentURI'] ?? found['policyRuleURI'])
    const is = (variable: string, value: string): JsonObject => ({ variable, operator: '==', value })
    assert.deepEqual(find('block', { componentQuery: is('componentType', 'model') }), ['a1'])
    assert.deepEqual(find('block', { vdagQuery: is('vdagURI', 'w:1-s'), clusterQuery: is('region', 'w') }), ['b1'])
    assert.deepEqual(find('vdag', { clusterQuery: is('region', 'e') }), ['v:1-s'], 'through its blocks')
    assert.deepEqual(find('vdag', { componentQuery: is('componentType', 'node') }), ['w:1-s'])
    assert.deepEqual(find('cluster', { componentQuery: is('componentType', 'model') }), ['east'])
    assert.deepEqual(find('component', { policyQuery: is('name', 'lb') }), ['node.b:1-s'])
    assert.deepEqual(find('policy', { vdagQuery: is('vdagURI', 'w:1-s'), blockQuery: is('id', 'b1') }), ['lb:1-s'])
    assert.deepEqual(find('policy', { blockQuery: is('id', 'a1') }), [])
    const more: SearchSources = { ...sources, policyFunctions: [{ function_id: 'f', function_policy_rule_uri: 'lb:1-s' }, { function_id: 'g', function_policy_rule_uri: 'other:1-s' }], policyGraphs: [{ graph_uri: 'h:1-s', graph_function_ids: ['g'] }] }
    assert.deepEqual(evaluate(parseFilter({ matchType: 'policyFunction', filter: { policyQuery: is('name', 'lb') } }), more).map(found => found['function_id']), ['f'])
    assert.deepEqual(evaluate(parseFilter({ matchType: 'policyGraph', filter: { policyFunctionQuery: is('function_id', 'g') } }), more).map(found => found['graph_uri']), ['h:1-s'])
    assert.deepEqual(evaluate(parseFilter({ matchType: 'policyGraph', filter: { policyFunctionQuery: is('function_id', 'f') } }), more), [])
  })
})
