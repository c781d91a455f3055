import { z } from 'zod'
import { encode, hex } from '../../protocols/codec.ts'
import { asMeshError, granted, MeshError, refused } from '../../protocols/errors.ts'
import { json, type BlockId, type Json, type Millis } from '../../protocols/ids.ts'
import { initContainerEntry, lifecycleStage, type InitContainerEntry, type LifecycleStage } from '../../protocols/lifecycle.ts'
import { blockRecord, type BlockRecord, type ComponentManifest } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { clusterDocument, clusterMetrics, nodeDocument } from '../placement/cluster-document.ts'
import { suits } from '../placement/rank.ts'
import type { Ports, Random, Registry, RunningInstance } from '../ports.ts'
import type { Catalogue, MeshView, PolicyCalls } from '../roles.ts'

type Mode = 'create' | 'remove'
type Told = InitContainerEntry['status_data']
type Allocation = { readonly node_id: string; readonly gpus: readonly string[] }

const START_MS: Millis = 120_000
/** One stage: pulling a large model takes a while. */
const STAGE_MS: Millis = 1_800_000
const STAGES = lifecycleStage.options
/** What a stage says is kept in a registry, whose values are small. */
const DATA_BYTES = 1_024
const BLOCK_BYTES = 8_192
const NEEDS = { cpuMilli: 500, memoryMb: 256, diskMb: 64, gpus: 0, gpuMemoryMb: 0 }

const said = z.union([
  z.tuple([z.boolean(), json]).transform(([ok, data]) => ({ ok, data })),
  z.looseObject({ ok: z.boolean(), data: json.default(null) }),
  z.looseObject({ success: z.boolean(), data: json.default(null) }).transform(({ success, data }) => ({ ok: success, data })),
])
const settings = z.looseObject({ initContainer: z.looseObject({ envs: z.record(z.string(), z.string()).default({}) }).optional() })
const allocation = z.looseObject({ node_id: z.string().optional(), gpus: z.array(z.union([z.string(), z.number()]).transform(String)).max(64).default([]) })

/** What runs a component's lifecycle: its own entry (external components), an image, or nothing. */
function lifecycleOf(manifest: ComponentManifest): ComponentManifest | undefined {
  const image = manifest.containerRegistryInfo['initContainer'] ?? manifest.containerRegistryInfo['init_container']
  if (isJsonObject(image) && typeof image['containerImage'] === 'string' && image['containerImage'] !== '') return { ...manifest, runtime: { name: 'container' }, containerRegistryInfo: { ...image }, files: [] }
  if (manifest.runtime.name !== 'external' || manifest.runtime.entry === undefined) return undefined
  return { ...manifest, runtime: { name: 'node', entry: manifest.runtime.entry } }
}

/**
 * Runs the init lifecycle of third-party blocks on the peer that creates or removes them: begin, main, finish, in the fence or in
 * a container as any instance. Every stage is on record before it begins; what fails is rolled back in remove mode.
 */
export class ThirdParty {
  readonly #ports: Pick<Ports, 'backend' | 'clock' | 'content' | 'identity' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'componentByCid' | 'block'>
  readonly #policies: PolicyCalls
  readonly #entries: Registry<InitContainerEntry>

  constructor(ports: Pick<Ports, 'backend' | 'clock' | 'content' | 'identity' | 'random' | 'registries' | 'telemetry'>, parts: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'componentByCid' | 'block'>; readonly policies: PolicyCalls }) {
    this.#ports = ports
    this.#random = ports.random.fork('third-party')
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#policies = parts.policies
    this.#entries = ports.registries.open('lifecycles', initContainerEntry)
  }

  /** Rolls back what this peer had under way when it went down. */
  start(): void {
    background(this.#ports.telemetry, 'third-party.not-rolled-back', this.#recover(), 'warn')
  }

  async entry(block: BlockId): Promise<InitContainerEntry | undefined> {
    return (await this.#entries.get(block))?.value
  }

  async entries(): Promise<readonly InitContainerEntry[]> {
    return (await this.#entries.list()).map(({ value }) => value)
  }

  /**
   * The block with what its lifecycle found in `initData.initContainer`; as it is where its component has none. Throws RUN_FAILED
   * with the stage's own words after rolling back, NO_CAPACITY when its resource allocator places it nowhere.
   */
  async create(block: BlockRecord, manifest: ComponentManifest): Promise<BlockRecord> {
    const lifecycle = lifecycleOf(manifest)
    if (lifecycle === undefined) return block
    const placed = await this.#allocate(block)
    const told: Told = { operating_mode: 'create', done: false, stages: [] }
    await this.#record(block, 'begin', told)
    try {
      const found = await this.#run(block, lifecycle, 'create', placed, told)
      if (!isJsonObject(found)) throw new MeshError('RUN_FAILED', 'finish must answer with an object, such as { inference_url }')
      await this.#record(block, 'finish', { ...told, done: true })
      return { ...block, initData: { ...block.initData, initContainer: { ...(isJsonObject(block.initData['initContainer']) ? block.initData['initContainer'] : {}), ...found, ...(placed === undefined ? {} : { node_id: placed.node_id, gpus: [...placed.gpus] }) } } }
    } catch (error) {
      const because = asMeshError(error).message
      await this.#rollBack(block, lifecycle, placed, told, because)
      throw new MeshError('RUN_FAILED', `the init lifecycle of ${block.blockId} failed and was rolled back: ${because}`, { cause: error, details: { block: block.blockId } })
    }
  }

  /**
   * Runs the lifecycle of a removed block in remove mode. False where it has none. Throws RUN_FAILED with the stage's own words: what
   * is left is on record, and removing again tries again.
   */
  async remove(id: BlockId, record: BlockRecord | undefined): Promise<boolean> {
    const known = await this.entry(id)
    if (known === undefined) return false
    const block = record ?? this.#restored(known)
    if (block === undefined) {
      await this.#entries.withdraw(id)
      return true
    }
    const lifecycle = lifecycleOf(await this.#catalogue.componentByCid(block.component, this.#ports.clock.deadline(START_MS)))
    const told: Told = { operating_mode: 'remove', done: false, stages: [] }
    if (lifecycle !== undefined) {
      await this.#record(block, 'begin', told)
      try {
        await this.#run(block, lifecycle, 'remove', undefined, told)
      } catch (error) {
        const because = asMeshError(error).message.slice(0, 1_000)
        await this.#record(block, 'failed', { ...told, because })
        throw new MeshError('RUN_FAILED', `the block ${id} is gone, but its init lifecycle failed to take down what it stood for: ${because}. Remove it again to try again`, { cause: error })
      }
    }
    await this.#entries.withdraw(id)
    return true
  }

  async #rollBack(block: BlockRecord, lifecycle: ComponentManifest, placed: Allocation | undefined, told: Told, because: string): Promise<void> {
    let rolledBack = true
    await this.#run(block, lifecycle, 'remove', placed, told).catch(error => {
      rolledBack = false
      this.#ports.telemetry.event('warn', 'third-party.not-rolled-back', { block: block.blockId, because: asMeshError(error).message })
    })
    await this.#record(block, 'failed', { ...told, operating_mode: 'create', because: because.slice(0, 1_000), rolled_back: rolledBack })
  }

  /** The three stages in order, in one instance of their own. Answers what finish said. */
  async #run(block: BlockRecord, lifecycle: ComponentManifest, mode: Mode, placed: Allocation | undefined, told: Told): Promise<Json> {
    const { clock } = this.#ports
    await using running = await this.#instance(block, lifecycle)
    const facts = this.#facts(block, mode, placed)
    let extra: Json = null
    for (const stage of STAGES) {
      if (mode === 'create') await this.#record(block, stage, told)
      const at = clock.unix()
      const verdict = await this.#stage(running, stage, { ...facts, extra })
      told.stages.push({ operating_mode: mode, stage, ok: verdict.ok, data: brief(verdict.data, DATA_BYTES), at })
      if (!verdict.ok) throw new MeshError('RUN_FAILED', `${stage} failed: ${typeof verdict.data === 'string' ? verdict.data : JSON.stringify(verdict.data).slice(0, 500)}`)
      extra = verdict.data
    }
    return extra
  }

  async #stage(running: RunningInstance, stage: LifecycleStage, told: JsonObject): Promise<{ readonly ok: boolean; readonly data: Json }> {
    try {
      const answer = said.safeParse(await running.management(stage, told, this.#ports.clock.deadline(STAGE_MS)))
      return answer.success ? answer.data : { ok: false, data: `${stage} must answer [ok, data]` }
    } catch (error) {
      return { ok: false, data: asMeshError(error).message }
    }
  }

  async #instance(block: BlockRecord, lifecycle: ComponentManifest): Promise<RunningInstance> {
    const { backend, clock, content, identity } = this.#ports
    const signal = clock.deadline(START_MS)
    for (const file of lifecycle.files) await content.fetch(file.cid, { signal })
    return backend.start({
      instance: `in-${hex(this.#random.bytes(6))}`, manifest: lifecycle, gpus: [], peer: identity.peer, clusterId: this.#view.ad(identity.peer)?.cluster ?? identity.peer, packetPolicy: async (_, packet) => packet,
      // Its own policies are for packets, and it sees none.
      block: { ...block, runtime: lifecycle.runtime, needs: NEEDS, policies: {} },
    }, signal)
  }

  /** AIOS's arguments of the lifecycle's class. */
  #facts(block: BlockRecord, mode: Mode, placed: Allocation | undefined): JsonObject {
    const mine = this.#view.ad(this.#view.self)
    const own = settings.safeParse(block.initData)
    const document = toJson({ ...block, id: block.blockId })
    return {
      operating_mode: mode, block_data: document, cluster_data: mine === undefined ? {} : clusterDocument([mine]),
      envs: { ...(own.success ? own.data.initContainer?.envs : {}), BLOCK_ID: block.blockId, COMPONENT_URI: block.componentURI, OPERATING_MODE: mode, ...(placed === undefined ? {} : { NODE_ID: placed.node_id, GPUS: placed.gpus.join(',') }) },
    }
  }

  /** AIOS's `third_party_allocate`: where what the lifecycle starts shall be. Undefined where the block has no rule, or it fails. */
  async #allocate(block: BlockRecord): Promise<Allocation | undefined> {
    const rule = block.policies['resourceAllocator']
    const self = this.#view.ad(this.#view.self)
    if (rule === undefined || self === undefined) return undefined
    const members = this.#view.ads().filter(ad => ad.cluster === self.cluster)
    const healthy = members.filter(ad => suits({ ...block, runtime: { name: 'node' } }, ad).ok)
    const metrics = clusterMetrics(members)
    const decision = await this.#policies.decide<{ readonly declined: boolean; readonly placed: Allocation | undefined }>({
      hook: 'resourceAllocator', rule, scope: block.blockId, settings: { get_metrics: { cluster_metrics: metrics } },
      input: { action: 'third_party_allocate', payload: { block: toJson(block), cluster: clusterDocument(members), cluster_metrics: metrics, healthy_nodes: healthy.map(nodeDocument) } },
      accept: answer => {
        if (answer === null || answer === false || (isJsonObject(answer) && Object.keys(answer).length === 0)) return granted({ declined: true, placed: undefined })
        const read = allocation.safeParse(answer)
        if (!read.success) return refused('third_party_allocate must return { node_id, gpus[] }')
        const node = read.data.node_id ?? this.#view.self
        if (!healthy.some(({ peer }) => peer === node)) return refused(`it chose node ${node}, which is none of the healthy nodes`)
        return granted({ declined: false, placed: { node_id: node, gpus: read.data.gpus } })
      },
      fallback: () => ({ declined: false, placed: undefined }),
    })
    if (decision.value.declined) throw new MeshError('NO_CAPACITY', `the resource allocator of ${block.blockId} places its third-party system nowhere: ${decision.because}`)
    return decision.value.placed
  }

  async #record(block: BlockRecord, status: InitContainerEntry['status'], told: Told): Promise<void> {
    const whole = toJson(block)
    const fits = isJsonObject(whole) && encode(whole).byteLength <= BLOCK_BYTES
    const data: JsonObject = fits ? whole : { blockId: block.blockId, componentURI: block.componentURI, component: block.component }
    await this.#entries.put(block.blockId, { id: block.blockId, status, block_data: { ...data }, status_data: { ...told, stages: told.stages.slice(-12) }, node_id: this.#ports.identity.peer })
  }

  #restored({ block_data: saved }: InitContainerEntry): BlockRecord | undefined {
    const read = blockRecord.safeParse(saved)
    return read.success ? read.data : undefined
  }

  async #recover(): Promise<void> {
    for (const { value, writer } of await this.#entries.list()) {
      const { status, status_data: told } = value
      if (writer !== this.#ports.identity.peer || told.done || status === 'failed') continue
      const block = this.#restored(value)
      // It was made after all: only the last word was not written.
      if (block === undefined || (told.operating_mode === 'create' && await this.#catalogue.block(block.blockId) !== undefined)) continue
      const lifecycle = lifecycleOf(await this.#catalogue.componentByCid(block.component, this.#ports.clock.deadline(START_MS)))
      if (lifecycle === undefined) continue
      if (told.operating_mode === 'create') await this.#rollBack(block, lifecycle, undefined, { ...told, stages: [...told.stages] }, 'the peer that ran it went down in the middle')
      else await this.remove(block.blockId, block)
    }
  }
}

function brief(data: Json, bytes: number): Json {
  return encode(data).byteLength <= bytes ? data : `${JSON.stringify(data).slice(0, bytes - 20)}…`
}
