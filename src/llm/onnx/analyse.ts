import { MeshError } from '../../../protocols/errors.ts'
import { findCaches, type CacheChain } from './caches.ts'
import { byteLength, ELEMENT, elementName, type ElementName } from './element.ts'
import { flatten } from './flatten.ts'
import { wireGraph, type WiredGraph } from './wired-graph.ts'
import { attributeOf, describe, integerOf, shapeOf, type Shape } from './node.ts'
import { maskAhead } from './mask-ahead.ts'
import type { GraphProto, NodeProto, TensorProto } from './onnx-pb.js'
import { takesOneByOne } from './one-by-one.ts'
import { inputRoles, type InputRole } from './roles.ts'
import { PREAMBLE, segment, type Segments } from './segments.ts'
import type { Skeleton } from './skeleton.ts'
import { unfuseSkips, type Halves } from './unfuse.ts'
import { HUGE, inferValues, type Value } from './widths.ts'

/** One value that crosses a boundary. `width` counts elements per token; of one that does not grow with tokens, elements in all. */
export type BoundaryTensor = { readonly name: string; readonly dtype: ElementName; readonly rank: number | undefined; readonly width: number }

/** One cache of a layer, as the model declares it: `heads` rows of `headDim` elements a token. `axis` is the one that grows. */
export type CacheShape = { readonly dtype: ElementName; readonly heads: number; readonly headDim: number; readonly rank: number; readonly axis: number }

/** What a layer, the embedding or the head weighs. FLOPs are those of its matrix products for one token, attention excluded. */
export type SegmentCost = { readonly flopsPerToken: number; readonly weightBytes: number }

export type ModelAnalysis = {
  readonly layers: number
  readonly vocab: number
  /** The widest value between layers, in elements per token. */
  readonly hidden: number
  readonly logits: { readonly name: string; readonly dtype: ElementName }
  /** Inputs other than caches, by name. */
  readonly inputs: ReadonlyMap<string, InputRole>
  /** `caches[i]` are those of layer i. */
  readonly caches: readonly (readonly CacheShape[])[]
  /** `boundaries[i]` crosses from layer i to layer i + 1. */
  readonly boundaries: readonly (readonly BoundaryTensor[])[]
  readonly embed: SegmentCost
  readonly head: SegmentCost
  readonly perLayer: readonly SegmentCost[]
  /** Whether all attention is by operators that take each row's own length (GroupQueryAttention). */
  readonly ownLengths: boolean
  /** Whether tokens that are computed together change each other's bits, as scales over all of them do (DynamicQuantizeLinear). */
  readonly coupled: boolean
  /** Whether a run has one new token: a prompt too is computed token by token. */
  readonly oneByOne: boolean
  /** What the rest of this folder works on. */
  readonly plan: SplitPlan
}

export type SplitPlan = {
  readonly graph: WiredGraph
  readonly halves: ReadonlyMap<NodeProto, Halves>
  readonly chain: CacheChain
  readonly values: ReadonlyMap<string, Value>
  readonly segments: Segments
  /** For each initializer, the segments that need it, ascending. */
  readonly users: ReadonlyMap<string, readonly number[]>
  /** What the model says of the shapes of values within it. */
  readonly declared: ReadonlyMap<string, Shape>
}

/** Finds a decoder's layers and what lies between them. Throws SPEC_INVALID, naming the node, for a model that cannot be split. */
export function analyse(skeleton: Skeleton): ModelAnalysis {
  const flat = flatten(skeleton.model)
  const declared = new Map([...flat.valueInfo, ...flat.output].flatMap(info => {
    const shape = shapeOf(info)
    return shape === undefined ? [] : [[info.name, shape] as const]
  }))
  const whole = seeingBackOnly(skeleton, flat, declared)
  const wholeCaches = cacheNames(findCaches(whole))
  const types = inferValues(whole, declared, wholeCaches)
  const { nodes, halves } = unfuseSkips(whole.nodes, name => types.get(name)?.dataType)
  const graph = wireGraph(flat, nodes)
  const chain = findCaches(graph)
  const caches = cacheNames(chain)
  const roles = inputRoles(graph, caches)
  const values = inferValues(graph, declared, caches)
  const logits = findLogits(graph, caches, values)
  const segments = segment(graph, chain, roles, values, logits)
  const users = initializerUsers(graph, segments)
  const plan: SplitPlan = { graph, halves, chain, values, segments, users, declared }
  const costs = segmentCosts(graph, segments, users, chain.layers.length)
  return {
    layers: chain.layers.length,
    vocab: values.get(logits)?.width ?? 0,
    hidden: Math.max(0, ...segments.cuts.flatMap(names => names.map(name => values.get(name)?.width ?? 0))),
    logits: { name: logits, dtype: elementName(values.get(logits)?.dataType ?? 1) },
    inputs: roles,
    caches: chain.layers.map(layer => layer.caches.map(({ past, node }) => cacheShape(graph, values, past, node))),
    boundaries: segments.cuts.slice(1, -1).map(names => names.map(name => boundaryTensor({ plan }, name))),
    embed: costs[0]!,
    head: costs.at(-1)!,
    perLayer: costs.slice(1, -1),
    ownLengths: chain.layers.every(layer => layer.caches.every(({ node }) => graph.nodes[node]!.opType === 'GroupQueryAttention')),
    coupled: graph.nodes.some(({ opType }) => opType.startsWith('DynamicQuantize')),
    oneByOne: takesOneByOne(graph, chain),
    plan,
  }
}

/** The graph, with what it lacks to take several new tokens, where that can be added. */
function seeingBackOnly({ model }: Skeleton, flat: GraphProto, declared: ReadonlyMap<string, Shape>): WiredGraph {
  const graph = wireGraph(flat)
  const chain = findCaches(graph)
  if (!takesOneByOne(graph, chain)) return graph
  const caches = cacheNames(chain)
  const [ids = ''] = [...inputRoles(graph, caches)].find(([, role]) => role === 'ids') ?? []
  const opset = Number(model.opsetImport.find(({ domain }) => domain === '')?.version ?? 0n)
  return maskAhead(flat, graph, chain, ids, inferValues(graph, declared, caches), opset) ? wireGraph(flat) : graph
}

/** Operators that ONNX Runtime's CPU has no float16 kernels of. */
const ARITHMETIC: ReadonlySet<string> = new Set(['Add', 'Sub', 'Mul', 'Div'])

/**
 * What a boundary carries a value as: bfloat16 as float32, for ONNX Runtime takes none in or out, and so a float16 sum or product of
 * plain operators: the CPU has no such kernel, computes in float32 and drops the roundings between one sum and the next. Both fit
 * float32 exactly.
 */
export function boundaryTensor({ plan }: Pick<ModelAnalysis, 'plan'>, name: string): BoundaryTensor {
  const value = plan.values.get(name)
  const dataType = value?.dataType ?? ELEMENT.float32
  const widened = dataType === ELEMENT.bfloat16 || (dataType === ELEMENT.float16 && ARITHMETIC.has(source(plan, name)?.opType ?? ''))
  return { name: widened ? `${name}/float32` : name, dtype: elementName(widened ? ELEMENT.float32 : dataType), rank: value?.rank, width: value?.width ?? 1 }
}

/** What computes a value: not a conversion to the type that it has already, as exporters leave them. */
function source(plan: Pick<SplitPlan, 'graph' | 'values'>, name: string): NodeProto | undefined {
  const { graph, values } = plan
  const by = graph.nodes[graph.producer.get(name) ?? -1]
  const before = by?.input[0] ?? ''
  return by?.opType === 'Identity' || (by?.opType === 'Cast' && values.get(before)?.dataType === values.get(name)?.dataType) ? source(plan, before) : by
}

function cacheNames(chain: CacheChain): ReadonlySet<string> {
  return new Set(chain.layers.flatMap(layer => layer.caches.flatMap(({ past, present }) => [past, present])))
}

function findLogits(graph: WiredGraph, caches: ReadonlySet<string>, values: ReadonlyMap<string, Value>): string {
  const candidates = [...graph.outputs.keys()].filter(name => !caches.has(name) && graph.producer.has(name))
  const widest = candidates.toSorted((a, b) => (values.get(b)?.width ?? 0) - (values.get(a)?.width ?? 0))[0]
  const found = candidates.find(name => name === 'logits') ?? widest
  if (found === undefined) throw new MeshError('SPEC_INVALID', 'the model has no output for logits')
  return found
}

function cacheShape(graph: WiredGraph, values: ReadonlyMap<string, Value>, past: string, at: number): CacheShape {
  const shape = shapeOf(graph.inputs.get(past))
  const rank = shape?.dims?.length ?? 0
  const node = graph.nodes[at]!
  const joins = node.opType === 'Concat' ? integerOf(node, 'axis') ?? 0 : rank - 2
  const axis = joins < 0 ? joins + rank : joins
  const rest = (shape?.dims ?? []).filter((_, dim) => dim !== 0 && dim !== axis)
  if (rest.length > 2) throw new MeshError('SPEC_INVALID', `${describe(node)} takes the cache ${past} as [${shape?.dims?.join(', ') ?? ''}], keys and values stacked: it cannot be taken apart there; export the model with keys and values of each layer as one tensor each, or without fused attention`)
  const [heads, said] = rest.length === 1 ? [1, rest[0]] : rest
  const headDim = typeof said === 'number' || typeof heads !== 'number' ? said : newWidth(graph, values, past, node) / heads
  if (typeof heads !== 'number' || typeof headDim !== 'number' || !Number.isInteger(headDim) || headDim < 1) throw new MeshError('SPEC_INVALID', `the cache ${past} of ${describe(node)} does not say how many heads of which size it has: it is [${shape?.dims?.join(', ') ?? ''}]; export the model with fixed sizes of all dimensions but batch and length`)
  const dtype = elementName(shape?.dataType ?? 0)
  if (dtype === 'bfloat16') throw new MeshError('SPEC_INVALID', `the cache ${past} of ${describe(node)} is bfloat16, which ONNX Runtime cannot take in or give out; export it in float16 or float32`)
  return { dtype, heads, headDim, rank, axis }
}

/** Elements that a token adds to a cache, by what the operator that lengthens it joins on: some exports leave their caches' size open. NaN where that does not tell. */
function newWidth(graph: WiredGraph, values: ReadonlyMap<string, Value>, past: string, node: NodeProto): number {
  const widthOf = (name: string): number => values.get(name)?.width ?? Number.NaN
  if (node.opType === 'Concat') return widthOf(projected(graph, values, node.input.find(name => name !== past) ?? ''))
  const heads = integerOf(node, 'num_heads') ?? integerOf(node, 'q_num_heads') ?? Number.NaN
  const kvHeads = integerOf(node, 'kv_num_heads') ?? heads
  const [query = '', key = '', value = ''] = node.input
  const caches = node.input.filter(name => graph.inputs.has(name) && widthOf(name) >= HUGE)
  if (key === '') return widthOf(query) * kvHeads / (heads + 2 * kvHeads)
  return widthOf(caches.indexOf(past) === 1 ? value : key)
}

/** What keys or values were before they were put in heads and turned: the way back goes by first inputs. */
function projected(graph: WiredGraph, values: ReadonlyMap<string, Value>, name: string): string {
  const value = values.get(name)
  if (value?.rank === 3 && value.sure === true) return name
  const before = graph.nodes[graph.producer.get(name) ?? -1]?.input[0] ?? ''
  return graph.producer.has(before) ? projected(graph, values, before) : name
}

/** Which segments read each initializer, through the preamble too. */
function initializerUsers(graph: WiredGraph, segments: Segments): ReadonlyMap<string, readonly number[]> {
  const users = new Map<string, Set<number>>()
  const segmentsOf = graph.nodes.map((_, at) => new Set(segments.of[at] === PREAMBLE ? [] : [segments.of[at]!]))
  for (let at = graph.nodes.length - 1; at >= 0; at--) {
    for (const name of graph.reads[at] ?? []) {
      const by = graph.producer.get(name)
      const into = by !== undefined && segments.of[by] === PREAMBLE ? segmentsOf[by]! : graph.initializers.has(name) ? users.get(name) ?? new Set() : undefined
      if (into === undefined) continue
      for (const segment of segmentsOf[at]!) into.add(segment)
      if (by === undefined) users.set(name, into)
    }
  }
  return new Map([...users].map(([name, of]) => [name, [...of].sort((a, b) => a - b)]))
}

function segmentCosts(graph: WiredGraph, segments: Segments, users: ReadonlyMap<string, readonly number[]>, layers: number): readonly SegmentCost[] {
  const flops = Array.from({ length: layers + 2 }, () => 0)
  const bytes = Array.from({ length: layers + 2 }, () => 0)
  for (const [at, node] of graph.nodes.entries()) if (segments.of[at] !== PREAMBLE) flops[segments.of[at]!]! += productFlops(node, graph)
  for (const [name, of] of users) for (const segment of of) bytes[segment]! += initializerBytes(graph.initializers.get(name))
  return flops.map((flopsPerToken, at) => ({ flopsPerToken, weightBytes: bytes[at] ?? 0 }))
}

function initializerBytes(tensor: TensorProto | undefined): number {
  return tensor === undefined || tensor.dataType === 8 ? 0 : byteLength(tensor.dataType, tensor.dims)
}

/** Two per weight: a product with a constant matrix of any operator that multiplies by its second input. */
function productFlops(node: NodeProto, graph: WiredGraph): number {
  if (node.opType === 'MatMulNBits' || node.opType === 'MatMulBnb4') return 2 * (integerOf(node, 'K') ?? 0) * (integerOf(node, 'N') ?? 0)
  if (!/MatMul|Gemm/.test(node.opType)) return 0
  const weight = graph.initializers.get(node.input[1] ?? '') ?? transposedWeight(graph, node.input[1] ?? '')
  return weight === undefined || weight.dims.length !== 2 ? 0 : 2 * Number(weight.dims[0]! * weight.dims[1]!)
}

function transposedWeight(graph: WiredGraph, name: string): TensorProto | undefined {
  const by = graph.nodes[graph.producer.get(name) ?? -1]
  return by?.opType === 'Transpose' || by?.opType === 'DequantizeLinear' || (by?.opType === 'Cast' && attributeOf(by, 'to') !== undefined) ? graph.initializers.get(by.input[0] ?? '') : undefined
}
