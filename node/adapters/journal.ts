import { join } from 'node:path'
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { MeshError } from '../../protocols/errors.ts'
import { assert } from '../../src/lib/assert.ts'
import type { Journal } from '../../src/ports.ts'
import { openDatabase, storageError, transact } from './sqlite.ts'

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS entries (stream TEXT NOT NULL, sequence INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (stream, sequence)) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS cells (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
`
const NAME = /^[\x21-\x7e]{1,400}$/
/** Bytes that may wait for a commit before callers are told to slow down. */
const PENDING_BYTES = 256 * 1_048_576

type Write = { readonly bytes: number; readonly apply: () => void; readonly done: () => void; readonly failed: (error: MeshError) => void }

/** The journal on SQLite. Writes that arrive while a commit is due share one transaction and one fsync. */
export class SqliteJournal implements Journal, AsyncDisposable {
  readonly #database: DatabaseSync
  readonly #statements: { readonly last: StatementSync; readonly append: StatementSync; readonly read: StatementSync; readonly streamsFrom: StatementSync; readonly drop: StatementSync; readonly set: StatementSync; readonly clear: StatementSync; readonly get: StatementSync; readonly keysFrom: StatementSync }
  #pending: Write[] = []
  #pendingBytes = 0
  #closed = false

  constructor(database: DatabaseSync) {
    this.#database = database
    this.#statements = {
      last: database.prepare('SELECT max(sequence) AS last FROM entries WHERE stream = ?'),
      append: database.prepare('INSERT INTO entries (stream, sequence, value) VALUES (?, ?, ?)'),
      read: database.prepare('SELECT value FROM entries WHERE stream = ? AND sequence >= ? ORDER BY sequence'),
      // A skip scan: one index seek a stream, however many entries each holds.
      streamsFrom: database.prepare(`
        WITH RECURSIVE names(name) AS (
          SELECT min(stream) FROM entries WHERE stream >= ?1
          UNION ALL SELECT (SELECT min(stream) FROM entries WHERE stream > names.name) FROM names WHERE names.name IS NOT NULL AND substr(names.name, 1, length(?1)) = ?1
        ) SELECT name FROM names WHERE name IS NOT NULL AND substr(name, 1, length(?1)) = ?1`),
      drop: database.prepare('DELETE FROM entries WHERE stream = ?'),
      set: database.prepare('INSERT INTO cells (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value'),
      clear: database.prepare('DELETE FROM cells WHERE key = ?'),
      get: database.prepare('SELECT value FROM cells WHERE key = ?'),
      keysFrom: database.prepare('SELECT key AS name FROM cells WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY key'),
    }
  }

  async append(stream: string, entries: readonly Uint8Array[]): Promise<void> {
    checkName(stream)
    if (entries.length === 0) return
    // Copied: the caller may reuse its buffers before the commit.
    const values = entries.map(entry => Uint8Array.from(entry))
    await this.#write(values.reduce((sum, value) => sum + value.byteLength, 0), () => {
      const last = this.#statements.last.get(stream)?.['last']
      let sequence = typeof last === 'number' ? last + 1 : 0
      for (const value of values) this.#statements.append.run(stream, sequence++, value)
    })
  }

  async read(stream: string, from = 0): Promise<readonly Uint8Array[]> {
    checkName(stream)
    return this.#ask(`read ${stream}`, () => this.#statements.read.all(stream, from).map(row => blob(row['value'])))
  }

  async streams(prefix: string): Promise<readonly string[]> {
    return this.#ask('list streams', () => this.#statements.streamsFrom.all(prefix).map(row => text(row['name'])))
  }

  async drop(stream: string): Promise<void> {
    checkName(stream)
    await this.#write(0, () => this.#statements.drop.run(stream))
  }

  async set(key: string, value: Uint8Array | undefined): Promise<void> {
    checkName(key)
    const copy = value === undefined ? undefined : Uint8Array.from(value)
    await this.#write(copy?.byteLength ?? 0, () => (copy === undefined ? this.#statements.clear.run(key) : this.#statements.set.run(key, copy)))
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    checkName(key)
    return this.#ask(`read ${key}`, () => {
      const row = this.#statements.get.get(key)
      return row === undefined ? undefined : blob(row['value'])
    })
  }

  async keys(prefix: string): Promise<readonly string[]> {
    return this.#ask('list keys', () => this.#statements.keysFrom.all(prefix).map(row => text(row['name'])))
  }

  /** Commits what waits and closes the file. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#flush()
    this.#closed = true
    this.#database.close()
  }

  #write(bytes: number, apply: () => void): Promise<void> {
    if (this.#closed) return Promise.reject(closedError())
    if (this.#pendingBytes + bytes > PENDING_BYTES) return Promise.reject(new MeshError('OVERLOADED', `more than ${PENDING_BYTES} bytes wait to be written to the journal; try again in a moment`))
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#pending.push({ bytes, apply, done: resolve, failed: reject })
    this.#pendingBytes += bytes
    // One turn of the event loop gathers everything that was ready to be written; waiting longer only adds latency,
    // since whatever arrives during the commit shares the next one.
    if (this.#pending.length === 1) setImmediate(() => this.#flush())
    return promise
  }

  #flush(): void {
    const batch = this.#pending
    if (this.#closed || batch.length === 0) return
    this.#pending = []
    this.#pendingBytes = 0
    if (this.#commit(batch) === undefined) return batch.forEach(write => write.done())
    // The batch was rolled back. One write too large for the disk must not refuse its neighbours.
    for (const write of batch) {
      const error = this.#commit([write])
      if (error === undefined) write.done()
      else write.failed(error)
    }
  }

  #commit(batch: readonly Write[]): MeshError | undefined {
    try {
      transact(this.#database, 'write the journal', () => batch.forEach(write => write.apply()))
      return undefined
    } catch (error) {
      return storageError(error, 'write the journal')
    }
  }

  #ask<T>(doing: string, run: () => T): T {
    if (this.#closed) throw closedError()
    try {
      return run()
    } catch (error) {
      throw storageError(error, doing)
    }
  }
}

/** Opens (or makes) the journal in `dir`. `maxBytes` bounds the file. Throws STORAGE_FULL or STORAGE_FAILED. */
export function openJournal(dir: string, options: { readonly maxBytes?: number } = {}): SqliteJournal {
  return new SqliteJournal(openDatabase(join(dir, 'journal.sqlite'), SCHEMA, options))
}

function checkName(name: string): void {
  assert(NAME.test(name), `journal names are short printable ASCII, got ${JSON.stringify(name.slice(0, 60))}`)
}

function closedError(): MeshError {
  return new MeshError('STORAGE_FAILED', 'the journal is closed: the peer is stopping', { retryable: false })
}

function blob(value: unknown): Uint8Array {
  assert(value instanceof Uint8Array, 'a BLOB column holds bytes')
  return value
}

function text(value: unknown): string {
  assert(typeof value === 'string', 'a TEXT column holds text')
  return value
}
