import { integerOf, shapeOf } from './node.ts'
import type { NodeProto } from './onnx-pb.js'
import type { CacheChain } from './caches.ts'
import type { WiredGraph } from './wired-graph.ts'

const COMPARES: ReadonlySet<string> = new Set(['Less', 'LessOrEqual', 'Greater', 'GreaterOrEqual', 'Trilu', 'GroupQueryAttention'])

/**
 * Whether the graph takes one new token at a time. Decoders were long exported in two, for the first run and for those after it, the
 * second traced with a single token: its caches grow by one, and in some families nothing in it keeps a token from attending to those
 * that come with it and after it. Where such a graph does compare places, or cuts a triangle out of a table, it takes several.
 */
export function takesOneByOne(graph: WiredGraph, { layers }: CacheChain): boolean {
  const growsByOne = layers.every(({ caches }) => caches.every(({ past, present }) => {
    const before = shapeOf(graph.inputs.get(past))?.dims ?? []
    return shapeOf(graph.outputs.get(present))?.dims?.some((dim, at) => typeof before[at] === 'string' && before[at] !== '' && dim === `${before[at]} + 1`) === true
  }))
  return growsByOne && !graph.nodes.some(node => COMPARES.has(node.opType) || integerOf(node, 'unidirectional') === 1 || integerOf(node, 'is_causal') === 1 || cutsTriangle(graph, node))
}

/** Whether it takes a part of a square constant, as families with a table of who sees whom do. */
function cutsTriangle(graph: WiredGraph, { opType, input }: NodeProto): boolean {
  if (opType !== 'Slice' && opType !== 'Gather') return false
  const by = graph.nodes[graph.producer.get(input[0] ?? '') ?? -1]
  const tensor = graph.initializers.get(input[0] ?? '') ?? (by?.opType === 'Constant' ? by.attribute.find(({ name }) => name === 'value')?.t : undefined)
  const [rows, columns] = tensor?.dims.slice(-2).map(Number) ?? []
  return tensor !== undefined && tensor.dims.length >= 2 && rows === columns && (rows ?? 0) > 1
}
