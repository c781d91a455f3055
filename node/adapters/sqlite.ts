import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { MeshError } from '../../protocols/errors.ts'

const PAGE_BYTES = 4_096
const SQLITE_FULL = 13

/**
 * Opens a durable database of ours: write-ahead log, readable by its owner only, an fsync for every commit unless its user
 * does that himself (`syncs`; SQLite then syncs at checkpoints only). `maxBytes` bounds the file. Throws STORAGE_FULL or STORAGE_FAILED.
 */
export function openDatabase(path: string, schema: string, options: { readonly maxBytes?: number; readonly syncs?: boolean } = {}): DatabaseSync {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    // Made before SQLite sees it, so that it is never readable by others; the -wal and -shm files inherit its mode.
    closeSync(openSync(path, 'a', 0o600))
    chmodSync(path, 0o600)
    const database = new DatabaseSync(path, { timeout: 250 })
    try {
      database.exec(`PRAGMA page_size = ${PAGE_BYTES}; PRAGMA journal_mode = WAL; PRAGMA synchronous = ${options.syncs === true ? 'NORMAL' : 'FULL'}; PRAGMA trusted_schema = OFF;`)
      if (options.maxBytes !== undefined) database.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(options.maxBytes / PAGE_BYTES))}`)
      database.exec(schema)
      return database
    } catch (error) {
      database.close()
      throw error
    }
  } catch (error) {
    throw storageError(error, `open ${path}`)
  }
}

/** Runs `run` in one transaction that is durable when this returns, or changes nothing. Throws what `run` throws, else STORAGE_FULL or STORAGE_FAILED. */
export function transact<T>(database: DatabaseSync, doing: string, run: () => T): T {
  try {
    database.exec('BEGIN IMMEDIATE')
    const result = run()
    database.exec('COMMIT')
    return result
  } catch (error) {
    rollBack(database)
    throw storageError(error, doing)
  }
}

/** The MeshError for a failure of SQLite or the file system below it. A MeshError stays what it is. */
export function storageError(error: unknown, doing: string): MeshError {
  if (error instanceof MeshError) return error
  const because = error instanceof Error ? error.message : String(error)
  if (isFull(error)) return new MeshError('STORAGE_FULL', `could not ${doing}: ${because}; free disk space or raise the peer's storage limit`, { cause: error })
  return new MeshError('STORAGE_FAILED', `could not ${doing}: ${because}; check the disk and the permissions of the data folder`, { cause: error })
}

function isFull(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if ('errcode' in error && typeof error.errcode === 'number') return (error.errcode & 0xff) === SQLITE_FULL
  return 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT')
}

function rollBack(database: DatabaseSync): void {
  try {
    if (database.isTransaction) database.exec('ROLLBACK')
  } catch {
    // SQLite already rolled back by itself, as it does when the disk is full.
  }
}
