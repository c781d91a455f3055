import { z } from 'zod'
import { defineProtocol, encode, decode } from './codec.ts'
import { asMeshError, isErrorCode, MeshError } from './errors.ts'
import { bytes, peerId } from './ids.ts'

/**
 * How requests and streams share one pipe between two peers: `mux.md` is the specification.
 * `u32le payload length | u8 kind | u32le call | payload`, kinds below, the top bit of a kind saying that parts follow.
 */
export const MUX_ID = '/aios/mux/1'
export const HEAD_BYTES = 9
/** No frame carries more: what is larger travels in parts, so that nobody waits long behind it. */
export const PART_BYTES = 65_536
/** Room for what stands before the first part: the protocol id, the deadline, the whole length. */
export const PAYLOAD_BYTES = PART_BYTES + 256
export const MORE = 0x80
/** The largest message that may be put together from parts, whatever its protocol allows. */
export const MESSAGE_BYTES = 16_777_216

export const KIND = {
  request: 1,
  answer: 2,
  failure: 3,
  cancel: 4,
  open: 5,
  message: 6,
  credit: 7,
  end: 8,
  ping: 9,
  pong: 10,
  part: 11,
} as const
export type Kind = (typeof KIND)[keyof typeof KIND]
const KINDS: readonly number[] = Object.values(KIND)

const failureBody = z.object({ code: z.string().max(40), message: z.string().max(2_000), retryable: z.boolean(), details: z.record(z.string().max(60), z.union([z.string().max(400), z.number(), z.boolean(), z.null()])).optional() })
const FAILURE_BYTES = 16_384

/** How an error travels. A code the other side does not know becomes INTERNAL there; the message stays. */
export function encodeFailure(error: unknown): Uint8Array {
  const { code, message, retryable, details } = asMeshError(error)
  const small = Object.entries(details).filter(([, value]) => value !== undefined && (typeof value !== 'string' || value.length <= 400)).slice(0, 16)
  return encode({ code, message: message.slice(0, 2_000), retryable, details: small.length === 0 ? undefined : Object.fromEntries(small) })
}

export function decodeFailure(body: Uint8Array): MeshError {
  const { code, message, retryable, details } = decode(failureBody, body, FAILURE_BYTES, 'failure')
  return new MeshError(isErrorCode(code) ? code : 'INTERNAL', message, { retryable, details: details ?? {} })
}

/** Writes the head of a frame into `out` at `at`. */
export function writeHead(out: Uint8Array, at: number, payloadBytes: number, kind: number, call: number): void {
  out[at] = payloadBytes & 0xff
  out[at + 1] = (payloadBytes >>> 8) & 0xff
  out[at + 2] = (payloadBytes >>> 16) & 0xff
  out[at + 3] = payloadBytes >>> 24
  out[at + 4] = kind
  writeU32(out, at + 5, call)
}

export function writeU32(out: Uint8Array, at: number, value: number): void {
  out[at] = value & 0xff
  out[at + 1] = (value >>> 8) & 0xff
  out[at + 2] = (value >>> 16) & 0xff
  out[at + 3] = value >>> 24
}

/** Throws MESSAGE_INVALID when there are no four bytes. */
export function readU32(from: Uint8Array, at: number): number {
  if (at + 4 > from.byteLength) throw new MeshError('MESSAGE_INVALID', 'a mux frame is shorter than its fields')
  return (from[at]! | (from[at + 1]! << 8) | (from[at + 2]! << 16) | (from[at + 3]! << 24)) >>> 0
}

const IDS_BOUND = 256
const fields = new Map<string, Uint8Array>()

/** `u8 length | protocol id` as it opens a call. Not to be changed: it is kept. */
export function idField(id: string): Uint8Array {
  const known = fields.get(id)
  if (known !== undefined) return known
  const out = new Uint8Array(1 + id.length)
  out[0] = id.length
  for (let at = 0; at < id.length; at += 1) out[at + 1] = id.charCodeAt(at)
  if (fields.size < IDS_BOUND) fields.set(id, out)
  return out
}

/** Reads what `idField` wrote. Throws MESSAGE_INVALID. */
export function readId(from: Uint8Array, at: number): { readonly id: string; readonly next: number } {
  const length = from[at] ?? 0
  const next = at + 1 + length
  if (length === 0 || length > 120 || next > from.byteLength) throw new MeshError('MESSAGE_INVALID', 'a mux frame opens a call without a protocol id')
  // Ids that this side names itself are recognised by their bytes, without making a string of them.
  for (const [id, field] of fields) if (field.byteLength === length + 1 && same(from, at, field)) return { id, next }
  let id = ''
  for (let index = at + 1; index < next; index += 1) id += String.fromCharCode(from[index]!)
  return { id, next }
}

function same(from: Uint8Array, at: number, field: Uint8Array): boolean {
  for (let index = field.byteLength - 1; index > 0; index -= 1) if (from[at + index] !== field[index]) return false
  return true
}

export type Frame = { readonly kind: Kind; readonly more: boolean; readonly call: number; readonly payload: Uint8Array }

/**
 * Cuts a byte stream into frames, however it was chunked. Payloads are views of the chunk where they lie in one piece.
 * Throws MESSAGE_INVALID on a length or kind that no peer of ours sends: the pipe is then useless and must be dropped.
 */
export class FrameReader {
  readonly #hear: (frame: Frame) => void
  readonly #head = new Uint8Array(HEAD_BYTES)
  #headFill = 0
  #payload: Uint8Array | undefined
  #payloadFill = 0
  #kind = 0
  #call = 0

  constructor(hear: (frame: Frame) => void) {
    this.#hear = hear
  }

  push(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.byteLength) {
      if (this.#payload !== undefined) {
        at = this.#fill(chunk, at, this.#payload)
        continue
      }
      let head = chunk
      let headAt = at
      if (this.#headFill > 0 || chunk.byteLength - at < HEAD_BYTES) {
        const taken = Math.min(HEAD_BYTES - this.#headFill, chunk.byteLength - at)
        this.#head.set(chunk.subarray(at, at + taken), this.#headFill)
        this.#headFill += taken
        at += taken
        if (this.#headFill < HEAD_BYTES) return
        this.#headFill = 0
        head = this.#head
        headAt = 0
      } else {
        at += HEAD_BYTES
      }
      const length = readU32(head, headAt)
      this.#kind = head[headAt + 4]!
      this.#call = readU32(head, headAt + 5)
      if (length > PAYLOAD_BYTES) throw new MeshError('MESSAGE_INVALID', `a mux frame of ${length} bytes; the limit is ${PAYLOAD_BYTES}`)
      if (at + length <= chunk.byteLength) {
        this.#emit(chunk.subarray(at, at + length))
        at += length
      } else {
        this.#payload = new Uint8Array(length)
        this.#payloadFill = 0
      }
    }
  }

  #fill(chunk: Uint8Array, at: number, payload: Uint8Array): number {
    const taken = Math.min(payload.byteLength - this.#payloadFill, chunk.byteLength - at)
    payload.set(taken === chunk.byteLength ? chunk : chunk.subarray(at, at + taken), this.#payloadFill)
    this.#payloadFill += taken
    if (this.#payloadFill === payload.byteLength) {
      this.#payload = undefined
      this.#emit(payload)
    }
    return at + taken
  }

  #emit(payload: Uint8Array): void {
    const kind = this.#kind & ~MORE
    if (!isKind(kind)) throw new MeshError('MESSAGE_INVALID', `a mux frame of unknown kind ${kind}`)
    this.#hear({ kind, more: (this.#kind & MORE) !== 0, call: this.#call, payload })
  }
}

function isKind(value: number): value is Kind {
  return KINDS.includes(value)
}

/**
 * Offers a direct TLS socket beside the libp2p connection. Each side names the SHA-256 of its certificate over the
 * authenticated mux; whoever dials first shows the other's one-time `token`.
 */
export const laneOffer = defineProtocol({
  id: '/aios/lane/1',
  request: z.object({ fingerprint: bytes, port: z.int().min(0).max(65_535), token: bytes, dialMe: z.boolean() }),
  /** `path`: a Unix socket, for a peer of the same user on the same host; it shows `token` there and is shown the offer's. */
  response: z.object({ fingerprint: bytes, port: z.int().min(0).max(65_535), token: bytes, path: z.string().max(200).optional() }),
  limits: { requestBytes: 512, responseBytes: 512, perPeerPerSecond: 2, deadlineMs: 5_000 },
})

/** Which members are connected to you, and where do they listen? Hints only: a dial proves who answers. */
export const neighbours = defineProtocol({
  id: '/aios/neighbours/1',
  request: z.object({}),
  response: z.object({ peers: z.array(z.object({ peer: peerId, addresses: z.array(z.string().max(300)).max(8) })).max(64) }),
  limits: { requestBytes: 64, responseBytes: 262_144, perPeerPerSecond: 2, deadlineMs: 5_000 },
})
