import { boundaryTensor, type ModelAnalysis } from './analyse.ts'
import { readsShapeOnly } from './caches.ts'
import type { NodeProto } from './onnx-pb.js'
import { PREAMBLE } from './segments.ts'
import type { WiredGraph } from './wired-graph.ts'

/**
 * The values that a head may take of chosen tokens only; none where the head would round what it need not, or scale over fewer tokens
 * than the whole model does.
 */
export function choosable(analysis: ModelAnalysis): readonly string[] {
  const given = analysis.plan.segments.cuts[analysis.layers]!
  const changes = analysis.coupled || headCountsTokens(analysis) || given.some(name => boundaryTensor(analysis, name).name !== name)
  return changes ? [] : given.map(name => normOf(analysis, name) ?? name)
}

/** The norm of a sum that nothing else reads: ONNX Runtime makes one operator of the two, which must not be taken apart. */
function normOf({ plan: { graph, halves } }: ModelAnalysis, name: string): string | undefined {
  const by = graph.nodes[graph.producer.get(name) ?? -1]
  return by?.opType === 'Add' && !halves.has(by) ? loneNorm(graph, name)?.output[0] : undefined
}

/** What norms a value that nothing else reads. */
export function loneNorm(graph: WiredGraph, name: string): NodeProto | undefined {
  const [reader, second] = (graph.consumers.get(name) ?? []).map(at => graph.nodes[at]!)
  return second === undefined && reader?.opType.endsWith('LayerNormalization') === true ? reader : undefined
}

/** Whether the head puts what it gets in a shape that is worked out from what comes in: with fewer tokens it would not fit. */
function headCountsTokens({ layers, plan: { graph, segments } }: ModelAnalysis): boolean {
  const varies = (name: string): boolean => {
    const by = graph.producer.get(name)
    return by === undefined ? graph.inputs.has(name) : segments.of[by] === PREAMBLE && (readsShapeOnly(graph.nodes[by]!.opType) || graph.reads[by]!.some(varies))
  }
  return graph.nodes.some((_, at) => segments.of[at] === layers + 1 && graph.reads[at]!.some(varies))
}
