import { encode, hex } from '../protocols/codec.ts'
import { MeshError } from '../protocols/errors.ts'
import type { BlockId, InstanceId, Json, Millis, PeerId } from '../protocols/ids.ts'
import type { Packet } from '../protocols/invoke.ts'
import type { Backend, InstanceStart, RunningInstance } from '../src/ports.ts'
import { hashBytes } from './identity.ts'
import type { Kernel, Life } from './kernel.ts'
import type { SeededRandom } from './random.ts'
import { SimulatedStageRunner } from './stage.ts'

/** One time an instance really ran something. */
export type Execution = { readonly startedAt: Millis; readonly at: Millis; readonly peer: PeerId; readonly instance: InstanceId; readonly block: BlockId; readonly session: string; readonly seqNo: number; readonly vdag: Json; readonly finished: boolean }

export type BackendWeather = {
  readonly startMs: readonly [Millis, Millis]
  readonly serviceMs: readonly [Millis, Millis]
  /** Chance that an inference kills its instance, 0..1. */
  readonly crash: number
}

export const STEADY: BackendWeather = { startMs: [50, 400], serviceMs: [5, 60], crash: 0 }

/** What instances did, over all peers and lives: the evidence of the checkers. Bounded. */
export class ExecutionLog {
  readonly #kept: Execution[] = []
  readonly #limit: number
  #count = 0

  constructor(limit = 100_000) {
    this.#limit = limit
  }

  get count(): number {
    return this.#count
  }

  add(execution: Execution): void {
    this.#count += 1
    if (this.#kept.length < this.#limit) this.#kept.push(execution)
  }

  all(): readonly Execution[] {
    return this.#kept
  }
}

/** Starts modelled instances: start and service times on the virtual clock, output a function of component, parameters and input. */
export function simulatedBackend(kernel: Kernel, life: Life, random: SeededRandom, log: ExecutionLog, weather: () => BackendWeather): Backend {
  return {
    runtimes: () => ['onnx', 'tfjs', 'node', 'llm'],
    async start(request, signal) {
      const [least, most] = weather().startMs
      await kernel.clock(life).sleep(least + random.below(most - least + 1), signal)
      return new SimulatedInstance(kernel, life, random.fork(request.instance), log, weather, request)
    },
  }
}

class SimulatedInstance implements RunningInstance {
  readonly exited: Promise<{ readonly because: string; readonly crashed: boolean }>
  readonly #kernel: Kernel
  readonly #life: Life
  readonly #random: SeededRandom
  readonly #log: ExecutionLog
  readonly #weather: () => BackendWeather
  readonly #request: InstanceStart
  readonly stage?: SimulatedStageRunner
  readonly #exit: (how: { readonly because: string; readonly crashed: boolean }) => void
  #parameters: Json
  #gone: string | undefined
  #cpuMs = 0

  constructor(kernel: Kernel, life: Life, random: SeededRandom, log: ExecutionLog, weather: () => BackendWeather, request: InstanceStart) {
    this.#kernel = kernel
    this.#life = life
    this.#random = random
    this.#log = log
    this.#weather = weather
    this.#request = request
    this.#parameters = request.block.parameters
    const { promise, resolve } = Promise.withResolvers<{ readonly because: string; readonly crashed: boolean }>()
    this.exited = promise
    this.#exit = resolve
    if (request.block.runtime.name === 'llm') {
      const crashes = random.fork('stage')
      this.stage = new SimulatedStageRunner(kernel, life, request.block.parameters, () => weather().crash > 0 && crashes.float() < weather().crash, because => this.#leave(because, true))
    }
  }

  async *infer(packet: Packet, signal: AbortSignal, vdag: Json = null): AsyncIterable<Packet> {
    this.#mustRun()
    const { serviceMs: [least, most], crash } = this.#weather()
    // Most calls are quick and a few are slow, as with real inputs.
    const startedAt = this.#kernel.now
    const serviceMs = least + Math.round((most - least) * this.#random.float() ** 3)
    await this.#kernel.clock(this.#life).sleep(serviceMs, signal)
    this.#mustRun()
    this.#cpuMs += serviceMs
    const dies = crash > 0 && this.#random.float() < crash
    const { instance, peer, block } = this.#request
    this.#log.add({ startedAt, at: this.#kernel.now, peer, instance, block: block.blockId, session: packet.sessionId, seqNo: packet.seqNo, vdag, finished: !dies })
    if (dies) {
      this.#leave('it crashed on an input', true)
      throw new MeshError('INSTANCE_FAILED', `instance ${instance} crashed on this input`)
    }
    const asked = await this.#request.packetPolicy('pre_processing', packet)
    yield await this.#request.packetPolicy('post_processing', { ...asked, data: simulatedOutput(block.component, this.#parameters, asked.data), files: [] })
  }

  async health(): Promise<{ readonly healthy: boolean; readonly detail: Json }> {
    return { healthy: this.#gone === undefined, detail: null }
  }

  async management(action: string, data: Json): Promise<Json> {
    this.#mustRun()
    return { action, data }
  }

  async update(parameters: Json): Promise<Json> {
    this.#mustRun()
    this.#parameters = parameters
    return { updated: true }
  }

  logs(): readonly string[] {
    return []
  }

  usage(): { readonly memoryMb: number; readonly cpuMs: number } {
    return { memoryMb: this.#request.block.needs.memoryMb, cpuMs: this.#cpuMs }
  }

  metrics(): Json {
    return {}
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#leave('it was stopped', false)
  }

  #leave(because: string, crashed: boolean): void {
    if (this.#gone !== undefined) return
    this.#gone = because
    this.stage?.end(new MeshError('INSTANCE_FAILED', `instance ${this.#request.instance} is gone: ${because}`))
    this.#exit({ because, crashed })
  }

  #mustRun(): void {
    if (this.#gone !== undefined) throw new MeshError('INSTANCE_FAILED', `instance ${this.#request.instance} is gone: ${this.#gone}`)
  }
}

/** What a component answers in a simulation: nothing but a fingerprint of everything it depends on. */
export function simulatedOutput(component: string, parameters: Json, input: Json): Json {
  const bytes = encode([component, parameters, input])
  const digest = new Uint8Array(8)
  const view = new DataView(digest.buffer)
  view.setUint32(0, hashBytes(bytes, 3))
  view.setUint32(4, hashBytes(bytes, 5))
  return { computed: hex(digest) }
}
