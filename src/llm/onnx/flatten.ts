import { clone, create } from '@bufbuild/protobuf'
import { MeshError } from '../../../protocols/errors.ts'
import { hoistConstants } from './hoist-constants.ts'
import { freeCaches } from './idle-caches.ts'
import { narrowCaches } from './narrow-caches.ts'
import { attributeOf, describe, integerOf, readsOf, renamed, shapeOf, integers } from './node.ts'
import { unpruneHead } from './pruned-head.ts'
import { unstackCaches } from './stacked-caches.ts'
import { GraphProtoSchema, NodeProtoSchema, type FunctionProto, type GraphProto, type ModelProto, type NodeProto } from './onnx-pb.js'

const DEEPEST_CALLS = 32
const MOST_NODES = 1_000_000
/** Inputs of public exports that only ask for more or fewer logits: 0 means all. */
const LOGITS_TO_KEEP = /^num_logits_to_keep$|^logits_to_keep$/

/**
 * The model's graph as one flat list of nodes: calls of model-local functions replaced by their bodies, `If` nodes that a
 * merged decoder chooses its with-cache branch by replaced by that branch, large constants made initializers, stacked caches taken
 * apart, caches that are converted on their way in and out taken as what they are within. The model itself stays as it is. Throws
 * SPEC_INVALID, naming the node, for recursive functions.
 */
export function flatten(model: ModelProto): GraphProto {
  const source = model.graph
  if (source === undefined) throw new MeshError('SPEC_INVALID', 'this ONNX model has no graph')
  if (source.sparseInitializer.length > 0) throw new MeshError('SPEC_INVALID', `the sparse initializer ${source.sparseInitializer[0]?.values?.name ?? ''} is not supported; export the model with dense weights`)
  const graph = create(GraphProtoSchema, { name: source.name, input: [...source.input], output: [...source.output], initializer: [...source.initializer], valueInfo: source.valueInfo, quantizationAnnotation: source.quantizationAnnotation })
  graph.node = inlineBranches(graph, inlineCalls(model, source.node))
  hoistConstants(graph)
  graph.node = graph.node.map(keepingAll)
  answerOptions(graph)
  unpruneHead(graph)
  unstackCaches(graph)
  freeCaches(graph)
  narrowCaches(graph)
  const read = new Set(graph.node.flatMap(readsOf))
  graph.input = graph.input.filter(({ name }) => read.has(name) || graph.output.some(output => output.name === name))
  return graph
}

function inlineCalls(model: ModelProto, nodes: readonly NodeProto[]): NodeProto[] {
  const functions = new Map(model.functions.map(one => [`${one.domain}:${one.name}:${one.overload}`, one]))
  if (functions.size === 0) return [...nodes]
  let calls = 0
  const flat: NodeProto[] = []
  const visit = (node: NodeProto, depth: number): void => {
    const body = functions.get(`${node.domain}:${node.opType}:${node.overload}`)
    if (body === undefined) {
      flat.push(node)
      if (flat.length > MOST_NODES) throw new MeshError('SPEC_INVALID', `the model's functions expand to more than ${MOST_NODES} nodes`)
      return
    }
    if (depth > DEEPEST_CALLS) throw new MeshError('SPEC_INVALID', `the function ${describe(node)} calls itself`)
    for (const inner of bodyOf(body, node, `${node.name || node.opType}/${calls++}`)) visit(inner, depth + 1)
  }
  for (const node of nodes) visit(node, 0)
  return flat
}

function bodyOf(body: FunctionProto, call: NodeProto, prefix: string): readonly NodeProto[] {
  const names = new Map<string, string>()
  for (const [at, name] of body.input.entries()) names.set(name, call.input[at] ?? '')
  for (const [at, name] of body.output.entries()) names.set(name, call.output[at] || `${prefix}/${name}`)
  return body.node.map(inner => {
    const copy = renamed(inner, name => names.get(name) ?? `${prefix}/${name}`)
    copy.attribute = copy.attribute.flatMap(attribute => {
      if (attribute.refAttrName === '') return [attribute]
      const given = attributeOf(call, attribute.refAttrName) ?? body.attributeProto.find(({ name }) => name === attribute.refAttrName)
      return given === undefined ? [] : [{ ...given, name: attribute.name }]
    })
    return copy
  })
}

/** A merged decoder has one `If` on a graph input; its with-cache branch reads the cache, and with an empty cache does the other's work. */
function inlineBranches(graph: GraphProto, nodes: readonly NodeProto[]): NodeProto[] {
  const inputs = new Map(graph.input.map(input => [input.name, input]))
  const caches = new Set(graph.input.filter(input => (shapeOf(input)?.dims?.length ?? 0) >= 3).map(({ name }) => name))
  return nodes.flatMap(node => {
    if (node.opType !== 'If' || node.domain !== '' || !inputs.has(node.input[0] ?? '')) return [node]
    const branches = node.attribute.flatMap(({ g }) => g === undefined ? [] : [g])
    const cached = branches.map(branch => ({ branch, reads: new Set(branch.node.flatMap(readsOf).filter(name => caches.has(name))).size })).sort((a, b) => b.reads - a.reads)[0]
    if (cached === undefined || cached.reads === 0) return [node]
    graph.initializer.push(...cached.branch.initializer)
    graph.valueInfo = [...graph.valueInfo, ...cached.branch.valueInfo]
    return inlineBranches(graph, spliced(cached.branch, node))
  })
}

function spliced(branch: GraphProto, node: NodeProto): readonly NodeProto[] {
  const names = new Map<string, string>()
  const copies: NodeProto[] = []
  const written = new Set(branch.node.flatMap(({ output }) => output))
  for (const [at, { name }] of branch.output.entries()) {
    const outer = node.output[at] ?? ''
    if (outer === '') continue
    if (written.has(name) && !names.has(name)) names.set(name, outer)
    else copies.push(create(NodeProtoSchema, { opType: 'Identity', input: [names.get(name) ?? name], output: [outer] }))
  }
  return [...branch.node.map(inner => renamed(inner, name => names.get(name) ?? name)), ...copies]
}

/**
 * Attention over a window may be told that its cache is a buffer as long as the window, which it turns over. Ours hold every
 * position, and what is attended to is the same: the window is an attribute of its own.
 */
function keepingAll(of: NodeProto): NodeProto {
  if (of.opType !== 'GroupQueryAttention' || (integerOf(of, 'sliding_window_cache') ?? 0) === 0) return of
  const copy = clone(NodeProtoSchema, of)
  copy.attribute = copy.attribute.filter(({ name }) => name !== 'sliding_window_cache')
  return copy
}

function answerOptions(graph: GraphProto): void {
  for (const input of graph.input.filter(({ name }) => LOGITS_TO_KEEP.test(name))) {
    graph.input = graph.input.filter(other => other !== input)
    graph.initializer.push(integers(input.name, (shapeOf(input)?.dims?.length ?? 0) === 0 ? 0 : [0]))
  }
}
