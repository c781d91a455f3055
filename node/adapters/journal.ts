import { closeSync, fdatasync, openSync } from 'node:fs'
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

type Write = { readonly apply: () => void; readonly done: () => void; readonly failed: (error: MeshError) => void }

/** Calls back when the data of an open file is on the disk. */
type Sync = (fd: number, done: (error: Error | null) => void) => void

/**
 * The journal on SQLite. Writes that arrive in one turn of the loop share a commit, commits that arrive while the disk is busy
 * share a sync. A commit is a write to the write-ahead log; that this is on the disk is waited for beside the loop, and before
 * it is, no write is acknowledged and nothing of it is read.
 */
export class SqliteJournal implements Journal, AsyncDisposable {
  readonly #database: DatabaseSync
  readonly #statements: { readonly last: StatementSync; readonly append: StatementSync; readonly read: StatementSync; readonly streamsFrom: StatementSync; readonly drop: StatementSync; readonly set: StatementSync; readonly clear: StatementSync; readonly get: StatementSync; readonly keysFrom: StatementSync }
  readonly #logPath: string
  readonly #sync: Sync
  #log: number | undefined
  #pending: Write[] = []
  #committed: Write[] = []
  /** Of writes that are not acknowledged yet. */
  #pendingBytes = 0
  #syncing: Promise<void> | undefined
  #broken: MeshError | undefined
  #closed: Promise<void> | undefined

  /** `logPath`: the write-ahead log of `database`, which does not sync it itself. */
  constructor(database: DatabaseSync, logPath: string, sync: Sync = fdatasync) {
    this.#database = database
    this.#logPath = logPath
    this.#sync = sync
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

  /** Writes what waits and closes the file. Idempotent. */
  [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed === undefined) {
      this.#flush()
      this.#closed = this.#close()
    }
    return this.#closed
  }

  async #close(): Promise<void> {
    await this.#syncing
    if (this.#log !== undefined) closeSync(this.#log)
    this.#database.close()
  }

  #write(bytes: number, apply: () => void): Promise<void> {
    const refused = this.#broken ?? (this.#closed === undefined ? undefined : closedError())
    if (refused !== undefined) return Promise.reject(refused)
    if (this.#pendingBytes + bytes > PENDING_BYTES) return Promise.reject(new MeshError('OVERLOADED', `more than ${PENDING_BYTES} bytes wait to be written to the journal; try again in a moment`))
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const settle = (): void => void (this.#pendingBytes -= bytes)
    this.#pending.push({
      apply,
      done: () => {
        settle()
        resolve()
      },
      failed: error => {
        settle()
        reject(error)
      },
    })
    this.#pendingBytes += bytes
    // One turn of the event loop gathers everything that was ready to be written; waiting longer only adds latency,
    // since whatever arrives during the sync shares the next one.
    if (this.#pending.length === 1) setImmediate(() => this.#flush())
    return promise
  }

  #flush(): void {
    const batch = this.#pending
    if (this.#closed !== undefined || batch.length === 0) return
    this.#pending = []
    if (this.#broken !== undefined) return this.#fail(batch, this.#broken)
    if (this.#commit(batch) === undefined) this.#committed.push(...batch)
    else {
      // The batch was rolled back. One write too large for the disk must not refuse its neighbours.
      for (const write of batch) {
        const error = this.#commit([write])
        if (error === undefined) this.#committed.push(write)
        else write.failed(error)
      }
    }
    if (this.#committed.length > 0) this.#syncing ??= this.#syncAll()
  }

  /** Until nothing that was committed waits for the disk. */
  async #syncAll(): Promise<void> {
    while (this.#committed.length > 0) {
      const batch = this.#committed
      this.#committed = []
      try {
        await this.#synced()
        for (const write of batch) write.done()
      } catch (error) {
        // What of it the disk has nobody can tell any more, nor of what is written from now on.
        this.#broken = storageError(error, 'bring the journal to the disk, and no longer trust it: restart the peer')
        this.#fail([...batch, ...this.#committed.splice(0)], this.#broken)
      }
    }
    this.#syncing = undefined
  }

  #synced(): Promise<void> {
    // There is one from the first commit on, and it stays the same file until the last connection closes.
    this.#log ??= openSync(this.#logPath, 'r+')
    const log = this.#log
    return new Promise((resolve, reject) => this.#sync(log, error => (error === null ? resolve() : reject(error))))
  }

  #fail(batch: readonly Write[], because: MeshError): void {
    for (const write of batch) write.failed(because)
  }

  #commit(batch: readonly Write[]): MeshError | undefined {
    try {
      transact(this.#database, 'write the journal', () => batch.forEach(write => write.apply()))
      return undefined
    } catch (error) {
      return storageError(error, 'write the journal')
    }
  }

  /** What is on the disk: not what a crash of the host might still take back. */
  async #ask<T>(doing: string, run: () => T): Promise<T> {
    await this.#syncing
    if (this.#broken !== undefined) throw this.#broken
    if (this.#closed !== undefined) throw closedError()
    try {
      return run()
    } catch (error) {
      throw storageError(error, doing)
    }
  }
}

/** Opens (or makes) the journal in `dir`. `maxBytes` bounds the file; `sync` in place of the system's own. Throws STORAGE_FULL or STORAGE_FAILED. */
export function openJournal(dir: string, { maxBytes, sync }: { readonly maxBytes?: number; readonly sync?: Sync } = {}): SqliteJournal {
  const path = join(dir, 'journal.sqlite')
  return new SqliteJournal(openDatabase(path, SCHEMA, { syncs: true, ...(maxBytes === undefined ? {} : { maxBytes }) }), `${path}-wal`, sync)
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
