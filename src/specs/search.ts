import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { assert } from '../lib/assert.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { compileCondition, readFilter, type Condition, type FilterIR, type MatchType } from './filter.ts'
import { parsePolicyRef } from './policy-refs.ts'
import { Problems } from './problems.ts'

/** A filter, then a ranking rule over what it found. */
export type SearchIR = { readonly matchType: MatchType; readonly filterRule: FilterIR; readonly rankingPolicyRule: PolicyRef; readonly limit?: number }

/**
 * Documents to look through, in AIOS's shapes (`id`, `blockId`/`id`, `componentURI`, `vdagURI`, …). Metrics documents
 * name their subject (`clusterId`, `blockId`, `vdagURI`); where a list of them is absent, each subject's own `metrics`
 * field is used.
 */
export type SearchSources = {
  readonly clusters?: readonly JsonObject[]
  readonly blocks?: readonly JsonObject[]
  readonly components?: readonly JsonObject[]
  readonly vdags?: readonly JsonObject[]
  readonly policies?: readonly JsonObject[]
  readonly policyFunctions?: readonly JsonObject[]
  readonly policyGraphs?: readonly JsonObject[]
  readonly clusterMetrics?: readonly JsonObject[]
  readonly blockMetrics?: readonly JsonObject[]
  readonly vdagMetrics?: readonly JsonObject[]
}

/** A search, enveloped or bare, with or without `.values` around its rule. Throws SPEC_INVALID. */
export function parseSearch(document: unknown): SearchIR {
  const problems = new Problems('search')
  const spec = new Fields(specValues(document, 'search'), '', problems)
  const rule = parsePolicyRef(spec, 'rankingPolicyRule')
  if (rule === undefined && problems.count === 0) spec.wrong('rankingPolicyRule', spec.find('rankingPolicyRule'), 'give { "policyRuleURI": …, "parameters": { "filterRule": … } }')
  const parameters = new Fields(rule?.parameters ?? {}, spec.path('rankingPolicyRule.parameters'), problems)
  if (rule !== undefined && parameters.find('filterRule') === undefined) parameters.wrong('filterRule', undefined, 'give { "matchType": …, "filter": { … } }')
  const filterRule = rule === undefined || parameters.find('filterRule') === undefined ? undefined : readFilter(parameters.inside('filterRule'))
  const limit = parameters.count(['return'], 1, 100_000)
  problems.settle()
  assert(rule !== undefined && filterRule !== undefined, 'a search without a rule passed its check')
  return { matchType: filterRule.matchType, filterRule, rankingPolicyRule: rule, ...(limit === undefined ? {} : { limit }) }
}

/**
 * The documents a filter finds, in the order of their source. Blocks are joined to the clusters and metrics that pass
 * their own queries, and each block found carries its `metrics`. A pre-filter that nothing passes finds nothing.
 */
export function evaluate({ matchType, filter }: FilterIR, sources: SearchSources): readonly JsonObject[] {
  switch (matchType) {
    case 'cluster': return clusters(filter, sources)
    case 'block': return blocks(filter, sources)
    case 'vdag': return subjects(sources.vdags, sources.vdagMetrics, 'vdagURI', ['vdagURI', 'vdag_uri'], filter.vdagQuery, filter.vdagMetricsQuery, 'vdag')
    case 'component': return passing(sources.components, filter.componentQuery, 'component')
    case 'policy': return passing(sources.policies, filter.policyQuery, 'policy')
    case 'policyFunction': return passing(sources.policyFunctions, filter.policyFunctionQuery, 'policyFunction')
    case 'policyGraph': return passing(sources.policyGraphs, filter.policyGraphQuery, 'policyGraph')
  }
}

function clusters({ clusterQuery, clusterMetricsQuery }: FilterIR['filter'], sources: SearchSources): readonly JsonObject[] {
  return subjects(sources.clusters, sources.clusterMetrics, 'clusterId', ['id', 'clusterId'], clusterQuery, clusterMetricsQuery, 'cluster')
}

function blocks(filter: FilterIR['filter'], sources: SearchSources): readonly JsonObject[] {
  const near = filter.clusterQuery === undefined && filter.clusterMetricsQuery === undefined ? undefined : new Set(clusters(filter, sources).map(cluster => idOf(cluster, ['id', 'clusterId'])))
  const found = subjects(sources.blocks, sources.blockMetrics, 'blockId', ['id', 'blockId'], filter.blockQuery, filter.blockMetricsQuery, 'block')
    .filter(block => near === undefined || clusterIdsOf(block).some(id => near.has(id)))
  if (sources.blockMetrics === undefined) return found
  const metrics = byId(sources.blockMetrics, 'blockId')
  return found.map(block => ({ ...block, metrics: metrics.get(idOf(block, ['id', 'blockId']) ?? '') ?? {} }))
}

function subjects(documents: readonly JsonObject[] = [], metrics: readonly JsonObject[] | undefined, metricsKey: string, keys: readonly string[], query: Condition | undefined, metricsQuery: Condition | undefined, prefix: string): readonly JsonObject[] {
  const found = passing(documents, query, prefix)
  if (metricsQuery === undefined) return found
  const test = compileCondition(metricsQuery)
  if (metrics === undefined) return found.filter(document => isObject(document['metrics']) && test(document['metrics']))
  const healthy = new Set(metrics.filter(test).map(document => idOf(document, [metricsKey])))
  return found.filter(document => healthy.has(idOf(document, keys)))
}

/** A query may say `block.component…` of a block; the document itself has no such field, so it is offered as one. */
function passing(documents: readonly JsonObject[] = [], query: Condition | undefined, prefix: string): readonly JsonObject[] {
  if (query === undefined) return documents
  const test = compileCondition(query)
  return documents.filter(document => test(Object.hasOwn(document, prefix) ? document : { ...document, [prefix]: document }))
}

function byId(documents: readonly JsonObject[], key: string): Map<string, JsonObject> {
  return new Map(documents.map(document => [idOf(document, [key]) ?? '', document]))
}

function idOf(document: JsonObject, keys: readonly string[]): string | undefined {
  return keys.map(key => document[key]).find(value => typeof value === 'string')
}

/** Here a block may run on several clusters, so `cluster` may be a list. */
function clusterIdsOf(block: JsonObject): readonly (string | undefined)[] {
  const cluster: Json | undefined = block['cluster']
  const all = isList(cluster) ? cluster : [cluster ?? null]
  return [...all.map(one => (isObject(one) ? idOf(one, ['id', 'clusterId']) : typeof one === 'string' ? one : undefined)), idOf(block, ['clusterId'])].filter(id => id !== undefined)
}
