import { z } from 'zod'
import { vdagController, type VdagController } from '../../protocols/controller.ts'
import { check, digest, encode, hex } from '../../protocols/codec.ts'
import { granted, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports, Random, Registry, Telemetry } from '../ports.ts'
import type { Catalogue, ClusterDocuments, MeshView, MetricsSource, PrecheckCalls } from '../roles.ts'
import { amend, touched } from '../specs/amend.ts'
import { unwrap } from '../specs/envelope.ts'
import type { Admission } from '../trust/admission.ts'
import type { Gate } from './gate.ts'
import { controllerSettings } from './settings.ts'

const TAKEN_BOUND = 1_024

const given = z.looseObject({
  vdag_controller_id: z.string().min(1).max(200).optional(),
  vdag_uri: z.string('name the vDAG').min(1).max(300),
  config: z.looseObject({ replicas: z.coerce.number().int().min(1).max(1_000).default(1), custom_data: z.record(z.string(), z.json()).default({}) }).default({ replicas: 1, custom_data: {} }),
  /** Instead of `config.replicas`: the peers that are to answer for it. */
  hosts: z.array(z.string()).min(1).max(1_000).optional(),
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
  readonly #clusters: ClusterDocuments
  readonly #prechecks: PrecheckCalls
  readonly #metrics: Pick<MetricsSource, 'known'>
  readonly #records: Registry<VdagController>
  readonly #telemetry: Pick<Telemetry, 'event'>
  /** Records by what they say → may this host be such a controller? */
  readonly #taken = new Lru<string, boolean>(TAKEN_BOUND)

  constructor(ports: Pick<Ports, 'random' | 'registries' | 'telemetry'>, parts: { readonly admission: Pick<Admission, 'may'>; readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'vdag'>; readonly gate: Gate; readonly clusters: ClusterDocuments; readonly prechecks: PrecheckCalls; readonly metrics: Pick<MetricsSource, 'known'> }) {
    this.#random = ports.random.fork('controllers')
    this.#telemetry = ports.telemetry
    this.#admission = parts.admission
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#gate = parts.gate
    this.#clusters = parts.clusters
    this.#prechecks = parts.prechecks
    this.#metrics = parts.metrics
    this.#records = ports.registries.open('controllers', vdagController)
    this.#records.onChange((_, entry) => {
      if (entry !== undefined) this.#gate.forget(entry.value.vdag_uri)
    })
  }

  /**
   * AIOS's `create_controller`: on this peer and, for more replicas, on others; on those of `cluster`, or on the `hosts` it names, where it
   * says so. A host whose cluster does not allow it is passed over. Throws SPEC_INVALID, NOT_FOUND, ALREADY_EXISTS, NO_CAPACITY,
   * POLICY_DENIED, FORBIDDEN.
   */
  async create(document: Json, cluster?: string): Promise<VdagController> {
    this.#mayOperate()
    const { values } = unwrap(document, 'vDAG controller')
    const { vdag_controller_id, vdag_uri: uri, config, search_tags, metadata, hosts: wanted } = check(given, values, 'vDAG controller', 'SPEC_INVALID')
    const { spec } = await this.#catalogue.vdag(uri)
    controllerSettings(spec.controller, config.custom_data)
    const id = vdag_controller_id ?? `vdag-controller-${hex(this.#random.bytes(5))}`
    if ((await this.#records.get(id)) !== undefined) throw new MeshError('ALREADY_EXISTS', `a vDAG controller is called ${id} already: choose another vdag_controller_id`)
    const replicas = wanted === undefined ? config.replicas : wanted.length
    const hosts = await this.#hosts(this.#candidates(id, cluster, wanted), replicas, node_id => this.#ask('add_vdag_controller', node_id, { vdag_data: toJson(spec), input_data: values }))
    const record: VdagController = { vdag_controller_id: id, vdag_uri: spec.vdagURI, hosts: [...hosts], config: z.record(z.string(), z.json()).parse(config), search_tags, metadata }
    await this.#records.put(id, record)
    return record
  }

  /** AIOS's `scale`: so many hosts, those it has first. Throws as `create`. */
  async scale(id: string, replicas: number): Promise<VdagController> {
    this.#mayOperate()
    const before = await this.#known(id)
    const { spec } = await this.#catalogue.vdag(before.vdag_uri)
    const alive = before.hosts.filter(peer => this.#view.ad(peer) !== undefined)
    const candidates = [...alive, ...this.#candidates(id, undefined, undefined).filter(peer => !alive.includes(peer))]
    const hosts = await this.#hosts(candidates, replicas, async node_id => (alive.includes(node_id) ? granted({}) : this.#ask('add_vdag_controller', node_id, { vdag_data: toJson(spec), input_data: { vdag_controller_id: id, replicas } })))
    const record = { ...before, hosts: [...hosts], config: { ...before.config, replicas } }
    await this.#records.put(id, record)
    return record
  }

  async remove(id: string): Promise<void> {
    this.#mayOperate()
    const record = await this.#known(id)
    const vdag = await this.#catalogue.vdag(record.vdag_uri).then(({ spec }) => toJson(spec), () => null)
    for (const host of record.hosts) {
      const verdict = await this.#ask('remove_vdag_controller', host, { vdag_data: vdag, vdag_controller_data: toJson(record), input_data: { vdag_controller_id: id } })
      if (!verdict.ok) throw new MeshError('POLICY_DENIED', verdict.because)
    }
    await this.#records.withdraw(id)
  }

  #candidates(id: string, cluster: string | undefined, wanted: readonly PeerId[] | undefined): readonly PeerId[] {
    if (wanted !== undefined) return wanted.filter(peer => this.#view.ad(peer) !== undefined)
    const { self } = this.#view
    const all = [self, ...rendezvous(id, this.#view.live().filter(peer => peer !== self))]
    return cluster === undefined ? all : all.filter(peer => this.#view.ad(peer)?.cluster === cluster)
  }

  async #hosts(candidates: readonly PeerId[], replicas: number, ask: (host: PeerId) => Promise<Verdict<unknown>>): Promise<readonly PeerId[]> {
    const hosts: PeerId[] = []
    const denied: string[] = []
    for (const host of candidates) {
      if (hosts.length === replicas) break
      const verdict = await ask(host)
      if (verdict.ok) hosts.push(host)
      else denied.push(verdict.because)
    }
    if (hosts.length === replicas) return hosts
    if (denied.length > 0) throw new MeshError('POLICY_DENIED', `${replicas} replicas need as many hosts that may; ${hosts.length} may: ${denied[0] ?? ''}`)
    throw new MeshError('NO_CAPACITY', `${replicas} replicas need as many peers; ${candidates.length} are alive`)
  }

  /** The rule of a host's cluster; a network has none for controllers. */
  #ask(action: string, host: PeerId, input: JsonObject): Promise<Verdict<JsonObject>> {
    const cluster = this.#view.ad(host)?.cluster ?? host
    const ads = this.#view.ads().filter(ad => ad.cluster === cluster)
    return this.#prechecks.ask({ action, cluster, input: { ...input, cluster_data: this.#clusters.document(cluster, ads), cluster_metrics: this.#metrics.known({ cluster }).cluster_metrics, node_id: host } })
  }

  /** Mongo's update operators on what may change: its settings, tags and metadata. Throws NOT_FOUND, FORBIDDEN, IMMUTABLE, SPEC_INVALID. */
  async update(id: string, change: Json): Promise<VdagController> {
    this.#mayOperate()
    const before = await this.#known(id)
    const fixed = touched(change).filter(field => !['config', 'search_tags', 'metadata'].includes(field))
    if (fixed.length > 0) throw new MeshError('IMMUTABLE', `vDAG controller ${id}: ${fixed.join(', ')} cannot be changed: create another controller`)
    const next = check(vdagController, amend({ ...before }, change), 'vDAG controller', 'SPEC_INVALID')
    const custom: Json | undefined = next.config['custom_data']
    controllerSettings((await this.#catalogue.vdag(before.vdag_uri)).spec.controller, isJsonObject(custom) ? custom : {})
    await this.#records.put(id, next)
    return next
  }

  get(id: string): Promise<VdagController> {
    return this.#known(id)
  }

  async find(id: string): Promise<VdagController | undefined> {
    return (await this.#records.get(id))?.value
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

  onChange(hear: () => void): () => void {
    return this.#records.onChange(hear)
  }

  /** The vDAGs that this peer is a controller of, sorted. Its own cluster's rule is asked about each, whoever made it. */
  async own(): Promise<readonly string[]> {
    const named = (await this.list()).filter(({ hosts }) => hosts.includes(this.#view.self))
    const taken = await Promise.all(named.map(record => this.#takes(record)))
    return [...new Set(named.filter((_, at) => taken[at] === true).map(({ vdag_uri }) => vdag_uri))].sort()
  }

  /** Asked once about each record as it is. A vDAG that cannot be read yet is asked about again. */
  async #takes(record: VdagController): Promise<boolean> {
    const { self } = this.#view
    if (!this.#prechecks.concerns('add_vdag_controller', this.#view.ad(self)?.cluster ?? self)) return true
    const key = hex(digest(encode(record)))
    const known = this.#taken.get(key)
    if (known !== undefined) return known
    const vdag = await this.#catalogue.vdag(record.vdag_uri).then(({ spec }) => toJson(spec), () => undefined)
    if (vdag === undefined) return false
    const verdict = await this.#ask('add_vdag_controller', self, { vdag_data: vdag, input_data: toJson(record) })
    if (!verdict.ok) this.#telemetry.event('warn', 'controller.not-taken', { controller: record.vdag_controller_id, because: verdict.because })
    if (verdict.ok || !verdict.retryable) this.#taken.set(key, verdict.ok)
    return verdict.ok
  }

  /** The one vDAG that this peer is a controller of, if it is one. */
  async only(): Promise<string | undefined> {
    const own = await this.own()
    return own.length === 1 ? own[0] : undefined
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
