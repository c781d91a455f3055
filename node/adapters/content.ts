import { join } from 'node:path'
import { unixfs } from '@helia/unixfs'
import * as dagCbor from '@ipld/dag-cbor'
import type { Libp2p } from '@libp2p/interface'
import { CID } from 'multiformats/cid'
import { decode, encode, recordCid, type Schema } from '../../protocols/codec.ts'
import { contentHave } from '../../protocols/content.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import type { Clock, ContentStore, Network, Progress, Reclaimed, Telemetry } from '../../src/ports.ts'
import { BLOCK_BYTES, BlockFiles, matches, parseCid, storageError } from './content/block-files.ts'
import { BlockFetch, type Wanted } from './content/block-fetch.ts'
import { serveBlocks } from './content/block-serve.ts'
import { Collector } from './content/collector.ts'
import { isSingle, type Layout, type Leaf, readLayout } from './content/layout.ts'
import { Ledger } from './content/ledger.ts'
import { Provider } from './content/provide.ts'
import type { Services } from './network/options.ts'

const ASKED = 64
const PROVIDERS = 16
const PROVIDERS_MS: Millis = 2_000
const RETRY_MS: Millis = 1_000
/** Without a signal of its own a fetch still ends. */
const PATIENCE_MS: Millis = 30_000
const TRANSFER_MS: Millis = 3_600_000
const SYNCS = 16
/** What was let go may be wanted again: an author changes how often something is kept, hosts come and go. */
const GRACE_MS: Millis = 60_000

/** Asked once, and only when something is missing. */
type Holders = () => Promise<readonly PeerId[]>

export type ContentOptions = {
  readonly dir: string
  readonly files: BlockFiles
  readonly network: Network
  readonly libp2p: Libp2p<Services>
  readonly clock: Clock
  readonly telemetry: Telemetry
  /** Who is said to hold a root, beside the members we are connected to (their ads say). */
  readonly findHolders?: (cid: Cid) => Promise<readonly PeerId[]>
  /** How long what was let go stays on the disk. */
  readonly graceMs?: Millis
}

/** The Content port: UnixFS and records in block files, fetched from members over our own block streams. */
export class DiskContentStore implements ContentStore {
  readonly #options: ContentOptions
  readonly #files: BlockFiles
  readonly #whole: Ledger
  readonly #pins: Ledger
  readonly #collector: Collector
  readonly #provider: Provider
  /** Whole-file fetches under way: a second caller waits for the first. */
  readonly #fetching = new Map<Cid, { readonly run: Promise<void>; readonly watchers: Set<(progress: Progress) => void> }>()

  constructor(options: ContentOptions) {
    this.#options = options
    this.#files = options.files
    this.#whole = new Ledger(join(options.dir, 'whole'))
    this.#pins = new Ledger(join(options.dir, 'pins'))
    this.#collector = new Collector({ ...options, whole: this.#whole, pins: this.#pins, graceMs: options.graceMs ?? GRACE_MS })
    this.#provider = new Provider(options)
  }

  /** Serves members. */
  async start(): Promise<void> {
    await this.#files.sweep()
    serveBlocks(this.#options.network, this.#files, cid => this.has(cid), this.#options.telemetry)
    for (const cid of this.#pins) this.#provider.add(cid)
    this.#collector.start()
  }

  async stop(): Promise<void> {
    this.#provider.stop()
    await this.#collector.stop()
  }

  async add(bytes: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<{ readonly cid: Cid; readonly size: number }> {
    let size = 0
    const files = this.#files
    const counted = async function * (): AsyncGenerator<Uint8Array> {
      for await (const chunk of bytes) {
        signal?.throwIfAborted()
        if (size >> 26 !== (size + chunk.byteLength) >> 26 || size === 0) await files.mustFit(chunk.byteLength)
        size += chunk.byteLength
        yield chunk
      }
    }
    const done = await this.#collector.use()
    try {
      const cid = await unixfs({ blockstore: files }).addByteStream(counted(), signal === undefined ? {} : { signal })
      await this.#keep(cid, await this.#layout(cid, load => files.read(load).then(found)))
      await this.#collector.made(cid.toString())
      return { cid: cid.toString(), size }
    } catch (error) {
      throw signal?.aborted === true ? asMeshError(signal.reason) : innerStorageError(error)
    } finally {
      done()
    }
  }

  async * cat(text: Cid, options: { readonly offset?: number; readonly length?: number; readonly signal?: AbortSignal } = {}): AsyncIterable<Uint8Array> {
    const { offset = 0, length = Infinity } = options
    if (offset < 0 || length < 0) throw new MeshError('BAD_INPUT', 'a range begins at zero or later and has a length of zero or more')
    const { clock } = this.#options
    const root = parseCid(text)
    const end = new AbortController()
    const done = await this.#collector.use()
    const signal = clock.deadline(TRANSFER_MS, either(end.signal, options.signal))
    try {
      const holders = once(() => this.#holders(text, [], signal))
      const layout = await this.#layout(root, cid => this.#block(cid, holders, signal))
      const until = Math.min(layout.size, offset + length)
      const leaves = layout.leaves.filter(leaf => leaf.offset < until && leaf.offset + leaf.size > offset)
      const arrivals = await this.#missing(leaves, false)
      const wanted = [...arrivals.values()].map(({ want }) => want)
      const fetching = wanted.length === 0 ? Promise.resolve() : this.#fetch(wanted, holders, signal, ({ cid }) => arrivals.get(cid.toString())?.here.resolve())
      fetching.catch(error => {
        for (const { here } of arrivals.values()) here.reject(error)
      })
      for (const leaf of leaves) {
        await arrivals.get(leaf.cid.toString())?.here.promise
        const bytes = leaf.inline ?? await this.#block(leaf.cid, holders, signal)
        if (bytes.byteLength !== leaf.size) throw new MeshError('CONTENT_CORRUPT', `a part of ${text} has another size than its root says`, { retryable: false })
        yield bytes.subarray(Math.max(0, offset - leaf.offset), Math.min(leaf.size, until - leaf.offset))
      }
      await fetching
      // Whoever has read all of it, every block verified, can give it to others.
      if (offset === 0 && until === layout.size && !this.#whole.has(text)) await this.#keep(root, layout)
    } finally {
      done()
      end.abort(new MeshError('CANCELLED', 'the reader has left'))
    }
  }

  async fetch(text: Cid, options: { readonly signal?: AbortSignal; readonly from?: readonly PeerId[]; readonly progress?: (progress: Progress) => void } = {}): Promise<void> {
    if (await this.has(text)) return
    const known = this.#fetching.get(text)
    const { progress, signal } = options
    if (known !== undefined) {
      if (progress !== undefined) known.watchers.add(progress)
      try {
        await orAborted(known.run, signal)
      } finally {
        if (progress !== undefined) known.watchers.delete(progress)
      }
      return
    }
    const watchers = new Set(progress === undefined ? [] : [progress])
    const end = new AbortController()
    const run = this.#fetchWhole(parseCid(text), options.from ?? [], this.#options.clock.deadline(TRANSFER_MS, either(end.signal, signal)), at => {
      for (const watcher of watchers) watcher(at)
    }).finally(() => {
      this.#fetching.delete(text)
      end.abort()
    })
    this.#fetching.set(text, { run, watchers })
    await run
  }

  async putRecord(value: unknown): Promise<Cid> {
    const bytes = encode(value)
    if (bytes.byteLength > BLOCK_BYTES) throw new MeshError('MESSAGE_TOO_LARGE', `a record of ${bytes.byteLength} bytes; the limit is ${BLOCK_BYTES}`)
    const cid = recordCid(bytes)
    const parsed = CID.parse(cid)
    if ((await this.#files.size(parsed)) !== bytes.byteLength) await this.#files.write(parsed, bytes)
    return cid
  }

  async getRecord<T>(text: Cid, schema: Schema<T>, signal?: AbortSignal): Promise<T> {
    const cid = parseCid(text)
    if (cid.code !== dagCbor.code) throw new MeshError('BAD_INPUT', `${text} is no record`)
    const end = new AbortController()
    const late = this.#options.clock.deadline(PATIENCE_MS, either(end.signal, signal))
    try {
      return decode(schema, await this.#block(cid, () => this.#holders(text, [], late), late), BLOCK_BYTES, `record ${text}`)
    } finally {
      end.abort()
    }
  }

  async has(text: Cid): Promise<boolean> {
    if (this.#whole.has(text)) return true
    const cid = parseCid(text)
    return isSingle(cid) && (await this.#files.size(cid)) !== undefined
  }

  async pin(text: Cid): Promise<void> {
    parseCid(text)
    await this.#pins.add(text)
    await this.#collector.pinned(text)
    this.#provider.add(text)
  }

  async unpin(text: Cid): Promise<void> {
    await this.#pins.remove(text)
    await this.#collector.unpinned(text)
  }

  reclaimed(): Reclaimed {
    return this.#collector.reclaimed
  }

  async #fetchWhole(root: CID, from: readonly PeerId[], signal: AbortSignal, tell: (progress: Progress) => void): Promise<void> {
    const done = await this.#collector.use()
    try {
      await this.#bring(root, from, signal, tell)
      this.#collector.fetched(root.toString())
    } finally {
      done()
    }
  }

  async #bring(root: CID, from: readonly PeerId[], signal: AbortSignal, tell: (progress: Progress) => void): Promise<void> {
    const holders = once(() => this.#holders(root.toString(), from, signal))
    if (isSingle(root)) {
      await this.#block(root, holders, signal)
      return
    }
    const layout = await this.#layout(root, cid => this.#block(cid, holders, signal))
    const arrivals = await this.#missing(layout.leaves, true)
    const wanted = [...arrivals.values()].map(({ want }) => want)
    const missingBytes = wanted.reduce((sum, want) => sum + want.size, 0)
    let doneBytes = layout.size - missingBytes
    await this.#files.mustFit(missingBytes)
    tell({ doneBytes, totalBytes: layout.size, holders: 0 })
    if (wanted.length > 0) {
      await this.#fetch(wanted, holders, signal, (want, active) => {
        doneBytes += want.size
        tell({ doneBytes, totalBytes: layout.size, holders: active })
      })
    }
    await this.#keep(root, layout)
  }

  /** Says, durably, that all of it is here: only after every block of it is on the disk. */
  async #keep(root: CID, layout: Layout): Promise<void> {
    if (!isSingle(root)) {
      const blocks = [...layout.inner, ...layout.leaves.filter(leaf => leaf.inline === undefined).map(leaf => leaf.cid)]
      const share = Math.ceil(blocks.length / SYNCS)
      await Promise.all(Array.from({ length: SYNCS }, (_, at) => this.#files.sync(blocks.slice(at * share, (at + 1) * share))))
      await this.#whole.add(root.toString())
    }
    this.#collector.arrived(root.toString())
    this.#provider.add(root.toString())
  }

  #layout(root: CID, load: (cid: CID) => Promise<Uint8Array>): Promise<Layout> {
    return readLayout(root, load)
  }

  /** The leaves that are not here. `check`: also those that are, but damaged (a power cut in the middle of a fetch). */
  async #missing(leaves: readonly Leaf[], check: boolean): Promise<Map<string, { readonly want: Wanted; readonly here: PromiseWithResolvers<void> }>> {
    const missing = new Map<string, { readonly want: Wanted; readonly here: PromiseWithResolvers<void> }>()
    for (const { cid, size, inline } of leaves) {
      if (inline !== undefined || missing.has(cid.toString())) continue
      const held = await this.#files.size(cid)
      if (held === size && (!check || matches(cid, found(await this.#files.read(cid))))) continue
      const here = Promise.withResolvers<void>()
      here.promise.catch(() => undefined)
      missing.set(cid.toString(), { want: { cid, size }, here })
    }
    return missing
  }

  /** One block, verified: from here, or from a holder. */
  async #block(cid: CID, holders: Holders, signal: AbortSignal): Promise<Uint8Array> {
    const here = await this.#files.read(cid)
    if (here !== undefined && matches(cid, here)) return here
    if (here !== undefined) {
      this.#options.telemetry.event('warn', 'content.damaged', { cid: cid.toString() })
      await this.#files.delete(cid)
    }
    await this.#fetch([{ cid, size: 0 }], holders, signal, () => undefined)
    const fetched = found(await this.#files.read(cid))
    if (!matches(cid, fetched)) throw new MeshError('STORAGE_FAILED', `block ${cid.toString()} reads back as something else: check the disk`)
    return fetched
  }

  async #fetch(wanted: readonly Wanted[], holders: Holders, signal: AbortSignal, onBlock: (want: Wanted, holders: number) => void): Promise<void> {
    const { network, clock, telemetry } = this.#options
    const fetch: BlockFetch = new BlockFetch({ network, clock, telemetry, files: this.#files }, wanted, want => onBlock(want, fetch.holders))
    await fetch.run(await holders(), signal)
  }

  /** Who holds all of `cid`: those who are said to, the members we are connected to, the DHT. Retried while nobody does. */
  async #holders(text: Cid, from: readonly PeerId[], signal: AbortSignal): Promise<readonly PeerId[]> {
    const { network, clock, findHolders } = this.#options
    const patience = clock.monotonic() + PATIENCE_MS
    for (;;) {
      const said = [...from, ...((await findHolders?.(text).catch(() => [])) ?? [])]
      const holders = await this.#confirm(text, [...new Set([...said, ...network.peers()])].slice(0, ASKED), signal)
      if (holders.length > 0) return holders
      const provided = await this.#confirm(text, await this.#providers(text, signal), signal)
      if (provided.length > 0) return provided
      // A peer that was just connected may hold it; a caller in a hurry has a signal.
      if (clock.monotonic() + RETRY_MS > patience || signal.aborted) return []
      await clock.sleep(RETRY_MS, signal).catch(() => undefined)
    }
  }

  async #confirm(text: Cid, peers: readonly PeerId[], signal: AbortSignal): Promise<readonly PeerId[]> {
    const { network } = this.#options
    const held = await Promise.all(peers.filter(peer => peer !== network.self).map(async peer => {
      const answer = await network.request(peer, contentHave, { roots: [text] }, signal).catch(() => undefined)
      return answer?.held[0] === true ? [peer] : []
    }))
    return held.flat()
  }

  async #providers(text: Cid, signal: AbortSignal): Promise<readonly PeerId[]> {
    const { libp2p, clock } = this.#options
    const found: PeerId[] = []
    if (libp2p.getConnections().length === 0) return found
    try {
      for await (const { id } of libp2p.contentRouting.findProviders(parseCid(text), { signal: clock.deadline(PROVIDERS_MS, signal) })) {
        found.push(id.toString())
        if (found.length >= PROVIDERS) break
      }
    } catch {
      // An empty routing table, or nobody answered in time: those found so far will do.
    }
    return found
  }
}

function found(bytes: Uint8Array | undefined): Uint8Array {
  if (bytes === undefined) throw new MeshError('CONTENT_UNAVAILABLE', 'a block that was here is gone')
  return bytes
}

function once(ask: Holders): Holders {
  let asked: Promise<readonly PeerId[]> | undefined
  return () => (asked ??= ask())
}

function either(one: AbortSignal, other: AbortSignal | undefined): AbortSignal {
  return other === undefined ? one : AbortSignal.any([one, other])
}

/** The importer wraps what the store throws. */
function innerStorageError(error: unknown): MeshError {
  for (let inner = error; inner instanceof Error; inner = inner.cause) if (inner instanceof MeshError) return inner
  return storageError(error, 'the file')
}

function orAborted(run: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return run
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason)
    if (signal.aborted) {
      abort()
      return
    }
    signal.addEventListener('abort', abort, { once: true })
    run.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}
