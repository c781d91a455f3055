import { create } from '@bufbuild/protobuf'
import type { CacheChain } from './caches.ts'
import { ELEMENT } from './element.ts'
import { integerOf, integers, intAttribute, node, renamed, shapeOf } from './node.ts'
import { TensorProtoSchema, type GraphProto, type NodeProto } from './onnx-pb.js'
import type { Value } from './widths.ts'
import type { WiredGraph } from './wired-graph.ts'

const HERE = '/aios/ahead'
/** Where Softmax goes by its last dim unless it says otherwise. */
const LAST_BY_DEFAULT = 13
const HALF_LOWEST = 0xfbff

/**
 * Keeps every token of a run from attending to those after it, in a graph that was traced with one new token and so does without: what is
 * added to the scores is nothing for a single token, and nothing but for the places ahead with several. With it such a graph gives of a
 * prompt, to the bit, what its other half gives that was made for prompts. False, and nothing done, where the graph is not of that kind: one
 * softmax a layer over joined caches, and token ids of open length.
 */
export function maskAhead(flat: GraphProto, graph: WiredGraph, { layers, depth }: CacheChain, ids: string, types: ReadonlyMap<string, Value>, opset: number): boolean {
  const softmaxes = [...graph.nodes.entries()].filter(([at, { opType }]) => opType === 'Softmax' && depth[at]! >= 0)
  const [cache] = layers[0]?.caches ?? []
  const joins = cache === undefined ? undefined : graph.nodes[cache.node]
  const rank = shapeOf(graph.inputs.get(cache?.past ?? ''))?.dims?.length ?? 0
  const axis = joins?.opType === 'Concat' ? integerOf(joins, 'axis') : undefined
  const dims = shapeOf(graph.inputs.get(ids))?.dims
  if (cache === undefined || axis === undefined || dims?.length !== 2 || typeof dims[1] === 'number' || opset < 11) return false
  if (softmaxes.length !== layers.length || new Set(softmaxes.map(([at]) => depth[at])).size !== layers.length) return false
  const scores = softmaxes.map(([, softmax]) => ({ softmax, type: types.get(softmax.input[0] ?? '')?.dataType, last: isLast(softmax, rank, opset) }))
  if (!scores.every(({ type, last }) => last && (type === ELEMENT.float32 || type === ELEMENT.float16))) return false
  const number = (name: string, value: number | readonly number[]): string => {
    flat.initializer.push(integers(`${HERE}/${name}`, value))
    return `${HERE}/${name}`
  }
  const emit = (opType: string, input: readonly string[], name: string, attribute: NodeProto['attribute'] = []): string => {
    flat.node.push(node(opType, input, [`${HERE}/${name}`], attribute))
    return `${HERE}/${name}`
  }
  const [zero, one] = [number('0', 0), number('1', 1)]
  const sizeOf = (name: string, at: string, to: string): string => emit('Gather', [emit('Shape', [name], `${to}/shape`), at], to, [intAttribute('axis', 0)])
  const past = sizeOf(cache.past, number('axis', axis < 0 ? axis + rank : axis), 'past')
  const total = emit('Add', [past, sizeOf(ids, one, 'count')], 'total')
  const own = emit('Reshape', [emit('Range', [past, total, one], 'new'), number('column', [-1, 1])], 'own')
  const ahead = emit('Greater', [emit('Range', [zero, total, one], 'all'), own], 'later')
  const biases = new Map<number, string>()
  for (const { softmax, type = 0 } of scores) {
    if (!biases.has(type)) {
      const [none, lowest] = type === ELEMENT.float32 ? [new Float32Array(1), Float32Array.of(-3.4028234663852886e38)] : [new Uint16Array(1), Uint16Array.of(HALF_LOWEST)]
      for (const [name, value] of [['none', none], ['lowest', lowest]] as const) flat.initializer.push(create(TensorProtoSchema, { name: `${HERE}/${name}-${type}`, dataType: type, rawData: new Uint8Array(value.buffer) }))
      biases.set(type, emit('Where', [ahead, `${HERE}/lowest-${type}`, `${HERE}/none-${type}`], `bias-${type}`))
    }
    const [score = ''] = softmax.input
    flat.node.push(node('Add', [score, biases.get(type)!], [`${score}/ahead`]))
    flat.node = flat.node.map(other => other === softmax ? renamed(other, name => name === score ? `${score}/ahead` : name) : other)
  }
  return true
}

function isLast(softmax: NodeProto, rank: number, opset: number): boolean {
  const axis = integerOf(softmax, 'axis')
  return axis === undefined ? opset >= LAST_BY_DEFAULT : axis === -1 || axis === rank - 1
}
