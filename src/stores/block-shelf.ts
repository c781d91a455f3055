import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Actions } from '../actions.ts'
import type { Inventory } from '../inventory.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { ArtefactCatalogue } from '../registries/catalogue.ts'
import { amend, touched } from '../specs/amend.ts'
import type { Shelf } from './shelf.ts'

/** What AIOS's registry copies into a block, or is only seen: not the block's own to change. */
const SEEN = ['id', 'blockId', 'component', 'componentCid', 'componentUri', 'blockUri', 'cluster', 'metrics', 'inputProtocol', 'outputProtocol', 'owner', 'revision', 'runtime']

/** Blocks: desired state, which its owner and whoever may operate change; a change is carried out. */
export class BlockShelf implements Shelf {
  readonly #parts: { readonly actions: Actions; readonly catalogue: ArtefactCatalogue; readonly inventory: Inventory }

  constructor(parts: { readonly actions: Actions; readonly catalogue: ArtefactCatalogue; readonly inventory: Inventory }) {
    this.#parts = parts
  }

  documents(): Promise<readonly JsonObject[]> {
    return this.#parts.inventory.blocks()
  }

  async get(key: string): Promise<JsonObject> {
    const found = (await this.documents()).find(({ id }) => id === key)
    if (found === undefined) throw new MeshError('NOT_FOUND', `no block is called ${key}: \`aios block list\` shows those there are`)
    return found
  }

  async create(document: Json): Promise<string> {
    return (await this.#parts.actions.createBlock(document)).block.blockId
  }

  /** Counts, policies, tags and parameters of a block, as its registry document names them; its instances are replaced where they must be. */
  async update(key: string, change: Json): Promise<JsonObject> {
    const block = await this.#parts.catalogue.block(key)
    if (block === undefined) throw new MeshError('NOT_FOUND', `no block is called ${key}: \`aios block list\` shows those there are`)
    const seen = touched(change).filter(field => SEEN.includes(field))
    if (seen.length > 0) throw new MeshError('IMMUTABLE', `block ${key}: ${seen.join(', ')} cannot be changed: create another block of the component you want`)
    const before = toJson(block)
    await this.#parts.actions.changeBlock(amend(isJsonObject(before) ? before : {}, change))
    return this.get(key)
  }

  remove(key: string): Promise<void> {
    return this.#parts.actions.remove(key)
  }
}
