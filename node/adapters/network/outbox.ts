import { HEAD_BYTES, KIND, type Kind, MORE, PART_BYTES, writeHead, writeU32 } from '../../../protocols/mux.ts'
import type { Lane } from './lane.ts'

/** Messages up to this size go ahead of bulk, whatever the lane has queued. */
const URGENT_BYTES = 16_384
/** Bulk is handed over while the lane has less than this queued: enough to keep it busy, little to wait behind. */
const WINDOW_BYTES = 524_288

/** Copied behind its head; what is larger the lane copies once, with all that leaves with it. */
const SMALL_BYTES = 512

type Bulk = { readonly kind: Kind; readonly pieces: readonly Uint8Array[]; readonly bytes: number; offset: number; readonly handed: () => void }

/**
 * Decides what leaves next on a lane: small messages at once, large ones in parts, a part of each call in turn, and no
 * faster than the lane takes them. Messages of one call never overtake each other.
 */
export class Outbox {
  readonly #lane: Lane
  /** In turn order: the first call is next. */
  readonly #bulk = new Map<number, Bulk[]>()
  #bulkBytes = 0

  constructor(lane: Lane) {
    this.#lane = lane
  }

  /** Everything that waits here or in the lane. */
  get queuedBytes(): number {
    return this.#bulkBytes + this.#lane.queuedBytes
  }

  /** Undefined when it was handed to the lane at once. The pieces make one message. */
  post(kind: Kind, call: number, pieces: readonly Uint8Array[]): Promise<void> | undefined {
    const bytes = lengthOf(pieces)
    const waiting = this.#bulk.get(call)
    if (waiting === undefined && (bytes <= URGENT_BYTES || (bytes <= PART_BYTES && this.#bulk.size === 0 && this.#lane.queuedBytes < WINDOW_BYTES))) {
      this.#frame(kind, call, pieces, bytes)
      return undefined
    }
    this.#bulkBytes += bytes
    return new Promise(resolve => {
      const item: Bulk = { kind, pieces, bytes, offset: 0, handed: resolve }
      if (waiting === undefined) this.#bulk.set(call, [item])
      else waiting.push(item)
      this.pump()
    })
  }

  /** Out of turn and order: for what tears a call down, or belongs to none. */
  urgent(kind: Kind, call: number, payload: Uint8Array): void {
    this.#frame(kind, call, [payload], payload.byteLength)
  }

  /** Drops what a call still has to send. */
  drop(call: number): void {
    const waiting = this.#bulk.get(call)
    if (waiting === undefined) return
    this.#bulk.delete(call)
    for (const item of waiting) {
      this.#bulkBytes -= item.bytes - item.offset
      item.handed()
    }
  }

  dropAll(): void {
    for (const call of this.#bulk.keys()) this.drop(call)
  }

  pump(): void {
    while (this.#bulk.size > 0 && this.#lane.queuedBytes < WINDOW_BYTES) {
      const [turn] = this.#bulk
      if (turn === undefined) return
      const [call, waiting] = turn
      this.#bulk.delete(call)
      const item = waiting[0]!
      this.#part(call, item)
      if (item.offset === item.bytes) {
        waiting.shift()
        item.handed()
      }
      if (waiting.length > 0) this.#bulk.set(call, waiting)
    }
  }

  #part(call: number, item: Bulk): void {
    const { kind, pieces, bytes } = item
    const first = item.offset === 0
    const taken = Math.min(PART_BYTES, bytes - item.offset)
    const more = item.offset + taken < bytes
    if (first && !more) {
      this.#frame(kind, call, pieces, bytes)
    } else {
      const prefix = first ? 4 : 0
      const head = Buffer.allocUnsafe(HEAD_BYTES + prefix)
      writeHead(head, 0, prefix + taken, (first ? kind : KIND.part) | (more ? MORE : 0), call)
      if (first) writeU32(head, HEAD_BYTES, bytes)
      this.#lane.write(head)
      this.#writeRange(pieces, item.offset, item.offset + taken)
    }
    item.offset += taken
    this.#bulkBytes -= taken
  }

  #writeRange(pieces: readonly Uint8Array[], start: number, end: number): void {
    let at = 0
    for (const piece of pieces) {
      const from = Math.max(0, start - at)
      const to = Math.min(piece.byteLength, end - at)
      if (from < to) this.#lane.write(piece.subarray(from, to))
      at += piece.byteLength
      if (at >= end) return
    }
  }

  #frame(kind: Kind, call: number, pieces: readonly Uint8Array[], bytes: number): void {
    const small = bytes <= SMALL_BYTES
    const head = Buffer.allocUnsafe(HEAD_BYTES + (small ? bytes : 0))
    writeHead(head, 0, bytes, kind, call)
    let at = HEAD_BYTES
    if (small) {
      for (const piece of pieces) {
        head.set(piece, at)
        at += piece.byteLength
      }
    }
    this.#lane.write(head)
    if (!small) for (const piece of pieces) this.#lane.write(piece)
  }
}

export function lengthOf(pieces: readonly Uint8Array[]): number {
  let bytes = 0
  for (const piece of pieces) bytes += piece.byteLength
  return bytes
}
