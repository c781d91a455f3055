import type { BlockId, Json } from '../../protocols/ids.ts'
import type { JsonObject } from '../lib/json.ts'

/** Of more blocks a rule has what their documents carry. */
const BLOCKS = 200

export type KnownMetrics = { knownBlock(id: BlockId): JsonObject; knownClusters(): readonly JsonObject[] }

/** AIOS's two metrics systems as its rules are handed them in `settings`: by id, or all that are known. */
export function metricsApis(metrics: KnownMetrics, blocks: readonly BlockId[]): Readonly<Record<string, Json>> {
  const clusters = Object.fromEntries(metrics.knownClusters().map(cluster => [String(cluster['clusterId']), cluster]))
  const known = Object.fromEntries(blocks.slice(0, BLOCKS).map(id => [id, metrics.knownBlock(id)]))
  return { block_metrics_api: { get_block: known, get_metrics: known, query: known }, cluster_metrics_api: { get_cluster: clusters, get_metrics: clusters, query: clusters } }
}
