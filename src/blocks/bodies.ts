import { check, decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Json, PeerId } from '../../protocols/ids.ts'
import { INLINE_BYTES, packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import { gather } from '../lib/gather.ts'
import type { ContentStore } from '../ports.ts'
import { span } from './span.ts'

const LIMIT = 256 * 1_048_576
/** Nobody nests deeper on purpose, and whoever walks the value afterwards does it on the stack. */
const DEPTH = 256
const EMPTY = new Uint8Array(0)

/** How a value travels in a call: inline when small, as a file of the content store when large. */
export type Body = { readonly body: Uint8Array; readonly bodyCid?: Cid }

/** Throws STORAGE_FULL, or BAD_INPUT when the value is nothing that DAG-CBOR can say (NaN, an infinity). */
export async function pack(content: ContentStore, value: Packet | Json): Promise<Body> {
  let bytes: Uint8Array
  try {
    bytes = encode(value)
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `the body cannot be sent: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  if (bytes.byteLength > LIMIT) throw tooLarge()
  if (bytes.byteLength <= INLINE_BYTES) return { body: bytes }
  const { cid } = await content.add(once(bytes))
  return { body: EMPTY, bodyCid: cid }
}

/** `from` sent it, so it holds what the body names. */
export async function unpackPacket(content: ContentStore, body: Body, from: PeerId, signal: AbortSignal): Promise<Packet> {
  return decode(packetSchema, await whole(content, body, from, signal), LIMIT, 'packet')
}

export async function unpackJson(content: ContentStore, body: Body, from: PeerId, signal: AbortSignal): Promise<Json> {
  const bytes = await whole(content, body, from, signal)
  return bytes.byteLength === 0 ? null : decode({ parse: value => plain(value, DEPTH) }, bytes, LIMIT, 'call body')
}

/** The packet of a caller on this host. Throws BAD_INPUT naming the field. */
export function checkPacket(packet: Packet): Packet {
  return check(packetSchema, packet, 'packet', 'BAD_INPUT')
}

async function whole(content: ContentStore, { body, bodyCid }: Body, from: PeerId, signal: AbortSignal): Promise<Uint8Array> {
  if (bodyCid === undefined) return body
  if (!(await content.has(bodyCid))) {
    // A root may promise more than anybody would send: stop before it is here.
    using fetching = span([signal])
    await content.fetch(bodyCid, {
      signal: fetching.signal,
      from: [from],
      progress: ({ totalBytes }) => {
        if (totalBytes > LIMIT) fetching.fail(tooLarge())
      },
    })
  }
  return gather(content.cat(bodyCid, { signal }), LIMIT, tooLarge)
}

/** DAG-CBOR holds JSON, bytes and links; a call body is JSON alone. */
function plain(value: unknown, depth: number): Json {
  if (value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number') return value
  if (depth === 0) throw new MeshError('MESSAGE_INVALID', `a call body is nested more than ${DEPTH} deep`)
  if (Array.isArray(value)) return value.map(inner => plain(inner, depth - 1))
  if (typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner, depth - 1)]))
  throw new MeshError('MESSAGE_INVALID', 'a call body holds JSON values only')
}

function tooLarge(): MeshError {
  return new MeshError('MESSAGE_TOO_LARGE', `a call body may have ${LIMIT} bytes; send larger inputs as assets`)
}

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
