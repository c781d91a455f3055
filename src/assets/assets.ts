import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Json, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import type { AssetRecord } from '../../protocols/specs.ts'
import type { Verdict } from '../../protocols/errors.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { Ports } from '../ports.ts'
import type { ArtefactCatalogue } from '../registries/catalogue.ts'
import { parseAsset } from '../specs/asset.ts'
import { specValues } from '../specs/envelope.ts'
import { mongoQuery } from '../specs/mongo.ts'
import type { ReplicaHealth, Replicas } from './replicas.ts'

const LOOK_MS = 10_000
/** Asset documents read for one query. */
const QUERIED = 10_000
const replication = z.looseObject({ replicas: z.coerce.number().int().min(1).max(64).optional(), labels: z.record(z.string(), z.string()).optional() })

export type Stored = { readonly cid: Cid; readonly size: number }

/** AIOS's assets registry on every peer: named, immutable files, kept on as many hosts as their author wants. */
export class Assets {
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'identity'>
  readonly #catalogue: ArtefactCatalogue
  readonly #replicas: Replicas
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>

  constructor(ports: Pick<Ports, 'clock' | 'content' | 'identity'>, parts: { readonly catalogue: ArtefactCatalogue; readonly replicas: Replicas; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#catalogue = parts.catalogue
    this.#replicas = parts.replicas
    this.#may = parts.may
  }

  /** Reads the bytes into the content store, whatever they will be called. Throws FORBIDDEN before the first, STORAGE_FULL. */
  async store(bytes: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<Stored> {
    this.#need('publish')
    return this.#ports.content.add(bytes, signal)
  }

  /**
   * Gives stored bytes a name, in AIOS's `asset_*` fields or ours; `replicas` (and `labels`) beside them ask for copies. The same
   * again changes nothing but that. Throws SPEC_INVALID, IMMUTABLE, CONTENT_UNAVAILABLE when the bytes are not here.
   */
  async name(document: Json, { cid, size }: Stored): Promise<JsonObject> {
    this.#need('publish')
    const author = this.#ports.identity.peer
    const asset = parseAsset(document, { author, content: cid, size })
    const asked = replication.safeParse(specValues(document, 'asset'))
    if (!asked.success) throw new MeshError('SPEC_INVALID', 'asset: replicas is a number of hosts from 1 to 64, labels are texts')
    // Pinned before the look: what was let go may be removed at any moment.
    await this.#ports.content.pin(cid)
    if (!(await this.#ports.content.has(cid))) {
      await this.#ports.content.unpin(cid)
      throw new MeshError('CONTENT_UNAVAILABLE', `this peer does not hold ${cid}: upload the bytes first`)
    }
    await this.#catalogue.publishAsset(asset)
    const { replicas, labels } = asked.data
    if (replicas !== undefined) await this.replicate(asset.assetURI, replicas, labels ?? {})
    return this.#document(asset)
  }

  /** Changes how many live hosts shall hold an asset. Throws NOT_FOUND, FORBIDDEN when another peer published it. */
  async replicate(uri: string, replicas: number, labels: Readonly<Record<string, string>> = {}): Promise<void> {
    this.#need('publish')
    const asset = await this.record(uri)
    if (asset.author !== this.#ports.identity.peer) throw new MeshError('FORBIDDEN', `${asset.assetURI} was published by ${asset.author}, who says how often it is kept`)
    await this.#replicas.want({ assetURI: asset.assetURI, content: asset.content, size: asset.size, replicas, labels: { ...labels } })
  }

  /** Throws NOT_FOUND. */
  record(uri: string, signal: AbortSignal = this.#ports.clock.deadline(LOOK_MS)): Promise<AssetRecord> {
    return this.#catalogue.asset(uri, signal)
  }

  /** AIOS's asset document. Throws NOT_FOUND. */
  async get(uri: string): Promise<JsonObject> {
    return this.#document(await this.record(uri))
  }

  /** AIOS's asset documents that a Mongo filter finds; those nobody can be asked about now are left out. Throws BAD_INPUT. */
  async query(filter: Json): Promise<readonly JsonObject[]> {
    const wanted = mongoQuery(filter)
    const documents = await Promise.all((await this.#catalogue.assets()).slice(0, QUERIED).map(({ uri }) => this.get(uri).catch(() => undefined)))
    return documents.filter(document => document !== undefined).filter(wanted)
  }

  health(asset: AssetRecord): Promise<ReplicaHealth> {
    return this.#replicas.health(asset)
  }

  /** Takes a version back and lets its replicas go. Throws NOT_FOUND, FORBIDDEN. */
  async yank(uri: string, because = ''): Promise<void> {
    this.#need('publish')
    await this.#catalogue.yankAsset(uri, this.#ports.identity.peer, { because: because.slice(0, 300), issuedAt: this.#ports.clock.unix() })
    await this.#replicas.forget(uri)
  }

  /** By URI or content id: what `/asset-object/{id}` serves. Throws NOT_FOUND. */
  async object(id: string, signal: AbortSignal): Promise<AssetRecord> {
    if (id.includes(':')) return this.record(id, signal)
    for (const { uri } of await this.#catalogue.assets()) {
      const asset = await this.record(uri, signal).catch(() => undefined)
      if (asset?.content === id) return asset
    }
    throw new MeshError('NOT_FOUND', `no asset has the content ${id}: name it by its URI`)
  }

  async #document(asset: AssetRecord): Promise<JsonObject> {
    const wish = await this.#replicas.wished(asset.assetURI, asset.author)
    const document = toJson({
      asset_uri: asset.assetURI, asset_name: asset.name, asset_id: asset.content, assets_db_id: this.#ports.identity.peer, asset_version: { version: asset.version, tag: asset.releaseTag },
      asset_metadata: asset.metadata, asset_public_url: `/asset-object/${encodeURIComponent(asset.assetURI)}`, asset_file_info: { file_type: asset.mediaType, file_size: asset.size },
      asset_tags: asset.tags, author: asset.author, replicas: wish?.replicas ?? null,
    })
    return isJsonObject(document) ? document : {}
  }

  #need(right: Right): void {
    const verdict = this.#may(this.#ports.identity.peer, right)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }
}
