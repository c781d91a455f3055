import type { CapacityAd } from '../../protocols/capacity.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { JsonObject } from '../lib/json.ts'
import type { ClusterDocuments, MeshView } from '../roles.ts'

/** What owners say of their clusters. */
export interface KnownClusters extends ClusterDocuments {
  ids(): readonly string[]
  onChange(hear: () => void): () => void
}

/** Clusters as AIOS's registry has them: what their owners say, and their live hosts; a lone host is a cluster of one. Each is made anew when a member has spoken. */
export class ClusterTable {
  readonly #view: MeshView
  readonly #known: KnownClusters
  readonly #documents = new Map<string, JsonObject>()
  readonly #clusterOf = new Map<PeerId, string>()
  readonly #briefs = new WeakMap<JsonObject, JsonObject>()
  #watching = false
  #sorted: readonly JsonObject[] | undefined

  constructor(view: MeshView, known: KnownClusters) {
    this.#view = view
    this.#known = known
  }

  /** One cluster without its hosts and their metrics, as a block's document carries it. */
  brief(id: string): JsonObject {
    this.documents()
    const whole = this.#documents.get(id)
    if (whole === undefined) return { id }
    const known = this.#briefs.get(whole)
    if (known !== undefined) return known
    const { nodes: _, metrics: __, ...brief } = whole
    this.#briefs.set(whole, brief)
    return brief
  }

  /** By id. The same array as long as nothing has changed. */
  documents(): readonly JsonObject[] {
    if (!this.#watching) {
      this.#watching = true
      this.#view.onChange(peer => this.#heard(peer))
      // An owner's word may move hosts from cluster to cluster.
      this.#known.onChange(() => {
        this.#documents.clear()
        this.#sorted = undefined
      })
    }
    if (this.#sorted !== undefined) return this.#sorted
    const groups: Map<string, readonly CapacityAd[]> = Map.groupBy(this.#view.ads(), ad => ad.cluster)
    for (const id of this.#known.ids()) if (!groups.has(id)) groups.set(id, [])
    for (const id of this.#documents.keys()) if (!groups.has(id)) this.#documents.delete(id)
    for (const [id, ads] of groups) {
      for (const { peer } of ads) this.#clusterOf.set(peer, id)
      if (!this.#documents.has(id)) this.#documents.set(id, this.#known.document(id, ads))
    }
    this.#sorted = [...this.#documents].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, document]) => document)
    return this.#sorted
  }

  #heard(peer: PeerId): void {
    this.#sorted = undefined
    const [before, now] = [this.#clusterOf.get(peer), this.#view.ad(peer)?.cluster]
    if (before !== undefined) this.#documents.delete(before)
    if (now === undefined) this.#clusterOf.delete(peer)
    else this.#documents.delete(now)
  }
}
