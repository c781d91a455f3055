import { MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { JsonObject } from '../lib/json.ts'
import type { Clock } from '../ports.ts'
import type { Artefact, ArtefactEntry, Artefacts } from '../registries/artefacts.ts'

const AT_ONCE = 32
/** A document whose holders do not answer is left out of what people look through; its URI is not. */
const LOAD_MS: Millis = 2_000
const AGAIN_MS: Millis = 30_000
/** Nobody waits longer than this for what is not here yet; it is read on with the next look. */
const PATIENCE_MS: Millis = 10_000

type Row = { readonly uri: string; readonly document: JsonObject; readonly retryAt: Millis | undefined }

/** The documents of one registry in AIOS's spelling, decoded once and kept up to date, so that they can be looked through in milliseconds. */
export class DocumentTable<T> {
  readonly #clock: Pick<Clock, 'monotonic' | 'deadline'>
  readonly #artefacts: Artefacts<T>
  /** One artefact in AIOS's spelling. */
  readonly spell: (artefact: Artefact<T>) => JsonObject
  readonly #bare: (uri: string) => JsonObject
  readonly #rows = new Map<string, Row>()
  /** Changed since they were read. Bounded by the registry. */
  readonly #dirty = new Set<string>()
  /** Their content could not be had; tried again later. */
  readonly #late = new Set<Row>()
  #watching = false
  #sorted: readonly JsonObject[] | undefined
  #refreshing: Promise<void> | undefined

  constructor(clock: Pick<Clock, 'monotonic' | 'deadline'>, artefacts: Artefacts<T>, spell: { readonly whole: (artefact: Artefact<T>) => JsonObject; readonly bare: (uri: string) => JsonObject }) {
    this.#clock = clock
    this.#artefacts = artefacts
    this.spell = spell.whole
    this.#bare = spell.bare
  }

  /** By URI. The same array as long as nothing has changed. */
  async documents(): Promise<readonly JsonObject[]> {
    await this.#refresh()
    this.#sorted ??= [...this.#rows.values()].sort((a, b) => (a.uri < b.uri ? -1 : 1)).map(({ document }) => document)
    return this.#sorted
  }

  /** One refresh at a time; whoever comes meanwhile waits for it, and looks again. */
  async #refresh(): Promise<void> {
    while (this.#refreshing !== undefined) await this.#refreshing
    this.#refreshing = this.#catchUp().finally(() => {
      this.#refreshing = undefined
    })
    await this.#refreshing
  }

  async #catchUp(): Promise<void> {
    if (!this.#watching) {
      this.#watching = true
      this.#artefacts.onChange(uri => this.#dirty.add(uri))
      for (const { uri } of await this.#artefacts.list()) this.#dirty.add(uri)
    }
    const now = this.#clock.monotonic()
    for (const { uri, retryAt } of this.#late) if ((retryAt ?? 0) <= now) this.#dirty.add(uri)
    if (this.#dirty.size === 0) return
    const pending = [...this.#dirty]
    this.#dirty.clear()
    this.#sorted = undefined
    const work = async (): Promise<void> => {
      while (this.#clock.monotonic() - now < PATIENCE_MS) {
        const uri = pending.pop()
        if (uri === undefined) return
        await this.#read(uri, this.#clock.deadline(LOAD_MS))
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, work))
    for (const uri of pending) {
      this.#dirty.add(uri)
      if (!this.#rows.has(uri)) this.#rows.set(uri, { uri, document: this.#bare(uri), retryAt: undefined })
    }
  }

  async #read(uri: string, signal: AbortSignal): Promise<void> {
    const before = this.#rows.get(uri)
    if (before !== undefined) this.#late.delete(before)
    const entry = await this.#artefacts.entry(uri)
    if (entry === undefined) {
      this.#rows.delete(uri)
      return
    }
    const document = await this.#load(entry, signal)
    const row: Row = { uri, document: document ?? this.#bare(uri), retryAt: document === undefined ? this.#clock.monotonic() + AGAIN_MS : undefined }
    this.#rows.set(uri, row)
    if (document === undefined) this.#late.add(row)
  }

  async #load(entry: ArtefactEntry, signal: AbortSignal): Promise<JsonObject | undefined> {
    try {
      const whole = this.spell(await this.#artefacts.document(entry, signal))
      return { ...whole, ...await this.#artefacts.fields(entry.uri, entry.writer) }
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      return undefined
    }
  }
}
