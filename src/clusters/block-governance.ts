import type { Json } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { aiosFilter } from '../placement/cluster-document.ts'
import type { ClusterDocuments, MeshView, MetricsSource, PrecheckCalls } from '../roles.ts'
import { demand } from './clusters.ts'

export type BlockCommand = { readonly action: string; readonly data: Json }

/** Asks AIOS's pre-checks about what people do with blocks that run already. Placing one is asked about where it is placed (`src/placement/permission.ts`). */
export class BlockGovernance {
  readonly #view: MeshView
  readonly #clusters: ClusterDocuments
  readonly #prechecks: PrecheckCalls
  readonly #metrics: Pick<MetricsSource, 'known'>
  readonly #own: () => string

  /** `own`: the cluster of this host. */
  constructor(parts: { readonly view: MeshView; readonly clusters: ClusterDocuments; readonly prechecks: PrecheckCalls; readonly metrics: Pick<MetricsSource, 'known'>; readonly own: () => string }) {
    this.#view = parts.view
    this.#clusters = parts.clusters
    this.#prechecks = parts.prechecks
    this.#metrics = parts.metrics
    this.#own = parts.own
  }

  /** `block_mgmt`, by the host of the instance that is to be commanded, whoever sent it. Throws POLICY_DENIED. */
  async command(block: BlockRecord, { action, data }: BlockCommand): Promise<BlockCommand> {
    if (!this.#prechecks.concerns('block_mgmt', this.#own())) return { action, data }
    const allowed = demand(await this.#prechecks.ask({ action: 'block_mgmt', cluster: this.#own(), input: { block_data: toJson(block), input: { action, payload: data } } }))
    const input = allowed['input']
    return isJsonObject(input) ? { action: typeof input['action'] === 'string' ? input['action'] : action, data: input['payload'] ?? null } : { action, data }
  }

  /** `scale_block`, before the block's record changes: of the network and of every cluster that runs it. Answers how many instances there are to be. Throws POLICY_DENIED. */
  async scale(block: BlockRecord, instances: number): Promise<number> {
    const before = block.minInstances
    const input: JsonObject = instances >= before
      ? { operation: 'scale', block_id: block.blockId, instances_count: instances - before }
      : { operation: 'downscale', block_id: block.blockId, instances_count: before - instances, instances_list: this.#instances(block).slice(0, before - instances).map(({ instance_id }) => instance_id) }
    const left = (await this.order(block, input))['instances_count']
    if (typeof left !== 'number' || !Number.isInteger(left) || left < 0) return instances
    return instances >= before ? before + left : Math.max(0, before - left)
  }

  /** `scale_block`, before an order to scale a running block: AIOS's scale payload as the rules left it. Throws POLICY_DENIED. */
  async order(block: BlockRecord, payload: JsonObject): Promise<JsonObject> {
    let asked: JsonObject = { block_data: toJson(block), input: payload }
    for (const [at, cluster] of this.#hosting(block).entries()) asked = demand(await this.#prechecks.ask({ action: 'scale_block', cluster, networkAsked: at > 0, input: asked }))
    return isJsonObject(asked['input']) ? asked['input'] : payload
  }

  /** `remove_block`, before the block's record goes: as `scale`. Throws POLICY_DENIED. */
  async remove(block: BlockRecord): Promise<void> {
    const instances = this.#instances(block)
    for (const [at, cluster] of this.#hosting(block).entries()) {
      const ads = this.#ads(cluster)
      demand(await this.#prechecks.ask({
        action: 'remove_block', cluster, networkAsked: at > 0,
        input: {
          block_data: toJson(block), cluster_data: this.#clusters.document(cluster, ads), cluster_metrics: this.#metrics.known({ cluster }).cluster_metrics,
          block_metrics: this.#metrics.known({ block: block.blockId }).block_metrics,
          block_instance_nodes: [...new Set(instances.map(({ node_id }) => node_id))],
        },
      }))
    }
  }

  /**
   * `add_block`, before a block's record is made: denied at once where the rules of the network and of every cluster that
   * the block's filter leaves deny it, so that its author hears why. Where one allows it, placing it asks again. Throws
   * POLICY_DENIED.
   */
  async add(block: BlockRecord): Promise<void> {
    const filter = block.policies['clusterAllocator']?.parameters['filter']
    let denied: unknown
    for (const cluster of new Set([this.#own(), ...this.#view.ads().map(ad => ad.cluster)].slice(0, CLUSTERS_ASKED))) {
      const ads = this.#ads(cluster)
      if (filter !== undefined && !aiosFilter(filter, this.#clusters.document(cluster, ads)).ok) continue
      if (!this.#prechecks.concerns('add_block', cluster)) return
      try {
        demand(await this.#prechecks.ask({ action: 'add_block', cluster, input: { block_data: toJson(block), cluster_data: this.#clusters.document(cluster, ads), cluster_metrics: this.#metrics.known({ cluster }).cluster_metrics } }))
        return
      } catch (error) {
        denied ??= error
      }
    }
    if (denied !== undefined) throw denied
  }

  #instances(block: BlockRecord): readonly { readonly instance_id: string; readonly node_id: string }[] {
    return this.#view.instancesOf(block.blockId).map(({ host, ad }) => ({ instance_id: ad.instance, node_id: host }))
  }

  /** The clusters that run it; ours, where none does. */
  #hosting(block: BlockRecord): readonly string[] {
    const clusters = new Set(this.#view.instancesOf(block.blockId).map(({ host }) => this.#view.ad(host)?.cluster ?? host))
    return clusters.size === 0 ? [this.#own()] : [...clusters].sort()
  }

  #ads(cluster: string) {
    return this.#view.ads().filter(ad => ad.cluster === cluster)
  }
}

/** Of so many, one that would take it is likely to be found. */
const CLUSTERS_ASKED = 32
