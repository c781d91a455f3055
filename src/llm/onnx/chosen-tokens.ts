import { boundaryTensor, type ModelAnalysis } from './analyse.ts'
import { readsShapeOnly } from './caches.ts'
import { ELEMENT } from './element.ts'
import { attributeOf } from './node.ts'
import type { NodeProto } from './onnx-pb.js'
import { PREAMBLE } from './segments.ts'
import type { WiredGraph } from './wired-graph.ts'

/** What stands between a value and a product that takes it, and may become one operator with the product. */
const BEFORE_PRODUCTS: ReadonlySet<string> = new Set(['Cast', 'Identity', 'QuantizeLinear', 'DequantizeLinear'])

/**
 * The values that a head may take of chosen tokens only; none where the head would round what it need not, or scale over fewer tokens
 * than the whole model does. What costs in a head is its product, and what comes before, the last sum and its norm, ONNX Runtime makes
 * one operator of: chosen is what goes into the product, or else what the layers give.
 */
export function choosable(analysis: ModelAnalysis): readonly string[] {
  const given = analysis.plan.segments.cuts[analysis.layers]!
  if (analysis.coupled || given.some(name => rounds(analysis, name))) return []
  const multiplied = headInput(analysis)
  if (multiplied !== undefined) {
    const after = nodesAfter(analysis, multiplied)
    if (after !== undefined && !rounds(analysis, multiplied) && !countTokens(analysis, after)) return [multiplied]
  }
  const { graph, segments } = analysis.plan
  const head = [...graph.nodes.keys()].filter(at => segments.of[at] === analysis.layers + 1)
  return countTokens(analysis, head) ? [] : given.map(name => normOf(analysis, name) ?? name)
}

/** Whether a value that is taken out from between its operators is put in fewer bits than the runtime computes it in, which drops conversions to float16 and back. */
function rounds(analysis: ModelAnalysis, name: string): boolean {
  const { graph, values } = analysis.plan
  const converted = values.get(name)?.dataType === ELEMENT.float16 && graph.nodes[graph.producer.get(name) ?? -1]?.opType === 'Cast'
  return converted || boundaryTensor(analysis, name).name !== name
}

/** What the head's first product takes, of every token; undefined where that has lost its batch. */
function headInput({ layers, plan: { graph, segments, values } }: ModelAnalysis): string | undefined {
  const product = graph.nodes.findIndex(({ opType }, at) => segments.of[at] === layers + 1 && /MatMul|Gemm/.test(opType))
  const name = product < 0 ? undefined : beforeScale(graph, graph.nodes[product]!.input[0] ?? '')
  return name !== undefined && values.get(name)?.rank === 3 ? name : undefined
}

/** The value before conversions and scalings by one number: ONNX Runtime takes those into the product. */
function beforeScale(graph: WiredGraph, name: string): string {
  const by = graph.nodes[graph.producer.get(name) ?? -1]
  if (by === undefined) return name
  if (BEFORE_PRODUCTS.has(by.opType)) return beforeScale(graph, by.input[0] ?? '')
  if (by.opType !== 'Mul' && by.opType !== 'Div') return name
  const [left = '', right = ''] = by.input
  if (isNumber(graph, right)) return beforeScale(graph, left)
  return by.opType === 'Mul' && isNumber(graph, left) ? beforeScale(graph, right) : name
}

function isNumber(graph: WiredGraph, name: string): boolean {
  const by = graph.nodes[graph.producer.get(name) ?? -1]
  const tensor = graph.initializers.get(name) ?? (by?.opType === 'Constant' ? attributeOf(by, 'value')?.t : undefined)
  return tensor !== undefined && tensor.dims.every(dim => dim === 1n)
}

/** The head's nodes from that value to the logits; undefined where the logits come of something else, too. */
function nodesAfter({ layers, logits, plan: { graph, segments } }: ModelAnalysis, value: string): readonly number[] | undefined {
  const found = new Set<number>()
  const queue = [logits.name]
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const at = graph.producer.get(name)
    if (name === value || at === undefined || segments.of[at] === PREAMBLE || found.has(at)) continue
    if (segments.of[at] !== layers + 1) return undefined
    found.add(at)
    queue.push(...graph.reads[at]!)
  }
  return [...found]
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

/** Whether any of these puts what it gets in a shape that is worked out from what comes in: with fewer tokens it would not fit. */
function countTokens({ plan: { graph, segments } }: ModelAnalysis, nodes: readonly number[]): boolean {
  const varies = (name: string): boolean => {
    const by = graph.producer.get(name)
    return by === undefined ? graph.inputs.has(name) : segments.of[by] === PREAMBLE && (readsShapeOnly(graph.nodes[by]!.opType) || graph.reads[by]!.some(varies))
  }
  return nodes.some(at => graph.reads[at]!.some(varies))
}
