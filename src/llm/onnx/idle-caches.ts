import { attributeOf, renamed, readsOf, shapeOf } from './node.ts'
import type { GraphProto, NodeProto } from './onnx-pb.js'

const CACHE_RANK = 3

/**
 * Takes out what stands between a cache that comes in and what lengthens it, and does nothing to it: recent releases of transformers
 * join a cache with an empty one first, of which exporters leave a Concat of one value, or of one and of nothing.
 */
export function freeCaches(graph: GraphProto): void {
  const outputs = new Set(graph.output.map(({ name }) => name))
  const empty = new Set([
    ...graph.initializer.filter(({ dims }) => dims.includes(0n)).map(({ name }) => name),
    ...graph.node.filter(one => one.opType === 'Constant' && attributeOf(one, 'value')?.t?.dims.includes(0n) === true).flatMap(({ output }) => output),
  ])
  const caches = new Map(graph.input.filter(input => (shapeOf(input)?.dims?.length ?? 0) >= CACHE_RANK).map(({ name }) => [name, name]))
  const idle = new Set<NodeProto>()
  for (const one of graph.node) {
    const [output = ''] = one.output
    const [input = '', second] = one.input.filter(name => one.opType !== 'Concat' || !empty.has(name))
    const cache = caches.get(input)
    if (cache === undefined || second !== undefined || one.domain !== '' || outputs.has(output) || (one.opType !== 'Concat' && one.opType !== 'Identity')) continue
    idle.add(one)
    caches.set(output, cache)
  }
  if (idle.size === 0) return
  graph.node = graph.node.filter(one => !idle.has(one)).map(one => readsOf(one).some(name => caches.get(name) !== undefined && caches.get(name) !== name) ? renamed(one, name => caches.get(name) ?? name) : one)
  graph.valueInfo = graph.valueInfo.filter(({ name }) => !caches.has(name))
}
