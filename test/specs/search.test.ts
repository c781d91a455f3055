import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import type { JsonObject } from '../../src/specs/document.ts'
import { compileCondition, parseFilter, parseQueries } from '../../src/specs/filter.ts'
import { evaluate } from '../../src/specs/join.ts'
import { parseSearch, type SearchSources } from '../../src/specs/search.ts'

const specInvalid = (pattern: RegExp) => (error: unknown): boolean => error instanceof MeshError && error.code === 'SPEC_INVALID' && pattern.test(error.message)
const condition = (value: JsonObject) => parseQueries({ clusterQuery: value }, 'clusterQuery').clusterQuery!
const holds = (value: JsonObject, document: JsonObject): boolean => compileCondition(condition(value))(document)

const east: JsonObject = { id: 'east-1', regionId: 'east', reputation: 95, memory: 131_072, tags: ['ml', 'vision'], gpus: { count: 6, modelNames: ['A', 'B'] }, nodes: { count: 2, nodeData: [{ id: 'n1', memory: 10 }, { id: 'n2', memory: 30 }] }, status: 'live' }
const west: JsonObject = { id: 'west-vision-1', regionId: 'west', reputation: '40', memory: 1_024, tags: ['ml'], gpus: { count: 0 }, nodes: { count: 1, nodeData: [{ id: 'n3', memory: 5 }] }, status: 'live' }
const sources: SearchSources = {
  clusters: [east, west],
  clusterMetrics: [{ clusterId: 'east-1', cluster: { vcpu: { load15m: 0.2, load_5m: 0.4 }, gpu: { totalFreeMem: 9_500 } } }, { clusterId: 'west-vision-1', cluster: { vcpu: { load15m: 12 } } }],
  blocks: [{ id: 'b1', cluster: { id: 'east-1' }, component: { componentURI: 'model.a:1-s', tags: ['chat'] } }, { id: 'b2', cluster: { id: 'west-vision-1' }, component: { componentURI: 'model.b:1-s', tags: ['vision'] } }, { id: 'b3', cluster: [{ id: 'east-1' }, { id: 'west-vision-1' }], component: { tags: [] } }],
  blockMetrics: [{ blockId: 'b1', instances: [{ llm_active_sessions: 4, fps: 10 }, { llm_active_sessions: 20, fps: 30 }] }, { blockId: 'b2', instances: [{ llm_active_sessions: 1, fps: 5 }] }],
  components: [{ componentURI: 'model.a:1-s', componentType: 'model' }], vdags: [{ vdagURI: 'v:1-s', vdagName: 'v' }], policies: [{ policyRuleURI: 'p:1-s', name: 'p' }], vdagMetrics: [{ vdagURI: 'v:1-s', requests: 3 }],
}

describe('specs: filter language', () => {
  const cases: readonly (readonly [JsonObject, boolean, boolean])[] = [
    [{ variable: 'regionId', operator: '==', value: 'east' }, true, false], [{ variable: 'regionId', operator: '!=', value: 'east' }, false, true], [{ variable: 'absent', operator: '!=', value: 'x' }, true, true], [{ variable: 'absent', operator: '==', value: 'x' }, false, false],
    [{ variable: 'reputation', operator: '>', value: 90 }, true, false], [{ variable: 'reputation', operator: '>', value: '50' }, true, false], [{ variable: 'reputation', operator: '<=', value: '40' }, false, true], [{ variable: 'reputation', operator: '>=', value: 95 }, true, false], [{ variable: 'reputation', operator: '==', value: 40 }, false, true],
    [{ variable: 'tags', operator: 'IN', value: ['vision', 'audio'] }, true, false], [{ variable: 'tags', operator: 'IN ANY', value: ['vision'] }, true, false], [{ variable: 'tags', operator: '==', value: 'vision' }, true, false], [{ variable: 'regionId', operator: 'IN', value: ['east', 'north'] }, true, false], [{ variable: 'regionId', operator: 'IN', value: 'west' }, false, true],
    [{ variable: 'id', operator: 'LIKE', value: '*vision*' }, false, true], [{ variable: 'id', operator: 'LIKE', value: 'vision' }, false, true], [{ variable: 'id', operator: 'LIKE', value: 'east*' }, true, false], [{ variable: 'id', operator: 'LIKE', value: 'e*t-*1' }, true, false], [{ variable: 'id', operator: 'LIKE', value: 'east' }, true, false], [{ variable: 'id', operator: 'LIKE', value: 'e.st*' }, false, false],
    [{ variable: 'gpus.count', operator: '>', value: '5' }, true, false], [{ variable: 'nodes.nodeData.memory', operator: '>', value: 20 }, true, false], [{ variable: 'gpus.modelNames', operator: '==', value: 'B' }, true, false],
    [{ logicalOperator: 'AND', conditions: [{ variable: 'status', operator: '==', value: 'live' }, { logicalOperator: 'OR', conditions: [{ variable: 'tags', operator: 'IN', value: ['vision'] }, { variable: 'reputation', operator: '>=', value: 99 }] }] }, true, false],
    [{ logicalOperator: '', conditions: [{ variable: 'regionId', operator: '==', value: 'west' }] }, false, true], [{ logicalOperator: 'or', conditions: [{ variable: 'a', operator: '==', value: 1 }, { variable: 'memory', operator: '<', value: 5_000 }] }, false, true],
    [{ aggOperator: 'avg', target: 'nodes.nodeData.memory', operator: '==', value: 20 }, true, false], [{ aggOperator: 'sum', target: 'nodes.nodeData.memory', operator: '>=', value: '40' }, true, false], [{ aggOperator: 'min', target: 'nodes.nodeData.memory', operator: '<', value: 6 }, false, true], [{ aggOperator: 'max', target: 'nodes.nodeData.memory', operator: '>', value: 29 }, true, false], [{ aggOperator: 'count', target: 'nodes.nodeData', operator: '>', value: 1 }, true, false], [{ aggOperator: 'max', target: 'absent.x', operator: '>', value: -1 }, false, false],
  ]
  for (const [query, first, second] of cases) it(JSON.stringify(query), () => assert.deepEqual([holds(query, east), holds(query, west)], [first, second]))

  it('load_15m and load15m are one metric', () => {
    for (const name of ['load15m', 'load_15m']) for (const written of ['load15m', 'load_15m']) assert.ok(holds({ variable: `cluster.vcpu.${name}`, operator: '<', value: 1 }, { cluster: { vcpu: { [written]: 0.5 } } }))
  })

  it('a filter is read from every envelope, and from a policy’s parameters', () => {
    const rule = { matchType: 'cluster', filter: { clusterQuery: { variable: 'regionId', operator: '==', value: 'east' } } }
    for (const document of [rule, { body: { values: rule } }, { header: { templateUri: 'Parser/V1' }, body: { values: rule } }, { body: { spec: { values: rule } } }, { filter: rule.filter }]) assert.deepEqual(parseFilter(document), rule)
    assert.deepEqual(parseQueries(rule.filter.clusterQuery, 'clusterQuery'), rule.filter)
    assert.deepEqual(parseQueries({ filter: rule.filter }, 'clusterQuery'), rule.filter)
    assert.deepEqual(parseFilter(parseFilter(rule)), rule)
  })

  it('says what is wrong and where', () => {
    assert.throws(() => parseFilter({ matchType: 'star', filter: { clusterQuery: { logicalOperator: 'AND', conditions: [{ variable: 'a', operator: '~', value: 1 }, { operator: '==', value: 1 }, 7] }, nodeQuery: {} } }), specInvalid(/filter\.nodeQuery.*filter\.clusterQuery\.conditions\[0\]\.operator: "~".*conditions\[1\]\.variable: missing.*conditions\[2\]/))
    assert.throws(() => parseFilter({ filter: {} }), specInvalid(/matchType: missing/))
    assert.deepEqual(parseFilter({ matchType: 'block', filter: { variable: 'a', operator: '==', value: 1 } }), parseFilter({ matchType: 'block', filter: { blockQuery: { variable: 'a', operator: '==', value: 1 } } }))
    assert.throws(() => parseFilter({ filter: { variable: 'a', operator: '==', value: 1 } }), specInvalid(/filter\.variable: "a" is not usable here; use one of clusterQuery/))
    assert.throws(() => parseFilter({ matchType: 'block', filter: { blockQuery: { variable: 'a', operator: '==' } } }), specInvalid(/value: missing/))
    assert.throws(() => parseFilter({ matchType: 'block', filter: { blockQuery: { logicalOperator: 'AND', conditions: Array.from({ length: 1_001 }, () => ({ variable: 'a', operator: '==', value: 1 })) } } }), specInvalid(/at most 1000 conditions/))
  })
})

describe('specs: filter evaluation', () => {
  const found = (matchType: string, filter: JsonObject): readonly unknown[] => evaluate(parseFilter({ matchType, filter }), sources).map(document => document['id'] ?? document['componentURI'] ?? document['vdagURI'] ?? document['policyRuleURI'])

  it('clusters pass their metrics, then their query', () => {
    assert.deepEqual(found('cluster', { clusterMetricsQuery: { variable: 'cluster.vcpu.load_15m', operator: '<', value: '10' } }), ['east-1'])
    assert.deepEqual(found('cluster', { clusterMetricsQuery: { variable: 'cluster.vcpu.load_15m', operator: '<', value: '100' }, clusterQuery: { variable: 'memory', operator: '<', value: 2_000 } }), ['west-vision-1'])
    assert.deepEqual(found('cluster', {}), ['east-1', 'west-vision-1'])
  })

  it('blocks are joined to their clusters and metrics, and carry their metrics', () => {
    assert.deepEqual(found('block', { clusterQuery: { variable: 'regionId', operator: '==', value: 'east' } }), ['b1', 'b3'])
    assert.deepEqual(found('block', { clusterQuery: { variable: 'regionId', operator: '==', value: 'nowhere' } }), [])
    assert.deepEqual(found('block', { blockMetricsQuery: { aggOperator: 'max', target: 'instances.llm_active_sessions', operator: '>=', value: 20 } }), ['b1'])
    assert.deepEqual(found('block', { blockQuery: { variable: 'component.tags', operator: '==', value: 'vision' }, clusterQuery: { variable: 'regionId', operator: '==', value: 'east' } }), [])
    assert.deepEqual(found('block', { blockQuery: { variable: 'block.component.componentURI', operator: '==', value: 'model.a:1-s' } }), ['b1'], 'a path may start with the entity')
    assert.deepEqual(evaluate(parseFilter({ matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'b2' } } }), sources)[0]?.['metrics'], { blockId: 'b2', instances: [{ llm_active_sessions: 1, fps: 5 }] })
  })

  it('finds components, vDAGs and policies', () => {
    assert.deepEqual(found('component', { componentQuery: { variable: 'componentURI', operator: 'LIKE', value: 'model.*' } }), ['model.a:1-s'])
    assert.deepEqual(found('vdag', { vdagMetricsQuery: { variable: 'requests', operator: '>', value: 5 } }), [])
    assert.deepEqual(found('vdag', { vdagQuery: { variable: 'vdagName', operator: '==', value: 'v' } }), ['v:1-s'])
    assert.deepEqual(found('policy', { policyQuery: { variable: 'name', operator: 'IN', value: ['p'] } }), ['p:1-s'])
  })

  it('metrics inside the documents serve where there is no list of them', () => {
    assert.deepEqual(evaluate(parseFilter({ matchType: 'block', filter: { blockMetricsQuery: { variable: 'queue', operator: '>', value: 1 } } }), { blocks: [{ id: 'x', metrics: { queue: 3 } }, { id: 'y', metrics: { queue: 0 } }] }).map(block => block['id']), ['x'])
  })

  it('a search is the same with and without .values', () => {
    const rule = { executionMode: 'code', policyRuleURI: 'rank:1.0-stable', settings: { maxResults: 10 }, parameters: { filterRule: { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'b1' } } }, return: 5 } }
    const bare = parseSearch({ matchType: 'cluster', rankingPolicyRule: rule })
    assert.deepEqual(parseSearch({ body: { values: { matchType: 'cluster', rankingPolicyRule: { values: rule } } } }), bare)
    assert.equal(bare.matchType, 'block')
    assert.equal(bare.limit, 5)
    assert.equal(bare.rankingPolicyRule.policyRuleURI, 'rank:1.0-stable')
    assert.throws(() => parseSearch({ rankingPolicyRule: { policyRuleURI: 'x:1-s' } }), specInvalid(/filterRule: missing/))
    assert.throws(() => parseSearch({}), specInvalid(/rankingPolicyRule: missing/))
  })
})
