import { closeSync, existsSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { MeshError } from '../../protocols/errors.ts'
import { makeFolder } from './make-folder.ts'
import { storageError } from './sqlite.ts'

const SQLITE_BUSY = 5
/** Whoever only looks holds it for less. */
const PATIENCE_MS = 500

/**
 * One process a folder: two would share a key and a journal. SQLite's lock on an empty file is the kernel's, so it ends with its process
 * however that ends, and goes with the folder when it is renamed.
 */
export class FolderLock implements Disposable {
  readonly #database: DatabaseSync

  private constructor(database: DatabaseSync) {
    this.#database = database
  }

  /** Makes the folder where it is missing. Undefined while another process holds it. Throws BAD_INPUT where no folder can be, STORAGE_FAILED, STORAGE_FULL. */
  static take(dir: string): FolderLock | undefined {
    const path = lockOf(dir)
    try {
      makeFolder(dir)
      // Never opened again but by SQLite: to close a file ends every lock that this process has on it.
      if (!existsSync(path)) closeSync(openSync(path, 'a', 0o600))
    } catch (error) {
      throw storageError(error, `use the folder ${dir}`)
    }
    const database = new DatabaseSync(path, { timeout: PATIENCE_MS })
    if (tried(database, 'BEGIN EXCLUSIVE', dir)) return new FolderLock(database)
    database.close()
    return undefined
  }

  /** Whether a process holds this folder now. */
  static isHeld(dir: string): boolean {
    if (!existsSync(lockOf(dir))) return false
    const database = new DatabaseSync(lockOf(dir), { timeout: 0, readOnly: true })
    try {
      return !tried(database, 'SELECT 1 FROM sqlite_schema', dir)
    } finally {
      database.close()
    }
  }

  [Symbol.dispose](): void {
    this.#database.close()
  }
}

function lockOf(dir: string): string {
  return join(dir, 'lock')
}

/** False when somebody else's lock is in the way. */
function tried(database: DatabaseSync, statement: string, dir: string): boolean {
  try {
    database.exec(statement)
    return true
  } catch (error) {
    if (error instanceof Error && 'errcode' in error && typeof error.errcode === 'number' && (error.errcode & 0xff) === SQLITE_BUSY) return false
    throw error instanceof MeshError ? error : storageError(error, `lock the folder ${dir}`)
  }
}
