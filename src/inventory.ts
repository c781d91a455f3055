import { granted, refused } from '../protocols/errors.ts'
import type { Json } from '../protocols/ids.ts'
import type { PolicyRef } from '../protocols/specs.ts'
import { isJsonObject, type JsonObject } from './lib/json.ts'
import type { MeshMetrics } from './metrics/mesh-metrics.ts'
import type { ArtefactCatalogue } from './registries/catalogue.ts'
import type { MeshView, PolicyCalls } from './roles.ts'
import { BlockTable } from './search/block-table.ts'
import { ClusterTable, type KnownClusters } from './search/cluster-table.ts'
import { parseFilter, variablesOf, type FilterIR, type MatchType } from './specs/filter.ts'
import { askedAbout, evaluate } from './specs/join.ts'
import { parseSearch, type SearchSources } from './specs/search.ts'
import type { Library } from './stores/library.ts'

/** Documents that somebody else keeps, by the name under which a search looks through them. */
export type MoreSources = { readonly [Source in 'policyFunctions' | 'policyGraphs']?: () => Promise<readonly JsonObject[]> | readonly JsonObject[] }

/** A query about a block that reads more of its clusters than their names. */
const INTO_CLUSTERS = /^(?:block\.)?cluster(?:\.(?!id$)|$)/

/** What is known of blocks, clusters and vDAGs at work. */
export type Measured = Pick<MeshMetrics, 'blocks' | 'clusters' | 'vdags' | 'knownBlock'>

/** Answers AIOS's search and filter from the local view, in AIOS's document shapes. */
export class Inventory {
  readonly #policies: PolicyCalls
  readonly #library: Library
  readonly #metrics: Measured
  readonly #blocks: BlockTable
  readonly #clusters: ClusterTable
  #more: MoreSources = {}

  constructor(view: MeshView, catalogue: Pick<ArtefactCatalogue, 'blocks' | 'onBlock'>, policies: PolicyCalls, { library, metrics, clusters }: { readonly library: Library; readonly metrics: Measured; readonly clusters: KnownClusters }) {
    this.#metrics = metrics
    this.#policies = policies
    this.#library = library
    this.#clusters = new ClusterTable(view, clusters)
    this.#blocks = new BlockTable(view, catalogue, library.documents.components)
  }

  /** Further documents to look through. */
  lookThrough(more: MoreSources): void {
    this.#more = { ...this.#more, ...more }
  }

  /** Every block, with what is known of its metrics. */
  async blocks(): Promise<readonly JsonObject[]> {
    return this.#measured(await this.#blocks.documents())
  }

  clusters(): readonly JsonObject[] {
    return this.#clusters.documents()
  }

  /** Throws SPEC_INVALID. */
  async filter(document: Json): Promise<readonly JsonObject[]> {
    return this.#find(parseFilter(document))
  }

  /** The filter's finds, put in order by the ranking rule. Throws SPEC_INVALID. */
  async search(document: Json): Promise<readonly Json[]> {
    const { filterRule, rankingPolicyRule, limit } = parseSearch(document)
    const ranked = await this.#rank(rankingPolicyRule, await this.#find(filterRule))
    return limit === undefined ? ranked : ranked.slice(0, limit)
  }

  async #find(rule: FilterIR): Promise<readonly JsonObject[]> {
    const found = evaluate(rule, await this.#sources(rule))
    return rule.matchType === 'block' ? this.#measured(found) : found
  }

  #measured(blocks: readonly JsonObject[]): readonly JsonObject[] {
    return blocks.map(block => ({ ...block, cluster: this.#clustersOf(block), metrics: this.#metrics.knownBlock(idOf(block)) }))
  }

  /** The clusters a block runs on, as AIOS's blocks carry them. */
  #clustersOf({ cluster }: JsonObject): readonly JsonObject[] {
    return Array.isArray(cluster) ? cluster.map(one => this.#clusters.brief(isJsonObject(one) ? idOf(one) : '')) : []
  }

  async #rank(rule: PolicyRef, found: readonly JsonObject[]): Promise<readonly Json[]> {
    const decision = await this.#policies.decide<readonly Json[]>({
      hook: 'ranking',
      rule,
      input: found,
      accept: answer => (Array.isArray(answer) ? granted(answer) : isJsonObject(answer) ? granted([answer]) : refused('a ranking policy must return a list or one document')),
      fallback: () => found,
    })
    return decision.value
  }

  async #sources(rule: FilterIR): Promise<SearchSources> {
    const kinds: readonly MatchType[] = [rule.matchType, ...askedAbout(rule)]
    const { documents } = this.#library
    const { policyFunctions, policyGraphs } = this.#more
    const intoClusters = variablesOf(rule.filter.blockQuery).some(variable => INTO_CLUSTERS.test(variable))
    const { clusterMetricsQuery, blockMetricsQuery, vdagMetricsQuery } = rule.filter
    const sources: SearchSources = {
      ...(kinds.includes('cluster') ? { clusters: this.clusters() } : {}),
      // Who asks for metrics wants them of now.
      ...(clusterMetricsQuery !== undefined ? { clusterMetrics: await this.#metrics.clusters() } : {}),
      ...(kinds.includes('block') ? { blocks: intoClusters ? (await this.#blocks.documents()).map(block => ({ ...block, cluster: this.#clustersOf(block) })) : await this.#blocks.documents() } : {}),
      ...(kinds.includes('vdag') ? { vdags: await documents.vdags.documents() } : {}),
      ...(vdagMetricsQuery !== undefined ? { vdagMetrics: await this.#metrics.vdags() } : {}),
      ...(kinds.includes('component') ? { components: await documents.components.documents() } : {}),
      ...(kinds.includes('policy') ? { policies: await documents.policies.documents() } : {}),
      ...(kinds.includes('policyFunction') && policyFunctions !== undefined ? { policyFunctions: await policyFunctions() } : {}),
      ...(kinds.includes('policyGraph') && policyGraphs !== undefined ? { policyGraphs: await policyGraphs() } : {}),
    }
    return blockMetricsQuery === undefined ? sources : { ...sources, blockMetrics: await this.#metrics.blocks(this.#wanted(rule, sources)) }
  }

  /** Blocks that pass all but their metrics: only their hosts need to be asked. */
  #wanted({ filter }: FilterIR, sources: SearchSources): readonly string[] {
    const { blockMetricsQuery, ...rest } = filter
    return blockMetricsQuery === undefined ? [] : evaluate({ matchType: 'block', filter: rest }, sources).map(idOf)
  }
}

function idOf(block: JsonObject): string {
  const id = block['id']
  return typeof id === 'string' ? id : ''
}
