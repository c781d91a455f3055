import { join } from 'node:path'
import type { DatabaseSync, SQLOutputValue, StatementSync } from 'node:sqlite'
import type { Cid } from '../../../protocols/ids.ts'
import { registryName, type RegistryName } from '../../../protocols/registry.ts'
import type { Signed } from '../../../protocols/signed.ts'
import { assert } from '../../../src/lib/assert.ts'
import { BucketDigests } from '../../../src/registries/digests.ts'
import { RECORD_DOMAIN, placeOf, type HeldRecord } from '../../../src/registries/record.ts'
import { VIEW_RECORDS, cursorOf, fullView, parseCursor, type Change, type Page, type RecordView } from '../../../src/registries/view.ts'
import { compareRecords } from '../../../src/registries/winner.ts'
import { openDatabase, storageError, transact } from '../sqlite.ts'

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS records (
    registry TEXT NOT NULL, key TEXT NOT NULL, bucket INTEGER NOT NULL, cid TEXT NOT NULL, writer TEXT NOT NULL, owner TEXT NOT NULL, since INTEGER NOT NULL,
    sequence INTEGER NOT NULL, issued_at INTEGER NOT NULL, link TEXT, value BLOB, payload BLOB NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (registry, key)) STRICT;
  CREATE INDEX IF NOT EXISTS records_by_bucket ON records (bucket, registry, key);
  CREATE UNIQUE INDEX IF NOT EXISTS records_by_cid ON records (cid);
  CREATE TABLE IF NOT EXISTS buckets (bucket INTEGER NOT NULL PRIMARY KEY, digest BLOB NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL, signature BLOB NOT NULL, signer TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS facts (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT;
`
/** Own records waiting for the log. Beyond it the oldest are left to digests, which find them anyway. */
const OUTBOX_RECORDS = 50_000

/** A record of ours that the log has not taken yet. */
export type Outgoing = { readonly id: number; readonly envelope: Signed }

/** The registries' winners in their own SQLite file, with the digests of their buckets and the outbox of our own records. */
export class SqliteView implements RecordView, Disposable {
  readonly #database: DatabaseSync
  readonly #limit: number
  readonly #digests = new BucketDigests()
  readonly #keepOutbox: boolean
  readonly #sql: Record<'get' | 'list' | 'holds' | 'put' | 'digest' | 'page' | 'queue' | 'outbox' | 'sent' | 'trim' | 'fact' | 'setFact', StatementSync>
  #count: number

  constructor(database: DatabaseSync, options: { readonly outbox: boolean; readonly limit?: number }) {
    this.#database = database
    this.#limit = options.limit ?? VIEW_RECORDS
    this.#keepOutbox = options.outbox
    const columns = 'registry, key, cid, writer, owner, since, sequence, issued_at, link, value, payload, signature'
    this.#sql = {
      get: database.prepare(`SELECT ${columns} FROM records WHERE registry = ? AND key = ?`),
      list: database.prepare(`SELECT ${columns} FROM records WHERE registry = ? AND key >= ? ORDER BY key`),
      holds: database.prepare('SELECT 1 FROM records WHERE cid = ?'),
      put: database.prepare('INSERT OR REPLACE INTO records (registry, key, bucket, cid, writer, owner, since, sequence, issued_at, link, value, payload, signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'),
      digest: database.prepare('INSERT INTO buckets (bucket, digest) VALUES (?, ?) ON CONFLICT (bucket) DO UPDATE SET digest = excluded.digest'),
      page: database.prepare('SELECT registry, key, writer, payload, signature FROM records WHERE bucket = ? AND (registry, key) > (?, ?) ORDER BY registry, key LIMIT ?'),
      queue: database.prepare('INSERT INTO outbox (payload, signature, signer) VALUES (?, ?, ?)'),
      outbox: database.prepare('SELECT id, payload, signature, signer FROM outbox WHERE id > ? ORDER BY id LIMIT ?'),
      sent: database.prepare('DELETE FROM outbox WHERE id <= ?'),
      trim: database.prepare('DELETE FROM outbox WHERE id <= (SELECT max(id) FROM outbox) - ?'),
      fact: database.prepare('SELECT value FROM facts WHERE name = ?'),
      setFact: database.prepare('INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value'),
    }
    this.#count = whole(database.prepare('SELECT count(*) AS n FROM records').get()?.['n'])
    this.#loadDigests()
  }

  get(registry: RegistryName, key: string): HeldRecord | undefined {
    return this.#ask(() => {
      const row = this.#sql.get.get(registry, key)
      return row === undefined ? undefined : recordOf(row)
    })
  }

  list(registry: RegistryName, prefix: string): readonly HeldRecord[] {
    return this.#ask(() => {
      const out: HeldRecord[] = []
      for (const row of this.#sql.list.iterate(registry, prefix)) {
        // Keys with one prefix stand together in the index.
        if (!text(row['key']).startsWith(prefix)) break
        if (row['link'] !== null || row['value'] !== null) out.push(recordOf(row))
      }
      return out
    })
  }

  holds(cid: Cid): boolean {
    return this.#ask(() => this.#sql.holds.get(cid) !== undefined)
  }

  merge(records: readonly HeldRecord[], origin: 'local' | 'remote'): readonly Change[] {
    const touched = new Set<number>()
    const before = this.#count
    try {
      return transact(this.#database, 'write the registries', () => {
        const changes: Change[] = []
        for (const record of records) {
          const row = this.#sql.get.get(record.registry, record.key)
          const replaced = row === undefined ? undefined : recordOf(row)
          if (replaced !== undefined && compareRecords(replaced, record) <= 0) continue
          if (replaced === undefined && this.#count >= this.#limit) throw fullView(this.#limit)
          touched.add(this.#put(record, replaced))
          if (origin === 'local' && this.#keepOutbox) this.#sql.queue.run(record.envelope.payload, record.envelope.signature, record.envelope.signer)
          changes.push({ record, replaced })
        }
        for (const bucket of touched) this.#sql.digest.run(bucket, this.#digests.of(bucket))
        if (origin === 'local' && this.#keepOutbox) this.#sql.trim.run(OUTBOX_RECORDS)
        return changes
      })
    } catch (error) {
      this.#count = before
      this.#loadDigests()
      throw error
    }
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
    const start = after === undefined ? undefined : parseCursor(after)
    return this.#ask(() => {
      const records: Signed[] = []
      let size = 0
      let last: string | undefined
      for (const bucket of [...new Set(buckets)].sort((a, b) => a - b)) {
        if (start !== undefined && bucket < start.bucket) continue
        const from = start?.bucket === bucket ? start : undefined
        // One row too many tells whether there is another page.
        for (const row of this.#sql.page.iterate(bucket, from?.registry ?? '', from?.key ?? '', limit - records.length + 1)) {
          const envelope = envelopeOf(row, text(row['writer']))
          if (records.length >= limit || (records.length > 0 && size + envelope.payload.byteLength > bytes)) return { records, next: last }
          records.push(envelope)
          size += envelope.payload.byteLength
          last = cursorOf(bucket, registryName.parse(row['registry']), text(row['key']))
        }
      }
      return { records, next: undefined }
    })
  }

  count(): number {
    return this.#count
  }

  /** Own records that the log has not taken, oldest first. */
  outbox(after: number, limit: number): readonly Outgoing[] {
    return this.#ask(() => this.#sql.outbox.all(after, limit).map(row => ({ id: whole(row['id']), envelope: envelopeOf(row, text(row['signer'])) })))
  }

  /** The log holds everything up to `id`. */
  sent(id: number): void {
    transact(this.#database, 'clear the registry outbox', () => this.#sql.sent.run(id))
  }

  /** A small durable fact about this replica. */
  fact(name: string): string | undefined {
    return this.#ask(() => {
      const value = this.#sql.fact.get(name)?.['value']
      return value === undefined ? undefined : text(value)
    })
  }

  setFact(name: string, value: string): void {
    transact(this.#database, 'write the registries', () => this.#sql.setFact.run(name, value))
  }

  [Symbol.dispose](): void {
    if (this.#database.isOpen) this.#database.close()
  }

  #put(record: HeldRecord, replaced: HeldRecord | undefined): number {
    const { bucket, hash } = placeOf(record)
    const { registry, key, cid, writer, owner, since, sequence, issuedAt, value, envelope } = record
    if (replaced === undefined) this.#count++
    else this.#digests.toggle(bucket, placeOf(replaced).hash)
    this.#digests.toggle(bucket, hash)
    this.#sql.put.run(registry, key, bucket, cid, writer, owner, since, sequence, issuedAt, typeof value === 'string' ? value : null, value instanceof Uint8Array ? value : null, envelope.payload, envelope.signature)
    return bucket
  }

  #loadDigests(): void {
    this.#digests.clear()
    for (const row of this.#database.prepare('SELECT bucket, digest FROM buckets').iterate()) this.#digests.set(whole(row['bucket']), blob(row['digest']))
  }

  #ask<T>(run: () => T): T {
    try {
      return run()
    } catch (error) {
      throw storageError(error, 'read the registries')
    }
  }
}

/** Opens (or makes) the view in `dir`. `outbox` keeps own records until a log has taken them. Throws STORAGE_FULL or STORAGE_FAILED. */
export function openView(dir: string, options: { readonly outbox: boolean; readonly maxBytes?: number; readonly limit?: number }): SqliteView {
  return new SqliteView(openDatabase(join(dir, 'registry.sqlite'), SCHEMA, options), options)
}

type Row = Record<string, SQLOutputValue>

function recordOf(row: Row): HeldRecord {
  const writer = text(row['writer'])
  return {
    envelope: envelopeOf(row, writer),
    registry: registryName.parse(row['registry']),
    key: text(row['key']),
    value: row['link'] === null ? (row['value'] === null ? null : blob(row['value'])) : text(row['link']),
    writer,
    owner: text(row['owner']),
    since: whole(row['since']),
    sequence: whole(row['sequence']),
    issuedAt: whole(row['issued_at']),
    cid: text(row['cid']),
  }
}

function envelopeOf(row: Row, signer: string): Signed {
  return { domain: RECORD_DOMAIN, payload: blob(row['payload']), signer, signature: blob(row['signature']) }
}

function text(value: SQLOutputValue | undefined): string {
  assert(typeof value === 'string', 'a TEXT column holds text')
  return value
}

function blob(value: SQLOutputValue | undefined): Uint8Array {
  assert(value instanceof Uint8Array, 'a BLOB column holds bytes')
  return value
}

function whole(value: SQLOutputValue | undefined): number {
  assert(typeof value === 'number', 'an INTEGER column holds a number')
  return value
}
