import { hex } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { filed, type Filed } from '../../protocols/stores.ts'
import type { JsonObject } from '../lib/json.ts'
import type { Random, Registry, RegistryStore } from '../ports.ts'
import { amend, touched } from '../specs/amend.ts'
import { isList, isObject } from '../specs/document.ts'
import { unwrap } from '../specs/envelope.ts'
import { Problems } from '../specs/problems.ts'
import type { Shelf } from './shelf.ts'

/** A kind of small record: its name, the field that holds its key, and what its fields hold when nobody says. */
export type FiledKind = { readonly kind: string; readonly id: string; readonly fields: Readonly<Record<string, Json>>; /** The key must be given: it means something. */ readonly named?: boolean }

export const FILED = {
  inferenceServers: {
    kind: 'inference_server', id: 'inference_server_id',
    fields: { inference_server_name: '', inference_server_metadata: {}, inference_server_tags: [], inference_server_public_url: '' },
  },
  splitRunners: {
    kind: 'split_runner', id: 'split_runner_id',
    fields: { split_runner_public_url: '', split_runner_metadata: {}, split_runner_public_host: '', split_runner_tags: [] },
  },
  assetStores: {
    kind: 'asset_registry', id: 'asset_registry_id',
    fields: { asset_registry_name: '', asset_registry_metadata: {}, asset_registry_tags: [], asset_registry_public_url: '' },
  },
  containerStores: {
    kind: 'container_registry', id: 'container_registry_id',
    fields: { container_registry_name: '', container_registry_metadata: {}, container_registry_tags: [], container_registry_public_url: '', container_registry_image_prefix: '', container_registry_config: {}, container_registry_storage_info: {} },
  },
  layers: {
    kind: 'model_layer', id: 'model_layer_hash', named: true,
    fields: { model_asset_id: '', model_component_registry_uri: '', model_layer_public_url: '', model_layer_metadata: [], model_layer_rank: 0, model_world_size: 0 },
  },
} as const satisfies Readonly<Record<string, FiledKind>>

/** Records of one kind, each its maker's own. */
export class FiledShelf implements Shelf {
  readonly #of: FiledKind
  readonly #random: Random
  readonly #records: Registry<Filed>

  constructor(ports: { readonly random: Random; readonly registries: RegistryStore }, of: FiledKind) {
    this.#of = of
    this.#random = ports.random.fork(`filed ${of.kind}`)
    this.#records = ports.registries.open('records', filed)
  }

  async documents(): Promise<readonly JsonObject[]> {
    return (await this.#records.list(`${this.#of.kind}/`)).map(({ value }) => value)
  }

  async get(key: string): Promise<JsonObject> {
    const found = await this.#records.get(this.#key(key))
    if (found === undefined) throw new MeshError('NOT_FOUND', `no ${this.#words} is called ${key}`)
    return found.value
  }

  async create(document: Json): Promise<string> {
    const { id, fields, named } = this.#of
    const given = unwrap(document, this.#words).values
    const said = given[id]
    if (typeof said !== 'string' && (said !== undefined || named === true)) throw new MeshError('SPEC_INVALID', `${this.#words}: ${id}: ${quote(said)}; give a text that names it`, { details: { field: id } })
    const key = said ?? `${this.#of.kind.replaceAll('_', '-')}-${hex(this.#random.bytes(6))}`
    if ((await this.#records.get(this.#key(key))) !== undefined) throw new MeshError('ALREADY_EXISTS', `a ${this.#words} is called ${key} already: choose another ${id}, or change that one`)
    await this.#put(key, { ...fields, ...given, [id]: key })
    return key
  }

  async update(key: string, change: Json): Promise<JsonObject> {
    const { id } = this.#of
    const before = await this.get(key)
    if (touched(change).includes(id)) throw new MeshError('IMMUTABLE', `${this.#words} ${key}: ${id} is its name and never changes`)
    const after = amend(before, change)
    await this.#put(key, after)
    return after
  }

  async remove(key: string): Promise<void> {
    await this.get(key)
    await this.#records.withdraw(this.#key(key))
  }

  async #put(key: string, document: JsonObject): Promise<void> {
    const problems = new Problems(this.#words)
    for (const [name, wanted] of Object.entries(this.#of.fields)) {
      const value = document[name]
      if (value !== undefined && kindOf(value) !== kindOf(wanted)) problems.add(name, `${quote(value)} must be ${kindOf(wanted)}`)
    }
    problems.settle()
    await this.#records.put(this.#key(key), document)
  }

  #key(key: string): string {
    return `${this.#of.kind}/${key}`
  }

  get #words(): string {
    return this.#of.kind.replaceAll('_', ' ')
  }
}

function kindOf(value: Json): string {
  if (isList(value)) return 'a list'
  return isObject(value) ? 'an object' : typeof value === 'string' ? 'a text' : typeof value === 'number' ? 'a number' : String(value)
}
