import type { Json } from '../../protocols/ids.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import { compileCondition, type Condition, type FilterIR, type MatchType, type Queries } from './filter.ts'
import type { SearchSources } from './search.ts'

type Kind = {
  readonly source: keyof SearchSources
  /** Where a document says its name. */
  readonly keys: readonly string[]
  readonly query: keyof Queries
  readonly metrics?: { readonly source: keyof SearchSources; readonly query: keyof Queries; readonly key: string }
}

const KINDS: Readonly<Record<MatchType, Kind>> = {
  cluster: { source: 'clusters', keys: ['id', 'clusterId'], query: 'clusterQuery', metrics: { source: 'clusterMetrics', query: 'clusterMetricsQuery', key: 'clusterId' } },
  block: { source: 'blocks', keys: ['id', 'blockId'], query: 'blockQuery', metrics: { source: 'blockMetrics', query: 'blockMetricsQuery', key: 'blockId' } },
  vdag: { source: 'vdags', keys: ['vdagURI', 'vdag_uri'], query: 'vdagQuery', metrics: { source: 'vdagMetrics', query: 'vdagMetricsQuery', key: 'vdagURI' } },
  component: { source: 'components', keys: ['componentURI', 'componentUri'], query: 'componentQuery' },
  policy: { source: 'policies', keys: ['policyRuleURI', 'policy_rule_uri'], query: 'policyQuery' },
  policyFunction: { source: 'policyFunctions', keys: ['function_id', 'id'], query: 'policyFunctionQuery' },
  policyGraph: { source: 'policyGraphs', keys: ['graph_uri', 'uri'], query: 'policyGraphQuery' },
}
const TYPES: readonly MatchType[] = ['cluster', 'block', 'vdag', 'component', 'policy', 'policyFunction', 'policyGraph']

/** Which documents of another kind a document names itself. Links are walked from either end. */
const NAMES: readonly { readonly from: MatchType; readonly to: MatchType; readonly names: (document: JsonObject) => readonly string[] }[] = [
  { from: 'block', to: 'cluster', names: clusterIdsOf },
  { from: 'block', to: 'component', names: block => texts(block['componentUri'], block['componentURI'], inside(block['component'], 'componentURI')) },
  { from: 'block', to: 'policy', names: policiesOf },
  { from: 'component', to: 'policy', names: policiesOf },
  { from: 'vdag', to: 'block', names: vdag => nodesOf(vdag).flatMap(node => texts(node['blockId'], node['manualBlockId'])) },
  { from: 'vdag', to: 'component', names: vdag => nodesOf(vdag).flatMap(node => texts(node['componentURI'])) },
  { from: 'vdag', to: 'policy', names: vdag => nodesOf(vdag).flatMap(node => ['assignmentPolicyRule', 'preprocessingPolicyRule', 'postprocessingPolicyRule'].flatMap(name => texts(inside(node[name], 'policyRuleURI')))) },
  { from: 'policyFunction', to: 'policy', names: made => texts(made['function_policy_rule_uri']) },
  { from: 'policyGraph', to: 'policyFunction', names: graph => (isList(graph['graph_function_ids']) ? texts(...graph['graph_function_ids']) : []) },
]

/**
 * The documents a filter finds, in the order of their source. A query about another kind keeps those that are linked to
 * a document which passes it: blocks to their clusters, components and policies, vDAGs to their blocks, and so on, directly or else
 * through blocks, which then must pass all queries themselves. Each block found carries its `metrics`.
 */
export function evaluate({ matchType, filter }: FilterIR, sources: SearchSources): readonly JsonObject[] {
  const found = joined(matchType, filter, sources)
  const { blockMetrics } = sources
  if (matchType !== 'block' || blockMetrics === undefined) return found
  const metrics = new Map(blockMetrics.map(document => [idOf(document, ['blockId']), document]))
  return found.map(block => ({ ...block, metrics: metrics.get(idOf(block, KINDS.block.keys)) ?? {} }))
}

/** Other kinds whose documents a filter asks about, besides its own. */
export function askedAbout({ matchType, filter }: FilterIR): readonly MatchType[] {
  const asked = TYPES.filter(type => type !== matchType && asks(filter, type))
  const direct = matchType === 'block' || asked.every(type => type === 'block' || (linkOf(matchType, type) !== undefined && !BY_BLOCKS_TOO.includes(type)))
  return direct ? asked : [...new Set([...asked, 'block' as const])]
}

function joined(type: MatchType, filter: Queries, sources: SearchSources): readonly JsonObject[] {
  const others = TYPES.filter(other => other !== type && asks(filter, other))
  let found = passing(type, filter, sources)
  if (others.length === 0) return found
  if (type !== 'block' && (others.includes('block') || others.some(other => linkOf(type, other) === undefined))) {
    const { [KINDS[type].query]: _, ...rest } = filter
    const metrics = KINDS[type].metrics?.query
    const blocks = joined('block', metrics === undefined ? rest : { ...rest, [metrics]: undefined }, sources)
    return linked(type, found, 'block', blocks)
  }
  for (const other of others) {
    const near = linked(type, found, other, passing(other, filter, sources))
    // A node of a vDAG names a component or a block, and a block is of a component.
    const through = BY_BLOCKS_TOO.includes(type) && BY_BLOCKS_TOO.includes(other) ? linked(type, found, 'block', joined('block', onlyAbout(filter, other), sources)) : []
    const both = new Set([...near, ...through])
    found = found.filter(document => both.has(document))
  }
  return found
}

const BY_BLOCKS_TOO: readonly MatchType[] = ['vdag', 'component']

function onlyAbout(filter: Queries, type: MatchType): Queries {
  const { query } = KINDS[type]
  return filter[query] === undefined ? {} : { [query]: filter[query] }
}

/** Those of `found` that are linked to any of `near`. */
function linked(type: MatchType, found: readonly JsonObject[], other: MatchType, near: readonly JsonObject[]): readonly JsonObject[] {
  const link = linkOf(type, other)
  if (link === undefined) return []
  if (link.from === type) {
    const ids = new Set(near.map(document => idOf(document, KINDS[other].keys)))
    return found.filter(document => link.names(document).some(id => ids.has(id)))
  }
  const named = new Set(near.flatMap(document => link.names(document)))
  return found.filter(document => named.has(idOf(document, KINDS[type].keys) ?? ''))
}

function linkOf(a: MatchType, b: MatchType) {
  return NAMES.find(({ from, to }) => (from === a && to === b) || (from === b && to === a))
}

function asks(filter: Queries, type: MatchType): boolean {
  const { query, metrics } = KINDS[type]
  return filter[query] !== undefined || (metrics !== undefined && filter[metrics.query] !== undefined)
}

/** Documents of one kind that pass the queries about themselves and their metrics. */
function passing(type: MatchType, filter: Queries, sources: SearchSources): readonly JsonObject[] {
  const { source, keys, query, metrics } = KINDS[type]
  const documents = sources[source] ?? []
  const own: Condition | undefined = filter[query]
  const found = own === undefined ? documents : documents.filter(compileCondition(own, type))
  const measured: Condition | undefined = metrics === undefined ? undefined : filter[metrics.query]
  if (metrics === undefined || measured === undefined) return found
  const test = compileCondition(measured)
  const list = sources[metrics.source]
  if (list === undefined) return found.filter(document => isObject(document['metrics']) && test(document['metrics']))
  const healthy = new Set(list.filter(document => test(document)).map(document => idOf(document, [metrics.key])))
  return found.filter(document => healthy.has(idOf(document, keys)))
}

function idOf(document: JsonObject, keys: readonly string[]): string | undefined {
  for (const key of keys) {
    const value = document[key]
    if (typeof value === 'string') return value
  }
  return undefined
}

/** Here a block may run on several clusters, so `cluster` may be a list. */
function clusterIdsOf(block: JsonObject): readonly string[] {
  const cluster = block['cluster']
  const all: readonly (Json | undefined)[] = isList(cluster) ? cluster : [cluster]
  return texts(...all.map(one => (typeof one === 'string' ? one : inside(one, 'id') ?? inside(one, 'clusterId'))), block['clusterId'])
}

function policiesOf(document: JsonObject): readonly string[] {
  const policies = document['policies']
  return isObject(policies) ? Object.values(policies).flatMap(rule => texts(inside(rule, 'policyRuleURI'))) : []
}

function nodesOf(vdag: JsonObject): readonly JsonObject[] {
  const nodes = vdag['nodes']
  return isList(nodes) ? nodes.filter(isObject) : []
}

function inside(value: Json | undefined, name: string): Json | undefined {
  return isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined
}

function texts(...values: readonly (Json | undefined)[]): readonly string[] {
  return values.filter(value => typeof value === 'string')
}
