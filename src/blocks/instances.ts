import { z } from 'zod'
import type { InstanceAd } from '../../protocols/capacity.ts'
import { MeshError, granted, refused } from '../../protocols/errors.ts'
import { packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import type { BlockId, ContractId, InstanceId, Json, Millis } from '../../protocols/ids.ts'
import type { Contract } from '../../protocols/placement.ts'
import type { BlockRecord, ComponentManifest } from '../../protocols/specs.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import type { CallerFacts, Ports, RunningInstance, StageRunner } from '../ports.ts'
import type { Catalogue, InstanceHost, PolicyCalls } from '../roles.ts'
import { AdmissionQueue } from './admission-queue.ts'
import { CallRecord } from './call-record.ts'
import { LastWords } from './last-words.ts'
import { LoadMeter, type InstanceLoad } from './instance-load.ts'
import { ParameterUpdates } from './parameter-updates.ts'
import { span } from './span.ts'

/** AIOS's own keys of `blockInitData`; other keys are the component's business. */
const queueKeys = z.object({ max_threads: z.coerce.number().int().min(1).max(256).default(4), max_queue_size: z.coerce.number().int().min(0).max(100_000).default(100) })

const DRAIN_BEAT_MS = 50

type Running = {
  readonly contract: Contract
  readonly block: BlockRecord
  readonly queue: AdmissionQueue
  readonly ready: Promise<void>
  readonly stopping: AbortController
  stopped: Promise<void> | undefined
  /** Local time until which it may finish what it has. */
  drainEnds: Millis
  instance: RunningInstance | undefined
  state: InstanceAd['state']
  latencyMs: number
  readonly record: CallRecord
  readonly meter: LoadMeter
  /** Its last health check failed. */
  unhealthy: boolean
}

/** Takes what instances say for others: an event, or a message to a side-car. */
export type Hearsay = (said: { readonly block: BlockRecord; readonly instance: InstanceId; readonly sideCar: boolean; readonly name: string; readonly data: Json }) => void

/** What an instance asks of policies: opinions, and to forget what rules know when nobody is left to ask them. */
type InstancePolicies = PolicyCalls & { release(scope: string): void }

/** Holds the instances of this host: starts them from their bundle, admits calls, drains and stops. */
export class Instances implements InstanceHost {
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'backend' | 'identity' | 'telemetry'>
  readonly #catalogue: Pick<Catalogue, 'componentByCid'>
  readonly #policies: InstancePolicies
  readonly #clusterId: () => string
  readonly #updates: ParameterUpdates
  #hearsay: Hearsay = () => undefined
  readonly #running = new Map<InstanceId, Running>()
  readonly #words = new LastWords()
  readonly #changes = new Set<() => void>()
  readonly #exits = new Set<(instance: InstanceId, because: string, crashed: boolean) => void>()

  constructor(ports: Pick<Ports, 'clock' | 'content' | 'backend' | 'identity' | 'telemetry'>, catalogue: Pick<Catalogue, 'block' | 'componentByCid' | 'onBlock'>, policies: InstancePolicies, clusterId: () => string) {
    this.#ports = ports
    this.#catalogue = catalogue
    this.#policies = policies
    this.#clusterId = clusterId
    this.#updates = new ParameterUpdates(ports, catalogue, block => [...this.#running.values()].filter(entry => entry.block.blockId === block && entry.state === 'ready').flatMap(({ contract, instance }) => (instance === undefined ? [] : [{ id: contract.instance, instance }])))
  }

  /** Whoever carries to others what instances say. One at most. */
  carryBy(hearsay: Hearsay): void {
    this.#hearsay = hearsay
  }

  async start(contract: Contract, block: BlockRecord, signal: AbortSignal): Promise<void> {
    const known = this.#running.get(contract.instance)
    if (known?.state === 'draining') throw new MeshError('NO_INSTANCE', `${contract.instance} is being stopped`)
    if (known !== undefined) return known.ready
    const keys = queueKeys.safeParse(block.initData)
    const { max_threads, max_queue_size } = keys.success ? keys.data : queueKeys.parse({})
    const launch = Promise.withResolvers<void>()
    const entry: Running = { contract, block, queue: new AdmissionQueue(max_threads, max_queue_size), ready: launch.promise, stopping: new AbortController(), stopped: undefined, drainEnds: 0, instance: undefined, state: 'starting', latencyMs: 0, record: new CallRecord(this.#ports.clock), meter: new LoadMeter(this.#ports.clock), unhealthy: false }
    this.#running.set(contract.instance, entry)
    this.#changed()
    this.#launch(entry, signal).then(launch.resolve, error => {
      this.#forget(entry)
      launch.reject(error)
    })
    return entry.ready
  }

  async #launch(entry: Running, patience: AbortSignal): Promise<void> {
    const { backend, identity, telemetry } = this.#ports
    using starting = span([patience, entry.stopping.signal])
    const { signal } = starting
    const manifest = await this.#bring(entry.block, signal)
    const { contract: { instance: id, gpus } } = entry
    const block = await this.#updates.laidOver(id, entry.block)
    const instance = await backend.start({
      instance: id, block, manifest, gpus, peer: identity.peer, clusterId: this.#clusterId(),
      packetPolicy: (name, packet) => this.#opinion(entry.block, name, packet),
      emit: (sideCar, name, data) => this.#hearsay({ block: entry.block, instance: id, sideCar, name, data }),
    }, signal)
    if (signal.aborted) {
      await instance[Symbol.asyncDispose]()
      throw signal.reason
    }
    entry.instance = instance
    entry.state = 'ready'
    // They may have changed again while it started.
    this.#updates.check(entry.block.blockId)
    telemetry.event('info', 'instance.ready', { instance: entry.contract.instance, block: entry.block.blockId })
    this.#changed()
    void instance.exited.then(({ because, crashed }) => this.#gone(entry, because, crashed))
  }

  /** Makes the whole bundle local, from every holder there is. */
  async #bring(block: BlockRecord, signal: AbortSignal): Promise<ComponentManifest> {
    const manifest = await this.#catalogue.componentByCid(block.component, signal)
    for (const file of manifest.files) await this.#ports.content.fetch(file.cid, { signal })
    return manifest
  }

  #gone(entry: Running, because: string, crashed: boolean): void {
    // Whoever runs in it or waits for it is told now, and may go elsewhere.
    entry.stopping.abort(new MeshError('INSTANCE_FAILED', `${entry.contract.instance} is gone: ${because}`))
    if (!this.#forget(entry) || entry.stopped !== undefined) return
    if (entry.instance !== undefined) this.#words.ended(entry.contract.instance, entry.instance, because)
    this.#ports.telemetry.event(crashed ? 'warn' : 'info', 'instance.gone', { instance: entry.contract.instance, block: entry.block.blockId, because })
    for (const hear of this.#exits) hear(entry.contract.instance, because, crashed)
  }

  /** False when it was forgotten before. */
  #forget(entry: Running): boolean {
    const { contract: { instance }, block: { blockId } } = entry
    if (this.#running.get(instance) !== entry) return false
    this.#running.delete(instance)
    this.#updates.forget(instance)
    entry.state = 'failed'
    if (this.ofBlock(blockId).length === 0) this.#policies.release(scopeOf(blockId))
    this.#changed()
    return true
  }

  /** Resolves when it is gone. Asked again, it drains until the earlier of the two times. */
  async stop(instance: InstanceId, drainMs: Millis, because: string): Promise<void> {
    const entry = this.#running.get(instance)
    if (entry === undefined) return
    const ends = this.#ports.clock.monotonic() + drainMs
    entry.drainEnds = entry.stopped === undefined ? ends : Math.min(entry.drainEnds, ends)
    entry.stopped ??= this.#stop(entry, because)
    return entry.stopped
  }

  async #stop(entry: Running, because: string): Promise<void> {
    const { clock } = this.#ports
    entry.state = 'draining'
    this.#changed()
    while (busy(entry) && clock.monotonic() < entry.drainEnds && !entry.stopping.signal.aborted) {
      await clock.sleep(Math.min(DRAIN_BEAT_MS, entry.drainEnds - clock.monotonic()))
    }
    // Another instance may answer what this one could not finish: the failure says so.
    entry.stopping.abort(new MeshError('INSTANCE_FAILED', `${entry.contract.instance} was stopped before it answered: ${because}`))
    // One that was still starting is gone only when its start has given up.
    await entry.ready.catch(() => undefined)
    await entry.instance?.[Symbol.asyncDispose]()
    this.#forget(entry)
    this.#words.forget(entry.contract.instance)
  }

  /** Stops everything, for a clean shutdown. */
  async stopAll(drainMs: Millis): Promise<void> {
    await Promise.all([...this.#running.keys()].map(instance => this.stop(instance, drainMs, 'the host is shutting down')))
  }

  running(): readonly { instance: InstanceId; contract: ContractId; state: InstanceAd['state']; inFlight: number; queued: number; latencyMs: number; unhealthy?: boolean }[] {
    return [...this.#running].sort(([a], [b]) => (a < b ? -1 : 1)).map(([instance, entry]) => ({ instance, contract: entry.contract.id, state: entry.state, ...loadOf(entry), latencyMs: entry.latencyMs, ...(entry.unhealthy ? { unhealthy: true } : {}) }))
  }

  /** What is measured of each instance here: by the host, and by what the instance says of itself. */
  measured(): readonly { readonly instance: InstanceId; readonly block: BlockId; readonly state: InstanceAd['state']; readonly inFlight: number; readonly queued: number; readonly memoryMb: number; readonly cpuPercent: number; readonly gpus: readonly string[]; readonly reported: Json; readonly record: ReturnType<CallRecord['read']> }[] {
    return [...this.#running].sort(([a], [b]) => (a < b ? -1 : 1)).map(([instance, entry]) => {
      const { memoryMb, cpuMs } = entry.instance?.usage() ?? { memoryMb: 0, cpuMs: 0 }
      return { instance, block: entry.block.blockId, state: entry.state, ...loadOf(entry), memoryMb, cpuPercent: entry.record.cpuPercent(cpuMs), gpus: entry.contract.gpus, reported: entry.instance?.metrics() ?? {}, record: entry.record.read() }
    })
  }

  onChange(hear: () => void): () => void {
    this.#changes.add(hear)
    return () => this.#changes.delete(hear)
  }

  onExit(hear: (instance: InstanceId, because: string, crashed: boolean) => void): () => void {
    this.#exits.add(hear)
    return () => this.#exits.delete(hear)
  }

  /** Instances of one block on this host. */
  ofBlock(block: BlockId): readonly InstanceId[] {
    return [...this.#running].filter(([, entry]) => entry.block.blockId === block).map(([instance]) => instance)
  }

  /** Runs one packet. Throws OVERLOADED at once when the queue is full, NO_INSTANCE, COMPONENT_ERROR, INSTANCE_FAILED. */
  async * infer(instance: InstanceId, packet: Packet, signal: AbortSignal, vdag: Json | undefined, caller: CallerFacts): AsyncGenerator<Packet> {
    const { entry, running } = this.#ready(instance)
    const { clock, telemetry } = this.#ports
    using call = span([signal, entry.stopping.signal])
    const arrived = clock.monotonic()
    const leave = await this.#enter(entry, call.signal)
    const began = clock.monotonic()
    let answered = false
    try {
      yield * running.infer(packet, call.signal, vdag, caller)
      entry.record.served(arrived)
      answered = true
      const ms = clock.monotonic() - began
      entry.latencyMs = entry.latencyMs === 0 ? ms : entry.latencyMs * 0.8 + ms * 0.2
      telemetry.observe('block_infer_ms', ms, { block: entry.block.blockId })
    } catch (error) {
      entry.record.failed()
      throw error
    } finally {
      entry.meter.ends(answered)
      leave()
    }
  }

  async #enter(entry: Running, signal: AbortSignal): Promise<() => void> {
    const { meter, queue, latencyMs, contract: { instance } } = entry
    meter.waits()
    try {
      const leave = await queue.enter(signal, instance, latencyMs)
      meter.runs()
      return leave
    } catch (error) {
      meter.leaves(error instanceof MeshError && error.code === 'OVERLOADED')
      throw error
    }
  }

  /** A policy may change what a packet says, not whose it is or its files. */
  async #opinion(block: BlockRecord, name: 'pre_processing' | 'post_processing', packet: Packet): Promise<Packet> {
    const rule = block.policies[name]
    if (rule === undefined) return packet
    const decision = await this.#policies.decide<Packet>({
      hook: name === 'pre_processing' ? 'preprocessing' : 'postprocessing',
      rule,
      input: { packet: { session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data }, block_data: toJson(block) },
      scope: scopeOf(block.blockId),
      accept: answer => {
        const body = isJsonObject(answer) && 'packet' in answer ? answer['packet'] : answer
        if (!isJsonObject(body)) return refused('the policy must return { packet }')
        const merged = packetSchema.safeParse({ ...packet, data: body['data'] ?? packet.data })
        return merged.success ? granted({ ...merged.data, files: packet.files }) : refused('the policy returned a packet that does not parse')
      },
      fallback: () => packet,
    })
    return decision.value
  }

  management(instance: InstanceId, action: string, data: Json, signal: AbortSignal): Promise<Json> {
    return this.#ready(instance).running.management(action, data, signal)
  }

  update(instance: InstanceId, parameters: Json, signal: AbortSignal): Promise<Json> {
    return this.#updates.tell(instance, this.#ready(instance).running, parameters, signal)
  }

  /** Asks the component. What it says, or that it says nothing, is in the next ad. */
  async health(instance: InstanceId, signal: AbortSignal): Promise<{ readonly healthy: boolean; readonly detail: Json }> {
    const { entry, running } = this.#ready(instance)
    let healthy = false
    try {
      const answer = await running.health(signal)
      healthy = answer.healthy
      return answer
    } finally {
      if (entry.unhealthy === healthy) {
        entry.unhealthy = !healthy
        this.#changed()
      }
    }
  }

  /** As its host counts it; the component is not asked. */
  load(instance: InstanceId): InstanceLoad {
    const { entry } = this.#ready(instance)
    const stage = entry.instance?.stage?.load()
    return entry.meter.read(entry.queue.width, entry.latencyMs, { inFlight: stage?.sessions ?? 0, queued: stage?.waiting ?? 0 })
  }

  logs(instance: InstanceId, tail: number): readonly string[] {
    return this.#words.tail(instance, this.#ready(instance).running, tail)
  }

  /** For who follows: lines from a number on. */
  logsFrom(instance: InstanceId, from: number): { readonly next: number; readonly lines: readonly string[] } {
    return this.#words.from(instance, this.#ready(instance).running, from)
  }

  /** The stage that an instance of runtime `llm` computes. `entering`: for a new session, which one that drains takes no more. */
  stage(instance: InstanceId, entering: boolean): StageRunner {
    const entry = this.#running.get(instance)
    if (entry?.instance === undefined) throw new MeshError('NO_INSTANCE', `${instance} does not run here${entry === undefined ? '' : ' yet'}`)
    if (entering && entry.state === 'draining') throw new MeshError('NO_INSTANCE', `${instance} is being stopped`)
    const { stage } = entry.instance
    if (stage === undefined) throw new MeshError('NO_INSTANCE', `${instance} is no stage of a model`, { retryable: false })
    return stage
  }

  #ready(instance: InstanceId): { readonly entry: Running; readonly running: RunningInstance } {
    const entry = this.#running.get(instance)
    if (entry?.instance === undefined) throw new MeshError('NO_INSTANCE', `${instance} does not run here${entry === undefined ? '' : ' yet'}`)
    if (entry.state === 'draining') throw new MeshError('NO_INSTANCE', `${instance} is being stopped`)
    return { entry, running: entry.instance }
  }

  #changed(): void {
    for (const hear of this.#changes) hear()
  }
}

/** Apart from the block's own: a load balancer or an autoscaler here outlives the instances here. */
function scopeOf(block: BlockId): string {
  return `${block}/instances`
}

/** Calls and, at a stage, sessions. */
function loadOf({ queue, instance }: Running): { readonly inFlight: number; readonly queued: number } {
  const stage = instance?.stage?.load()
  return { inFlight: queue.running + (stage?.sessions ?? 0), queued: queue.waiting + (stage?.waiting ?? 0) }
}

function busy(entry: Running): boolean {
  const { inFlight, queued } = loadOf(entry)
  return inFlight + queued > 0
}
