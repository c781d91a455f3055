import { networkAdmins, networkDocument, type NetworkDocument } from '../../protocols/cluster.ts'
import { check } from '../../protocols/codec.ts'
import { MeshError, refused, granted, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Json, PeerId } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import type { Registry, RegistryStore } from '../ports.ts'
import { readPolicyMap, rulesOf } from '../specs/cluster.ts'
import { unwrap } from '../specs/envelope.ts'
import { NETWORK_PRECHECKS } from './prechecks.ts'

type Admins = { readonly admins: readonly PeerId[] }

/** The document of the network and the rules it sets for everybody, signed by its owner or an admin. Reads are local and at once. */
export class NetworkBook {
  readonly #self: PeerId
  readonly #id: Cid
  readonly #name: string
  readonly #owner: PeerId
  readonly #documents: Registry<NetworkDocument>
  readonly #admins: Registry<{ admins: PeerId[] }>
  #document: NetworkDocument | undefined
  #admitted: Admins = { admins: [] }
  #rules: Readonly<Record<string, PolicyRef>> = {}

  constructor(registries: RegistryStore, network: { readonly id: Cid; readonly name: string; readonly owner: PeerId; readonly self: PeerId }) {
    this.#self = network.self
    this.#id = network.id
    this.#name = network.name
    this.#owner = network.owner
    this.#documents = registries.open('networks', networkDocument)
    this.#admins = registries.open('networks', networkAdmins)
    this.#documents.onChange(key => void this.#read(key))
    this.#admins.onChange(key => void this.#read(key))
  }

  async open(): Promise<void> {
    await this.#read(this.#id)
    await this.#read(this.#adminsKey)
  }

  /** May this peer write this key? The owner may all; its admins the document, not who they are. */
  mayWrite(writer: PeerId, key: string): Verdict<true> {
    if (key !== this.#id && key !== this.#adminsKey) return refused(`${key} is not this network`)
    if (writer === this.#owner) return granted(true)
    if (key === this.#id && this.#admitted.admins.includes(writer)) return granted(true)
    // Word of a new admin may come after what it wrote.
    return refused(`only the owner of the network${key === this.#id ? ' and its admins' : ''} may change it`, true)
  }

  document(): NetworkDocument & Admins {
    return { ...this.#document ?? { network_id: this.#id, network_name: this.#name, metadata: {}, services_map: {}, policies: {} }, ...this.#admitted }
  }

  rule(action: string): PolicyRef | undefined {
    return this.#rules[action]
  }

  /** AIOS's policy map, merged: a URI or an object for an action; "" or null removes it. Throws SPEC_INVALID, FORBIDDEN. */
  async setPolicies(document: Json): Promise<JsonObject> {
    const { values } = unwrap(document, 'pre-check policies')
    const inner: Json | undefined = values['policies'] ?? values['actions']
    const patch = isJsonObject(inner) ? inner : values
    const unknown = Object.keys(patch).find(action => !NETWORK_PRECHECKS.some(one => one === action))
    if (unknown !== undefined) throw new MeshError('SPEC_INVALID', `pre-check policies: ${unknown} is no action of a network: ${NETWORK_PRECHECKS.join(', ')} are`)
    const kept = Object.entries({ ...this.document().policies, ...patch }).filter(([, rule]) => rule !== '' && rule !== null)
    const policies: JsonObject = Object.fromEntries(kept)
    readPolicyMap(policies, 'policies')
    await this.#put({ policies })
    return policies
  }

  /** What it says anew of its name, metadata, services and policies; the rest stays. Throws SPEC_INVALID, FORBIDDEN. */
  async update(document: Json): Promise<NetworkDocument> {
    const { values } = unwrap(document, 'network')
    const said = check(networkDocument.omit({ network_id: true }).partial(), values, 'network', 'SPEC_INVALID')
    const change = Object.fromEntries(Object.entries(said).filter(([name]) => Object.hasOwn(values, name)))
    if (said.policies !== undefined) readPolicyMap(said.policies, 'policies')
    return this.#put(change)
  }

  /** Who else may change the document. Throws FORBIDDEN for anybody but the owner. */
  async setAdmins(admins: readonly PeerId[]): Promise<void> {
    this.#need(this.#adminsKey)
    await this.#admins.put(this.#adminsKey, { admins: [...admins] })
    await this.#read(this.#adminsKey)
  }

  get #adminsKey(): string {
    return `${this.#id}/admins`
  }

  async #put(change: Partial<NetworkDocument>): Promise<NetworkDocument> {
    this.#need(this.#id)
    const { admins: _, ...before } = this.document()
    const document = { ...before, ...change }
    await this.#documents.put(this.#id, document)
    await this.#read(this.#id)
    return document
  }

  #need(key: string): void {
    const verdict = this.mayWrite(this.#self, key)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
  }

  async #read(key: string): Promise<void> {
    if (key === this.#adminsKey) this.#admitted = (await this.#admins.get(key))?.value ?? { admins: [] }
    if (key !== this.#id) return
    this.#document = (await this.#documents.get(key))?.value
    this.#rules = rulesOf(this.#document?.policies ?? {})
  }
}
