import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { open, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { Cid } from '../../../protocols/ids.ts'
import { storageError, syncPath } from './block-files.ts'

/** A durable set of CIDs: an empty file each, so that a change is one atomic operation. */
export class Ledger implements Iterable<Cid> {
  readonly #folder: string
  readonly #held: Set<Cid>

  constructor(folder: string) {
    this.#folder = folder
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const names = readdirSync(folder)
    for (const name of names.filter(unfinished)) rmSync(join(folder, name), { force: true })
    this.#held = new Set(names.filter(name => !unfinished(name)))
  }

  get size(): number {
    return this.#held.size
  }

  has(cid: Cid): boolean {
    return this.#held.has(cid)
  }

  /** Durable when it resolves. Throws STORAGE_FULL or STORAGE_FAILED. */
  async add(cid: Cid): Promise<void> {
    if (this.#held.has(cid)) return
    const path = join(this.#folder, cid)
    try {
      // Two may note the same at once: each moves a file of its own into place.
      const aside = `${path}.${randomBytes(6).toString('hex')}.tmp`
      const file = await open(aside, 'wx', 0o600)
      await file.sync()
      await file.close()
      await rename(aside, path)
      await syncPath(this.#folder)
    } catch (error) {
      throw storageError(error, `the note that ${cid} is here`)
    }
    this.#held.add(cid)
  }

  async remove(cid: Cid): Promise<void> {
    if (!this.#held.delete(cid)) return
    await unlink(join(this.#folder, cid)).catch(() => undefined)
    await syncPath(this.#folder)
  }

  [Symbol.iterator](): Iterator<Cid> {
    return this.#held.values()
  }
}

function unfinished(name: string): boolean {
  return name.endsWith('.tmp')
}
