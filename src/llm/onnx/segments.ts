import { MeshError } from '../../../protocols/errors.ts'
import type { CacheChain } from './caches.ts'
import type { WiredGraph } from './wired-graph.ts'
import { FlowNetwork } from './min-cut.ts'
import { describe } from './node.ts'
import { inputBehind, tokenLookups, type InputRole } from './roles.ts'
import type { Value } from './widths.ts'

/** Nodes that every stage computes for itself: masks, rotary tables, shapes. */
export const PREAMBLE = -1

/**
 * Which segment computes each node: 0 is the embedding, 1 to L are the layers, L + 1 is the head, PREAMBLE is what every
 * stage repeats. `cuts[s]` names what crosses from segments up to s to those after it.
 */
export type Segments = { readonly of: readonly number[]; readonly cuts: readonly (readonly string[])[] }

/** Cuts the graph at its narrowest places between one layer's caches and the next's. Throws SPEC_INVALID naming the node that no cut gets past. */
export function segment(graph: WiredGraph, chain: CacheChain, roles: ReadonlyMap<string, InputRole>, values: ReadonlyMap<string, Value>, logits: string): Segments {
  const last = chain.layers.length
  const embedding = values.get(graph.nodes[tokenLookups(graph, roles)[0] ?? -1]?.output[0] ?? '')?.width ?? 0
  const preamble = findPreamble({ graph, chain, roles, values, embedding })
  const of = graph.nodes.map(() => last + 1)
  let before: ReadonlySet<number> = new Set()
  let kinds: ReadonlySet<string> | undefined
  for (let cut = 0; cut <= last; cut++) {
    const from = cut === 0 ? tokenLookups(graph, roles) : chain.layers.slice(0, cut).flatMap(layer => layer.caches.map(({ node }) => node))
    const sources = new Set([...before, ...ancestors(graph, from, preamble)])
    const sinks = new Set([...graph.nodes.keys()].filter(at => !preamble[at] && (chain.depth[at]! >= cut || graph.nodes[at]!.output.includes(logits))))
    const cutting = { graph, preamble, sources, sinks, values }
    // The head begins where a layer would: the last cut goes through a value of the kind the others went through.
    const kind = cut === last ? kinds : undefined
    const side = (kind === undefined ? undefined : narrowestCut(cutting, (at, value) => kind.has(graph.nodes[at]!.opType) && travels(value, embedding))) ?? narrowestCut(cutting, (_, value) => travels(value, embedding))
    if (side === undefined) throw stuck(cutting, cut, embedding)
    for (const at of side) if (!before.has(at)) of[at] = cut
    before = side
    if (cut > 0) kinds = new Set([...side].filter(at => graph.nodes[at]!.output.some(name => leaves(cutting, name, side))).map(at => graph.nodes[at]!.opType))
  }
  for (const at of graph.nodes.keys()) if (preamble[at]) of[at] = PREAMBLE
  return { of, cuts: Array.from({ length: last + 1 }, (_, cut) => crossing(graph, of, cut)) }
}

/** Only what has so many elements for each token, [B, S, width], can be sent token by token. What is of unknown rank must be as wide as the embedding. */
function travels(value: Value | undefined, embedding: number): boolean {
  return value?.rank === 3 || (value?.rank === undefined && value?.width === embedding)
}

/**
 * What depends only on inputs other than the tokens, on constants, and on shapes that every stage has something of the same
 * shape to ask for: those of token ids, of the caches before and after, and of whatever is as wide as the embedding.
 */
function findPreamble({ graph, chain, roles, values, embedding }: { readonly graph: WiredGraph; readonly chain: CacheChain; readonly roles: ReadonlyMap<string, InputRole>; readonly values: ReadonlyMap<string, Value>; readonly embedding: number }): readonly boolean[] {
  const caches = new Set(chain.layers.flatMap(layer => layer.caches.flatMap(({ past, present }) => [past, present])))
  const isIds = (name: string): boolean => roles.get(inputBehind(graph, name) ?? '') === 'ids' && (values.get(name)?.rank ?? 2) === 2
  const isState = (name: string): boolean => graph.producer.has(name) && values.get(name)?.rank === 3 && values.get(name)?.width === embedding
  const preamble: boolean[] = []
  for (const [at, { opType }] of graph.nodes.entries()) {
    preamble.push((graph.reads[at] ?? []).every(name => {
      const by = graph.producer.get(name)
      if (opType === 'Shape' && (caches.has(name) || isIds(name) || isState(name))) return true
      return by === undefined ? opType === 'Shape' || (!caches.has(name) && roles.get(name) !== 'ids') : preamble[by]
    }))
  }
  return preamble
}

function ancestors(graph: WiredGraph, from: readonly number[], preamble: readonly boolean[]): ReadonlySet<number> {
  const found = new Set(from)
  for (const at of found) {
    for (const name of graph.reads[at] ?? []) {
      const by = graph.producer.get(name)
      if (by !== undefined && !preamble[by]) found.add(by)
    }
  }
  return found
}

type Cutting = {
  readonly graph: WiredGraph
  readonly preamble: readonly boolean[]
  readonly sources: ReadonlySet<number>
  readonly sinks: ReadonlySet<number>
  readonly values: ReadonlyMap<string, Value>
}

/** The nodes before the narrowest cut, the latest of equals; a value costs its width once, however many read it. */
function narrowestCut({ graph, preamble, sources, sinks, values }: Cutting, cuttable: (node: number, value: Value | undefined) => boolean): ReadonlySet<number> | undefined {
  const network = new FlowNetwork()
  const vertices = new Map<number, number>()
  const vertexOf = (at: number): number => {
    if (sources.has(at)) return 0
    if (sinks.has(at)) return 1
    const vertex = vertices.get(at) ?? network.vertex()
    vertices.set(at, vertex)
    return vertex
  }
  for (const at of sources) if (sinks.has(at)) return undefined
  for (const [at, { output }] of graph.nodes.entries()) {
    if (preamble[at]) continue
    const from = vertexOf(at)
    for (const name of output) {
      const readers = (graph.consumers.get(name) ?? []).filter(reader => !preamble[reader])
      if (readers.every(reader => vertexOf(reader) === from)) continue
      const value = network.vertex()
      network.edge(from, value, cuttable(at, values.get(name)) ? values.get(name)?.width ?? 1 : Infinity)
      for (const reader of readers) {
        network.edge(value, vertexOf(reader), Infinity)
        // Nothing flows back over a cut.
        network.edge(vertexOf(reader), from, Infinity)
      }
    }
  }
  const after = network.sinkSide()
  return after === undefined ? undefined : new Set([...graph.nodes.keys()].filter(at => !preamble[at] && !after.has(vertexOf(at))))
}

function leaves({ graph, preamble }: Cutting, name: string, side: ReadonlySet<number>): boolean {
  return (graph.consumers.get(name) ?? []).some(reader => !preamble[reader] && !side.has(reader))
}

function crossing(graph: WiredGraph, of: readonly number[], cut: number): readonly string[] {
  return graph.nodes.flatMap(({ output }, at) => of[at]! < 0 || of[at]! > cut ? [] : output.filter(name => (graph.consumers.get(name) ?? []).some(reader => of[reader]! > cut)))
}

function stuck(cutting: Cutting, cut: number, embedding: number): MeshError {
  const { graph, sources, sinks, values } = cutting
  const where = cut === 0 ? 'after its embedding' : `after layer ${cut - 1}`
  const both = [...sources].find(at => sinks.has(at))
  if (both !== undefined) return new MeshError('SPEC_INVALID', `the model cannot be split ${where}: ${describe(graph.nodes[both]!)} belongs to both sides`)
  const side = narrowestCut(cutting, () => true) ?? sources
  const fixed = [...side].find(at => graph.nodes[at]!.output.some(name => leaves(cutting, name, side) && !travels(values.get(name), embedding)))
  return new MeshError('SPEC_INVALID', `the model cannot be split ${where}: what ${describe(graph.nodes[fixed ?? [...side].at(-1) ?? 0]!)} gives is needed on both sides and is not so much for each token`)
}
