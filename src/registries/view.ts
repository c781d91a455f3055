import { MeshError } from '../../protocols/errors.ts'
import type { Cid } from '../../protocols/ids.ts'
import type { RegistryName } from '../../protocols/registry.ts'
import type { Signed } from '../../protocols/signed.ts'
import { BucketDigests } from './digests.ts'
import { placeOf, type HeldRecord } from './record.ts'
import { compareRecords } from './winner.ts'

/** What a merge did to the view: the new holder of a key and the one it replaced. */
export type Change = { readonly record: HeldRecord; readonly replaced: HeldRecord | undefined }

export type Page = { readonly records: readonly Signed[]; readonly next: string | undefined }

/** The materialised winners of every key. Reads are synchronous and indexed; only checked records enter. */
export interface RecordView {
  /** The winning record, tombstones included. */
  get(registry: RegistryName, key: string): HeldRecord | undefined
  /** Winning records whose key starts with `prefix`, tombstones left out, in no promised order. */
  list(registry: RegistryName, prefix: string): readonly HeldRecord[]
  /** Is exactly this record the winner of its key? */
  holds(cid: Cid): boolean
  /**
   * Lets records compete. Durable when it returns: all of them, or nothing and STORAGE_FULL / STORAGE_FAILED. `local`
   * ones were written by this peer and still have to be told to others.
   */
  merge(records: readonly HeldRecord[], origin: 'local' | 'remote'): readonly Change[]
  /** One a bucket; the same array as long as no record has come or gone. */
  digests(): readonly Uint8Array[]
  /** sha2-256 of all digests, one after the other. */
  root(): Uint8Array
  differing(theirs: readonly Uint8Array[]): readonly number[]
  /** Envelopes of these buckets, from a place an earlier page named, at most `limit` and about `bytes`. */
  page(buckets: readonly number[], after: string | undefined, limit: number, bytes: number): Page
  count(): number
}

/** Records one view may hold. A writer's rights are the first bound; this one keeps a hostile member from filling disks. */
export const VIEW_RECORDS = 1_000_000

/** The place after a record: its bucket, registry and key. */
export function cursorOf(bucket: number, registry: RegistryName, key: string): string {
  return `${bucket.toString(16).padStart(2, '0')}/${registry}/${key}`
}

/** Reads a place back. Throws MESSAGE_INVALID: it came from the network. */
export function parseCursor(cursor: string): { readonly bucket: number; readonly registry: string; readonly key: string } {
  const match = /^([0-9a-f]{2})\/([a-z]+)\/([^]+)$/.exec(cursor)
  if (match === null) throw new MeshError('MESSAGE_INVALID', 'the page asked for starts nowhere: use the place the last page named')
  return { bucket: Number.parseInt(match[1]!, 16), registry: match[2]!, key: match[3]! }
}

export function fullView(limit: number): MeshError {
  return new MeshError('STORAGE_FULL', `the registries hold ${limit} records, all that this peer keeps`)
}

type Row = { readonly record: HeldRecord; readonly bucket: number; readonly hash: Uint8Array }

/** A view in memory: for the simulator and for tests. It forgets with its process. */
export class MemoryView implements RecordView {
  readonly #limit: number
  readonly #registries = new Map<RegistryName, Map<string, Row>>()
  readonly #buckets = new Map<number, Map<string, Row>>()
  readonly #cids = new Set<Cid>()
  readonly #digests = new BucketDigests()

  constructor(limit = VIEW_RECORDS) {
    this.#limit = limit
  }

  get(registry: RegistryName, key: string): HeldRecord | undefined {
    return this.#registries.get(registry)?.get(key)?.record
  }

  list(registry: RegistryName, prefix: string): readonly HeldRecord[] {
    const out: HeldRecord[] = []
    for (const { record } of this.#registries.get(registry)?.values() ?? []) if (record.value !== null && record.key.startsWith(prefix)) out.push(record)
    return out
  }

  holds(cid: Cid): boolean {
    return this.#cids.has(cid)
  }

  merge(records: readonly HeldRecord[]): readonly Change[] {
    const fresh = new Set(records.filter(record => this.get(record.registry, record.key) === undefined).map(record => `${record.registry}/${record.key}`))
    if (this.#cids.size + fresh.size > this.#limit) throw fullView(this.#limit)
    const changes: Change[] = []
    for (const record of records) {
      const replaced = this.get(record.registry, record.key)
      if (replaced !== undefined && compareRecords(replaced, record) <= 0) continue
      this.#place(record, replaced)
      changes.push({ record, replaced })
    }
    return changes
  }

  digests(): readonly Uint8Array[] {
    return this.#digests.all()
  }

  root(): Uint8Array {
    return this.#digests.root()
  }

  differing(theirs: readonly Uint8Array[]): readonly number[] {
    return this.#digests.differing(theirs)
  }

  page(buckets: readonly number[], after: string | undefined, limit: number, bytes: number): Page {
    if (after !== undefined) parseCursor(after)
    const records: Signed[] = []
    let size = 0
    let last: string | undefined
    for (const bucket of [...new Set(buckets)].sort((a, b) => a - b)) {
      const rows = [...(this.#buckets.get(bucket) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1))
      for (const [cursor, { record }] of rows) {
        if (after !== undefined && cursor <= after) continue
        if (records.length >= limit || (size > 0 && size + record.envelope.payload.byteLength > bytes)) return { records, next: last }
        records.push(record.envelope)
        size += record.envelope.payload.byteLength
        last = cursor
      }
    }
    return { records, next: undefined }
  }

  count(): number {
    return this.#cids.size
  }

  #place(record: HeldRecord, replaced: HeldRecord | undefined): void {
    const { bucket, hash } = placeOf(record)
    const row: Row = { record, bucket, hash }
    if (replaced !== undefined) {
      this.#digests.toggle(bucket, placeOf(replaced).hash)
      this.#cids.delete(replaced.cid)
    }
    this.#digests.toggle(bucket, row.hash)
    this.#cids.add(record.cid)
    inner(this.#registries, record.registry).set(record.key, row)
    inner(this.#buckets, bucket).set(cursorOf(bucket, record.registry, record.key), row)
  }
}

function inner<K, V>(outer: Map<K, Map<string, V>>, key: K): Map<string, V> {
  const found = outer.get(key)
  if (found !== undefined) return found
  const made = new Map<string, V>()
  outer.set(key, made)
  return made
}
