import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { fieldsOf, type Assets, type BlockHost } from '../../sdk/context.ts'
import { isComponentError } from '../../sdk/error.ts'
import { BlockRunner, failureOf } from '../../sdk/runner.ts'
import { bundleAssets } from './assets.ts'
import { instanceClock } from './clock.ts'
import { loadBlock } from './code.ts'
import { decodeBody, OUTPUT_WINDOW, type Hook, type InstanceConfig, type Order, type Report } from './frames.ts'
import { StageBlock } from './llm/stage-block.ts'
import { fitting } from './metrics-fit.ts'
import { ModelThread } from './models.ts'

/** At the latest, and at the soonest: percentiles of many windows cost more than a quick call. */
const METRICS_MS = 1_000
const METRICS_AGAIN_MS = 100

type Under = { readonly abort: AbortController; credit: number; wake: (() => void) | undefined }
type Asked = { readonly resolve: (packet: Packet) => void; readonly reject: (error: Error) => void }

/** Serves the daemon's calls to one loaded block. */
export class InstanceServer {
  readonly #send: (report: Report, body: unknown) => void
  readonly #sendAll: (frames: readonly Uint8Array[]) => Promise<void> | undefined
  readonly #calls = new Map<number, Under>()
  readonly #asked = new Map<number, Asked>()
  #questions = 0
  #runner: BlockRunner | undefined
  #models: ModelThread | undefined
  #stage: StageBlock | undefined
  #reported = ''
  #reportedAt = -Infinity

  constructor(send: (report: Report, body: unknown) => void, sendAll: (frames: readonly Uint8Array[]) => Promise<void> | undefined) {
    this.#send = send
    this.#sendAll = sendAll
  }

  /** Loads the block and says `ready`. Throws what loading throws. */
  async load(config: InstanceConfig): Promise<void> {
    const assets = bundleAssets(config.bundle, config.files)
    this.#models = new ModelThread({ providers: config.providers, threads: config.threads })
    if (config.runtime.name === 'llm') this.#stage = new StageBlock(config, this.#sendAll)
    const block = this.#stage?.definition ?? (await loadBlock(config))
    this.#runner = await BlockRunner.load(block, config, this.#host(config, assets, this.#models))
    this.#report({ kind: 'ready' }, this.#stage?.spec ?? null)
    setInterval(() => this.#reportMetrics(), METRICS_MS).unref()
  }

  take(order: Order, body: Uint8Array): void {
    switch (order.kind) {
      case 'call':
        void this.#answer(order, body)
        break
      case 'credit': {
        const call = this.#calls.get(order.id)
        if (call !== undefined) {
          call.credit++
          call.wake?.()
        }
        break
      }
      case 'cancel': {
        const call = this.#calls.get(order.id)
        call?.abort.abort(new MeshError('CANCELLED', 'the caller gave up'))
        call?.wake?.()
        break
      }
      case 'policy': {
        const asked = this.#asked.get(order.id)
        this.#asked.delete(order.id)
        if (order.failure === null) asked?.resolve(decodeBody(body) as Packet)
        else asked?.reject(new MeshError('POLICY_FAILED', order.failure))
        break
      }
      case 'ping':
        this.#report({ kind: 'pong' })
        break
      case 'start':
      case 'stop':
        break
    }
  }

  /** A frame without a header: a stage's. */
  takeRaw(body: Uint8Array): void {
    this.#stage?.take(body)
  }

  async stop(): Promise<void> {
    for (const call of this.#calls.values()) call.abort.abort(new MeshError('INSTANCE_FAILED', 'the instance is stopping'))
    await this.#runner?.close()
  }

  async #answer(order: Extract<Order, { kind: 'call' }>, body: Uint8Array): Promise<void> {
    const call: Under = { abort: new AbortController(), credit: OUTPUT_WINDOW, wake: undefined }
    this.#calls.set(order.id, call)
    try {
      await this.#run(order, decodeBody(body) ?? null, call)
      if (performance.now() - this.#reportedAt >= METRICS_AGAIN_MS) this.#reportMetrics()
      this.#report({ kind: 'done', id: order.id })
    } catch (error) {
      this.#report({ kind: 'error', id: order.id, ...refusalOf(error) })
    } finally {
      this.#calls.delete(order.id)
    }
  }

  async #run(order: Extract<Order, { kind: 'call' }>, input: unknown, call: Under): Promise<void> {
    const runner = this.#runner
    if (runner === undefined) throw new MeshError('INSTANCE_FAILED', 'the instance is still loading')
    if (order.method === 'health') return this.#report({ kind: 'output', id: order.id }, await runner.health())
    if (order.method === 'update') return this.#report({ kind: 'output', id: order.id }, await runner.update(fieldsOf(input as Json)))
    if (order.method === 'management') return this.#report({ kind: 'output', id: order.id }, await runner.management(order.action, input as Json))
    for await (const packet of runner.infer(input as Packet, { signal: call.abort.signal, vdag: order.vdag, streams: order.streams === true, ...(order.trace === undefined ? {} : { traceparent: order.trace }) })) {
      while (call.credit === 0 && !call.abort.signal.aborted) await new Promise<void>(resolve => { call.wake = resolve })
      call.abort.signal.throwIfAborted()
      call.credit--
      this.#report({ kind: 'output', id: order.id }, packet)
    }
  }

  #host(config: InstanceConfig, assets: Assets, models: ModelThread): BlockHost {
    const hooks = new Set(config.hooks)
    return {
      clock: instanceClock,
      assets,
      model: (path, mapping) => models.open(assets.path(path), path, { ...(config.runtime.model === path && config.runtime.format !== undefined ? { format: config.runtime.format } : {}), mapping }),
      event: (name, data) => this.#report({ kind: 'event', sideCar: false, name: name.slice(0, 200) }, data),
      sideCar: (name, data) => this.#report({ kind: 'event', sideCar: true, name: name.slice(0, 200) }, data),
      log: line => console.log(line),
      ...(hooks.size === 0 ? {} : { policy: (hook: Hook, packet: Packet, signal: AbortSignal) => (hooks.has(hook) ? this.#ask(hook, packet, signal) : Promise.resolve(packet)) }),
    }
  }

  #ask(hook: Hook, packet: Packet, signal: AbortSignal): Promise<Packet> {
    signal.throwIfAborted()
    const id = this.#questions++
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject })
      signal.addEventListener('abort', () => {
        this.#asked.delete(id)
        reject(asMeshError(signal.reason))
      }, { once: true })
      this.#report({ kind: 'policy', id, hook }, packet)
    })
  }

  #reportMetrics(): void {
    this.#reportedAt = performance.now()
    const metrics = fitting(this.#runner?.metrics() ?? {})
    const text = JSON.stringify(metrics)
    if (text === this.#reported) return
    this.#reported = text
    this.#report({ kind: 'metrics' }, metrics)
  }

  #report(report: Report, body?: unknown): void {
    this.#send(report, body)
  }
}

function refusalOf(error: unknown): { readonly code: string; readonly message: string } {
  if (isComponentError(error)) return { code: 'COMPONENT_ERROR', message: error.message }
  const mesh = asMeshError(error)
  if (mesh.code !== 'INTERNAL') return { code: mesh.code, message: mesh.message }
  // The author's stack belongs in the instance's log; the caller gets the message.
  console.error(error)
  return { code: 'INSTANCE_FAILED', message: failureOf(error).message }
}
