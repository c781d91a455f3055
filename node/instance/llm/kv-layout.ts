import type { KvMemory } from './kv-memory.ts'

/** How the keys and values of one position lie in a graph's tensors, and in the bytes that travel between instances. */

/** One cache tensor: of each head a vector of `dim` elements a position. A cache that the graph takes token by token has one head here. */
export type KvTensor = { readonly dtype: 'float32' | 'float16'; readonly heads: number; readonly dim: number }

/** ONNX Runtime takes halves as bits. */
export type KvArray = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>

/** A cache tensor's memory, as elements for the runtime and as bytes for copying. */
export type KvPlane = { readonly data: KvArray; readonly bytes: Uint8Array<ArrayBuffer> }

export class KvLayout {
  readonly tensors: readonly KvTensor[]
  /** Bytes of one head's vector, for each tensor. */
  readonly vector: readonly number[]
  /** Bytes of one position in all tensors: what a row that travels holds, tensor by tensor, head by head. */
  readonly kvBytes: number

  constructor(tensors: readonly KvTensor[]) {
    this.tensors = tensors
    this.vector = tensors.map(({ dtype, dim }) => dim * (dtype === 'float32' ? 4 : 2))
    this.kvBytes = tensors.reduce((sum, { heads }, index) => sum + heads * this.vector[index]!, 0)
  }

  /** Planes for `slots` sessions of `capacity` positions: zeroed, or out of `memory` with anything in them. Throws RangeError when there is no memory for them. */
  planes(slots: number, capacity: number, memory?: KvMemory): readonly KvPlane[] {
    return this.tensors.map(({ dtype, heads, dim }) => {
      const length = slots * heads * capacity * dim
      const bytes = length * (dtype === 'float32' ? 4 : 2)
      const buffer = memory?.take(bytes) ?? new ArrayBuffer(bytes)
      return { data: dtype === 'float32' ? new Float32Array(buffer, 0, length) : new Uint16Array(buffer, 0, length), bytes: new Uint8Array(buffer, 0, bytes) }
    })
  }

  /**
   * Copies `count` positions between two sets of planes; a block is one session's place in a plane, `heads × capacity`
   * vectors. Bits are kept.
   */
  copy(from: readonly Uint8Array[], fromBlock: number, fromCapacity: number, fromPosition: number, to: readonly Uint8Array[], toBlock: number, toCapacity: number, toPosition: number, count: number): void {
    for (const index of this.tensors.keys()) this.copyPlane(index, from[index]!, fromBlock, fromCapacity, fromPosition, to[index]!, toBlock, toCapacity, toPosition, count)
  }

  /** The same for one tensor. */
  copyPlane(index: number, source: Uint8Array, fromBlock: number, fromCapacity: number, fromPosition: number, target: Uint8Array, toBlock: number, toCapacity: number, toPosition: number, count: number): void {
    const { heads } = this.tensors[index]!
    const vector = this.vector[index]!
    // With nothing between the heads it is one piece.
    if (fromCapacity === count && toCapacity === count) {
      const length = heads * count * vector
      target.set(source.subarray(fromBlock * length, (fromBlock + 1) * length), toBlock * length)
      return
    }
    for (let head = 0; head < heads; head++) {
      const at = ((fromBlock * heads + head) * fromCapacity + fromPosition) * vector
      target.set(source.subarray(at, at + count * vector), ((toBlock * heads + head) * toCapacity + toPosition) * vector)
    }
  }

  /** Positions as they travel: `count × kvBytes`. */
  pack(from: readonly Uint8Array[], block: number, capacity: number, position: number, count: number): Uint8Array {
    const out = new Uint8Array(count * this.kvBytes)
    this.#walk(block, capacity, position, count, (index, at, vector, packed) => out.set(from[index]!.subarray(at, at + vector), packed))
    return out
  }

  /** The inverse of `pack`. */
  unpack(rows: Uint8Array, to: readonly Uint8Array[], block: number, capacity: number, position: number): void {
    this.#walk(block, capacity, position, rows.byteLength / this.kvBytes, (index, at, vector, packed) => to[index]!.set(rows.subarray(packed, packed + vector), at))
  }

  #walk(block: number, capacity: number, position: number, count: number, move: (tensor: number, at: number, vector: number, packed: number) => void): void {
    let start = 0
    for (const [index, { heads }] of this.tensors.entries()) {
      const vector = this.vector[index]!
      for (let head = 0; head < heads; head++) {
        const first = ((block * heads + head) * capacity + position) * vector
        for (let row = 0; row < count; row++) move(index, first + row * vector, vector, row * this.kvBytes + start)
        start += vector
      }
    }
  }
}
