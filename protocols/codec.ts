import * as dagCbor from '@ipld/dag-cbor'
import { sha256 } from '@noble/hashes/sha2.js'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'
import { z } from 'zod'
import { decodeAny, encodePlain } from './dag-cbor.ts'
import { MeshError } from './errors.ts'
import type { Cid, Millis } from './ids.ts'
import { refusalOf } from './refusal.ts'

/** Anything that turns unknown data into a checked value or throws (every zod schema is one). */
export interface Schema<T> {
  parse(value: unknown): T
}

export type ProtocolId = `/aios/${string}/${number}`

/** One request, one answer. `id` carries the only version number; a breaking change is a new id beside the old. */
export interface Protocol<Request, Response> {
  readonly id: ProtocolId
  readonly request: Schema<Request>
  readonly response: Schema<Response>
  readonly limits: {
    readonly requestBytes: number
    readonly responseBytes: number
    readonly perPeerPerSecond: number
    readonly deadlineMs: Millis
  }
}

/** Frames both ways over one stream, for data too large, too frequent or too long-lived for a request. */
export interface StreamProtocol<Frame> {
  readonly id: ProtocolId
  encode(frame: Frame): Uint8Array
  /** The pieces whose concatenation `encode` gives, so that a large body need not be copied to be sent. */
  readonly pieces?: (frame: Frame) => readonly Uint8Array[]
  decode(bytes: Uint8Array): Frame
  readonly limits: {
    readonly frameBytes: number
    /** Frames a sender may have unread at the receiver: the credit window. */
    readonly queuedFrames: number
    readonly idleMs: Millis
    /** New streams one peer may open each second. */
    readonly perPeerPerSecond: number
  }
}

/** A gossip topic. The adapter drops what is too large, too frequent or does not parse before anyone sees it. */
export interface Topic<Message> {
  readonly id: ProtocolId
  readonly message: Schema<Message>
  readonly limits: { readonly messageBytes: number; readonly perPeerPerSecond: number }
}

export function defineProtocol<Request, Response>(protocol: Protocol<Request, Response>): Protocol<Request, Response> {
  return protocol
}

export function defineStream<Frame>(protocol: StreamProtocol<Frame>): StreamProtocol<Frame> {
  return protocol
}

export function defineTopic<Message>(topic: Topic<Message>): Topic<Message> {
  return topic
}

/** Canonical DAG-CBOR: one value has one encoding, so it can be signed and named by hash. `undefined` fields are left out. */
export function encode(value: unknown): Uint8Array {
  return encodePlain(value) ?? dagCbor.encode(withoutUndefined(value))
}

/** Decodes and checks one message. Throws MESSAGE_TOO_LARGE or MESSAGE_INVALID naming the field. */
export function decode<T>(schema: Schema<T>, bytes: Uint8Array, limitBytes: number, what: string): T {
  if (bytes.byteLength > limitBytes) {
    throw new MeshError('MESSAGE_TOO_LARGE', `${what} is ${bytes.byteLength} bytes; the limit is ${limitBytes}`, { details: { bytes: bytes.byteLength, limit: limitBytes } })
  }
  let value: unknown
  try {
    value = decodeAny(bytes)
  } catch (cause) {
    throw new MeshError('MESSAGE_INVALID', `${what} is not DAG-CBOR: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  return check(schema, value, what)
}

/** Parses a value that came from outside. Throws MESSAGE_INVALID (or `code`) with the path of the first bad fields. */
export function check<T>(schema: Schema<T>, value: unknown, what: string, code: 'MESSAGE_INVALID' | 'SPEC_INVALID' | 'BAD_INPUT' = 'MESSAGE_INVALID'): T {
  try {
    return schema.parse(value)
  } catch (cause) {
    if (cause instanceof z.ZodError) {
      throw new MeshError(code, `${what}: ${refusalOf(cause, value)}`, { cause, details: { field: cause.issues[0]?.path.map(String).join('.') ?? '' } })
    }
    // A schema goes down what it checks by recursion.
    if (cause instanceof RangeError) throw new MeshError(code, `${what} is nested too deeply`, { cause })
    throw cause
  }
}

/** CIDv1 of a DAG-CBOR encoded record (codec 0x71, sha2-256). Synchronous, so that virtual time can order it. */
export function recordCid(bytes: Uint8Array): Cid {
  return CID.createV1(dagCbor.code, Digest.create(0x12, sha256(bytes))).toString()
}

/** sha2-256 of `bytes`. Synchronous. */
export function digest(bytes: Uint8Array): Uint8Array {
  return sha256(bytes)
}

const text = new TextEncoder()

export function utf8(value: string): Uint8Array {
  return text.encode(value)
}

const HEX: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

export function hex(bytes: Uint8Array): string {
  let out = ''
  for (let at = 0; at < bytes.byteLength; at += 1) out += HEX[bytes[at]!]!
  return out
}

function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined)
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array || CID.asCID(value) !== null) return value
  const out: Record<string, unknown> = {}
  for (const [key, inner] of Object.entries(value)) if (inner !== undefined) out[key] = withoutUndefined(inner)
  return out
}
