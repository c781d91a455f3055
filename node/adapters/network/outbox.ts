import { HEAD_BYTES, KIND, type Kind, MORE, PART_BYTES, writeHead, writeU32 } from '../../../protocols/mux.ts'
import type { Lane } from './lane.ts'

/** Messages up to this size go ahead of bulk, whatever the lane has queued. */
const URGENT_BYTES = 16_384
/** Bulk is handed over while the lane has less than this queued: enough to keep it busy, little to wait behind. */
const WINDOW_BYTES = 524_288

/** Copied behind its head; what is larger the lane copies once, with all that leaves with it. */
const SMALL_BYTES = 512

type Bulk = { readonly kind: Kind; readonly payload: Uint8Array; offset: number; readonly handed: () => void }

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

  /** Undefined when it was handed to the lane at once. */
  post(kind: Kind, call: number, payload: Uint8Array): Promise<void> | undefined {
    const waiting = this.#bulk.get(call)
    if (waiting === undefined && (payload.byteLength <= URGENT_BYTES || (payload.byteLength <= PART_BYTES && this.#bulk.size === 0 && this.#lane.queuedBytes < WINDOW_BYTES))) {
      this.#frame(kind, call, payload)
      return undefined
    }
    this.#bulkBytes += payload.byteLength
    return new Promise(resolve => {
      const item: Bulk = { kind, payload, offset: 0, handed: resolve }
      if (waiting === undefined) this.#bulk.set(call, [item])
      else waiting.push(item)
      this.pump()
    })
  }

  /** Out of turn and order: for what tears a call down, or belongs to none. */
  urgent(kind: Kind, call: number, payload: Uint8Array): void {
    this.#frame(kind, call, payload)
  }

  /** Drops what a call still has to send. */
  drop(call: number): void {
    const waiting = this.#bulk.get(call)
    if (waiting === undefined) return
    this.#bulk.delete(call)
    for (const item of waiting) {
      this.#bulkBytes -= item.payload.byteLength - item.offset
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
      if (item.offset === item.payload.byteLength) {
        waiting.shift()
        item.handed()
      }
      if (waiting.length > 0) this.#bulk.set(call, waiting)
    }
  }

  #part(call: number, item: Bulk): void {
    const { kind, payload } = item
    const first = item.offset === 0
    const taken = Math.min(PART_BYTES, payload.byteLength - item.offset)
    const more = item.offset + taken < payload.byteLength
    if (first && !more) {
      this.#frame(kind, call, payload)
    } else {
      const prefix = first ? 4 : 0
      const head = Buffer.allocUnsafe(HEAD_BYTES + prefix)
      writeHead(head, 0, prefix + taken, (first ? kind : KIND.part) | (more ? MORE : 0), call)
      if (first) writeU32(head, HEAD_BYTES, payload.byteLength)
      this.#lane.write(head)
      this.#lane.write(payload.subarray(item.offset, item.offset + taken))
    }
    item.offset += taken
    this.#bulkBytes -= taken
  }

  #frame(kind: Kind, call: number, payload: Uint8Array): void {
    if (payload.byteLength <= SMALL_BYTES) {
      const out = Buffer.allocUnsafe(HEAD_BYTES + payload.byteLength)
      writeHead(out, 0, payload.byteLength, kind, call)
      out.set(payload, HEAD_BYTES)
      this.#lane.write(out)
      return
    }
    const head = Buffer.allocUnsafe(HEAD_BYTES)
    writeHead(head, 0, payload.byteLength, kind, call)
    this.#lane.write(head)
    this.#lane.write(payload)
  }
}
