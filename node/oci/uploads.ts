import { createHash, randomUUID, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { OciError } from './failure.ts'

/** An upload nobody has added to for this long is dropped. */
const IDLE_MS = 3_600_000
const UPLOADS = 256

type Upload = { readonly id: string; readonly repository: string; readonly path: string; readonly file: FileHandle; readonly hash: Hash; size: number; busy: boolean; touched: number }

/** Holds blobs while they come in, piece by piece, each hashed as it comes. */
export class Uploads {
  readonly #dir: string
  readonly #now: () => number
  readonly #open = new Map<string, Upload>()

  constructor(dir: string, now: () => number) {
    this.#dir = dir
    this.#now = now
  }

  /** What an earlier daemon left is of no use to anybody: its hashes are gone. */
  async start(): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true })
    await mkdir(this.#dir, { recursive: true, mode: 0o700 })
  }

  async begin(repository: string): Promise<string> {
    await this.#dropIdle()
    if (this.#open.size >= UPLOADS) throw new OciError('TOOMANYREQUESTS', `${UPLOADS} uploads are open: finish or cancel some`)
    const id = randomUUID()
    const path = join(this.#dir, id)
    this.#open.set(id, { id, repository, path, file: await open(path, 'wx', 0o600), hash: createHash('sha256'), size: 0, busy: false, touched: this.#now() })
    return id
  }

  /** Bytes held. Throws BLOB_UPLOAD_UNKNOWN. */
  size(repository: string, id: string): number {
    return this.#known(repository, id).size
  }

  /** Adds a piece. `from`: where its sender thinks it belongs. Throws RANGE_INVALID when it does not follow. */
  async add(repository: string, id: string, pieces: AsyncIterable<Uint8Array>, from?: number): Promise<number> {
    const upload = this.#known(repository, id)
    if (upload.busy) throw new OciError('RANGE_INVALID', 'another piece of this upload is coming in')
    if (from !== undefined && from !== upload.size) throw new OciError('RANGE_INVALID', `the upload has ${upload.size} bytes; a piece from ${from} does not follow`, { range: range(upload.size) })
    upload.busy = true
    try {
      for await (const piece of pieces) {
        await upload.file.write(piece, 0, piece.byteLength, upload.size)
        upload.hash.update(piece)
        upload.size += piece.byteLength
        upload.touched = this.#now()
      }
      return upload.size
    } catch (error) {
      // What the hash has eaten cannot be given back, so an upload that broke off in the middle of a piece is over.
      await this.#drop(upload)
      throw error
    } finally {
      upload.busy = false
    }
  }

  /** Hands the whole blob to `keep` once its digest is the one promised. Throws DIGEST_INVALID. */
  async finish<T>(repository: string, id: string, digest: string, keep: (bytes: AsyncIterable<Uint8Array>, size: number) => Promise<T>): Promise<T> {
    const upload = this.#known(repository, id)
    if (upload.busy) throw new OciError('BLOB_UPLOAD_INVALID', 'a piece of this upload is still coming in')
    try {
      const found = `sha256:${upload.hash.digest('hex')}`
      if (found !== digest) throw new OciError('DIGEST_INVALID', `what was uploaded is ${found}, not ${digest}`)
      return await keep(createReadStream(upload.path, { highWaterMark: 1_048_576 }), upload.size)
    } finally {
      await this.#drop(upload)
    }
  }

  async cancel(repository: string, id: string): Promise<void> {
    await this.#drop(this.#known(repository, id))
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map(upload => this.#drop(upload)))
  }

  #known(repository: string, id: string): Upload {
    const upload = this.#open.get(id)
    if (upload?.repository !== repository) throw new OciError('BLOB_UPLOAD_UNKNOWN', `there is no upload ${id}: begin another`)
    upload.touched = this.#now()
    return upload
  }

  async #drop(upload: Upload): Promise<void> {
    if (!this.#open.delete(upload.id)) return
    await upload.file.close()
    await rm(upload.path, { force: true })
  }

  async #dropIdle(): Promise<void> {
    const since = this.#now() - IDLE_MS
    for (const upload of this.#open.values()) if (!upload.busy && upload.touched < since) await this.#drop(upload)
  }
}

/** As the `Range` header of an upload says it: inclusive, and `0-0` for nothing, as registries do. */
export function range(size: number): string {
  return `0-${Math.max(0, size - 1)}`
}
