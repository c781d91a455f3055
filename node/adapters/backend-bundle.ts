import { createWriteStream } from 'node:fs'
import { chmod, link, lstat, mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { BundleFile } from '../../protocols/specs.ts'
import type { ContentStore } from '../../src/ports.ts'

/** Throws SPEC_INVALID for a path that is not a plain relative one: absolute, climbing, empty or hidden in odd bytes. */
export function checkBundlePaths(files: readonly Pick<BundleFile, 'path'>[]): void {
  const seen = new Set<string>()
  const folders = new Set<string>()
  for (const { path } of files) {
    const parts = path.split('/')
    // oxlint-disable-next-line no-control-regex
    const odd = /[\\\0-\x1f]/.test(path) || /^[a-zA-Z]:/.test(path) || parts.some(part => part === '' || part === '.' || part === '..' || part.length > 200)
    if (odd || parts.length > 32) throw new MeshError('SPEC_INVALID', `bundle file ${JSON.stringify(path)} is no plain path inside the bundle`)
    if (seen.has(path)) throw new MeshError('SPEC_INVALID', `the bundle names ${JSON.stringify(path)} twice`)
    seen.add(path)
    for (let depth = 1; depth < parts.length; depth++) folders.add(parts.slice(0, depth).join('/'))
  }
  for (const folder of folders) if (seen.has(folder)) throw new MeshError('SPEC_INVALID', `the bundle has ${JSON.stringify(folder)} both as a file and as a folder`)
}

/**
 * Bundle files on disk, read only. Instances of one file share it by a hard link for as long as one of them runs.
 */
export class BundleShelf {
  readonly #content: Pick<ContentStore, 'cat'>
  readonly #folder: string
  /** Writing and removing one file take turns: a start may meet the end of the last instance that held it. */
  readonly #turns = new Map<string, Promise<void>>()
  /** How many instances hold a file. */
  readonly #held = new Map<string, number>()

  constructor(content: Pick<ContentStore, 'cat'>, folder: string) {
    this.#content = content
    this.#folder = folder
  }

  /** Lays the files out under `target`, which must be new. Throws SPEC_INVALID, CONTENT_UNAVAILABLE, CONTENT_CORRUPT or STORAGE_FULL. */
  async layOut(files: readonly BundleFile[], target: string, signal: AbortSignal): Promise<void> {
    checkBundlePaths(files)
    for (const file of files) this.#held.set(file.cid, (this.#held.get(file.cid) ?? 0) + 1)
    await mkdir(this.#folder, { recursive: true, mode: 0o700 })
    try {
      for (const file of files) {
        const kept = join(this.#folder, file.cid)
        await this.#keep(file, kept, signal)
        const path = join(target, file.path)
        await mkdir(dirname(path), { recursive: true, mode: 0o700 })
        await link(kept, path)
      }
    } catch (error) {
      await this.release(files)
      throw storageError(error)
    }
  }

  /** Forgets files that no instance holds any more. */
  async release(files: readonly BundleFile[]): Promise<void> {
    for (const { cid } of files) {
      const left = (this.#held.get(cid) ?? 1) - 1
      if (left > 0) this.#held.set(cid, left)
      else {
        this.#held.delete(cid)
        await this.#inTurn(cid, async () => {
          if (!this.#held.has(cid)) await rm(join(this.#folder, cid), { force: true })
        })
      }
    }
  }

  #keep(file: BundleFile, kept: string, signal: AbortSignal): Promise<void> {
    return this.#inTurn(file.cid, async () => {
      const present = await lstat(kept).then(stat => stat.size === file.size, () => false)
      if (!present) await this.#write(file, kept, signal)
    })
  }

  #inTurn(cid: string, job: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(cid) ?? Promise.resolve()
    const mine = before.then(job, job)
    // Whoever waits for it hears of its failure; the next in turn only waits for its end.
    const ended = mine.catch(() => undefined).finally(() => { if (this.#turns.get(cid) === ended) this.#turns.delete(cid) })
    this.#turns.set(cid, ended)
    return mine
  }

  async #write(file: BundleFile, kept: string, signal: AbortSignal): Promise<void> {
    await rm(kept, { force: true })
    let size = 0
    const counted = async function* (bytes: AsyncIterable<Uint8Array>) {
      for await (const chunk of bytes) {
        size += chunk.byteLength
        if (size > file.size) throw new MeshError('CONTENT_CORRUPT', `bundle file ${file.path} is longer than the ${file.size} bytes its manifest says`)
        yield chunk
      }
    }
    try {
      await pipeline(Readable.from(counted(this.#content.cat(file.cid, { signal }))), createWriteStream(kept, { flags: 'wx', mode: 0o600 }), { signal })
      if (size !== file.size) throw new MeshError('CONTENT_CORRUPT', `bundle file ${file.path} has ${size} bytes; its manifest says ${file.size}`)
      await chmod(kept, 0o444)
    } catch (error) {
      await rm(kept, { force: true })
      throw error
    }
  }
}

function storageError(error: unknown): Error {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (code === 'ENOSPC' || code === 'EDQUOT') return new MeshError('STORAGE_FULL', 'the disk is full: the bundle could not be laid out', { cause: error })
  return asMeshError(error)
}
