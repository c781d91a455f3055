import { constantValues, type Constant } from './constant-values.ts'
import { attributeOf, integerOf, integers, intAttribute, node, readsOf, renamed, shapeOf, valueInfo } from './node.ts'
import type { GraphProto, NodeProto, ValueInfoProto } from './onnx-pb.js'

/** Of keys and values, or of layers, one on another: what each of them is has at least batch, heads, length and size. */
const LEAST_RANK = 5
const MOST_PARTS = 4_096

/**
 * Takes caches apart that come and go stacked, keys on values or all layers on one another, as PyTorch's `stack` leaves them: every part
 * becomes an input and an output of its own. Nothing is changed where any of them is read or made in another way.
 */
export function unstackCaches(graph: GraphProto): void {
  while (unstack(graph)) continue
}

type Part = { readonly at: number; readonly name: string }

/** One level: of layers first, then of keys and values. */
function unstack(graph: GraphProto): boolean {
  const readers = new Map<string, NodeProto[]>()
  for (const one of graph.node) for (const name of new Set(readsOf(one))) readers.set(name, [...readers.get(name) ?? [], one])
  const producer = new Map(graph.node.flatMap(one => one.output.map(name => [name, one] as const)))
  const constant = constantValues(graph)
  const ins = graph.input.filter(info => partsOf(info) !== undefined && (readers.get(info.name) ?? []).length > 0)
  const outs = graph.output.filter(info => partsOf(info) !== undefined)
  if (ins.length === 0 || ins.length !== outs.length) return false
  const names = new Map<string, string>()
  const gone = new Set<NodeProto>()
  const added: NodeProto[] = []
  for (const info of ins) {
    const count = partsOf(info)!
    for (const reader of readers.get(info.name) ?? []) {
      const parts = taken(reader, count, constant)
      if (parts !== undefined) for (const { at, name } of parts) names.set(name, partName(info.name, at))
      else if (reader.opType === 'Shape' && reader.attribute.length === 0) added.push(...shapeOfStack(graph, reader, info.name, count))
      else return false
      gone.add(reader)
    }
  }
  const taking = new Set(names.values())
  for (const info of outs) {
    const stack = producer.get(info.name)
    const parts = stack === undefined ? undefined : stacked(stack, partsOf(info)!, producer, constant)
    if (stack === undefined || parts === undefined || readers.has(info.name)) return false
    gone.add(stack)
    for (const name of stack.input) if (readers.get(name)?.length === 1) gone.add(producer.get(name)!)
    for (const { at, name } of parts) {
      const to = partName(info.name, at)
      if (names.has(name) || !producer.has(name)) added.push(node('Identity', [names.get(name) ?? name], [to]))
      else names.set(name, to)
    }
  }
  const apart = (info: ValueInfoProto): readonly ValueInfoProto[] => {
    const { dataType = 0, dims = [] } = shapeOf(info) ?? {}
    return Array.from({ length: partsOf(info)! }, (_, at) => valueInfo(partName(info.name, at), dataType, dims.slice(1)))
  }
  graph.input = graph.input.flatMap(info => ins.includes(info) ? apart(info).filter(({ name }) => taking.has(name) || added.some(({ input }) => input.includes(name))) : [info])
  graph.output = graph.output.flatMap(info => outs.includes(info) ? apart(info) : [info])
  graph.node = [...added, ...graph.node.filter(one => !gone.has(one)).map(one => readsOf(one).concat(one.output).some(name => names.has(name)) ? renamed(one, name => names.get(name) ?? name) : one)]
  graph.valueInfo = graph.valueInfo.filter(({ name }) => !names.has(name))
  return true
}

function partName(stack: string, at: number): string {
  return `${stack}/part-${at}`
}

/** How many parts a value of this declaration is stacked of. */
function partsOf(info: ValueInfoProto): number | undefined {
  const dims = shapeOf(info)?.dims
  const [first] = dims ?? []
  return dims !== undefined && dims.length >= LEAST_RANK && typeof first === 'number' && first > 0 && first <= MOST_PARTS ? first : undefined
}

/** Which part of a stack this node takes out; undefined where it does something else. */
function taken(reader: NodeProto, count: number, constant: (name: string | undefined) => Constant | undefined): readonly Part[] | undefined {
  if (reader.opType !== 'Gather' || (integerOf(reader, 'axis') ?? 0) !== 0) return undefined
  const index = constant(reader.input[1] ?? '')
  const [place] = index?.values ?? []
  if (place === undefined || index?.rank !== 0 || place < -count || place >= count) return undefined
  return [{ at: place < 0 ? place + count : place, name: reader.output[0] ?? '' }]
}

/** What is stacked by this node, in order. */
function stacked(stack: NodeProto, count: number, producer: ReadonlyMap<string, NodeProto>, constant: (name: string | undefined) => Constant | undefined): readonly Part[] | undefined {
  if (stack.opType !== 'Concat' || integerOf(stack, 'axis') !== 0 || stack.input.length !== count) return undefined
  const parts = stack.input.map((name, at) => {
    const lifted = producer.get(name)
    const axes = lifted === undefined ? undefined : attributeOf(lifted, 'axes')?.ints.map(Number) ?? constant(lifted.input[1] ?? '')?.values
    return lifted?.opType === 'Unsqueeze' && axes?.length === 1 && axes[0] === 0 ? { at, name: lifted.input[0] ?? '' } : undefined
  })
  const found = parts.filter(part => part !== undefined)
  return found.length === count ? found : undefined
}

/** What asks for the shape of a stack gets the number of parts and the shape of the first. */
function shapeOfStack(graph: GraphProto, reader: NodeProto, name: string, count: number): readonly NodeProto[] {
  const [output = ''] = reader.output
  graph.initializer.push(integers(`${output}/parts`, [count]))
  return [node('Shape', [partName(name, 0)], [`${output}/part`]), node('Concat', [`${output}/parts`, `${output}/part`], [output], [intAttribute('axis', 0)])]
}
