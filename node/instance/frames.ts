/**
 * What a daemon and its instance say to each other over one inherited pipe: `u32le length | u32le headerLength | header
 * (DAG-CBOR) | body (DAG-CBOR)`. A header length of 0 makes a frame of raw bytes: a stage's (llm/stage-frames.ts), where every
 * microsecond counts. The daemon treats the instance as hostile; the instance trusts the daemon.
 */
import * as dagCbor from '@ipld/dag-cbor'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { ComponentManifest } from '../../protocols/specs.ts'
import type { BlockStart } from '../../sdk/context.ts'

/** Packets with their files inline; larger ones travel by CID before they get here. */
export const FRAME_BYTES = 67_108_864
/** One report of what an instance measures; the daemon forgets a larger one. */
export const METRICS_BYTES = 262_144
/** Answers of one call that may be under way before the daemon has handed one to its caller. */
export const OUTPUT_WINDOW = 8

export type Hook = 'pre_processing' | 'post_processing'

/** Everything an instance needs to load its block. Body of `start`. */
export type InstanceConfig = BlockStart & {
  readonly runtime: ComponentManifest['runtime']
  /** Folder of the bundle's files. */
  readonly bundle: string
  readonly files: readonly string[]
  /** Execution providers to try, best first; cpu is always tried last. */
  readonly providers: readonly string[]
  readonly threads: number
  readonly hooks: readonly Hook[]
}

export type Order =
  | { readonly kind: 'start' }
  | { readonly kind: 'call'; readonly id: number; readonly method: 'infer' | 'management' | 'update' | 'health'; readonly action: string; readonly vdag: Json; readonly trace?: string; readonly streams?: boolean }
  | { readonly kind: 'credit'; readonly id: number }
  | { readonly kind: 'cancel'; readonly id: number }
  | { readonly kind: 'policy'; readonly id: number; readonly failure: string | null }
  | { readonly kind: 'ping' }
  | { readonly kind: 'stop' }

export type Report =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }
  | { readonly kind: 'output'; readonly id: number }
  | { readonly kind: 'done'; readonly id: number }
  | { readonly kind: 'error'; readonly id: number; readonly code: string; readonly message: string }
  | { readonly kind: 'policy'; readonly id: number; readonly hook: Hook }
  | { readonly kind: 'metrics' }
  | { readonly kind: 'event'; readonly sideCar: boolean; readonly name: string }
  | { readonly kind: 'pong' }

/** `header` is undefined in a frame of raw bytes. */
export type Frame = { readonly header: unknown; readonly body: Uint8Array }

const NOTHING = new Uint8Array(0)

/** One frame. Throws MESSAGE_TOO_LARGE. */
export function encodeFrame(header: Order | Report, body: unknown = undefined): Uint8Array {
  return frameOf(header, encodeBody(body))
}

export function encodeBody(body: unknown): Uint8Array {
  return body === undefined ? NOTHING : dagCbor.encode(body)
}

/** The same, of a body that is encoded already. */
export function frameOf(header: Order | Report, rest: Uint8Array): Uint8Array {
  const head = dagCbor.encode(header)
  const length = 4 + head.byteLength + rest.byteLength
  if (length > FRAME_BYTES) throw new MeshError('MESSAGE_TOO_LARGE', `a packet of ${rest.byteLength} bytes is more than the ${FRAME_BYTES} an instance exchanges; send large parts by CID`)
  const out = new Uint8Array(4 + length)
  const view = new DataView(out.buffer)
  view.setUint32(0, length, true)
  view.setUint32(4, head.byteLength, true)
  out.set(head, 8)
  out.set(rest, 8 + head.byteLength)
  return out
}

export function decodeBody(body: Uint8Array): unknown {
  return body.byteLength === 0 ? undefined : dagCbor.decode(body)
}

/** Cuts a byte stream into frames. Holds at most one frame's bytes. */
export class FrameReader {
  #chunks: Uint8Array[] = []
  #held = 0
  #wanted: number | undefined

  /** The frames that `chunk` completed. Throws MESSAGE_TOO_LARGE or MESSAGE_INVALID; the stream is then lost. */
  *push(chunk: Uint8Array): Generator<Frame, void, undefined> {
    this.#chunks.push(chunk)
    this.#held += chunk.byteLength
    for (;;) {
      if (this.#wanted === undefined) {
        if (this.#held < 4) return
        const head = this.#take(4)
        const length = new DataView(head.buffer, head.byteOffset, 4).getUint32(0, true)
        if (length > FRAME_BYTES) throw new MeshError('MESSAGE_TOO_LARGE', `a frame claims ${length} bytes; the limit is ${FRAME_BYTES}`)
        if (length < 5) throw new MeshError('MESSAGE_INVALID', `a frame claims ${length} bytes`)
        this.#wanted = length
      }
      if (this.#held < this.#wanted) return
      const frame = this.#take(this.#wanted)
      this.#wanted = undefined
      yield split(frame)
    }
  }

  #take(count: number): Uint8Array {
    this.#held -= count
    const first = this.#chunks[0]!
    if (first.byteLength >= count) {
      if (first.byteLength === count) this.#chunks.shift()
      else this.#chunks[0] = first.subarray(count)
      return first.subarray(0, count)
    }
    const out = new Uint8Array(count)
    let filled = 0
    let used = 0
    while (filled < count) {
      const chunk = this.#chunks[used]!
      const part = chunk.subarray(0, count - filled)
      out.set(part, filled)
      filled += part.byteLength
      if (part.byteLength === chunk.byteLength) used++
      else this.#chunks[used] = chunk.subarray(part.byteLength)
    }
    this.#chunks.splice(0, used)
    return out
  }
}

function split(frame: Uint8Array): Frame {
  const length = new DataView(frame.buffer, frame.byteOffset, 4).getUint32(0, true)
  if (length > 8_192 || 4 + length > frame.byteLength) throw new MeshError('MESSAGE_INVALID', `a frame of ${frame.byteLength} bytes claims a header of ${length}`)
  if (length === 0) return { header: undefined, body: frame.subarray(4) }
  try {
    return { header: dagCbor.decode(frame.subarray(4, 4 + length)), body: frame.subarray(4 + length) }
  } catch (cause) {
    throw new MeshError('MESSAGE_INVALID', 'a frame header is not DAG-CBOR', { cause })
  }
}
