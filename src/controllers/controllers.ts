import { z } from 'zod'
import { vdagController, type VdagController } from '../../protocols/controller.ts'
import { hex } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { isJsonObject } from '../lib/json.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports, Random, Registry } from '../ports.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import { unwrap } from '../specs/envelope.ts'
import type { Admission } from '../trust/admission.ts'
import type { Gate } from './gate.ts'
import { controllerSettings } from './settings.ts'

const given = z.looseObject({
  vdag_controller_id: z.string().min(1).max(200).optional(),
  vdag_uri: z.string('name the vDAG').min(1).max(300),
  config: z.looseObject({ replicas: z.coerce.number().int().min(1).max(1_000).default(1), custom_data: z.record(z.string(), z.json()).default({}) }).default({ replicas: 1, custom_data: {} }),
  search_tags: z.array(z.string()).default([]),
  metadata: z.record(z.string(), z.json()).default({}),
})

/** Holds the vDAG controllers of the mesh. Any peer answers for any vDAG; a controller says which peers promise to, and how. */
export class Controllers {
  readonly #random: Random
  readonly #admission: Pick<Admission, 'may'>
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'vdag'>
  readonly #gate: Gate
  readonly #records: Registry<VdagController>

  constructor(ports: Pick<Ports, 'random' | 'registries'>, parts: { readonly admission: Pick<Admission, 'may'>; readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'vdag'>; readonly gate: Gate }) {
    this.#random = ports.random.fork('controllers')
    this.#admission = parts.admission
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#gate = parts.gate
    this.#records = ports.registries.open('controllers', vdagController)
    this.#records.onChange((_, entry) => {
      if (entry !== undefined) this.#gate.forget(entry.value.vdag_uri)
    })
  }

  /** AIOS's `create_controller`: this peer and, for more replicas, others. Throws SPEC_INVALID, NOT_FOUND, ALREADY_EXISTS, FORBIDDEN. */
  async create(document: Json): Promise<VdagController> {
    this.#mayOperate()
    const parsed = given.safeParse(unwrap(document, 'vDAG controller').values)
    if (!parsed.success) throw new MeshError('SPEC_INVALID', `vDAG controller: ${parsed.error.issues.slice(0, 5).map(({ path, message }) => `${path.map(String).join('.')}: ${message}`).join('; ')}`)
    const { vdag_uri: uri, config, search_tags, metadata } = parsed.data
    const { spec } = await this.#catalogue.vdag(uri)
    controllerSettings(spec.controller, config.custom_data)
    const id = parsed.data.vdag_controller_id ?? `vdag-controller-${hex(this.#random.bytes(5))}`
    if ((await this.#records.get(id)) !== undefined) throw new MeshError('ALREADY_EXISTS', `a vDAG controller is called ${id} already: choose another vdag_controller_id`)
    const others = rendezvous(id, this.#view.live().filter(peer => peer !== this.#view.self))
    const hosts = [this.#view.self, ...others].slice(0, config.replicas)
    if (hosts.length < config.replicas) throw new MeshError('NO_CAPACITY', `${config.replicas} replicas need as many peers; ${hosts.length} are alive`)
    const record: VdagController = { vdag_controller_id: id, vdag_uri: spec.vdagURI, hosts, config: z.record(z.string(), z.json()).parse(config), search_tags, metadata }
    await this.#records.put(id, record)
    return record
  }

  async remove(id: string): Promise<void> {
    this.#mayOperate()
    await this.#known(id)
    await this.#records.withdraw(id)
  }

  get(id: string): Promise<VdagController> {
    return this.#known(id)
  }

  async list(vdag?: string): Promise<readonly VdagController[]> {
    const all = (await this.#records.list()).map(({ value }) => value)
    return vdag === undefined ? all : all.filter(({ vdag_uri }) => vdag_uri === vdag)
  }

  /** What a controller of this vDAG overrides; this peer's own controller comes first. */
  async configOf(vdag: string): Promise<Json> {
    const [first] = [...await this.list(vdag)].sort((a, b) => Number(b.hosts.includes(this.#view.self)) - Number(a.hosts.includes(this.#view.self)) || (a.vdag_controller_id < b.vdag_controller_id ? -1 : 1))
    const custom: Json | undefined = first?.config['custom_data']
    return isJsonObject(custom) ? custom : {}
  }

  /** The one vDAG that this peer is a controller of, if it is one. */
  async only(): Promise<string | undefined> {
    const own = new Set((await this.list()).filter(({ hosts }) => hosts.includes(this.#view.self)).map(({ vdag_uri }) => vdag_uri))
    return own.size === 1 ? [...own][0] : undefined
  }

  async #known(id: string): Promise<VdagController> {
    const found = await this.#records.get(id)
    if (found === undefined) throw new MeshError('NOT_FOUND', `no vDAG controller is called ${id}`)
    return found.value
  }

  #mayOperate(): void {
    const verdict = this.#admission.may(this.#view.self, 'operate')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }
}
