import { MeshError } from '../../../protocols/errors.ts'
import type { CacheShape } from './analyse.ts'
import type { CachePair } from './caches.ts'
import { describe, integers, intAttribute, intsAttribute, node, stringAttribute } from './node.ts'
import type { NodeProto, TensorProto } from './onnx-pb.js'

type Emitted = { readonly nodes: NodeProto[]; readonly constants: Map<string, TensorProto> }
export type CacheNames = { readonly past: string; readonly rows: string; readonly layout: 'heads' | 'tokens' }

const HERE = '/aios/cache'

/**
 * Surgery that turns a cache from "whole past in, whole present out" to "past in, new rows out", without changing a bit of
 * what the model computes: ONNX Runtime's JavaScript API copies every output, so a whole cache out costs its size per token.
 */
export class CacheRows {
  readonly #emitted: Emitted
  readonly #places = new Map<string, string>()

  constructor(emitted: Emitted) {
    this.#emitted = emitted
  }

  /** A node that must come before any reader of the past: a token-major one back in the layout that the model expects, under the model's name for it. */
  takePast(cache: CachePair, shape: CacheShape, names: CacheNames): void {
    if (names.layout === 'heads') return
    const front = [shape.axis, ...others(shape)]
    const back = Array.from({ length: shape.rank }, (_, dim) => front.indexOf(dim))
    this.#emitted.nodes.push(node('Transpose', [names.past], [cache.past], [intsAttribute('perm', back)]))
  }

  /** Nodes that must come after `reader`, the node that lengthens the cache. */
  giveRows(cache: CachePair, reader: NodeProto, shape: CacheShape, names: CacheNames): void {
    const straight = names.layout === 'heads' ? names.rows : `${names.rows}/straight`
    if (reader.opType === 'GroupQueryAttention') this.#gather(cache, reader, shape, straight)
    else if (reader.opType === 'Concat' && reader.input.length === 2) this.#emitted.nodes.push(node('Identity', [reader.input.find(name => name !== cache.past) ?? ''], [straight]))
    else this.#tail(cache, reader, shape, straight)
    if (names.layout === 'tokens') this.#emitted.nodes.push(turned(straight, names.rows, [shape.axis, ...others(shape)]))
  }

  /** GroupQueryAttention puts row b's new keys at its own length, max(0, seqlens_k[b] + 1 - S), in a present as long as the past buffer. */
  #gather(cache: CachePair, reader: NodeProto, shape: CacheShape, to: string): void {
    const lengths = reader.input[5] ?? ''
    const key = `${lengths}:${shape.heads}`
    let places = this.#places.get(key)
    if (places === undefined) {
      places = this.#newPlaces(lengths, reader.input[0] ?? '', shape.heads, `${HERE}/places-${this.#places.size}`)
      this.#places.set(key, places)
    }
    this.#emitted.nodes.push(node('GatherND', [cache.present, places], [to], [intAttribute('batch_dims', 2)]))
  }

  /** [B, heads, S, 1]: where each new token's row lies. */
  #newPlaces(lengths: string, query: string, heads: number, at: string): string {
    const emit = (opType: string, input: readonly string[], name: string, attribute: NodeProto['attribute'] = []): string => {
      this.#emitted.nodes.push(node(opType, input, [`${at}/${name}`], attribute))
      return `${at}/${name}`
    }
    const count = emit('Gather', [emit('Shape', [query], 'query'), this.#constant('1', 1)], 'count')
    const last = emit('Reshape', [emit('Cast', [lengths], 'long', [intAttribute('to', 7)]), this.#constant('column', [-1, 1, 1, 1])], 'last')
    const start = emit('Max', [emit('Sub', [last, emit('Sub', [count, this.#constant('1', 1)], 'before')], 'start'), this.#constant('0', 0)], 'least')
    const range = emit('Reshape', [emit('Range', [this.#constant('0', 0), count, this.#constant('1', 1)], 'range'), this.#constant('row', [1, 1, -1, 1])], 'steps')
    return emit('Expand', [emit('Add', [start, range], 'place'), this.#constant(`heads-${heads}`, [1, heads, 1, 1])], 'places')
  }

  /** Any other operator: what its present has beyond its past. */
  #tail(cache: CachePair, reader: NodeProto, shape: CacheShape, to: string): void {
    if (reader.opType === 'Loop' || reader.opType === 'Scan' || reader.opType === 'If') throw new MeshError('SPEC_INVALID', `${describe(reader)} lengthens the cache ${cache.past} inside its body: the model cannot be split there`)
    const nodes = this.#emitted.nodes
    const length = `${to}/length`
    nodes.push(node('Shape', [cache.past], [`${to}/shape`]), node('Gather', [`${to}/shape`, this.#constant(`axis-${shape.axis}`, [shape.axis])], [length]))
    nodes.push(node('Slice', [cache.present, length, this.#constant('end', [Number.MAX_SAFE_INTEGER]), this.#constant(`axis-${shape.axis}`, [shape.axis])], [to]))
  }

  #constant(name: string, values: readonly number[] | number): string {
    const full = `${HERE}/${name}`
    this.#emitted.constants.set(full, integers(full, values))
    return full
  }
}

/**
 * A Transpose that ONNX Runtime's optimiser does not know for one: it would push the graph's own through the layer to cancel this one
 * out, and what lay between, a norm of the keys say, would not be recognised and fused as it is in the whole model.
 */
function turned(from: string, to: string, order: readonly number[]): NodeProto {
  const letters = (axes: readonly number[]): string => axes.map(axis => String.fromCharCode(97 + axis)).join('')
  return node('Einsum', [from], [to], [stringAttribute('equation', `${letters([...order.keys()])}->${letters(order)}`)])
}

/** The other axes of a cache, in order. */
function others({ axis, rank }: CacheShape): readonly number[] {
  return Array.from({ length: rank }, (_, dim) => dim).filter(dim => dim !== axis)
}

/**
 * The nodes that give rows last, the first layer's at the very end: ONNX Runtime takes a graph's ends from the back, each with
 * all it needs. So every layer's present is dropped before the next one is made, instead of all of them living to the end of
 * the run (16 rows of 1,040 positions: half the memory above the caches themselves, a fifth of the time less). It then puts
 * one present where another was, so their shapes must really be one: those of caches by heads are.
 */
export function rowsLast(nodes: readonly NodeProto[], rows: readonly string[]): readonly NodeProto[] {
  const place = new Map(rows.map((name, at) => [name, at]))
  const placeOf = (one: NodeProto): number | undefined => place.get(one.output[0] ?? '')
  const last = nodes.filter(one => placeOf(one) !== undefined).toSorted((a, b) => placeOf(b)! - placeOf(a)!)
  return [...nodes.filter(one => placeOf(one) === undefined), ...last]
}
