import { z } from 'zod'
import { check, type Schema } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { cid as cidSchema, type Cid, type Json, type Millis, type PeerId } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'
import type { ContentStore, Registry, RegistryStore } from '../ports.ts'
import type { Annotations } from './annotations.ts'
import { asksForLatest, latest } from './latest.ts'
import { Yanks, type Yankable } from './yanks.ts'

const published = z.object({ cid: cidSchema })

export type ArtefactEntry = { readonly uri: string; readonly cid: Cid; readonly writer: PeerId; readonly issuedAt: Millis }
export type Artefact<T> = ArtefactEntry & { readonly document: T }

const CACHED = 512

/** One registry of documents that never change: URI → CID → document. */
export class Artefacts<T> {
  readonly name: Yankable
  readonly #what: string
  readonly #registry: Registry<z.infer<typeof published>>
  readonly #content: Pick<ContentStore, 'putRecord' | 'getRecord' | 'pin'>
  readonly #schema: Schema<T>
  readonly #uriOf: (document: T) => string
  readonly #annotations: Annotations
  readonly #yanks: Yanks
  readonly #documents = new Lru<Cid, T>(CACHED)

  constructor(ports: { readonly registries: RegistryStore; readonly content: Pick<ContentStore, 'putRecord' | 'getRecord' | 'pin'> }, annotations: Annotations, of: { readonly registry: Yankable; readonly what: string; readonly schema: Schema<T>; readonly uriOf: (document: T) => string }) {
    this.name = of.registry
    this.#what = of.what
    this.#registry = ports.registries.open(of.registry, published)
    this.#content = ports.content
    this.#schema = of.schema
    this.#uriOf = of.uriOf
    this.#annotations = annotations
    this.#yanks = new Yanks(ports.registries)
  }

  /** The same content again changes nothing. Throws SPEC_INVALID, IMMUTABLE (the URI names other content), FORBIDDEN. */
  async publish(given: T): Promise<{ readonly uri: string; readonly cid: Cid }> {
    const document = check(this.#schema, given, this.#what, 'SPEC_INVALID')
    const uri = this.#uriOf(document)
    if (asksForLatest(uri) !== undefined) throw new MeshError('SPEC_INVALID', `${uri} names no version: publish under name:version-tag`)
    const cid = await this.#content.putRecord(document)
    const before = await this.#registry.get(uri)
    if (before !== undefined && before.value.cid !== cid) throw new MeshError('IMMUTABLE', `${uri} was published by ${before.writer} with other content; a version never changes: raise its version or tag`, { details: { uri, published: before.value.cid, offered: cid } })
    if (before === undefined) {
      await this.#content.pin(cid)
      await this.#registry.put(uri, { cid })
    } else await this.#yanks.lift(this.name, before)
    return { uri, cid }
  }

  /** `name:version-tag`, or `name` / `name:latest` for the newest that is not yanked. Throws NOT_FOUND, CONTENT_UNAVAILABLE. */
  async get(uri: string, signal?: AbortSignal): Promise<Artefact<T>> {
    const name = asksForLatest(uri)
    const exact = name === undefined ? uri : latest((await this.list()).map(entry => entry.uri).filter(one => one.startsWith(`${name}:`)))
    const entry = exact === undefined ? undefined : await this.#registry.get(exact)
    if (exact === undefined || entry === undefined) throw new MeshError('NOT_FOUND', `no ${this.#what} is called ${uri} as far as this peer knows: check the spelling and version, or publish it`, { details: { uri } })
    if (await this.#yanks.has(this.name, entry)) throw new MeshError('NOT_FOUND', `${exact} was taken back by its author, ${entry.writer}: use another version`, { details: { uri: exact } })
    return this.document({ uri: exact, cid: entry.value.cid, writer: entry.writer, issuedAt: entry.issuedAt }, signal)
  }

  async document(entry: ArtefactEntry, signal?: AbortSignal): Promise<Artefact<T>> {
    const document = this.#documents.get(entry.cid) ?? await this.#content.getRecord(entry.cid, this.#schema, signal)
    this.#documents.set(entry.cid, document)
    if (this.#uriOf(document) !== entry.uri) throw new MeshError('MESSAGE_INVALID', `${entry.uri} names a ${this.#what} that calls itself ${this.#uriOf(document)}`)
    return { ...entry, document }
  }

  /** Undefined when there is none, or it is yanked. */
  async entry(uri: string): Promise<ArtefactEntry | undefined> {
    const found = await this.#registry.get(uri)
    return found === undefined || await this.#yanks.has(this.name, found) ? undefined : { uri, cid: found.value.cid, writer: found.writer, issuedAt: found.issuedAt }
  }

  /** Who published this, yanked or not. Throws NOT_FOUND. */
  async author(uri: string): Promise<PeerId> {
    const found = await this.#registry.get(uri)
    if (found === undefined) throw new MeshError('NOT_FOUND', `no ${this.#what} is called ${uri} as far as this peer knows`)
    return found.writer
  }

  /** As its author, `by`. Throws NOT_FOUND, FORBIDDEN. */
  async yank(uri: string, by: PeerId, because: string, issuedAt: Millis): Promise<void> {
    await this.#yanks.add(this.name, { key: uri, writer: await this.author(uri) }, by, { because: because.slice(0, 300), issuedAt })
  }

  /** What its author said of it later. */
  async fields(uri: string, author: PeerId): Promise<Readonly<Record<string, Json>>> {
    return (await this.#annotations.of(this.name, uri, author)).fields
  }

  /** Hears of a URI that was published, yanked or described anew. */
  onChange(hear: (uri: string) => void): () => void {
    const said = (registry: string, uri: string): void => {
      if (registry === this.name) hear(uri)
    }
    const stops = [this.#registry.onChange(hear), this.#annotations.onChange(said), this.#yanks.onChange(said)]
    return () => {
      for (const stop of stops) stop()
    }
  }

  /** Those that are not yanked, by URI. */
  async list(): Promise<readonly ArtefactEntry[]> {
    return (await this.#yanks.standing(this.name, await this.#registry.list())).map(({ key, value, writer, issuedAt }) => ({ uri: key, cid: value.cid, writer, issuedAt }))
  }
}
