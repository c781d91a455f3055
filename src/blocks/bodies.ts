import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Json } from '../../protocols/ids.ts'
import { INLINE_BYTES, packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import type { ContentStore } from '../ports.ts'

const LIMIT = 256 * 1_048_576
const EMPTY = new Uint8Array(0)

/** How a value travels in a call: inline when small, as a file of the content store when large. */
export type Body = { readonly body: Uint8Array; readonly bodyCid?: Cid }

export async function pack(content: ContentStore, value: Packet | Json): Promise<Body> {
  const bytes = encode(value)
  if (bytes.byteLength <= INLINE_BYTES) return { body: bytes }
  const { cid } = await content.add(once(bytes))
  return { body: EMPTY, bodyCid: cid }
}

export async function unpackPacket(content: ContentStore, { body, bodyCid }: Body, signal: AbortSignal): Promise<Packet> {
  return decode(packetSchema, await whole(content, body, bodyCid, signal), LIMIT, 'packet')
}

export async function unpackJson(content: ContentStore, { body, bodyCid }: Body, signal: AbortSignal): Promise<Json> {
  const bytes = await whole(content, body, bodyCid, signal)
  return bytes.byteLength === 0 ? null : decode({ parse: plain }, bytes, LIMIT, 'call body')
}

async function whole(content: ContentStore, body: Uint8Array, bodyCid: Cid | undefined, signal: AbortSignal): Promise<Uint8Array> {
  if (bodyCid === undefined) return body
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of content.cat(bodyCid, { signal })) {
    size += part.byteLength
    if (size > LIMIT) throw new MeshError('MESSAGE_TOO_LARGE', `a call body may have ${LIMIT} bytes; send larger inputs as assets`)
    parts.push(part)
  }
  const out = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.byteLength
  }
  return out
}

/** DAG-CBOR holds JSON, bytes and links; a call body is JSON alone. */
function plain(value: unknown): Json {
  if (value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number') return value
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value === 'object' && !(value instanceof Uint8Array)) return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
  throw new MeshError('MESSAGE_INVALID', 'a call body holds JSON values only')
}

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
