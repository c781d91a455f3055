import { z } from 'zod'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { Packet } from '../../../protocols/invoke.ts'
import { externalServer } from '../../../src/blocks/external-server.ts'
import type { Clock, Health, InstanceStart, RunningInstance } from '../../../src/ports.ts'
import type { OtherRuntime } from '../backend.ts'
import { believed, HttpInstance } from '../http-instance.ts'
import { LogRing } from '../supervisor-log.ts'
import { OpenAiInstance } from './openai-instance.ts'

const READY_MS = 10_000
const WATCH_MS = 5_000
/** So many looks in a row without an answer: the server is gone, and so is the instance; its host tries again. */
const MISSES = 3

export type ExternalOptions = {
  readonly clock: Clock
  /** Origins that blocks may have this host call, as its operator allowed; `*` is any. */
  readonly allowed: readonly string[]
  /** Sent to those servers as a bearer token. */
  readonly key?: string | undefined
}

const settings = z.looseObject({ api: z.enum(['openai', 'aios']).default('openai'), model: z.string().optional(), initContainer: z.looseObject({ model: z.string().optional() }).optional() })

type Server = { infer(packet: Packet, signal: AbortSignal): AsyncIterable<Packet>; health(signal: AbortSignal): Promise<Health>; management(action: string, data: Json, signal: AbortSignal): Promise<Json>; update(parameters: Json, signal: AbortSignal): Promise<Json> }

/** Instances that stand for a server somebody else runs: calls go to its URL, and it is watched by its own health route. */
export function externalRuntime(options: ExternalOptions): OtherRuntime {
  return {
    name: 'external',
    available: () => options.allowed.length > 0,
    async start(request, signal) {
      const at = externalServer(request.block)
      if (!at.ok) throw new MeshError('SPEC_INVALID', at.because)
      const { origin, url } = at.value
      if (!options.allowed.includes('*') && !options.allowed.includes(origin)) throw new MeshError('RUNTIME_UNAVAILABLE', `this host may not call ${origin}: its operator allows servers with --external ${origin}`)
      const instance = new ExternalInstance(serverOf(request, url, options.key), options.clock)
      try {
        await instance.reached(signal)
        return instance
      } catch (error) {
        await instance[Symbol.asyncDispose]()
        throw error
      }
    },
  }
}

function serverOf({ block }: InstanceStart, url: string, key: string | undefined): Server {
  const { api, initContainer, model = initContainer?.model } = believed(settings, { ...block.initData, ...block.parameters }, 'what the block says')
  return api === 'aios' ? new HttpInstance(url.replace(/\/+$/, '')) : new OpenAiInstance(url, { model, key })
}

class ExternalInstance implements RunningInstance {
  readonly exited: Promise<{ readonly because: string; readonly crashed: boolean }>
  readonly #server: Server
  readonly #clock: Clock
  readonly #log = new LogRing()
  readonly #end = Promise.withResolvers<{ readonly because: string; readonly crashed: boolean }>()
  #misses = 0
  #over = false

  constructor(server: Server, clock: Clock) {
    this.#server = server
    this.#clock = clock
    this.exited = this.#end.promise
  }

  /** Throws RUNTIME_UNAVAILABLE when the server does not answer its health route in time, retryable. */
  async reached(signal: AbortSignal): Promise<void> {
    try {
      const { healthy, detail } = await this.health(this.#clock.deadline(READY_MS, signal))
      if (!healthy) throw new MeshError('INSTANCE_FAILED', `it is not healthy: ${JSON.stringify(detail).slice(0, 200)}`)
    } catch (error) {
      throw new MeshError('INSTANCE_FAILED', `the external server cannot be used: ${asMeshError(error).message}`, { cause: error })
    }
    this.#watch()
  }

  async *infer(packet: Packet, signal: AbortSignal): AsyncGenerator<Packet> {
    try {
      yield * this.#server.infer(packet, signal)
    } catch (error) {
      this.#note(`call failed: ${asMeshError(error).message}`)
      throw error
    }
  }

  health(signal: AbortSignal): Promise<Health> {
    return this.#server.health(signal)
  }

  management(action: string, data: Json, signal: AbortSignal): Promise<Json> {
    return this.#server.management(action, data, signal)
  }

  update(parameters: Json, signal: AbortSignal): Promise<Json> {
    return this.#server.update(parameters, signal)
  }

  logs(tail: number): readonly string[] {
    return this.#log.tail(tail)
  }

  usage(): { readonly memoryMb: number; readonly cpuMs: number } {
    return { memoryMb: 0, cpuMs: 0 }
  }

  metrics(): Json {
    return {}
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#finish('stopped', false)
  }

  #watch(): void {
    this.#clock.after(WATCH_MS, () => {
      if (this.#over) return
      void this.health(this.#clock.deadline(WATCH_MS)).then(({ healthy }) => { if (!healthy) throw new MeshError('INSTANCE_FAILED', 'it says that it is not healthy') }).then(() => { this.#misses = 0 }, (error: unknown) => {
        this.#misses += 1
        this.#note(`not healthy: ${asMeshError(error).message}`)
        if (this.#misses >= MISSES) this.#finish(`the external server was not healthy ${MISSES} times in a row: ${asMeshError(error).message}`, true)
      }).finally(() => this.#watch())
    })
  }

  #note(line: string): void {
    this.#log.push(Buffer.from(`${line}\n`))
  }

  #finish(because: string, crashed: boolean): void {
    this.#over = true
    this.#end.resolve({ because, crashed })
  }
}
