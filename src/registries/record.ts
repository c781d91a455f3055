import { digest, recordCid, utf8 } from '../../protocols/codec.ts'
import { MeshError, granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import { REGISTRIES, REGISTRY_RECORD_BYTES, REGISTRY_VALUE_BYTES, registryRecord, type RegistryName, type RegistryRecord } from '../../protocols/registry.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Identity } from '../ports.ts'
import { unseal } from '../trust/seal.ts'

export const RECORD_DOMAIN = 'registry'
export const BUCKETS = 256
/** A record may be dated this far ahead of our clock before it is nonsense. Dates decide nothing among an owner's own records. */
export const FUTURE_MS = 600_000

/** May `writer` write this key at all? Asked for every record, ours and others'. */
export type MayWrite = (writer: PeerId, registry: RegistryName, key: string) => Verdict<true>

/** A record that was checked, with what replicas compare. Nothing else may enter a view. */
export type HeldRecord = {
  readonly envelope: Signed
  readonly registry: RegistryName
  readonly key: string
  readonly value: RegistryRecord['value']
  readonly writer: PeerId
  readonly owner: PeerId
  readonly since: Millis
  readonly sequence: number
  readonly issuedAt: Millis
  /** CID of the signed payload: one statement, one name. */
  readonly cid: Cid
}

export type RecordRules = {
  readonly identity: Identity
  readonly mayWrite: MayWrite
  /** May this writer change a key that another peer claimed? Absent: nobody may. */
  readonly mayOperate?: MayWrite
  readonly networkId?: string
}

/** Judges one record from anywhere: signed by its writer, well formed, within limits and within that writer's rights. Never throws on bad input. */
export function checkRecord(envelope: Signed, rules: RecordRules, now: Millis): Verdict<HeldRecord> {
  if (envelope.payload.byteLength > REGISTRY_RECORD_BYTES) return refused(`the record is ${envelope.payload.byteLength} bytes; the limit is ${REGISTRY_RECORD_BYTES}`)
  let record: RegistryRecord
  try {
    record = unseal(rules.identity, RECORD_DOMAIN, registryRecord, envelope, REGISTRY_RECORD_BYTES).value
  } catch (error) {
    if (error instanceof MeshError) return refused(error.message)
    throw error
  }
  if (record.writer !== envelope.signer) return refused(`the record names ${record.writer} as its writer but ${envelope.signer} signed it`)
  if (rules.networkId !== undefined && record.network !== rules.networkId) return refused('the record was written in another network')
  const key = checkKey(record.key)
  if (!key.ok) return key
  if (record.value instanceof Uint8Array && record.value.byteLength > REGISTRY_VALUE_BYTES) return refused(`the value is ${record.value.byteLength} bytes; the limit is ${REGISTRY_VALUE_BYTES}`)
  const held = holding(record, envelope)
  if (held.since < 0 || held.issuedAt < 0) return refused('the record is dated before 1970')
  if (REGISTRIES[record.registry] === 'write-once') {
    if (record.value === null) return refused(`${record.registry} keep what was published: a name cannot be withdrawn`)
    if (record.sequence !== 0 || held.owner !== record.writer || held.since !== record.issuedAt) return refused('a record of a write-once registry has no sequence, and its writer as its owner')
  } else if (record.sequence < 1 || held.since > record.issuedAt) return refused('an owner record has a sequence from 1 on and is no older than its claim')
  if (record.issuedAt > now + FUTURE_MS) return refused(`the record is dated ${record.issuedAt - now} ms in the future`, true)
  const may = rules.mayWrite(record.writer, record.registry, record.key)
  if (!may.ok) return may
  if (held.owner !== record.writer) {
    const operate = mayOperate(rules, held.writer, held.registry, held.key, held.owner)
    if (!operate.ok) return operate
  }
  return granted(held)
}

/** Was the record signed by the writer it names? */
export function isSigned(envelope: Signed, rules: RecordRules): boolean {
  try {
    return unseal(rules.identity, RECORD_DOMAIN, registryRecord, envelope, REGISTRY_RECORD_BYTES).value.writer === envelope.signer
  } catch (error) {
    if (error instanceof MeshError) return false
    throw error
  }
}

/** May `writer` change a key that belongs to `owner`? */
export function mayOperate(rules: RecordRules, writer: PeerId, registry: RegistryName, key: string, owner: PeerId): Verdict<true> {
  return rules.mayOperate?.(writer, registry, key) ?? refused(`${registry} ${key} belongs to ${owner}; ${writer} may not change it`)
}

/** Keys are text that any store, terminal and log can carry. */
export function checkKey(key: string): Verdict<true> {
  if (key.length === 0 || key.length > 400) return refused(`a key has 1 to 400 characters, this one ${key.length}`)
  // oxlint-disable-next-line no-control-regex
  if (!key.isWellFormed() || /[\u0000-\u001f\u007f]/.test(key)) return refused('a key has no control characters and no broken surrogates')
  return granted(true)
}

/** Which of the 256 digests a key counts towards. */
export function bucketOf(registry: RegistryName, key: string): number {
  return digest(utf8(`${registry}\0${key}`))[0]!
}

const named = new WeakMap<Signed, Cid>()
const placed = new WeakMap<Signed, { readonly bucket: number; readonly hash: Uint8Array }>()

/** The name of a record, which is hashed once however often the same envelope is looked at. */
export function cidOf(envelope: Signed): Cid {
  const known = named.get(envelope)
  if (known !== undefined) return known
  const cid = recordCid(envelope.payload)
  named.set(envelope, cid)
  return cid
}

/** The bucket of a record and the hash of its payload, by which it counts there; once for each envelope, as its name. */
export function placeOf({ envelope, registry, key }: Pick<HeldRecord, 'envelope' | 'registry' | 'key'>): { readonly bucket: number; readonly hash: Uint8Array } {
  const known = placed.get(envelope)
  if (known !== undefined) return known
  const place = { bucket: bucketOf(registry, key), hash: digest(envelope.payload) }
  placed.set(envelope, place)
  return place
}

function holding(record: RegistryRecord, envelope: Signed): HeldRecord {
  const { registry, key, value, writer, sequence, issuedAt } = record
  return { envelope, registry, key, value, writer, owner: record.owner ?? writer, since: record.since ?? issuedAt, sequence, issuedAt, cid: cidOf(envelope) }
}
