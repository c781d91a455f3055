import type { InstanceId, Json } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { clusterDocument, clusterMetrics } from '../placement/cluster-document.ts'
import type { MeshView } from '../roles.ts'
import type { InstanceLoad } from './instance-load.ts'

/** Says what block rules are told: AIOS's documents of a block, its cluster and their metrics, from the local view. */
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

  clusterMetrics(): JsonObject {
    return clusterMetrics(this.#ownCluster())
  }

  /** AIOS's metrics of a block: what hosts advertise, and what they count where they were just asked. Latencies in seconds. */
  metrics(record: BlockRecord, loads: Readonly<Record<InstanceId, InstanceLoad>>): Json {
    return {
      blockId: record.blockId,
      instances: this.#view.instancesOf(record.blockId).map(({ host, ad }) => {
        const load = loads[ad.instance]
        return {
          instanceId: ad.instance, nodeId: host, state: ad.state, healthy: ad.unhealthy !== true,
          queue_length: load?.queued ?? ad.queued, in_flight: load?.inFlight ?? ad.inFlight, latency: (load?.latencyMs ?? ad.latencyMs) / 1_000,
          ...(load === undefined ? {} : { tasks_processed: load.served, refused: load.refused, idle_seconds: load.idleMs / 1_000, width: load.width }),
        }
      }),
    }
  }

  #ownCluster(): ReturnType<MeshView['ads']> {
    const own = this.#view.ad(this.#view.self)?.cluster
    return this.#view.ads().filter(({ cluster }) => cluster === own)
  }
}
