import { MeshError } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { JsonObject } from '../lib/json.ts'
import type { Clock } from '../ports.ts'
import type { Annotations } from '../registries/annotations.ts'
import type { Artefacts } from '../registries/artefacts.ts'
import type { DocumentTable } from '../search/document-table.ts'
import { amend, touched } from '../specs/amend.ts'
import type { Shelf } from './shelf.ts'

const FETCH_MS: Millis = 30_000

export type VersionedKind<T> = {
  readonly artefacts: Artefacts<T>
  readonly table: DocumentTable<T>
  /** What only describes it, and its author may correct. Everything else is a new version. */
  readonly mutable: readonly string[]
  readonly create: (document: Json) => Promise<string>
}

/** Artefacts whose versions never change: updates touch what describes them, removal withdraws them from use. */
export class VersionedShelf<T> implements Shelf {
  readonly #self: PeerId
  readonly #clock: Pick<Clock, 'deadline' | 'unix'>
  readonly #annotations: Annotations
  readonly #of: VersionedKind<T>

  constructor(self: PeerId, clock: Pick<Clock, 'deadline' | 'unix'>, annotations: Annotations, of: VersionedKind<T>) {
    this.#self = self
    this.#clock = clock
    this.#annotations = annotations
    this.#of = of
  }

  documents(): Promise<readonly JsonObject[]> {
    return this.#of.table.documents()
  }

  async get(key: string): Promise<JsonObject> {
    const { artefacts, table } = this.#of
    const found = await artefacts.get(key, this.#clock.deadline(FETCH_MS))
    return { ...table.spell(found), ...await artefacts.fields(found.uri, found.writer) }
  }

  create(document: Json): Promise<string> {
    return this.#of.create(document)
  }

  async update(key: string, change: Json): Promise<JsonObject> {
    const { artefacts, mutable } = this.#of
    const author = await artefacts.author(key)
    const frozen = touched(change).filter(field => !mutable.includes(field))
    if (frozen.length > 0) throw new MeshError('IMMUTABLE', `${key}: ${frozen.join(', ')} ${frozen.length === 1 ? 'is' : 'are'} part of the version, which never changes: publish another version (what may change is ${mutable.join(', ')})`, { details: { uri: key } })
    const after = amend(await this.get(key), change)
    const fields = Object.fromEntries(touched(change).map(field => [field, after[field] ?? null]))
    await this.#annotations.describe(this.#self, artefacts.name, key, author, fields)
    return this.get(key)
  }

  async remove(key: string, because = ''): Promise<void> {
    await this.#of.artefacts.yank(key, this.#self, because, this.#clock.unix())
  }
}
