import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import { granted, MeshError, refused } from '../../../protocols/errors.ts'
import type { Json, PeerId } from '../../../protocols/ids.ts'
import { refusalOf } from '../../../protocols/refusal.ts'
import { policyRef } from '../../../protocols/specs.ts'
import type { Inventory } from '../../inventory.ts'
import type { JsonObject } from '../../lib/json.ts'
import type { MeshView, MetricsSource, PolicyCalls } from '../../roles.ts'
import { specValues } from '../../specs/envelope.ts'
import type { ModelServing, Serving } from './serving.ts'

const ranked = z.looseObject({ rank: z.coerce.number().int().min(0).max(999), node_id: z.string().min(1), cluster_id: z.string().optional() })
const entry = z.looseObject({
  deployment_name: z.string().max(200).optional(), nnodes: z.coerce.number().int().min(1).max(1_000).optional(),
  common_params: z.looseObject({ model_name: z.string().max(300).optional() }).default({}), per_rank_params: z.array(ranked).min(1).max(1_000), metadata: z.record(z.string(), z.json()).default({}),
})
const asked = z.looseObject({
  policy: z.union([z.string().min(1).transform(policyRuleURI => ({ policyRuleURI })), policyRef, z.looseObject({ policy_rule_uri: z.string().min(1) }).transform(({ policy_rule_uri, ...rest }) => ({ ...rest, policyRuleURI: policy_rule_uri }))]),
  clustersSelector: z.looseObject({ filter: z.json().optional(), ids: z.array(z.string()).max(10_000).optional() }).default({}),
  inputs: z.record(z.string(), z.json()).default({}),
})
const limits = z.looseObject({ model_name: z.string().max(300).optional(), deployment_name: z.string().max(200).optional(), contextTokens: z.coerce.number().int().positive().optional(), sessions: z.coerce.number().int().positive().optional(), standbys: z.coerce.number().int().min(0).max(3).optional() })
type Entry = z.infer<typeof entry>

/** AIOS's splits of a model: rank by rank on the nodes that somebody names, or that a rule chooses among clusters. */
export class SplitPlacement {
  readonly #view: MeshView
  readonly #models: ModelServing
  readonly #inventory: Pick<Inventory, 'clusters' | 'filter'>
  readonly #policies: PolicyCalls
  readonly #metrics: MetricsSource

  constructor({ view, models, inventory, policies, metrics }: { readonly view: MeshView; readonly models: ModelServing; readonly inventory: Pick<Inventory, 'clusters' | 'filter'>; readonly policies: PolicyCalls; readonly metrics: MetricsSource }) {
    this.#view = view
    this.#models = models
    this.#inventory = inventory
    this.#policies = policies
    this.#metrics = metrics
  }

  /** AIOS's `/splits/create`: a `SplitsDeploymentEntry`. Throws SPEC_INVALID, NOT_FOUND (model), NO_CAPACITY when a node cannot, FORBIDDEN. */
  async create(document: Json): Promise<JsonObject> {
    const wanted = check(entry, specValues(document, 'split deployment'), 'split deployment', 'SPEC_INVALID')
    const order = this.#order(wanted, this.#view.ads().map(({ peer }) => peer))
    if (!order.ok) throw new MeshError('SPEC_INVALID', `split deployment: per_rank_params: ${order.because}`)
    return this.#serve(wanted, order.value, undefined, {})
  }

  /** AIOS's `/splits/create-with-policy`: the rule's entry, or the planner's within the clusters where it gave none. Throws as `create`. */
  async createWithPolicy(document: Json): Promise<JsonObject> {
    const { policy, clustersSelector, inputs } = check(asked, specValues(document, 'split deployment'), 'split deployment', 'SPEC_INVALID')
    const clusters = await this.#clusters(clustersSelector)
    const ids = clusters.map(({ id }) => String(id))
    const metrics = Object.fromEntries(ids.map(cluster => [cluster, this.#metrics.known({ cluster }).cluster_metrics]))
    const nodes = this.#view.ads().filter(({ cluster }) => ids.includes(cluster)).map(({ peer }) => peer)
    const { value, by, because } = await this.#policies.decide<{ readonly entry: Entry; readonly order: readonly PeerId[] } | undefined>({
      hook: 'splitPlacement',
      rule: policyRef.parse(policy),
      input: { selected_clusters: clusters, extra_input: inputs },
      settings: { get_cluster_metrics: metrics, query_cluster_metrics: metrics },
      accept: answer => {
        const said = entry.safeParse(answer)
        if (!said.success) return refused(`it must return a deployment: ${refusalOf(said.error, answer)}`)
        const order = this.#order(said.data, nodes)
        return order.ok ? granted({ entry: said.data, order: order.value }) : order
      },
      fallback: () => undefined,
    })
    const made = await this.#serve(value?.entry ?? { common_params: {}, per_rank_params: [], metadata: {} }, value?.order, nodes, inputs)
    return { ...made, metadata: { ...Object(made['metadata']), placed_by: by, because } }
  }

  async #clusters({ ids, filter }: z.infer<typeof asked>['clustersSelector']): Promise<readonly JsonObject[]> {
    const all = this.#inventory.clusters()
    if (ids !== undefined && ids.length > 0) {
      const missing = ids.find(id => !all.some(cluster => cluster['id'] === id))
      if (missing !== undefined) throw new MeshError('NOT_FOUND', `split deployment: clustersSelector.ids: there is no cluster ${missing}`)
      return all.filter(cluster => ids.some(id => id === cluster['id']))
    }
    return filter === undefined || filter === null ? all : this.#inventory.filter({ matchType: 'cluster', filter })
  }

  /** The nodes by rank: each rank once, each node once, all of them there. */
  #order({ nnodes, per_rank_params: params }: Entry, nodes: readonly PeerId[]) {
    const order = [...params].sort((a, b) => a.rank - b.rank)
    const gap = order.findIndex(({ rank }, at) => rank !== at)
    if (gap >= 0) return refused(`ranks must be 0 to ${order.length - 1}, each once; ${order[gap]?.rank} is not`)
    if (nnodes !== undefined && nnodes !== order.length) return refused(`nnodes is ${nnodes}, and ${order.length} ranks are given`)
    const strange = order.find(({ node_id }) => !nodes.includes(node_id))
    if (strange !== undefined) return refused(`node ${strange.node_id} is not alive, or not in the clusters asked for`)
    if (new Set(order.map(({ node_id }) => node_id)).size < order.length) return refused('a node may have one rank')
    return granted(order.map(({ node_id }) => node_id))
  }

  async #serve(chosen: Entry, order: readonly PeerId[] | undefined, among: readonly PeerId[] | undefined, inputs: JsonObject): Promise<JsonObject> {
    const more = check(limits, { ...inputs, ...chosen.metadata }, 'split deployment', 'SPEC_INVALID')
    const model = chosen.common_params.model_name ?? more.model_name
    if (model === undefined) throw new MeshError('SPEC_INVALID', 'split deployment: common_params.model_name: missing; name an imported model, as `aios model list` shows it')
    const { contextTokens, sessions, standbys } = more
    const serving = await this.#models.serve(model, { service: chosen.deployment_name ?? more.deployment_name, order, among, contextTokens, sessions, standbys })
    return this.#entry(serving)
  }

  #entry({ served, plan }: Serving): JsonObject {
    const clusterOf = (peer: PeerId): string => this.#view.ad(peer)?.cluster ?? peer
    const clusters = [...new Set(plan.stages.map(({ peer }) => clusterOf(peer)))]
    return {
      deployment_name: served.service, nnodes: plan.stages.length, rank_0_cluster_id: clusters[0] ?? '', cluster_id: clusters, multi_cluster: clusters.length > 1, namespace: 'default', platform: 'onnx',
      common_params: { model_name: served.modelURI },
      per_rank_params: plan.stages.map(({ peer, first, end }, rank) => ({ rank, node_id: peer, cluster_id: clusterOf(peer), block_id: served.stages[rank]?.block ?? '', layers: [first, end] })),
      metadata: {},
    }
  }
}
