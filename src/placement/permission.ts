import type { CapacityAd } from '../../protocols/capacity.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Ask } from '../../protocols/placement.ts'
import { blockRecord, type BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { ClusterDocuments, PrecheckCalls } from '../roles.ts'
import { clusterDocument, clusterMetrics } from './cluster-document.ts'

/** What others decide about whom a host may serve: documents of clusters, and the rules before an action. */
export type Governance = { readonly clusters: ClusterDocuments; readonly prechecks: PrecheckCalls; /** May this host bid at all now? */ readonly bids: () => Verdict<true> }

export const UNGOVERNED: Governance = {
  clusters: { document: (_, ads) => clusterDocument(ads) },
  prechecks: { ask: async ({ input }) => granted(input), concerns: () => false },
  bids: () => granted(true),
}

/** What a rule may rewrite of a block before a host runs it; the rest is what others agreed on. */
const REWRITTEN = ['initData', 'initSettings', 'parameters', 'policies', 'tags'] as const

/**
 * AIOS's `add_block`, and `scale_block` for one more instance of a block that a cluster runs already: may an instance be
 * placed in the cluster of these hosts? Buyers ask before they call its hosts, and every host asks for itself. Grants the
 * block as the rules left it.
 */
export async function permitted({ clusters, prechecks }: Governance, block: BlockRecord, action: Ask['action'], cluster: string, ads: readonly CapacityAd[]): Promise<Verdict<BlockRecord>> {
  const more = action === 'scale' && ads.some(({ instances }) => instances.some(one => one.block === block.blockId))
  const name = more ? 'scale_block' : 'add_block'
  if (!prechecks.concerns(name, cluster)) return granted(block)
  const block_data = toJson(block)
  const metrics = { ...clusterMetrics(ads), clusterId: cluster }
  const input: JsonObject = more ? { block_data, input: { operation: 'scale', block_id: block.blockId, instances_count: 1 } } : { block_data, cluster_data: clusters.document(cluster, ads), cluster_metrics: metrics }
  const verdict = await prechecks.ask({ action: name, cluster, input })
  return verdict.ok ? rewritten(block, verdict.value['block_data']) : verdict
}

function rewritten(block: BlockRecord, given: unknown): Verdict<BlockRecord> {
  const said = toJson(given)
  if (!isJsonObject(said)) return granted(block)
  const parsed = blockRecord.safeParse({ ...block, ...Object.fromEntries(REWRITTEN.flatMap(field => (said[field] === undefined ? [] : [[field, said[field]] as const]))) })
  return parsed.success ? granted(parsed.data) : refused('a pre-check rewrote the block into something that is none')
}
