import { ELEMENT } from './element.ts'
import { integerOf, readsOf, renamed, shapeOf, valueInfo } from './node.ts'
import type { GraphProto, NodeProto } from './onnx-pb.js'
import { readsShapeOnly } from './caches.ts'

const CACHE_RANK = 3

/**
 * Converters to float16 that keep a model's inputs and outputs put a Cast behind every cache that comes in and one before every
 * cache that goes out. Such caches are taken and given as the float16 that they are: half the memory, and not a bit is another.
 */
export function narrowCaches(graph: GraphProto): void {
  const readers = new Map<string, NodeProto[]>()
  for (const one of graph.node) for (const name of new Set(readsOf(one))) readers.set(name, [...readers.get(name) ?? [], one])
  const producer = new Map(graph.node.flatMap(one => one.output.map(name => [name, one] as const)))
  const outputs = new Set(graph.output.map(({ name }) => name))
  const wide = (info: GraphProto['input'][number]): boolean => {
    const shape = shapeOf(info)
    return shape?.dataType === ELEMENT.float32 && (shape.dims?.length ?? 0) >= CACHE_RANK
  }
  /** Names that become others, and conversions that go. */
  const names = new Map<string, string>()
  const gone = new Set<NodeProto>()
  const casts = (name: string): readonly NodeProto[] => (readers.get(name) ?? []).filter(({ opType }) => !readsShapeOnly(opType))
  const ins = graph.input.filter(info => wide(info) && casts(info.name).length > 0 && casts(info.name).every(one => narrows(one) && !outputs.has(one.output[0] ?? '')))
  for (const { name } of ins) {
    for (const cast of casts(name)) {
      gone.add(cast)
      names.set(cast.output[0] ?? '', name)
    }
  }
  // What lengthens a cache gives it out, as in findCaches.
  const outs = graph.output.filter(info => {
    const cast = producer.get(info.name)
    const inner = cast?.input[0] ?? ''
    return wide(info) && cast?.opType === 'Cast' && casts(info.name).length === 0 && !outputs.has(inner) && producer.get(inner)?.input.some(name => names.has(name)) === true
  })
  // A cache that is narrow on one side only would be another on the other.
  if (ins.length === 0 || ins.length !== outs.length) return
  for (const { name } of outs) {
    const cast = producer.get(name)!
    gone.add(cast)
    names.set(cast.input[0] ?? '', name)
  }
  const narrowed = new Set([...ins, ...outs].map(({ name }) => name))
  const declare = (info: GraphProto['input'][number]) => narrowed.has(info.name) ? valueInfo(info.name, ELEMENT.float16, shapeOf(info)?.dims) : info
  graph.input = graph.input.map(declare)
  graph.output = graph.output.map(declare)
  graph.node = graph.node.filter(one => !gone.has(one)).map(one => readsOf(one).concat(one.output).some(name => names.has(name)) ? renamed(one, name => names.get(name) ?? name) : one)
  graph.valueInfo = graph.valueInfo.filter(({ name }) => !names.has(name))
}

function narrows(of: NodeProto): boolean {
  return of.opType === 'Cast' && integerOf(of, 'to') === ELEMENT.float16
}
