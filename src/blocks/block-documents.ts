import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { ClusterDocuments, MeshView } from '../roles.ts'

/** Says what block rules are told: AIOS's documents of a block and its cluster, from the local view. */
export class BlockDocuments {
  readonly #view: MeshView
  readonly #clusters: ClusterDocuments

  constructor(view: MeshView, clusters: ClusterDocuments) {
    this.#view = view
    this.#clusters = clusters
  }

  /** AIOS's block document, with its instances and where they are. */
  block(record: BlockRecord): JsonObject {
    const hosts = [...new Set(this.#view.instancesOf(record.blockId).map(({ host }) => host))]
    const made = toJson({ ...record, id: record.blockId, componentUri: record.componentURI, blockInitData: record.initData, cluster: hosts.map(peer => ({ id: this.#view.ad(peer)?.cluster ?? peer })) })
    return isJsonObject(made) ? made : {}
  }

  /** The cluster of this peer: whoever stewards a block tells of its own. */
  cluster(): JsonObject {
    const own = this.#view.ad(this.#view.self)?.cluster ?? this.#view.self
    return this.#clusters.document(own, this.#view.ads().filter(({ cluster }) => cluster === own))
  }
}
