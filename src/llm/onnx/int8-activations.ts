import { MeshError } from '../../../protocols/errors.ts'
import { attributeOf, CONTRIB, intAttribute } from './node.ts'
import type { ModelProto, NodeProto } from './onnx-pb.js'

const ACCURACY = 'accuracy_level'
/** As ONNX Runtime's contrib operators count: 0 leaves activations as they are, 4 rounds them to int8, block by block. */
const INT8 = 4

/**
 * Lets the products with weights of 4 or 8 bits (MatMulNBits) round their activations to int8, in the model itself: another
 * model then, with logits of its own, whole or in stages. Exports that do not say (`accuracy_level` unset) compute in full
 * precision, which on a CPU takes several times as long; that is theirs to give up, not ours, so this is only for who asks.
 * Returns how many products it changed. Throws BAD_INPUT where the model has none.
 */
export function roundActivationsToInt8(model: ModelProto): number {
  const products = [...nodesOf(model.graph?.node ?? []), ...model.functions.flatMap(({ node }) => [...nodesOf(node)])].filter(({ opType, domain }) => opType === 'MatMulNBits' && domain === CONTRIB)
  if (products.length === 0) throw new MeshError('BAD_INPUT', 'activations can be rounded to int8 where weights are blocks of 4 or 8 bits (MatMulNBits), and this model has none such')
  let changed = 0
  for (const product of products) {
    const level = attributeOf(product, ACCURACY)
    if (level?.i === BigInt(INT8)) continue
    if (level === undefined) product.attribute.push(intAttribute(ACCURACY, INT8))
    else level.i = BigInt(INT8)
    changed++
  }
  return changed
}

/** All nodes, those in bodies (If, Loop, Scan) too. */
function * nodesOf(nodes: readonly NodeProto[]): Generator<NodeProto> {
  for (const node of nodes) {
    yield node
    for (const { g, graphs } of node.attribute) for (const body of g === undefined ? graphs : [g, ...graphs]) yield * nodesOf(body.node)
  }
}
