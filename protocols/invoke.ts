import { z } from 'zod'
import { check, defineStream } from './codec.ts'
import { MeshError } from './errors.ts'
import { decodeFlat, encodeFlat } from './flat-cbor.ts'
import { blockId, bytes, cid, epoch, instanceId, json, millis } from './ids.ts'
import { traceparent } from './trace.ts'

/** A file that travels with a packet: inline when small, by CID when large. */
export const packetFile = z.object({
  metadata: json,
  bytes: bytes.optional(),
  cid: cid.optional(),
})

/** AIOS's packet: what goes into an instance and what comes out. `data` is JSON (AIOS's `data` string, parsed). */
export const packet = z.object({
  sessionId: z.string().max(300),
  seqNo: z.int().nonnegative(),
  ts: z.number(),
  data: json,
  files: z.array(packetFile).max(64).default([]),
})
export type Packet = z.infer<typeof packet>
export type PacketFile = z.infer<typeof packetFile>

/** First frame of a call. */
const call = z.object({
  kind: z.literal('call'),
  block: blockId,
  instance: instanceId,
  /** The caller's idea of the contract's epoch: a host refuses one it has outlived (EPOCH_FENCED). */
  epoch,
  method: z.enum(['infer', 'management', 'update', 'health', 'logs']),
  deadlineMs: millis,
  /** Idempotency key: a host that has finished this key answers again without running again. */
  key: z.string().max(200).optional(),
  trace: traceparent.optional(),
  /** The caller gives answers on as they come: AIOS's blocks are told so (`is_ws`). */
  streams: z.boolean().optional(),
  /** vDAG context for node policies and for `vdag::` sessions. */
  vdag: z.object({ uri: z.string().max(300), label: z.string().max(400), run: z.string().max(80) }).optional(),
  /** The body is the content of this file instead of the frame's. */
  bodyCid: cid.optional(),
})
/** `last` with an empty body and no `bodyCid`: nothing more, and no packet in this frame. */
const output = z.object({ kind: z.literal('output'), last: z.boolean(), bodyCid: cid.optional() })
const input = z.object({ kind: z.literal('input'), last: z.boolean() })
const failure = z.object({ kind: z.literal('error'), code: z.string().max(40), message: z.string().max(2_000), retryable: z.boolean(), retryAfterMs: millis.optional() })

export const invokeHeader = z.discriminatedUnion('kind', [call, input, output, failure])
export type InvokeHeader = z.infer<typeof invokeHeader>

/**
 * One frame of a call: `u32le headerLength | header (DAG-CBOR) | body`. The body is the DAG-CBOR of a packet for
 * `infer`, of any JSON value for the other methods, empty for errors, or absent when `bodyCid` names it.
 */
export type InvokeFrame = { readonly header: InvokeHeader; readonly body: Uint8Array }

const EMPTY = new Uint8Array(0)

function prefixed(header: InvokeHeader): Uint8Array {
  const head = encodeFlat(header)
  const out = new Uint8Array(4 + head.byteLength)
  new DataView(out.buffer).setUint32(0, head.byteLength, true)
  out.set(head, 4)
  return out
}

export const invoke = defineStream<InvokeFrame>({
  id: '/aios/invoke/1',
  encode({ header, body }) {
    const head = prefixed(header)
    const out = new Uint8Array(head.byteLength + body.byteLength)
    out.set(head, 0)
    out.set(body, head.byteLength)
    return out
  },
  pieces: ({ header, body }) => [prefixed(header), body],
  decode(bytes) {
    if (bytes.byteLength < 4) throw new MeshError('MESSAGE_INVALID', `invoke frame of ${bytes.byteLength} bytes has no header length`)
    const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true)
    if (length > 4_096 || 4 + length > bytes.byteLength) throw new MeshError('MESSAGE_INVALID', `invoke frame says its header has ${length} bytes; it has ${bytes.byteLength - 4}`)
    let value: unknown
    try {
      value = decodeFlat(bytes.subarray(4, 4 + length))
    } catch (cause) {
      throw new MeshError('MESSAGE_INVALID', 'invoke header is not DAG-CBOR', { cause })
    }
    const body = 4 + length === bytes.byteLength ? EMPTY : bytes.subarray(4 + length)
    return { header: check(invokeHeader, value, 'invoke header'), body }
  },
  // 4 MiB: larger payloads travel by CID. 64 unread frames bound a slow reader's memory.
  limits: { frameBytes: 4_194_304, queuedFrames: 64, idleMs: 600_000, perPeerPerSecond: 20_000 },
})

/** Bodies above this go into the content store and travel by CID. */
export const INLINE_BYTES = 1_048_576
