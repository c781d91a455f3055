import { ELEMENT } from './element.ts'
import type { WiredGraph } from './wired-graph.ts'
import { attributeOf, integerOf, shapeOf } from './node.ts'
import type { NodeProto } from './onnx-pb.js'
import { integersOf } from './tensor-ref.ts'

/**
 * What is known of a value: element type, rank where it follows, and how many elements it has per token (or in all, if it does not
 * grow with tokens); `sure` where that is no estimate.
 */
export type Value = { readonly dataType: number; readonly rank: number | undefined; readonly width: number; readonly sure?: boolean }

/** So wide that no cut goes through it: caches, attention scores. */
export const HUGE = 1e6
const UNKNOWN: Value = { dataType: ELEMENT.float32, rank: undefined, width: 1 }

const BOOLEAN = new Set(['And', 'Or', 'Not', 'Xor', 'Equal', 'Less', 'LessOrEqual', 'Greater', 'GreaterOrEqual', 'IsNaN', 'IsInf'])
const LIKE_FIRST = new Set(['SimplifiedLayerNormalization', 'LayerNormalization', 'RMSNormalization', 'SkipSimplifiedLayerNormalization', 'SkipLayerNormalization', 'RotaryEmbedding', 'Softmax', 'Slice', 'ScatterND', 'Trilu'])
const NORMS = new Set(['SimplifiedLayerNormalization', 'LayerNormalization', 'RMSNormalization', 'SkipSimplifiedLayerNormalization', 'SkipLayerNormalization'])
const ELEMENTWISE = new Set(['Add', 'Sub', 'Mul', 'Div', 'Cast', 'Identity', 'Sigmoid', 'Tanh', 'Relu', 'Erf', 'Pow', 'Sqrt', 'Neg', 'Where', 'Dropout'])
const DIFFERENT_RANK = new Set(['Reshape', 'Squeeze', 'Flatten'])

type Look = {
  readonly input: (at: number) => Value
  /** Dims of a constant input. */
  readonly dims: (at: number) => readonly number[] | undefined
  /** Elements of a constant input of integers. */
  readonly integers: (at: number) => readonly number[] | undefined
  /** The widest input that is not a weight. */
  readonly widest: number
}

/**
 * Element type, rank and width of every value: just enough to compare cuts and to declare what crosses them. Declared shapes
 * win; an operator we do not know is taken to pass its widest input on.
 */
export function inferValues(graph: WiredGraph, declared: ReadonlyMap<string, ReturnType<typeof shapeOf>>, caches: ReadonlySet<string>): ReadonlyMap<string, Value> {
  const values = new Map<string, Value>()
  for (const [name, tensor] of graph.initializers) values.set(name, { dataType: tensor.dataType, rank: tensor.dims.length, width: tensor.dims.length === 0 ? 1 : Number(tensor.dims.at(-1)) })
  for (const [name, info] of graph.inputs) {
    const shape = shapeOf(info)
    values.set(name, { dataType: shape?.dataType ?? ELEMENT.float32, rank: shape?.dims?.length, width: caches.has(name) ? HUGE : fixedWidth(shape?.dims) ?? 1 })
  }
  const constants = new Map([...graph.initializers].map(([name, { dims }]) => [name, dims.map(Number)] as const))
  const weights = (name: string): readonly number[] | undefined => constants.get(name)
  for (const node of graph.nodes) {
    const derived = derivedDims(node, weights(node.input[0] ?? ''), constantIntegers(graph, node.input[1] ?? ''))
    if (derived !== undefined) constants.set(node.output[0] ?? '', derived)
    const look: Look = {
      input: at => values.get(node.input[at] ?? '') ?? UNKNOWN,
      dims: at => weights(node.input[at] ?? ''),
      integers: at => constantIntegers(graph, node.input[at] ?? ''),
      widest: Math.max(1, ...node.input.filter(name => name !== '' && (weights(name)?.length ?? 0) < 2).map(name => values.get(name)?.width ?? 1)),
    }
    for (const [at, name] of node.output.entries()) {
      if (name === '') continue
      const shape = declared.get(name)
      const said = fixedWidth(shape?.dims)
      const rank = shape?.dims?.length ?? rankOf(node, look)
      const stated = shape?.dims?.length === 3 && typeof shape.dims[2] === 'number' ? shape.dims[2] : undefined
      const exact = caches.has(name) ? undefined : stated ?? (rank === 3 ? exactWidth(node, look) : undefined)
      values.set(name, {
        dataType: shape?.dataType || elementOf(node, at, look), rank,
        width: caches.has(name) ? HUGE : said ?? exact ?? widthOf(node, at, look),
        sure: said === undefined && exact !== undefined || stated !== undefined,
      })
    }
  }
  return values
}

/** Dims of a weight that is only converted or turned on its way. */
function derivedDims(node: NodeProto, dims: readonly number[] | undefined, shape: readonly number[] | undefined): number[] | undefined {
  if (dims === undefined) return undefined
  if (node.opType === 'Reshape') return shape === undefined ? undefined : reshaped(dims, shape)
  if (node.opType === 'Cast' || node.opType === 'Identity' || node.opType === 'DequantizeLinear') return [...dims]
  if (node.opType !== 'Transpose') return undefined
  const order = attributeOf(node, 'perm')?.ints.map(Number) ?? dims.map((_, axis) => dims.length - 1 - axis)
  return order.map(axis => dims[axis] ?? 1)
}

/** As Reshape reads a shape: 0 keeps a dim, -1 takes what is left. */
function reshaped(dims: readonly number[], shape: readonly number[]): number[] {
  const kept = shape.map((dim, at) => dim === 0 ? dims[at] ?? 1 : dim)
  const rest = dims.reduce((product, dim) => product * dim, 1) / kept.reduce((product, dim) => dim < 0 ? product : product * dim, 1)
  return kept.map(dim => dim < 0 ? rest : dim)
}

/** The product of the fixed dims, where some are; a value with more than two varying dims grows with tokens twice. */
function fixedWidth(dims: readonly (number | string)[] | undefined): number | undefined {
  const fixed = dims?.filter(dim => typeof dim === 'number') ?? []
  if (dims === undefined || fixed.length === 0) return undefined
  return fixed.reduce((product, dim) => product * dim, 1) * (dims.length - fixed.length > 2 ? 512 : 1)
}

function elementOf(node: NodeProto, output: number, look: Look): number {
  if (node.opType === 'Cast') return integerOf(node, 'to') ?? ELEMENT.float32
  if (node.opType === 'Shape' || node.opType === 'Size' || node.opType === 'ArgMax' || node.opType === 'NonZero') return ELEMENT.int64
  if (node.opType === 'Constant' || node.opType === 'ConstantOfShape') return constantType(node)
  if (node.opType === 'DynamicQuantizeLinear') return output === 1 ? ELEMENT.float32 : ELEMENT.uint8
  if (node.opType === 'MatMulInteger' || node.opType === 'ConvInteger') return ELEMENT.int32
  if (node.opType === 'DequantizeLinear') return look.input(1).dataType
  if (node.opType === 'GatherBlockQuantized') return look.input(2).dataType
  if (node.opType === 'Where') return look.input(1).dataType
  return BOOLEAN.has(node.opType) ? ELEMENT.bool : look.input(0).dataType
}

function constantType(node: NodeProto): number {
  if (attributeOf(node, 'value_int') !== undefined || attributeOf(node, 'value_ints') !== undefined) return ELEMENT.int64
  return attributeOf(node, 'value')?.t?.dataType ?? ELEMENT.float32
}

function rankOf(node: NodeProto, look: Look): number | undefined {
  const first = look.input(0).rank
  if (node.opType === 'Gather' || node.opType === 'GatherBlockQuantized') return first === undefined || look.input(1).rank === undefined ? undefined : first + look.input(1).rank! - 1
  if (node.opType === 'Unsqueeze') return first === undefined ? undefined : first + ((node.input[1] === undefined ? attributeOf(node, 'axes')?.ints.length ?? 1 : look.input(1).width))
  // A shape is a list as long as the rank that it gives.
  if (node.opType === 'Reshape') return look.input(1).rank === 1 ? look.dims(1)?.[0] ?? look.input(1).width : undefined
  if (node.opType === 'Shape' || node.opType === 'Range') return 1
  if (node.opType === 'ConstantOfShape') return first === 1 ? look.input(0).width : undefined
  if (node.opType === 'Expand') return first === undefined || look.input(1).rank !== 1 ? undefined : Math.max(first, look.input(1).width)
  if (node.opType === 'Constant') return attributeOf(node, 'value')?.t?.dims.length ?? 0
  if (DIFFERENT_RANK.has(node.opType)) return undefined
  if (node.opType.startsWith('Reduce')) return integerOf(node, 'keepdims') === 0 ? undefined : first
  if (LIKE_FIRST.has(node.opType) || node.opType === 'MatMulNBits' || node.opType === 'MatMulBnb4' || node.opType === 'Gemm' || node.opType.endsWith('Attention')) return first
  const ranks = node.input.map((name, at) => name === '' ? 0 : look.input(at).rank)
  return ranks.includes(undefined) ? undefined : Math.max(0, ...ranks.filter(rank => rank !== undefined))
}

function widthOf(node: NodeProto, output: number, look: Look): number {
  const first = look.input(0).width
  switch (node.opType) {
    case 'Shape': case 'Size': return look.input(0).rank ?? 4
    case 'Constant': return Math.max(1, Number(attributeOf(node, 'value')?.t?.dims.reduce((product, dim) => product * dim, 1n) ?? 1n))
    case 'ConstantOfShape': case 'ReduceMean': case 'ReduceSum': return 1
    case 'Gather': return look.dims(0)?.slice(1).reduce((product, dim) => product * dim, 1) ?? (look.input(0).rank === 1 ? look.input(1).width : Math.max(1, first))
    case 'GatherBlockQuantized': return (look.dims(0)?.at(-1) ?? 1) * (look.input(0).dataType === ELEMENT.uint8 ? 8 / (integerOf(node, 'bits') ?? 4) : 1)
    case 'MatMul': case 'MatMulInteger': case 'FusedMatMul': case 'DynamicQuantizeMatMul': case 'MatMulIntegerToFloat': return look.dims(1)?.at(-1) ?? HUGE
    case 'Gemm': return (integerOf(node, 'transB') === 1 ? look.dims(1)?.[0] : look.dims(1)?.[1]) ?? HUGE
    case 'MatMulNBits': case 'MatMulBnb4': return integerOf(node, 'N') ?? HUGE
    case 'GroupQueryAttention': return attentionWidth(node, first)
    case 'DynamicQuantizeLinear': return output === 0 ? first : 1
    case 'Concat': return node.input.reduce((sum, _, at) => sum + look.input(at).width, 0)
    case 'Expand': return first * 8
    case 'Split': return (look.input(0).rank === 3 ? look.integers(1)?.[output] : undefined) ?? Math.ceil(first / Math.max(1, node.output.length))
    case 'Slice': return look.input(0).rank === 1 ? sliceLength(first, look) : first
    case 'Reshape': case 'Transpose': case 'Squeeze': case 'Unsqueeze': return first
    case 'MultiHeadAttention': case 'Attention': return first
    default: return LIKE_FIRST.has(node.opType) ? first : look.widest
  }
}

/**
 * The width of a value [B, S, width] where it follows without a guess: from a constant's shape, or from another such value that is
 * added to it, say: the residual stream stays as wide as it came in, whatever a mixture of experts adds in ways nobody can follow.
 */
function exactWidth(node: NodeProto, look: Look): number | undefined {
  if (node.opType === 'Gather') return look.dims(0)?.length === 2 ? look.dims(0)?.[1] : undefined
  if (node.opType === 'MatMulNBits' || node.opType === 'MatMulBnb4') return integerOf(node, 'N')
  if (node.opType === 'MatMul') return look.dims(1)?.length === 2 ? look.dims(1)?.[1] : undefined
  if (!ELEMENTWISE.has(node.opType) && !NORMS.has(node.opType)) return undefined
  const widths = node.input.flatMap((name, at) => name !== '' && look.input(at).rank === 3 && look.input(at).sure === true ? [look.input(at).width] : [])
  const widest = Math.max(0, ...widths)
  return widest > 1 ? widest : undefined
}

function constantIntegers(graph: WiredGraph, name: string): readonly number[] | undefined {
  const by = graph.nodes[graph.producer.get(name) ?? -1]
  const tensor = graph.initializers.get(name) ?? (by?.opType === 'Constant' ? attributeOf(by, 'value')?.t : undefined)
  return tensor === undefined ? undefined : integersOf(tensor)
}

/** Of a list with `length` elements, where both ends of the slice are constant. */
function sliceLength(length: number, look: Look): number {
  const [from = 0, to = length] = [1, 2].map(at => look.integers(at)?.[0]).map(place => place === undefined || place >= 0 ? place : place + length)
  return Math.max(1, Math.min(to, length) - Math.max(0, from))
}

/** Packed inputs hold query, key and value side by side; only the query's width comes out. */
function attentionWidth(node: NodeProto, first: number): number {
  const heads = integerOf(node, 'num_heads') ?? 1
  const kvHeads = integerOf(node, 'kv_num_heads') ?? heads
  return node.input[1] === undefined || node.input[1] === '' ? first * heads / (heads + 2 * kvHeads) : first
}
