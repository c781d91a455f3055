import type { Json } from '../protocols/ids.ts'
import type { PolicyRef } from '../protocols/specs.ts'
import { refused, granted } from '../protocols/errors.ts'
import { isJsonObject, toJson, type JsonObject } from './lib/json.ts'
import type { MeshMetrics } from './metrics/mesh-metrics.ts'
import type { MeshView, PolicyCalls } from './roles.ts'
import type { ArtefactCatalogue } from './registries/catalogue.ts'
import { parseFilter, type FilterIR, type MatchType } from './specs/filter.ts'
import { evaluate, parseSearch, type SearchSources } from './specs/search.ts'

/** Answers AIOS's search and filter from the local view, in AIOS's document shapes. */
export class Inventory {
  readonly #view: MeshView
  readonly #catalogue: ArtefactCatalogue
  readonly #policies: PolicyCalls
  readonly #metrics: MeshMetrics
  readonly #allClusters: { list(): readonly JsonObject[] }

  constructor(view: MeshView, catalogue: ArtefactCatalogue, policies: PolicyCalls, metrics: MeshMetrics, clusters: { list(): readonly JsonObject[] }) {
    this.#metrics = metrics
    this.#allClusters = clusters
    this.#view = view
    this.#catalogue = catalogue
    this.#policies = policies
  }

  /** Throws SPEC_INVALID. */
  async filter(document: Json): Promise<readonly JsonObject[]> {
    const rule = parseFilter(document)
    return evaluate(rule, await this.#sources(rule))
  }

  /** The filter's finds, put in order by the ranking rule. Throws SPEC_INVALID. */
  async search(document: Json): Promise<readonly Json[]> {
    const { filterRule, rankingPolicyRule, limit } = parseSearch(document)
    const found = evaluate(filterRule, await this.#sources(filterRule))
    const ranked = await this.#rank(rankingPolicyRule, found)
    return limit === undefined ? ranked : ranked.slice(0, limit)
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

  async #sources({ matchType, filter }: FilterIR): Promise<SearchSources> {
    const wants = (kind: MatchType, ...queries: readonly (keyof typeof filter)[]): boolean => matchType === kind || queries.some(query => filter[query] !== undefined)
    const clusters = wants('cluster', 'clusterQuery', 'clusterMetricsQuery')
    const blocks = wants('block', 'blockQuery', 'blockMetricsQuery')
    return {
      ...(clusters ? { clusters: this.#clusters() } : {}),
      // Who asks for metrics wants them of now; else what is known goes with the documents.
      ...(filter.clusterMetricsQuery !== undefined ? { clusterMetrics: await this.#metrics.clusters() } : clusters ? { clusterMetrics: this.#metrics.knownClusters() } : {}),
      ...(blocks ? await this.#blocks(filter.blockMetricsQuery !== undefined) : {}),
      ...(wants('component', 'componentQuery') ? { components: await this.#components() } : {}),
      ...(wants('vdag', 'vdagQuery') ? { vdags: await this.#vdags() } : {}),
      ...(filter.vdagMetricsQuery !== undefined ? { vdagMetrics: await this.#metrics.vdags() } : {}),
      ...(wants('policy', 'policyQuery') ? { policies: await this.#policyRules() } : {}),
    }
  }

  /** One document a cluster; a lone peer is a cluster of one. */
  #clusters(): readonly JsonObject[] {
    return this.#allClusters.list()
  }

  async #blocks(now: boolean): Promise<{ readonly blocks: readonly JsonObject[]; readonly blockMetrics: readonly JsonObject[] }> {
    const records = await this.#catalogue.blocks()
    const ids = records.map(({ blockId }) => blockId)
    const blockMetrics = now ? await this.#metrics.blocks(ids) : ids.map(id => this.#metrics.knownBlock(id))
    const blocks = records.map((block, at) => {
      const hosts = [...new Set(this.#view.instancesOf(block.blockId).map(({ host }) => host))]
      return object({ ...block, id: block.blockId, componentUri: block.componentURI, cluster: hosts.map(peer => ({ id: this.#view.ad(peer)?.cluster ?? peer })), metrics: blockMetrics[at] })
    })
    return { blocks, blockMetrics }
  }

  async #components(): Promise<readonly JsonObject[]> {
    return Promise.all((await this.#catalogue.components()).map(async ({ uri, cid }) => {
      const found = await this.#catalogue.componentByCid(cid).catch(() => undefined)
      return found === undefined ? { componentURI: uri } : object({ ...found, files: undefined })
    }))
  }

  async #vdags(): Promise<readonly JsonObject[]> {
    return Promise.all((await this.#catalogue.vdags()).map(async ({ uri }) => {
      const found = await this.#catalogue.vdag(uri).catch(() => undefined)
      return found === undefined ? { vdagURI: uri } : object(found.spec)
    }))
  }

  async #policyRules(): Promise<readonly JsonObject[]> {
    return Promise.all((await this.#catalogue.policies()).map(async ({ uri }) => {
      const found = await this.#catalogue.policy(uri).catch(() => undefined)
      return found === undefined ? { policy_rule_uri: uri } : object({ ...found.rule, policy_rule_uri: uri })
    }))
  }
}

function object(value: unknown): JsonObject {
  const made = toJson(value)
  return isJsonObject(made) ? made : {}
}
