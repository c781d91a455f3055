import { decode, encode, check, type Schema } from '../../protocols/codec.ts'
import { MeshError, type Verdict } from '../../protocols/errors.ts'
import { REGISTRIES, REGISTRY_VALUE_BYTES, type RegistryName, type RegistryRecord } from '../../protocols/registry.ts'
import { assert } from '../lib/assert.ts'
import type { Clock, Entry, Registry, RegistryStore, Telemetry } from '../ports.ts'
import { seal } from '../trust/seal.ts'
import { RECORD_DOMAIN, checkKey, checkRecord, isSigned, mayOperate, type HeldRecord, type RecordRules } from './record.ts'
import type { Change, RecordView } from './view.ts'

export type StorePorts = { readonly clock: Clock; readonly telemetry: Telemetry }

type Hear = (record: HeldRecord) => void

/** Puts one after another share a commit, at most this many. */
const COMMIT_PUTS = 512
/** Puts that may wait for a commit. */
const PENDING_PUTS = 20_000

type Put = { readonly registry: RegistryName; readonly key: string; readonly value: Uint8Array | null; readonly done: (record: HeldRecord) => void; readonly failed: (error: unknown) => void }

/**
 * The registries of one peer over its materialised view: signs what this peer writes, admits what others wrote once it
 * was checked, and tells whoever listens. How records travel between peers is the replica's and the logs' business.
 */
export class Registries implements RegistryStore {
  readonly #view: RecordView
  readonly #rules: RecordRules
  readonly #ports: StorePorts
  readonly #hearers = new Map<RegistryName, Set<Hear>>()
  readonly #written = new Set<(records: readonly HeldRecord[]) => void>()
  #puts: Put[] = []
  #committing = false

  constructor(view: RecordView, rules: RecordRules, ports: StorePorts) {
    this.#view = view
    this.#rules = rules
    this.#ports = ports
  }

  get view(): RecordView {
    return this.#view
  }

  open<T>(name: RegistryName, schema: Schema<T>): Registry<T> {
    return new OpenRegistry(this, name, schema)
  }

  /** Judges a record from anywhere. */
  check(envelope: HeldRecord['envelope']): Verdict<HeldRecord> {
    return checkRecord(envelope, this.#rules, this.#ports.clock.unix())
  }

  /** Did the peer that a record names as its signer sign it? Tells a forgery from a true record of somebody without the right to it. */
  signed(envelope: HeldRecord['envelope']): boolean {
    return isSigned(envelope, this.#rules)
  }

  /** Lets records that others wrote, and that were checked, compete. Durable when it returns. Throws STORAGE_FULL, STORAGE_FAILED. */
  admit(records: readonly HeldRecord[]): readonly Change[] {
    const changes = this.#view.merge(records, 'remote')
    this.#tell(changes)
    return changes
  }

  /** Writes as this peer: `null` withdraws. Resolves when durable here. Throws what `Registry.put` and `withdraw` throw. */
  write(registry: RegistryName, key: string, value: Uint8Array | null): Promise<HeldRecord> {
    if (this.#puts.length >= PENDING_PUTS) return Promise.reject(new MeshError('OVERLOADED', `${PENDING_PUTS} registry writes already wait for the disk; try again in a moment`))
    const { promise, resolve, reject } = Promise.withResolvers<HeldRecord>()
    this.#puts.push({ registry, key, value, done: resolve, failed: reject })
    if (!this.#committing) {
      this.#committing = true
      // One microtask gathers what was written together; durable writes cost an fsync each otherwise.
      void Promise.resolve().then(() => this.#commit())
    }
    return promise
  }

  /** Hears of records this peer wrote, after they are durable. */
  onWritten(hear: (records: readonly HeldRecord[]) => void): () => void {
    this.#written.add(hear)
    return () => this.#written.delete(hear)
  }

  onChange(registry: RegistryName, hear: Hear): () => void {
    const hearers = this.#hearers.get(registry) ?? new Set()
    this.#hearers.set(registry, hearers.add(hear))
    return () => hearers.delete(hear)
  }

  #commit(): void {
    for (;;) {
      const puts = this.#puts.splice(0, COMMIT_PUTS)
      if (puts.length === 0) break
      this.#commitTogether(puts)
    }
    this.#committing = false
  }

  #commitTogether(puts: readonly Put[]): void {
    // Two puts of one key see one another: the later one is decided on top of the earlier.
    const drafts = new Map<string, HeldRecord>()
    const fresh: HeldRecord[] = []
    const settled: { readonly put: Put; readonly record: HeldRecord }[] = []
    for (const put of puts) {
      const slot = `${put.registry}/${put.key}`
      try {
        const before = drafts.get(slot) ?? this.#view.get(put.registry, put.key)
        const record = this.#draft(put, before)
        if (record !== before) {
          drafts.set(slot, record)
          fresh.push(record)
        }
        settled.push({ put, record })
      } catch (error) {
        put.failed(error)
      }
    }
    let changes: readonly Change[]
    try {
      changes = fresh.length === 0 ? [] : this.#view.merge(fresh, 'local')
    } catch (error) {
      for (const { put } of settled) put.failed(error)
      return
    }
    for (const { put, record } of settled) put.done(record)
    this.#tell(changes)
    if (fresh.length > 0) for (const hear of this.#written) this.#call(() => hear(fresh))
  }

  #draft({ registry, key, value }: Put, before: HeldRecord | undefined): HeldRecord {
    const { identity, networkId } = this.#rules
    const writer = identity.peer
    const valid = checkKey(key)
    if (!valid.ok) throw new MeshError('BAD_INPUT', `${registry} ${JSON.stringify(key)}: ${valid.because}`)
    if (before !== undefined && same(before.value, value)) return before
    if (before === undefined && value === null) throw new MeshError('NOT_FOUND', `${registry} holds no ${key}`)
    const once = REGISTRIES[registry] === 'write-once'
    if (once && value === null) throw new MeshError('IMMUTABLE', `${registry} keep what was published: ${key} cannot be withdrawn`)
    if (once && before !== undefined) throw new MeshError('IMMUTABLE', `${key} is already published with other content; raise its version or releaseTag and publish that`, { details: { key, writer: before.writer } })
    if (before !== undefined && before.owner !== writer) {
      const verdict = mayOperate(this.#rules, writer, registry, key, before.owner)
      if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
    }
    const now = this.#ports.clock.unix()
    const claim = before === undefined ? { owner: writer, since: now } : { owner: before.owner, since: before.since }
    const body: RegistryRecord = { registry, key, value, writer, sequence: once ? 0 : (before?.sequence ?? 0) + 1, issuedAt: Math.max(now, claim.since), network: networkId, ...(once ? {} : claim) }
    // The same door as everybody's records: what others would refuse is never written here.
    const verdict = checkRecord(seal(identity, RECORD_DOMAIN, body), this.#rules, now)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `may not write ${registry} ${key}: ${verdict.because}`)
    return verdict.value
  }

  #tell(changes: readonly Change[]): void {
    for (const { record, replaced } of changes) {
      if (replaced !== undefined && REGISTRIES[record.registry] === 'write-once' && !same(replaced.value, record.value)) {
        // Two peers published one name apart from one another. Everyone now agrees on the earlier; its loser should know.
        this.#ports.telemetry.count('registry_contested_total', { registry: record.registry })
        this.#ports.telemetry.event('warn', 'registry.contested', { registry: record.registry, key: record.key, winner: record.writer, loser: replaced.writer })
      }
      for (const hear of this.#hearers.get(record.registry) ?? []) this.#call(() => hear(record))
    }
  }

  /** What is durable stays so, and everybody else hears of it, whatever one listener does. */
  #call(hear: () => void): void {
    try {
      hear()
    } catch (error) {
      this.#ports.telemetry.event('error', 'registry.listener-failed', { because: error instanceof Error ? (error.stack ?? error.message) : String(error) })
    }
  }
}

/** One registry with the type of its values. */
class OpenRegistry<T> implements Registry<T> {
  readonly #store: Registries
  readonly #name: RegistryName
  readonly #schema: Schema<T>

  constructor(store: Registries, name: RegistryName, schema: Schema<T>) {
    this.#store = store
    this.#name = name
    this.#schema = schema
  }

  async get(key: string): Promise<Entry<T> | undefined> {
    const record = this.#store.view.get(this.#name, key)
    return record === undefined || record.value === null ? undefined : this.#entry(record)
  }

  async put(key: string, value: T): Promise<Entry<T>> {
    const bytes = encode(check(this.#schema, value, `${this.#name} ${key}`, 'BAD_INPUT'))
    if (bytes.byteLength > REGISTRY_VALUE_BYTES) {
      throw new MeshError('MESSAGE_TOO_LARGE', `${this.#name} ${key} is ${bytes.byteLength} bytes; the limit is ${REGISTRY_VALUE_BYTES}: keep the content in the content store and its CID here`, { details: { bytes: bytes.byteLength, limit: REGISTRY_VALUE_BYTES } })
    }
    return this.#entry(await this.#store.write(this.#name, key, bytes))
  }

  async withdraw(key: string): Promise<void> {
    await this.#store.write(this.#name, key, null)
  }

  async list(prefix = ''): Promise<readonly Entry<T>[]> {
    const entries: Entry<T>[] = []
    for (const record of this.#store.view.list(this.#name, prefix)) {
      const entry = this.#read(record)
      if (entry !== undefined) entries.push(entry)
    }
    return entries.sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  onChange(hear: (key: string, entry: Entry<T> | undefined) => void): () => void {
    return this.#store.onChange(this.#name, record => {
      const entry = record.value === null ? undefined : this.#read(record)
      if (record.value === null || entry !== undefined) hear(record.key, entry)
    })
  }

  /** Undefined where the writer's value does not fit the schema: one bad record must not hide its neighbours. */
  #read(record: HeldRecord): Entry<T> | undefined {
    try {
      return this.#entry(record)
    } catch (error) {
      if (error instanceof MeshError) return undefined
      throw error
    }
  }

  #entry(record: HeldRecord): Entry<T> {
    const { key, value, writer, sequence, issuedAt } = record
    assert(value !== null, 'a withdrawn record has no entry')
    const what = `${this.#name} ${key}`
    const inside = typeof value === 'string' ? check(this.#schema, value, what) : decode(this.#schema, value, REGISTRY_VALUE_BYTES, what)
    return { key, value: inside, writer, sequence, issuedAt }
  }
}

function same(a: Uint8Array | string | null, b: Uint8Array | string | null): boolean {
  if (a instanceof Uint8Array && b instanceof Uint8Array) return a.byteLength === b.byteLength && a.every((byte, i) => byte === b[i])
  return a === b
}
