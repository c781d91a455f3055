import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { FsBlockstore } from 'blockstore-fs'
import { NextToLast } from 'blockstore-fs/sharding'
import { CID } from 'multiformats/cid'
import { MeshError } from '../../../protocols/errors.ts'

const SHA2_256 = 0x12
const IDENTITY = 0x00

/** Larger than any block this store makes or takes. */
export const BLOCK_BYTES = 2_097_152

/**
 * Blocks as files, in the layout of blockstore-fs, which Helia sees too. Ours adds what that store leaves out: a full disk
 * has its own error, whole blocks are read at once, and writes can be made to survive a power cut.
 */
export class BlockFiles extends FsBlockstore {
  readonly #folder: string
  readonly #sharding: NextToLast
  readonly #reserveBytes: number
  readonly #made = new Set<string>()

  /** `reserveBytes`: disk that is never taken. */
  constructor(folder: string, reserveBytes: number) {
    const sharding = new NextToLast()
    super(folder, { shardingStrategy: sharding })
    this.#folder = folder
    this.#sharding = sharding
    this.#reserveBytes = reserveBytes
    mkdirSync(folder, { recursive: true, mode: 0o700 })
  }

  /** Removes what a crash left half written. Throws STORAGE_FAILED. */
  async sweep(): Promise<void> {
    for (const dir of await readdir(this.#folder)) {
      for (const file of await readdir(join(this.#folder, dir)).catch(() => [])) if (file.endsWith('.tmp')) await rm(join(this.#folder, dir, file), { force: true })
    }
  }

  /** Throws STORAGE_FULL when `bytes` more would not fit. */
  async mustFit(bytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.#folder)
    const free = bavail * bsize - this.#reserveBytes
    if (free < bytes) throw new MeshError('STORAGE_FULL', `${bytes} bytes do not fit: ${Math.max(0, free)} are free under ${this.#folder} (${this.#reserveBytes} are kept free)`, { details: { needed: bytes, free } })
  }

  override async put(cid: CID, value: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<CID> {
    if (value instanceof Uint8Array) {
      await this.write(cid, value)
      return cid
    }
    const chunks: Uint8Array[] = []
    for await (const chunk of value) chunks.push(chunk)
    await this.write(cid, chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks))
    return cid
  }

  override async * get(cid: CID): AsyncGenerator<Uint8Array> {
    const bytes = await this.read(cid)
    if (bytes === undefined) throw new NotFoundError(`no block ${cid.toString()} here`)
    yield bytes
  }

  /** Atomic: the block is there whole or not at all. Throws STORAGE_FULL or STORAGE_FAILED. */
  async write(cid: CID, bytes: Uint8Array): Promise<void> {
    const { dir, file } = this.#path(cid)
    const aside = `${file}.${randomBytes(6).toString('hex')}.tmp`
    try {
      if (!this.#made.has(dir)) {
        await mkdir(dir, { recursive: true, mode: 0o700 })
        this.#made.add(dir)
      }
      await writeFile(aside, bytes, { mode: 0o600 })
      await rename(aside, file)
    } catch (error) {
      await unlink(aside).catch(() => undefined)
      throw storageError(error, `block ${cid.toString()}`)
    }
  }

  /** Undefined when it is not here. Not checked against its CID: see `matches`. */
  async read(cid: CID): Promise<Uint8Array | undefined> {
    try {
      return await readFile(this.#path(cid).file)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined
      throw storageError(error, `block ${cid.toString()}`)
    }
  }

  /** Bytes on disk, or undefined. */
  async size(cid: CID): Promise<number | undefined> {
    return (await stat(this.#path(cid).file).catch(() => undefined))?.size
  }

  /** Makes a block and its name survive a power cut. */
  async sync(cids: Iterable<CID>): Promise<void> {
    const dirs = new Set<string>()
    for (const cid of cids) {
      const { dir, file } = this.#path(cid)
      dirs.add(dir)
      await syncPath(file)
    }
    for (const dir of dirs) await syncPath(dir)
  }

  #path(cid: CID): { readonly dir: string; readonly file: string } {
    const { dir, file } = this.#sharding.encode(cid)
    const folder = join(this.#folder, dir)
    return { dir: folder, file: join(folder, file) }
  }
}

/** Whether these bytes are what the CID names. Only sha2-256 and identity are believed. */
export function matches(cid: CID, bytes: Uint8Array): boolean {
  const { code, digest } = cid.multihash
  if (code === IDENTITY) return Buffer.compare(digest, bytes) === 0
  return code === SHA2_256 && createHash('sha256').update(bytes).digest().compare(digest) === 0
}

/** Reads a CID that came from outside. Throws BAD_INPUT. */
export function parseCid(text: string): CID {
  try {
    return CID.parse(text)
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `${text} is no CID`, { cause })
  }
}

export async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

export function storageError(error: unknown, what: string): MeshError {
  if (error instanceof MeshError) return error
  const message = error instanceof Error ? error.message : String(error)
  if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) return new MeshError('STORAGE_FULL', `the disk is full: ${what} was not stored`, { cause: error })
  return new MeshError('STORAGE_FAILED', `${what}: ${message}`, { cause: error })
}

export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

/** The name by which Helia knows that it must ask the network. */
class NotFoundError extends Error {
  override readonly name = 'NotFoundError'
}
