import { CID } from 'multiformats/cid'
import { z } from 'zod'
import { check, decode, encode, type Schema } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid } from '../../protocols/ids.ts'
import { INLINE_BYTES } from '../../protocols/invoke.ts'
import { gather } from '../lib/gather.ts'
import type { ContentStore } from '../ports.ts'

const LIMIT = 256 * 1_048_576

/** What stands in a record's place when the value is too large for one block: a link, so that whoever holds it whole holds the body too. */
const elsewhere = z.strictObject({ body: z.custom<CID>(value => CID.asCID(value) !== null, 'expected a link') })

/** Stores a value under one CID: a DAG-CBOR record, or a record that links to a file when it is larger than a block may be. */
export async function putValue(content: ContentStore, value: unknown, signal?: AbortSignal): Promise<Cid> {
  const bytes = encode(value)
  if (bytes.byteLength <= INLINE_BYTES) return content.putRecord(value)
  if (bytes.byteLength > LIMIT) throw new MeshError('MESSAGE_TOO_LARGE', `a value of ${bytes.byteLength} bytes is more than the ${LIMIT} a run may pass on; send larger data as assets`)
  const { cid } = await content.add(once(bytes), signal)
  return content.putRecord({ body: CID.parse(cid) })
}

/** Reads what `putValue` stored, from whoever holds it. Throws CONTENT_UNAVAILABLE, CONTENT_CORRUPT, MESSAGE_INVALID. */
export async function getValue<T>(content: ContentStore, cid: Cid, schema: Schema<T>, signal?: AbortSignal): Promise<T> {
  const record = await content.getRecord<unknown>(cid, { parse: value => value }, signal)
  const linked = elsewhere.safeParse(record)
  if (!linked.success) return check(schema, record, `the record ${cid}`)
  const whole = await gather(content.cat(linked.data.body.toString(), signal === undefined ? {} : { signal }), LIMIT, () => new MeshError('MESSAGE_TOO_LARGE', `the value ${cid} is larger than ${LIMIT} bytes`))
  return decode(schema, whole, LIMIT, `the value ${cid}`)
}

/** The file a record links to instead of holding its value. */
export function bodyOf(record: unknown): Cid | undefined {
  const linked = elsewhere.safeParse(record)
  return linked.success ? linked.data.body.toString() : undefined
}

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
