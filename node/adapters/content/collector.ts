import { join } from 'node:path'
import { CID } from 'multiformats/cid'
import { asMeshError } from '../../../protocols/errors.ts'
import type { Cid, Millis } from '../../../protocols/ids.ts'
import type { Clock, Reclaimed, Telemetry } from '../../../src/ports.ts'
import { BLOCK_BYTES, type BlockFiles, parseCid } from './block-files.ts'
import { isSingle, links } from './layout.ts'
import { Ledger } from './ledger.ts'

/** A leaf of a file that is not its last one. */
const LEAF_BYTES = 1_048_576
/** Blocks removed while nobody else may use the store. */
const BATCH = 64
const QUIET_MS: Millis = 50
const PATIENCE_MS: Millis = 30_000
/** Copies fetched by this process that may yet be pinned. */
const FETCHED = 10_000

export type CollectorParts = {
  readonly dir: string
  readonly files: BlockFiles
  /** Roots of which every block is here, and roots that must stay. */
  readonly whole: Ledger
  readonly pins: Ledger
  readonly clock: Clock
  readonly telemetry: Telemetry
  /** How long what was let go stays, in case somebody wants it after all. */
  readonly graceMs: Millis
}

/**
 * Gives the disk back what was let go: copies of others' files that were fetched, pinned and unpinned. What was made here is never
 * collected, nor any record, nor a block that another whole file shares. Blocks go while nothing is fetched, added or read; leaves first,
 * the root last, and the word that the file is here before any of them, so that whoever stops in the middle goes on when he is back.
 */
export class Collector {
  readonly #parts: CollectorParts
  readonly #copies: Ledger
  readonly #letGo: Ledger
  readonly #fetched = new Set<Cid>()
  /** Roots that became whole since a look at what is shared began. */
  #arrived: Set<Cid> | undefined
  #users = 0
  #alone: Promise<void> | undefined
  #timer: (() => void) | undefined
  #working: Promise<void> | undefined
  #stopped = false
  #freedBytes = 0
  #freedBlocks = 0

  constructor(parts: CollectorParts) {
    this.#parts = parts
    this.#copies = new Ledger(join(parts.dir, 'copies'))
    this.#letGo = new Ledger(join(parts.dir, 'let-go'))
  }

  start(): void {
    if (this.#letGo.size > 0) this.#later(this.#parts.graceMs)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#timer?.()
    await this.#working
  }

  get reclaimed(): Reclaimed {
    return { freedBytes: this.#freedBytes, freedBlocks: this.#freedBlocks, letGo: this.#letGo.size }
  }

  /** Nothing is removed until the answer is called: whoever fetches, adds or reads finds again what he has seen. */
  async use(): Promise<() => void> {
    while (this.#alone !== undefined) await this.#alone
    this.#users += 1
    let used = true
    return () => {
      if (used) this.#users -= 1
      used = false
    }
  }

  /** All of a root is here. */
  arrived(root: Cid): void {
    this.#arrived?.add(root)
  }

  /** All of a root was fetched from others. */
  fetched(root: Cid): void {
    if (this.#fetched.size >= FETCHED) for (const oldest of this.#fetched) if (this.#fetched.delete(oldest)) break
    this.#fetched.add(root)
    this.#arrived?.add(root)
  }

  /** A root was made here: it is no copy, whatever it was before. */
  async made(root: Cid): Promise<void> {
    this.#fetched.delete(root)
    this.#arrived?.add(root)
    await this.#copies.remove(root)
    await this.#letGo.remove(root)
  }

  async pinned(root: Cid): Promise<void> {
    if (this.#fetched.delete(root)) await this.#copies.add(root)
    await this.#letGo.remove(root)
  }

  async unpinned(root: Cid): Promise<void> {
    if (!this.#copies.has(root)) return
    await this.#letGo.add(root)
    this.#later(this.#parts.graceMs)
  }

  #later(inMs: Millis): void {
    if (this.#stopped || this.#timer !== undefined) return
    this.#timer = this.#parts.clock.after(inMs, () => {
      this.#timer = undefined
      this.#working = this.#collect().catch(error => this.#parts.telemetry.event('warn', 'content.not-freed', { because: asMeshError(error).message })).finally(() => {
        this.#working = undefined
        if (this.#letGo.size > 0) this.#later(Math.max(PATIENCE_MS, this.#parts.graceMs))
      })
    })
  }

  async #collect(): Promise<void> {
    for (const root of this.#letGo) {
      if (this.#stopped) return
      await this.#free(root)
    }
  }

  async #free(root: Cid): Promise<void> {
    const { whole, telemetry } = this.#parts
    // From here on it is not here, for whoever asks.
    if (!await this.#aloneDo(async () => {
      if (this.#wanted(root)) await this.#letGo.remove(root)
      else await whole.remove(root)
    }) || !this.#letGo.has(root)) return
    const blocks = await this.#blocks(root)
    this.#arrived = new Set()
    try {
      const free = new Map(blocks.map(cid => [cid.toString(), cid]))
      for (const other of whole) await this.#spare(other, free)
      const before = { bytes: this.#freedBytes, blocks: this.#freedBlocks }
      const order = [...blocks.filter(isSingle), ...blocks.filter(cid => !isSingle(cid)).reverse()]
      for (let at = 0; at < order.length; at += BATCH) {
        if (this.#stopped || !await this.#aloneDo(() => this.#remove(root, order.slice(at, at + BATCH), free))) return
        if (this.#wanted(root) || whole.has(root)) return
      }
      await this.#copies.remove(root)
      await this.#letGo.remove(root)
      telemetry.event('info', 'content.freed', { root, bytes: this.#freedBytes - before.bytes, blocks: this.#freedBlocks - before.blocks })
    } finally {
      this.#arrived = undefined
    }
  }

  async #remove(root: Cid, cids: readonly CID[], free: Map<string, CID>): Promise<void> {
    const { files, pins, whole, telemetry } = this.#parts
    for (const other of this.#arrived ?? []) await this.#spare(other, free)
    this.#arrived?.clear()
    if (this.#wanted(root) || whole.has(root)) return
    let bytes = 0
    for (const cid of cids) {
      const name = cid.toString()
      const size = free.has(name) && !pins.has(name) ? await files.size(cid) : undefined
      // The last leaf of a file may be a small file of its own, made here, of which nothing is written down.
      if (size === undefined || (isSingle(cid) && name !== root && size < LEAF_BYTES)) continue
      await files.delete(cid)
      bytes += size
      this.#freedBlocks += 1
    }
    this.#freedBytes += bytes
    if (bytes > 0) telemetry.count('content_freed_bytes_total', {}, bytes)
  }

  #wanted(root: Cid): boolean {
    return this.#parts.pins.has(root) || !this.#copies.has(root)
  }

  /** What `other` is made of stays. */
  async #spare(other: Cid, free: Map<string, CID>): Promise<void> {
    if (free.size === 0) return
    for (const cid of await this.#blocks(other)) free.delete(cid.toString())
  }

  /** Its blocks, parents first; those below a node that is gone already are gone, too. */
  async #blocks(root: Cid): Promise<readonly CID[]> {
    const cid = parseCid(root)
    if (isSingle(cid)) return [cid]
    const { files } = this.#parts
    const inner: CID[] = []
    const leaves: CID[] = []
    const walk = async (node: CID): Promise<void> => {
      const bytes = await files.read(node)
      if (bytes === undefined || bytes.byteLength > BLOCK_BYTES) return
      inner.push(node)
      for (const child of links(bytes)) await (isSingle(child) ? leaves.push(child) : walk(child))
    }
    await walk(cid)
    return [...inner, ...leaves]
  }

  /** Does something while nobody uses the store. False where somebody uses it all the time. */
  async #aloneDo(work: () => Promise<void>): Promise<boolean> {
    const { clock } = this.#parts
    const ends = clock.monotonic() + PATIENCE_MS
    while (this.#users > 0 || this.#alone !== undefined) {
      if (this.#stopped || clock.monotonic() >= ends) return false
      await clock.sleep(QUIET_MS)
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#alone = promise
    try {
      await work()
    } finally {
      this.#alone = undefined
      resolve()
    }
    return true
  }
}
