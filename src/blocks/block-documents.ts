import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { clusterDocument } from '../placement/cluster-document.ts'
import type { MeshView } from '../roles.ts'

/** Says what block rules are told: AIOS's documents of a block and its cluster, from the local view. */
export class BlockDocuments {
  readonly #view: MeshView

  constructor(view: MeshView) {
    this.#view = view
  }

  /** AIOS's block document, with its instances and where they are. */
  block(record: BlockRecord): JsonObject {
    const hosts = [...new Set(this.#view.instancesOf(record.blockId).map(({ host }) => host))]
    const made = toJson({ ...record, id: record.blockId, componentUri: record.componentURI, blockInitData: record.initData, cluster: hosts.map(peer => ({ id: this.#view.ad(peer)?.cluster ?? peer })) })
    return isJsonObject(made) ? made : {}
  }

  /** The cluster of this peer: whoever stewards a block tells of its own. */
  cluster(): JsonObject {
    return clusterDocument(this.#ownCluster())
  }

  #ownCluster(): ReturnType<MeshView['ads']> {
    const own = this.#view.ad(this.#view.self)?.cluster
    return this.#view.ads().filter(({ cluster }) => cluster === own)
  }
}
