import type { BlockId, PeerId } from '../../protocols/ids.ts'
import type { BlockRecord, ComponentManifest } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import type { DocumentTable } from './document-table.ts'

type Hosted = { readonly cluster: string | undefined; readonly blocks: ReadonlySet<BlockId> }
const NOTHING: Hosted = { cluster: undefined, blocks: new Set() }

type Row = { readonly block: BlockRecord; readonly spelt: JsonObject; readonly document: JsonObject | undefined }

/** Blocks as AIOS's registry has them, with their component and the clusters they run on; each is made anew when one of these has changed. */
export class BlockTable {
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'blocks' | 'onBlock'>
  readonly #components: DocumentTable<ComponentManifest>
  readonly #rows = new Map<BlockId, Row>()
  /** Which blocks each peer ran when it last spoke. */
  readonly #hosted = new Map<PeerId, Hosted>()
  #watching = false
  #componentsThen: readonly JsonObject[] | undefined
  #order: readonly BlockId[] | undefined
  #sorted: readonly JsonObject[] | undefined

  constructor(view: MeshView, catalogue: Pick<Catalogue, 'blocks' | 'onBlock'>, components: DocumentTable<ComponentManifest>) {
    this.#view = view
    this.#catalogue = catalogue
    this.#components = components
  }

  /** By id. The same array as long as nothing has changed. */
  async documents(): Promise<readonly JsonObject[]> {
    if (!this.#watching) await this.#watch()
    const components = await this.#components.documents()
    if (components !== this.#componentsThen) {
      this.#componentsThen = components
      for (const id of this.#rows.keys()) this.#forget(id)
    }
    if (this.#sorted !== undefined) return this.#sorted
    const known = new Map(components.map(document => [document['componentURI'], document]))
    for (const [id, { block, spelt, document }] of this.#rows) {
      if (document === undefined) this.#rows.set(id, { block, spelt, document: this.#spell(block, spelt, known.get(block.componentURI)) })
    }
    this.#order ??= [...this.#rows.keys()].sort()
    const sorted: JsonObject[] = []
    for (const id of this.#order) {
      const document = this.#rows.get(id)?.document
      if (document !== undefined) sorted.push(document)
    }
    this.#sorted = sorted
    return sorted
  }

  async #watch(): Promise<void> {
    this.#watching = true
    this.#catalogue.onBlock((id, block) => this.#keep(id, block))
    this.#view.onChange(peer => this.#heard(peer))
    for (const block of await this.#catalogue.blocks()) this.#keep(block.blockId, block)
    for (const peer of this.#view.live()) this.#heard(peer)
  }

  #keep(id: BlockId, block: BlockRecord | undefined): void {
    if ((block === undefined) === this.#rows.has(id)) this.#order = undefined
    if (block === undefined) this.#rows.delete(id)
    else this.#rows.set(id, { block, spelt: asObject(block), document: undefined })
    this.#sorted = undefined
  }

  #heard(peer: PeerId): void {
    const gone = peer !== this.#view.self && !['alive', 'suspect'].includes(this.#view.state(peer))
    const ad = gone ? undefined : this.#view.ad(peer)
    const now: Hosted = { cluster: ad?.cluster, blocks: new Set(ad?.instances.map(({ block }) => block)) }
    const before = this.#hosted.get(peer) ?? NOTHING
    const moved = before.cluster !== now.cluster
    for (const id of before.blocks) if (moved || !now.blocks.has(id)) this.#forget(id)
    for (const id of now.blocks) if (moved || !before.blocks.has(id)) this.#forget(id)
    if (now.blocks.size === 0) this.#hosted.delete(peer)
    else this.#hosted.set(peer, now)
  }

  #forget(id: BlockId): void {
    const row = this.#rows.get(id)
    if (row?.document === undefined) return
    this.#rows.set(id, { ...row, document: undefined })
    this.#sorted = undefined
  }

  #spell(block: BlockRecord, spelt: JsonObject, component: JsonObject | undefined): JsonObject {
    const clusters = [...new Set(this.#view.instancesOf(block.blockId).map(({ host }) => this.#view.ad(host)?.cluster ?? host))]
    return {
      ...spelt, id: block.blockId, componentUri: block.componentURI, blockUri: block.componentURI,
      // The whole document stays under `component`, as in AIOS; the CID a block is pinned to has a name of its own.
      componentCid: block.component, component: component ?? { componentURI: block.componentURI },
      // No more than their names: a cluster changes with every word of its hosts.
      cluster: clusters.map(id => ({ id })),
    }
  }
}

function asObject(value: unknown): JsonObject {
  const made = toJson(value)
  return isJsonObject(made) ? made : {}
}
