import { ComposedStorage, IPFSAccessController, IPFSBlockStorage, LRUStorage, MemoryStorage, type Database, type LogEntry, type OrbitDB, type Storage } from '@orbitdb/core'
import { z } from 'zod'
import { check, decode, encode } from '../../../protocols/codec.ts'
import { MeshError, asMeshError } from '../../../protocols/errors.ts'
import { signed, type Signed } from '../../../protocols/signed.ts'

/** Entries of one segment. A reader that joins late traverses at most this many; older records come from pages. */
export const SEGMENT_ENTRIES = 128
/** OrbitDB sends a head unframed, in one chunk or not at all: about 60 KB is known to pass, so entries stay below. */
export const ENTRY_BYTES = 49_152
/** The address commits to the writer's OrbitDB identity, so that a stranger's entry is refused before anything is fetched for it. */
const segmentMeta = z.object({ identity: z.string().min(8).max(120) })
const entryValue = z.object({ records: z.array(signed).min(1).max(1_024) })
const BLOCK_MS = 10_000
/** An entry with OrbitDB's own fields; writers append at a third of this rate. */
const TOPIC_LIMITS = { messageBytes: 65_536, perPeerPerSecond: 30 }

/** A network that lets only known topics and protocols pass has to be told of OrbitDB's: one of each a log. */
export type LogDoor = {
  guardTopic(topic: string, limits: { readonly messageBytes: number; readonly perPeerPerSecond: number }): () => void
  guardProtocol(protocol: string): void
}

export type SegmentOptions = { readonly orbitdb: OrbitDB; readonly helia: object; readonly told: SegmentTold; readonly door?: Partial<LogDoor>; readonly limit?: number }

export type SegmentTold = {
  /** Records of entries not seen before. */
  readonly records: (records: readonly Signed[]) => void
  readonly failed: (what: 'sync' | 'join' | 'entry', error: MeshError) => void
}

/** Packs records into as few entries as their size allows, in order. */
export function packEntries(records: readonly Signed[]): { readonly value: Uint8Array; readonly count: number }[] {
  const out: { readonly value: Uint8Array; readonly count: number }[] = []
  let group: Signed[] = []
  let size = 0
  const close = (): void => {
    if (group.length > 0) out.push({ value: encode({ records: group }), count: group.length })
    group = []
    size = 0
  }
  for (const record of records) {
    // The envelope's field names, signer and signature.
    const bytes = record.payload.byteLength + 320
    if (group.length > 0 && (size + bytes > ENTRY_BYTES || group.length >= 512)) close()
    group.push(record)
    size += bytes
  }
  close()
  return out
}

/**
 * One OrbitDB log of one writer, with OrbitDB's defects kept inside: always an error listener before it may hear anybody,
 * only the writer's entries, bounded in number and size, every new head read to its end, failed joins told instead of printed.
 */
export class LogSegment {
  readonly #database: Database
  readonly #told: SegmentTold
  readonly #limit: number
  #shut: (() => void) | undefined
  readonly #seen = new Set<string>()
  #reading: Promise<void> = Promise.resolve()
  #again = false
  #busy = false
  #closed = false

  private constructor(database: Database, told: SegmentTold, limit: number) {
    this.#database = database
    this.#told = told
    this.#limit = limit
    // Without a listener an error is an unhandled rejection and the daemon exits: three bytes on the topic would do.
    database.events.on('error', (error: unknown) => told.failed('sync', asMeshError(error)))
  }

  /** Makes or reopens a segment of our own. Its heads are kept on disk, so that a restart continues it. */
  static async openOwn(name: string, { orbitdb, helia, told, door = {}, limit = SEGMENT_ENTRIES }: SegmentOptions): Promise<LogSegment> {
    const database = await orbitdb.open(name, {
      type: 'events',
      sync: false,
      meta: { identity: orbitdb.identity.hash },
      AccessController: IPFSAccessController({ write: [orbitdb.identity.id] }),
      entryStorage: await entryStorage(helia, limit),
      referencesCount: 0,
    })
    const segment = new LogSegment(database, told, limit)
    segment.#guardJoins(orbitdb.identity.hash)
    for (const entry of await segment.#unseen()) segment.#seen.add(entry.hash)
    await segment.#enter(door)
    return segment
  }

  /** Opens another writer's segment by address. Throws CONTENT_UNAVAILABLE when its manifest cannot be fetched, MESSAGE_INVALID when it is not one of ours. */
  static async openTheirs(address: string, { orbitdb, helia, told, door = {}, limit = SEGMENT_ENTRIES }: SegmentOptions, signal: AbortSignal): Promise<LogSegment> {
    let database: Database
    try {
      // Heads and index in memory: the view on disk holds what was read, and OrbitDB's copy would only repeat it.
      database = await within(signal, orbitdb.open(address, { sync: false, entryStorage: await entryStorage(helia, limit), headsStorage: await MemoryStorage(), indexStorage: await MemoryStorage(), signal }))
    } catch (error) {
      throw new MeshError('CONTENT_UNAVAILABLE', `the registry log ${address} could not be opened: ${asMeshError(error).message}`, { cause: error })
    }
    try {
      // The `documents` type drops encryption and both it and `keyvalue` lose keys such as `constructor`.
      if (database.type !== 'events') throw new MeshError('MESSAGE_INVALID', `the registry log ${address} is a ${database.type} database; registry logs are events`)
      const { identity } = check(segmentMeta, database.meta, `registry log ${address}`)
      const segment = new LogSegment(database, told, limit)
      segment.#guardJoins(identity)
      // One event may stand for many entries, so what changed is read from the heads, not from the event.
      database.events.on('update', () => segment.#readSoon())
      await segment.#enter(door)
      return segment
    } catch (error) {
      await database.close()
      throw error
    }
  }

  get address(): string {
    return this.#database.address
  }

  /** Entries known here. */
  get length(): number {
    return this.#seen.size
  }

  get full(): boolean {
    return this.#seen.size >= this.#limit
  }

  /** Appends one packed entry to our own segment. */
  async append(value: Uint8Array): Promise<void> {
    if (value.byteLength > ENTRY_BYTES + 4_096) throw new MeshError('MESSAGE_TOO_LARGE', `a registry log entry of ${value.byteLength} bytes would never reach a peer that joins later`)
    this.#seen.add(await this.#database.add(value))
  }

  /** Sends the heads again: OrbitDB repairs a lost update only with the next write, which may never come. */
  async reannounce(): Promise<void> {
    for (const head of await this.#database.log.heads()) await this.#database.sync.add(head)
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#database.close()
    this.#shut?.()
    await this.#reading
  }

  /** Only now may anybody reach us: every fence is up. */
  async #enter(door: Partial<LogDoor>): Promise<void> {
    this.#shut = door.guardTopic?.(this.address, TOPIC_LIMITS)
    door.guardProtocol?.(`/orbitdb/heads${this.address}`)
    await this.#database.sync.start()
  }

  /** OrbitDB prints failed joins and forgets them; and it fetches whatever an entry points at before it knows who wrote it. */
  #guardJoins(writer: string): void {
    const { log } = this.#database
    const join = log.joinEntry
    log.joinEntry = async entry => {
      try {
        if (entry.identity !== writer) throw new MeshError('FORBIDDEN', 'an entry of somebody else than the log\'s writer was published to it')
        if (this.#seen.size >= 2 * this.#limit) throw new MeshError('MESSAGE_TOO_LARGE', `the segment has more than ${2 * this.#limit} entries; its writer does not cut its log`)
        return await join(entry)
      } catch (error) {
        this.#told.failed('join', asMeshError(error))
        return false
      }
    }
  }

  #readSoon(): void {
    if (this.#busy) {
      this.#again = true
      return
    }
    this.#busy = true
    this.#reading = this.#readNew().finally(() => {
      this.#busy = false
      if (this.#again && !this.#closed) {
        this.#again = false
        this.#readSoon()
      }
    })
  }

  async #readNew(): Promise<void> {
    try {
      for (const entry of await this.#unseen()) {
        this.#seen.add(entry.hash)
        const records = this.#recordsOf(entry)
        if (records !== undefined) this.#told.records(records)
      }
    } catch (error) {
      if (!this.#closed) this.#told.failed('entry', asMeshError(error))
    }
  }

  /** Entries below the heads that were not seen before, oldest first. */
  async #unseen(): Promise<LogEntry[]> {
    const out = new Map<string, LogEntry>()
    const ahead = await this.#database.log.heads()
    for (let entry = ahead.pop(); entry !== undefined && out.size < 2 * this.#limit; entry = ahead.pop()) {
      if (this.#seen.has(entry.hash) || out.has(entry.hash)) continue
      out.set(entry.hash, entry)
      for (const hash of entry.next) {
        const next = this.#seen.has(hash) || out.has(hash) ? undefined : await this.#database.log.get(hash)
        if (next !== undefined) ahead.push(next)
      }
    }
    return [...out.values()].toReversed()
  }

  #recordsOf(entry: LogEntry): readonly Signed[] | undefined {
    try {
      if (!(entry.payload.value instanceof Uint8Array)) throw new MeshError('MESSAGE_INVALID', 'a registry log entry holds no records')
      return decode(entryValue, entry.payload.value, ENTRY_BYTES + 4_096, 'registry log entry').records
    } catch (error) {
      this.#told.failed('entry', asMeshError(error))
      return undefined
    }
  }
}

/** OrbitDB fetches what a log refers to without asking the signal it was given: what opens too late is closed again. */
async function within(signal: AbortSignal, opening: Promise<Database>): Promise<Database> {
  const ended = Promise.withResolvers<never>()
  const end = (): void => ended.reject(signal.reason)
  signal.addEventListener('abort', end, { once: true })
  if (signal.aborted) end()
  try {
    return await Promise.race([opening, ended.promise])
  } catch (error) {
    opening.then(late => late.close()).catch(() => undefined)
    throw error
  } finally {
    signal.removeEventListener('abort', end)
  }
}

/** Blocks through Helia, without a pin each: pins are most of what a write costs, and the view can rebuild any log. */
async function entryStorage(helia: object, limit: number): Promise<Storage> {
  return ComposedStorage(await LRUStorage({ size: 2 * limit }), bounded(await IPFSBlockStorage({ ipfs: helia, pin: false, timeout: BLOCK_MS }), 8 * limit))
}

/** A join walks back through everything it lacks; a writer without scruples could make that endless. */
function bounded(storage: Storage, most: number): Storage {
  let reads = 0
  return {
    ...storage,
    get: async (key, signal) => {
      if (++reads > most) throw new MeshError('MESSAGE_TOO_LARGE', 'the registry log leads on beyond the length of a segment')
      return storage.get(key, signal)
    },
  }
}
