import { ELEMENT } from './element.ts'
import { attributeOf, CONTRIB, node } from './node.ts'
import type { NodeProto } from './onnx-pb.js'

/** The two halves of a fused residual addition and norm, as the analysis sees them. */
export type Halves = { readonly whole: NodeProto; readonly sum: NodeProto; readonly norm: NodeProto }

const RMS = 'SkipSimplifiedLayerNormalization'
const LAYER = 'SkipLayerNormalization'

/**
 * Skip norms add, then normalise. Taken apart, every layer boundary is one tensor, the residual stream. Only for float32: a
 * fused norm of float16 keeps its sum in higher precision, which the single tensor would round. One with a bias stays whole.
 */
export function unfuseSkips(nodes: readonly NodeProto[], typeOf: (name: string) => number | undefined): { readonly nodes: readonly NodeProto[]; readonly halves: ReadonlyMap<NodeProto, Halves> } {
  const halves = new Map<NodeProto, Halves>()
  const apart = nodes.flatMap(whole => {
    const [input = '', skip = '', gamma = '', fourth = '', fifth = ''] = whole.input
    const biased = whole.opType === RMS ? fourth !== '' : fifth !== ''
    if ((whole.opType !== RMS && whole.opType !== LAYER) || biased || typeOf(input) !== ELEMENT.float32) return [whole]
    const total = whole.output[3] || `${whole.output[0]}/sum`
    const epsilon = attributeOf(whole, 'epsilon')
    const sum = node('Add', [input, skip], [total])
    const norm = node(whole.opType === RMS ? 'SimplifiedLayerNormalization' : 'LayerNormalization', [total, gamma, ...whole.opType === LAYER && fourth !== '' ? [fourth] : []], [whole.output[0] ?? ''], epsilon === undefined ? [] : [epsilon])
    const pair: Halves = { whole, sum, norm }
    halves.set(sum, pair)
    halves.set(norm, pair)
    return [sum, norm]
  })
  return { nodes: apart, halves }
}

/** The norm alone, by the same kernel as the fused node and so to the same bits: the sum plus nothing. `zero` is a scalar 0 of the sum's type. */
export function normAlone({ whole, sum }: Halves, zero: string): readonly NodeProto[] {
  const total = sum.output[0] ?? ''
  const nothing = `${total}/nothing`
  const [, , ...rest] = whole.input
  return [node('Mul', [total, zero], [nothing]), node(whole.opType, [total, nothing, ...rest], [whole.output[0] ?? ''], whole.attribute, CONTRIB)]
}
