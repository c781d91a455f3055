import { base64pad } from 'multiformats/bases/base64'
import { z } from 'zod'
import type { Yank } from '../../protocols/asset.ts'
import { check, utf8, type Schema } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { cid as cidSchema, type BlockId, type Cid, type PeerId } from '../../protocols/ids.ts'
import { modelManifest, servedModel, type ModelManifest, type ServedModel } from '../../protocols/model.ts'
import { assetRecord, blockRecord, componentManifest, policyRule, vdagSpec, type AssetRecord, type BlockRecord, type ComponentManifest, type PolicyRule, type VdagSpec } from '../../protocols/specs.ts'
import { gather } from '../lib/gather.ts'
import { Lru } from '../lib/lru.ts'
import type { ContentStore, Registry, RegistryStore } from '../ports.ts'
import type { Catalogue, Models } from '../roles.ts'
import { ImagePins } from './image-pin.ts'
import { asksForLatest, latest } from './latest.ts'
import { Yanks, type Yankable } from './yanks.ts'

/** What the name of an artefact stands for in its registry. */
const published = z.object({ cid: cidSchema })
type Published = z.infer<typeof published>

/** Artefact documents kept decoded. They never change, so there is nothing to invalidate. */
const CACHED_DOCUMENTS = 512
const CACHED_MANIFESTS = 16
const UNNAMED = 'ipld:'
const POLICY_SOURCE_BYTES = 1_048_576
/** How a sandbox knows a WebAssembly module: its port takes text. */
const WASM_SOURCE = 'data:application/wasm;base64,'

export type PublishedArtefact = { readonly uri: string; readonly cid: Cid }

/** Resolves URIs through the registries to artefacts in the content store, and publishes both. */
export class ArtefactCatalogue implements Catalogue, Models {
  readonly #content: ContentStore
  readonly #components: Registry<Published>
  readonly #policies: Registry<Published>
  readonly #vdags: Registry<Published>
  readonly #assets: Registry<Published>
  readonly #blocks: Registry<BlockRecord>
  readonly #models: Registry<Published>
  readonly #services: Registry<ServedModel>
  readonly #yanks: Yanks
  readonly #pins: ImagePins
  readonly #documents = new Lru<Cid, unknown>(CACHED_DOCUMENTS)
  /** Checked already: every generation asks for its model's, more than once, and a client waits for it. */
  readonly #manifests = new Lru<Cid, ModelManifest>(CACHED_MANIFESTS)

  constructor(registries: RegistryStore, content: ContentStore) {
    this.#content = content
    this.#components = registries.open('components', published)
    this.#policies = registries.open('policies', published)
    this.#vdags = registries.open('vdags', published)
    this.#assets = registries.open('assets', published)
    this.#blocks = registries.open('blocks', blockRecord)
    this.#models = registries.open('layers', published)
    this.#services = registries.open('services', servedModel)
    this.#yanks = new Yanks(registries)
    this.#pins = new ImagePins(registries)
  }

  /** `name:version-tag`, or `name` / `name:latest` for the newest. Throws NOT_FOUND, CONTENT_UNAVAILABLE, CONTENT_CORRUPT. */
  async component(uri: string, signal?: AbortSignal): Promise<{ readonly manifest: ComponentManifest; readonly cid: Cid }> {
    const { cid, uri: exact } = await this.#resolve('components', this.#components, uri)
    return { manifest: agree(await this.#document(cid, componentManifest, signal), exact, manifest => manifest.componentURI), cid }
  }

  componentByCid(cid: Cid, signal?: AbortSignal): Promise<ComponentManifest> {
    return this.#document(cid, componentManifest, signal)
  }

  async components(): Promise<readonly { readonly uri: string; readonly cid: Cid; readonly writer: PeerId }[]> {
    return this.#listed('components', this.#components)
  }

  /** Also a version that was taken back, by its exact name: what was told to ask it goes on. */
  async policy(uri: string, signal?: AbortSignal): Promise<{ readonly rule: PolicyRule; readonly source: string }> {
    const { cid, uri: exact } = await this.#resolve('policies', this.#policies, uri, true)
    const rule = agree(await this.#document(cid, policyRule, signal), exact, rule => rule.policyRuleURI)
    return { rule, source: await this.#source(rule, signal) }
  }

  /** Whether a policy has that name, as `policy` takes it; its code is not fetched. */
  async hasPolicy(uri: string): Promise<boolean> {
    return this.#resolve('policies', this.#policies, uri, true).then(() => true, (error: unknown) => {
      if (error instanceof MeshError && error.code === 'NOT_FOUND') return false
      throw error
    })
  }

  async policies(): Promise<readonly PublishedArtefact[]> {
    return this.#listed('policies', this.#policies)
  }

  /** Also `ipld:CID`: a graph that has no name because it was made up for one request. */
  async vdag(uri: string, signal?: AbortSignal): Promise<{ readonly spec: VdagSpec; readonly cid: Cid }> {
    if (uri.startsWith(UNNAMED)) {
      const unnamed = check(cidSchema, uri.slice(UNNAMED.length), 'vDAG', 'BAD_INPUT')
      return { spec: { ...await this.#document(unnamed, vdagSpec, signal), vdagURI: uri }, cid: unnamed }
    }
    const { cid, uri: exact } = await this.#resolve('vdags', this.#vdags, uri)
    return { spec: agree(await this.#document(cid, vdagSpec, signal), exact, spec => spec.vdagURI), cid }
  }

  async vdags(): Promise<readonly PublishedArtefact[]> {
    return this.#listed('vdags', this.#vdags)
  }

  async asset(uri: string, signal?: AbortSignal): Promise<AssetRecord> {
    const { cid, uri: exact } = await this.#resolve('assets', this.#assets, uri)
    return agree(await this.#document(cid, assetRecord, signal), exact, asset => asset.assetURI)
  }

  async assets(): Promise<readonly PublishedArtefact[]> {
    return this.#listed('assets', this.#assets)
  }

  async block(id: BlockId): Promise<BlockRecord | undefined> {
    return (await this.#blocks.get(id))?.value
  }

  async blocks(): Promise<readonly BlockRecord[]> {
    return (await this.#blocks.list()).map(entry => entry.value)
  }

  onBlock(hear: (id: BlockId, block: BlockRecord | undefined) => void): () => void {
    return this.#blocks.onChange((key, entry) => hear(key, entry?.value))
  }

  async model(uri: string, signal?: AbortSignal): Promise<{ readonly manifest: ModelManifest; readonly cid: Cid }> {
    const { cid, uri: exact } = await this.#resolve('layers', this.#models, uri)
    return { manifest: agree(await this.#document(cid, modelManifest, signal), exact, manifest => manifest.modelURI), cid }
  }

  async modelByCid(cid: Cid, signal?: AbortSignal): Promise<ModelManifest> {
    const known = this.#manifests.get(cid)
    if (known !== undefined) return known
    const manifest = await this.#document(cid, modelManifest, signal)
    this.#manifests.set(cid, manifest)
    return manifest
  }

  async models(): Promise<readonly { readonly uri: string; readonly cid: Cid; readonly writer: PeerId }[]> {
    return (await this.#models.list()).map(({ key, value, writer }) => ({ uri: key, cid: value.cid, writer }))
  }

  async served(name: string): Promise<ServedModel | undefined> {
    const exact = await this.#services.get(name)
    if (exact !== undefined) return exact.value
    const all = await this.services()
    const wanted = asksForLatest(name)
    const uri = wanted === undefined ? name : latest(all.map(({ modelURI }) => modelURI).filter(one => one.startsWith(`${wanted}:`)))
    return all.find(({ modelURI }) => modelURI === uri)
  }

  async services(): Promise<readonly ServedModel[]> {
    return (await this.#services.list()).map(entry => entry.value)
  }

  onService(hear: (service: string, served: ServedModel | undefined) => void): () => void {
    return this.#services.onChange((key, entry) => hear(key, entry?.value))
  }

  /** Throws FORBIDDEN when another peer serves under that name and this one may not operate on it. */
  async putService(served: ServedModel): Promise<void> {
    await this.#services.put(served.service, check(servedModel, served, `service ${served.service}`, 'SPEC_INVALID'))
  }

  /** Throws NOT_FOUND, FORBIDDEN. */
  async withdrawService(service: string): Promise<void> {
    await this.#services.withdraw(service)
  }

  /** The pieces and files are already in the content store. */
  publishModel(manifest: ModelManifest): Promise<PublishedArtefact> {
    return this.#publish('layers', this.#models, manifest.modelURI, check(modelManifest, manifest, `model ${manifest.modelURI}`, 'SPEC_INVALID'))
  }

  /** As it is to be published: held to the images that its tags stand for now. */
  pinned<T extends Pick<ComponentManifest, 'containerRegistryInfo'>>(component: T): Promise<T> {
    return this.#pins.pinned(component)
  }

  /** Publishing the same content again succeeds and changes nothing. Throws IMMUTABLE when the URI already names other content. */
  publishComponent(manifest: ComponentManifest): Promise<PublishedArtefact> {
    return this.#publish('components', this.#components, manifest.componentURI, check(componentManifest, manifest, `component ${manifest.componentURI}`, 'SPEC_INVALID'))
  }

  publishVdag(spec: VdagSpec): Promise<PublishedArtefact> {
    return this.#publish('vdags', this.#vdags, spec.vdagURI, check(vdagSpec, spec, `vDAG ${spec.vdagURI}`, 'SPEC_INVALID'))
  }

  /** `source` is the bundled script, or a WebAssembly module; its CID becomes the rule's `code`. */
  async publishPolicy(rule: Omit<PolicyRule, 'code'>, source: string | Uint8Array): Promise<PublishedArtefact> {
    const bytes = typeof source === 'string' ? utf8(source) : source
    if (bytes.byteLength > POLICY_SOURCE_BYTES) throw new MeshError('SPEC_INVALID', `the bundled source of ${rule.policyRuleURI} is ${bytes.byteLength} bytes; the limit is ${POLICY_SOURCE_BYTES}`)
    const { cid } = await this.#content.add(once(bytes))
    return this.#publish('policies', this.#policies, rule.policyRuleURI, check(policyRule, { ...rule, code: cid }, `policy ${rule.policyRuleURI}`, 'SPEC_INVALID'))
  }

  /** The content is already in the content store, under `asset.content`. */
  publishAsset(asset: AssetRecord): Promise<PublishedArtefact> {
    return this.#publish('assets', this.#assets, asset.assetURI, check(assetRecord, asset, `asset ${asset.assetURI}`, 'SPEC_INVALID'))
  }

  /** Throws FORBIDDEN when the block belongs to another peer and this one may not operate on it. */
  async putBlock(block: BlockRecord): Promise<void> {
    await this.#blocks.put(block.blockId, block)
  }

  /** Throws NOT_FOUND, FORBIDDEN. */
  async withdrawBlock(id: BlockId): Promise<void> {
    await this.#blocks.withdraw(id)
  }

  /**
   * Takes an asset's version back: it is not listed, not `latest` and not found by its name any more; what pinned its content
   * runs on. Publishing the same again brings it back. Throws NOT_FOUND, and FORBIDDEN when another peer published it.
   */
  async yankAsset(uri: string, by: PeerId, reason: Yank): Promise<void> {
    const entry = await this.#assets.get(uri)
    if (entry === undefined) throw unknown('assets', uri)
    await this.#yanks.add('assets', entry, by, reason)
  }

  async #listed(kind: Yankable, registry: Registry<Published>): Promise<readonly (PublishedArtefact & { readonly writer: PeerId })[]> {
    return (await this.#yanks.standing(kind, await registry.list())).map(({ key, value, writer }) => ({ uri: key, cid: value.cid, writer }))
  }

  async #publish(kind: Yankable, registry: Registry<Published>, uri: string, document: unknown): Promise<PublishedArtefact> {
    if (asksForLatest(uri) !== undefined) throw new MeshError('SPEC_INVALID', `${uri} names no version: publish under name:version-releaseTag`)
    const cid = await this.#content.putRecord(document)
    const before = await registry.get(uri)
    if (before === undefined) {
      await this.#content.pin(cid)
      await registry.put(uri, { cid })
    } else if (before.value.cid !== cid) {
      throw new MeshError('IMMUTABLE', `${uri} was published by ${before.writer} with other content; a version never changes: raise its version or releaseTag`, { details: { uri, published: before.value.cid, offered: cid } })
    } else await this.#yanks.lift(kind, before)
    return { uri, cid }
  }

  async #resolve(kind: Yankable, registry: Registry<Published>, uri: string, yankedToo = false): Promise<PublishedArtefact> {
    const name = asksForLatest(uri)
    const exact = name === undefined ? uri : latest((await this.#yanks.standing(kind, await registry.list(`${name}:`), `${name}:`)).map(entry => entry.key))
    const entry = exact === undefined ? undefined : await registry.get(exact)
    if (exact === undefined || entry === undefined) throw unknown(kind, uri)
    if (name === undefined && !yankedToo && await this.#yanks.has(kind, entry)) throw new MeshError('NOT_FOUND', `${uri} was taken back by its author, ${entry.writer}: use another version`, { details: { uri } })
    return { uri: exact, cid: entry.value.cid }
  }

  async #document<T>(cid: Cid, schema: Schema<T>, signal: AbortSignal | undefined): Promise<T> {
    // Checked again on every read: a CID may be asked for as a document of another kind.
    const document = this.#documents.get(cid) ?? (await this.#content.getRecord(cid, schema, signal))
    this.#documents.set(cid, document)
    return check(schema, document, `artefact ${cid}`)
  }

  async #bytes({ code, policyRuleURI }: PolicyRule, signal: AbortSignal | undefined): Promise<Uint8Array> {
    return gather(this.#content.cat(code, signal === undefined ? {} : { signal }), POLICY_SOURCE_BYTES, () => new MeshError('MESSAGE_TOO_LARGE', `the source of ${policyRuleURI} is over ${POLICY_SOURCE_BYTES} bytes`))
  }

  async #source(rule: PolicyRule, signal: AbortSignal | undefined): Promise<string> {
    const known = this.#documents.get(rule.code)
    if (typeof known === 'string') return known
    const bytes = await this.#bytes(rule, signal)
    const source = rule.codeType === 'wasm_v1' ? `${WASM_SOURCE}${base64pad.baseEncode(bytes)}` : readText(bytes, rule)
    this.#documents.set(rule.code, source)
    return source
  }
}

function unknown(kind: Yankable, uri: string): MeshError {
  return new MeshError('NOT_FOUND', `${kind === 'layers' ? 'models' : kind} hold no ${uri} as far as this peer knows: check the spelling and version, or publish it`, { details: { uri } })
}

function readText(bytes: Uint8Array, { policyRuleURI }: PolicyRule): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new MeshError('MESSAGE_INVALID', `the source of ${policyRuleURI} is not UTF-8`, { cause })
  }
}

/** A name may only stand for a document that says the same name of itself. */
function agree<T>(document: T, uri: string, named: (document: T) => string): T {
  if (named(document) !== uri) throw new MeshError('MESSAGE_INVALID', `${uri} names an artefact that calls itself ${named(document)}`)
  return document
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes
}
