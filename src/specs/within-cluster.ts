import type { Json } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isObject } from './document.ts'
import { DEFAULT_RULE } from './policy-refs.ts'

/** The block, to be placed in this cluster alone: one more condition of its allocator's filter. */
export function withinCluster(block: BlockRecord, cluster: string): BlockRecord {
  const rule = block.policies['clusterAllocator'] ?? { policyRuleURI: DEFAULT_RULE, parameters: {}, settings: {} }
  const own: Json = { variable: 'id', operator: '==', value: cluster }
  const before: Json | undefined = rule.parameters['filter']
  const filter = before !== undefined && isObject(before) ? before : {}
  const bare: Json | undefined = filter['clusterQuery'] ?? (filter['variable'] !== undefined || filter['logicalOperator'] !== undefined ? filter : undefined)
  const clusterQuery: Json = bare === undefined ? own : { logicalOperator: 'AND', conditions: [bare, own] }
  const metrics: Json | undefined = filter['clusterMetricsQuery']
  return { ...block, policies: { ...block.policies, clusterAllocator: { ...rule, parameters: { ...rule.parameters, filter: { clusterQuery, ...(metrics === undefined ? {} : { clusterMetricsQuery: metrics }) } } } } }
}
