import { MeshError } from '../../../protocols/errors.ts'
import type { WiredGraph } from './wired-graph.ts'
import { describe, shapeOf } from './node.ts'

/** One cache tensor of a layer: the input it comes in by, the output it leaves by, and the node that lengthens it. */
export type CachePair = { readonly past: string; readonly present: string; readonly node: number }
/** The caches of one decoder layer, in graph order. */
export type CacheLayer = { readonly caches: readonly CachePair[] }

/** The layers, and for each node the last layer whose cached values reach it, -1 for none. */
export type CacheChain = { readonly layers: readonly CacheLayer[]; readonly depth: readonly number[] }

const LEAST_RANK = 3
const MOST_CACHES = 4

/** Whether the node looks at the shape of what it reads, never at its values. */
export function readsShapeOnly(opType: string): boolean {
  return opType === 'Shape' || opType === 'Size'
}

/**
 * The decoder's layers, from the graph alone: a cache is an input whose reader itself writes an output of the same rank and
 * type; caches none of which depends on another's values make one layer; the longer the chain of caches before it, the later
 * the layer. Throws SPEC_INVALID, naming the node, where the caches do not form a chain of layers.
 */
export function findCaches(graph: WiredGraph): CacheChain {
  const pairs = new Map<string, CachePair>()
  for (const [name, info] of graph.inputs) {
    const shape = shapeOf(info)
    if ((shape?.dims?.length ?? 0) < LEAST_RANK) continue
    const readers = (graph.consumers.get(name) ?? []).filter(at => !readsShapeOnly(graph.nodes[at]!.opType))
    const pair = readers.map(at => pairAt(graph, name, at)).find(found => found !== undefined)
    if (pair !== undefined) pairs.set(name, pair)
    else if (readers[0] !== undefined && shape?.dims?.length !== LEAST_RANK) throw new MeshError('SPEC_INVALID', `${describe(graph.nodes[readers[0]]!)} reads the cache ${name}, but does not write it on: the model cannot be split there (keys and values of a layer have to come in and go out as one tensor each: \`past.N.key\`, \`past.N.value\`, \`present.N.key\` …)`)
  }
  if (pairs.size === 0) throw new MeshError('SPEC_INVALID', 'the model has no key-value cache inputs and outputs; export it with past (a text-generation-with-past task)')
  const layers: CachePair[][] = []
  const depth: number[] = []
  const taken = new Map<string, number>()
  for (const [at, { opType }] of graph.nodes.entries()) {
    const names = graph.reads[at] ?? []
    let deepest = Math.max(-1, ...names.map(name => depth[graph.producer.get(name) ?? -1] ?? -1))
    const own = readsShapeOnly(opType) ? [] : names.filter(name => pairs.has(name))
    if (own.length > 0) deepest = Math.max(...own.map(name => taken.get(name) ?? deepest + 1))
    for (const name of own) {
      if (taken.has(name)) continue
      taken.set(name, deepest)
      const layer = layers[deepest] ??= []
      layer.push(pairs.get(name)!)
    }
    depth.push(deepest)
  }
  const crowded = layers.find(layer => layer.length > MOST_CACHES)
  if (crowded !== undefined) throw new MeshError('SPEC_INVALID', `${describe(graph.nodes[crowded[0]!.node]!)} and what depends on no other layer handle ${crowded.length} caches at once: the model cannot be split there`)
  return { layers: layers.map(caches => ({ caches })), depth }
}

function pairAt(graph: WiredGraph, past: string, at: number): CachePair | undefined {
  const node = graph.nodes[at]!
  const shape = shapeOf(graph.inputs.get(past))
  const matching = node.output.map(name => givenOut(graph, name)).filter(name => {
    const out = shapeOf(graph.outputs.get(name))
    return out !== undefined && out.dims?.length === shape?.dims?.length && out.dataType === shape?.dataType
  })
  if (matching.length === 0) return undefined
  // A node with several caches (an attention operator) takes and gives them in the same order.
  const pasts = node.input.filter(name => graph.inputs.has(name) && (shapeOf(graph.inputs.get(name))?.dims?.length ?? 0) >= LEAST_RANK)
  const present = matching[pasts.indexOf(past)]
  if (present === undefined) return undefined
  return { past, present, node: at }
}

/** The output that a value leaves by, where only a conversion to the type it has, as exporters leave them, lies between. */
function givenOut(graph: WiredGraph, name: string): string {
  if (name === '' || graph.outputs.has(name)) return name
  const conversions = (graph.consumers.get(name) ?? []).map(at => graph.nodes[at]!).filter(({ opType }) => opType === 'Cast' || opType === 'Identity')
  return conversions.map(({ output }) => output[0] ?? '').find(output => graph.outputs.has(output)) ?? name
}
