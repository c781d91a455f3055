import type { BlockId } from '../../protocols/ids.ts'
import type { VdagSpec } from '../../protocols/specs.ts'
import type { JsonObject } from '../lib/json.ts'
import type { Plan } from './plan.ts'

/**
 * AIOS's `compiled_graph_data` and `assignment_info`, for clients that read them. AIOS names a graph's nodes by their blocks; where two
 * nodes share a block, what follows either follows it there. Runs go by the plan, which has labels. `host`, `port` and `queue_name`
 * say where AIOS would send a packet: here any peer takes it, and finds the instance.
 */
export function compiledView(spec: VdagSpec, plan: Plan, self: string): { readonly compiled_graph_data: JsonObject; readonly assignment_info: Readonly<Record<string, string>> } {
  const blockOf = new Map(plan.nodes.map(({ label, players }) => [label, players[0]?.blocks[0] ?? '']))
  const children = new Map<BlockId, BlockId[]>([...blockOf.values()].map(block => [block, []]))
  for (const { label, inputs } of plan.nodes) {
    const to = blockOf.get(label) ?? ''
    for (const { from } of inputs) {
      const next = children.get(blockOf.get(from) ?? '')
      if (next !== undefined && !next.includes(to)) next.push(to)
    }
  }
  const heads = plan.nodes.filter(({ inputs }) => inputs.length === 0).map(({ label }) => blockOf.get(label) ?? '')
  const outputs = (blocks: readonly BlockId[]): JsonObject => ({ outputs: blocks.map(block_id => ({ host: self, port: 0, queue_name: `${block_id}_inputs`, block_id })) })
  return {
    compiled_graph_data: {
      head: heads[0] ?? null,
      heads,
      tail: plan.outputs.map(label => blockOf.get(label) ?? ''),
      t2_graph: Object.fromEntries(children),
      t3_graph: Object.fromEntries([...children].map(([block, next]) => [block, outputs(next)])),
      rev_mapping: Object.fromEntries([...blockOf].map(([label, block]) => [block, label])),
      labels: Object.fromEntries(plan.nodes.map(({ label, inputs }) => [label, { block: blockOf.get(label) ?? '', inputs: inputs.map(({ from }) => from) }])),
    },
    assignment_info: Object.fromEntries(spec.nodes.map(({ label, type, vdagURI }) => [label, type === 'vdag' ? `vdag:::${vdagURI ?? ''}` : blockOf.get(label) ?? ''])),
  }
}
