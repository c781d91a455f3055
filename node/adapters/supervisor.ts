import { spawn, type ChildProcess } from 'node:child_process'
import { Duplex } from 'node:stream'
import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type ErrorCode } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import { stageSpec } from '../../protocols/stage-file.ts'
import type { CallerFacts, Clock, Health, RunningInstance } from '../../src/ports.ts'
import { decodeBody, encodeFrame, FRAME_BYTES, FrameReader, METRICS_BYTES, OUTPUT_WINDOW, type Frame, type Hook, type InstanceConfig, type Order } from '../instance/frames.ts'
import { FENCE_FAILED } from './fence.ts'
import { InstanceStage } from './instance-stage.ts'
import { abortError, InstanceCall } from './supervisor-call.ts'
import { LogRing } from './supervisor-log.ts'
import { Watch, type WatchLimits } from './supervisor-watch.ts'

/** An instance that says nothing for this long after a caller gave up holds its thread in a loop. */
const SILENCE_MS = 3_000
/** A stage computes in that very thread: a chunk of a prompt through large layers takes a while. */
const STAGE_SILENCE_MS = 30_000
const STOP_MS = 2_000
const CALLS = 1_024
/** Printed bytes read each second; beyond that the instance waits for us, not we for it. */
const LOG_BYTES_PER_SECOND = 1_048_576
const EVENTS_PER_SECOND = 100

const id = z.int().nonnegative()
const report = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('ready') }),
  z.object({ kind: z.literal('failed'), code: z.string().max(40), message: z.string().max(4_000) }),
  z.object({ kind: z.literal('output'), id }),
  z.object({ kind: z.literal('done'), id }),
  z.object({ kind: z.literal('error'), id, code: z.string().max(40), message: z.string().max(8_000) }),
  z.object({ kind: z.literal('policy'), id, hook: z.enum(['pre_processing', 'post_processing']) }),
  z.object({ kind: z.literal('metrics') }),
  z.object({ kind: z.literal('event'), sideCar: z.boolean(), name: z.string().max(200) }),
  z.object({ kind: z.literal('pong') }),
])
const health = z.object({ healthy: z.boolean(), detail: z.unknown() })

/** Codes an instance may speak; anything else it says is its own failure. */
const SPOKEN: readonly ErrorCode[] = ['COMPONENT_ERROR', 'BAD_INPUT', 'INSTANCE_FAILED', 'SPEC_INVALID', 'RUNTIME_UNAVAILABLE', 'CANCELLED', 'MESSAGE_TOO_LARGE', 'POLICY_FAILED']

export type InstanceHooks = {
  readonly event: (sideCar: boolean, name: string, data: Json) => void
  readonly policy: (hook: Hook, packet: Packet) => Promise<Packet>
}
export type Launch = { readonly command: string; readonly args: readonly string[]; readonly env: Readonly<Record<string, string>>; readonly cwd: string } & (
  | { readonly limits: WatchLimits }
  /** A client whose container does the work: frames go over its input and output, the engine holds it to its limits, and killing the client kills nothing. */
  | { readonly container: { kill(): void; pid(): Promise<number | undefined> } }
)

/** Supervises one instance process: calls over its pipe, log, limits, end. Nothing it sends is believed unchecked. */
export class SupervisedInstance implements RunningInstance {
  readonly exited: Promise<{ readonly because: string; readonly crashed: boolean }>
  stage?: InstanceStage
  readonly #clock: Clock
  readonly #hooks: InstanceHooks
  readonly #child: ChildProcess
  readonly #pipe: Duplex
  readonly #log = new LogRing()
  readonly #container: { kill(): void; pid(): Promise<number | undefined> } | undefined
  #watch: Watch | undefined
  readonly #calls = new Map<number, InstanceCall>()
  readonly #ready = Promise.withResolvers<void>()
  #computes = false
  #nextCall = 0
  #metrics: Json = {}
  #heard = 0
  #events = { since: 0, count: 0 }
  #questions = 0
  #stopping = false
  #killed: string | undefined
  #gone: string | undefined

  constructor(launch: Launch, clock: Clock, hooks: InstanceHooks) {
    this.#clock = clock
    this.#hooks = hooks
    this.#container = 'container' in launch ? launch.container : undefined
    const { stdin, stdout, stdio } = this.#child = spawn(launch.command, launch.args, { cwd: launch.cwd, env: { ...launch.env }, stdio: this.#container === undefined ? ['ignore', 'pipe', 'pipe', 'pipe'] : ['pipe', 'pipe', 'pipe'], detached: false })
    // spawn's types stop at the third descriptor.
    this.#pipe = stdin !== null && stdout !== null ? Duplex.from({ readable: stdout, writable: stdin }) : stdio[3] as Duplex
    // A start that failed is reported by `loaded`; nobody may be waiting when it does.
    this.#ready.promise.catch(() => undefined)
    this.exited = new Promise(resolve => {
      this.#child.once('error', error => resolve(this.#left(`it could not be started: ${error.message}`)))
      this.#child.once('close', (code, signal) => resolve(this.#left(this.#reasonFor(code, signal))))
    })
    this.#listen()
    if (this.#child.pid !== undefined && 'limits' in launch) this.#watch = new Watch(this.#child.pid, launch.limits, clock, because => this.#kill(because))
  }

  /** Hands the instance its block; resolves when it is ready. Throws what loading failed with. */
  async loaded(config: InstanceConfig, signal: AbortSignal): Promise<void> {
    this.#computes = config.runtime.name === 'llm'
    this.#send({ kind: 'start' }, config)
    const abort = Promise.withResolvers<never>()
    const give = () => abort.reject(abortError(signal))
    signal.addEventListener('abort', give, { once: true })
    if (signal.aborted) give()
    try {
      await Promise.race([this.#ready.promise, abort.promise])
      await this.#watchContainer()
    } finally {
      signal.removeEventListener('abort', give)
    }
  }

  /** Its engine holds it to its limits; it is watched for what it uses. */
  async #watchContainer(): Promise<void> {
    const pid = await this.#container?.pid()
    if (pid !== undefined && this.#gone === undefined) this.#watch = new Watch(pid, { memoryMb: Infinity, diskMb: 0, folders: [] }, this.#clock, () => undefined)
  }

  async *infer(packet: Packet, signal: AbortSignal, vdag: Json = null, caller: CallerFacts = {}): AsyncGenerator<Packet, void, undefined> {
    for await (const body of this.#call('infer', '', packet, vdag, signal, caller)) yield this.#believed(() => check(packetSchema, body, 'answer of the instance'))
  }

  async health(signal: AbortSignal): Promise<Health> {
    const answer = check(health, await this.#one('health', '', null, signal), 'health of the instance')
    return { healthy: answer.healthy, detail: jsonOf(answer.detail) }
  }

  management(action: string, data: Json, signal: AbortSignal): Promise<Json> {
    return this.#one('management', action, data, signal)
  }

  update(parameters: Json, signal: AbortSignal): Promise<Json> {
    return this.#one('update', '', parameters, signal)
  }

  logs(tail: number): readonly string[] {
    return this.#log.tail(tail)
  }

  logsFrom(from: number): { readonly next: number; readonly lines: readonly string[] } {
    return this.#log.from(from)
  }

  usage(): { readonly memoryMb: number; readonly cpuMs: number } {
    return this.#watch?.usage ?? { memoryMb: 0, cpuMs: 0 }
  }

  metrics(): Json {
    return this.#metrics
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true
    if (this.#gone === undefined) {
      if (this.#pipe.writable) this.#pipe.write(encodeFrame({ kind: 'stop' }))
      const late = this.#clock.after(STOP_MS, () => this.#end())
      await this.exited
      late()
    }
  }

  async #one(method: 'health' | 'management' | 'update', action: string, data: Json, signal: AbortSignal): Promise<Json> {
    for await (const body of this.#call(method, action, data, null, signal)) return this.#believed(() => jsonOf(body))
    throw new MeshError('INSTANCE_FAILED', `the instance ended its ${method} without an answer`)
  }

  async *#call(method: 'infer' | 'health' | 'management' | 'update', action: string, body: unknown, vdag: Json, signal: AbortSignal, { trace, streams }: CallerFacts = {}): AsyncGenerator<unknown, void, undefined> {
    if (signal.aborted) throw abortError(signal)
    if (this.#gone !== undefined) throw this.#failure(this.#gone)
    if (this.#calls.size >= CALLS) throw new MeshError('OVERLOADED', `${CALLS} calls are already under way in this instance`)
    const callId = this.#nextCall++
    const call = new InstanceCall(callId, OUTPUT_WINDOW, () => this.#tell({ kind: 'credit', id: callId }))
    const give = () => call.abandon(abortError(signal))
    this.#calls.set(callId, call)
    signal.addEventListener('abort', give, { once: true })
    try {
      this.#send({ kind: 'call', id: callId, method, action, vdag, ...(trace === undefined ? {} : { trace }), ...(streams === undefined ? {} : { streams }) }, body)
      for (let next = await call.next(); next !== undefined; next = await call.next()) {
        const bytes = next
        yield this.#believed(() => decodeBody(bytes))
      }
    } finally {
      signal.removeEventListener('abort', give)
      // Still listed: it did not report its end, so the caller left before it.
      // A health check is no work that somebody gave up: what computes for long without a pause is busy, not lost.
      const left = this.#calls.delete(callId)
      if (left && method === 'health') this.#tell({ kind: 'cancel', id: callId })
      else if (left) this.#cancel(callId)
    }
  }

  #cancel(callId: number): void {
    if (this.#gone !== undefined) return
    this.#tell({ kind: 'cancel', id: callId })
    this.#tell({ kind: 'ping' })
    const heard = this.#heard
    const silence = this.#computes ? STAGE_SILENCE_MS : SILENCE_MS
    this.#clock.after(silence, () => {
      if (this.#gone === undefined && this.#heard === heard) this.#kill(`it did not answer for ${silence / 1_000} s after a caller gave up: its code holds the thread`)
    })
  }

  #listen(): void {
    const reader = new FrameReader()
    this.#pipe.on('data', (chunk: Uint8Array) => {
      this.#heard++
      try {
        for (const frame of reader.push(chunk)) this.#hear(frame)
      } catch (error) {
        this.#kill(`it broke the protocol: ${asMeshError(error).message}`)
      }
    })
    // Its end is told by the process; a pipe that breaks first is part of that.
    this.#pipe.on('error', () => undefined)
    for (const stream of this.#container === undefined ? [this.#child.stdout, this.#child.stderr] : [this.#child.stderr]) {
      let budget = { since: this.#clock.monotonic(), bytes: 0 }
      stream?.on('data', (chunk: Uint8Array) => {
        this.#log.push(chunk)
        const now = this.#clock.monotonic()
        if (now - budget.since >= 1_000) budget = { since: now, bytes: 0 }
        budget.bytes += chunk.byteLength
        if (budget.bytes < LOG_BYTES_PER_SECOND) return
        stream.pause()
        this.#clock.after(1_000, () => void stream.resume())
      })
    }
  }

  #hear(frame: Frame): void {
    if (frame.header === undefined) {
      if (this.stage === undefined) throw new MeshError('MESSAGE_INVALID', 'a frame without a header')
      return this.stage.hear(frame.body)
    }
    const said = check(report, frame.header, 'report of the instance')
    switch (said.kind) {
      case 'ready':
        if (this.#computes) this.stage ??= new InstanceStage(check(stageSpec, decodeBody(frame.body), 'stage of the instance'), bytes => this.#writeSoon(bytes))
        return this.#ready.resolve()
      case 'failed':
        return this.#ready.reject(this.#spoken(said.code, said.message))
      case 'output':
        if (this.#calls.get(said.id)?.push(frame.body) === false) throw new MeshError('MESSAGE_INVALID', 'more answers than it had credit for')
        return undefined
      case 'done':
        return this.#finish(said.id)
      case 'error':
        return this.#finish(said.id, this.#spoken(said.code, said.message.slice(0, 2_000)))
      case 'metrics':
        if (frame.body.byteLength <= METRICS_BYTES) this.#metrics = jsonOf(decodeBody(frame.body))
        return undefined
      case 'event':
        if (this.#mayEmit()) this.#hooks.event(said.sideCar, said.name, jsonOf(decodeBody(frame.body)))
        return undefined
      case 'policy':
        return this.#consult(said.id, said.hook, check(packetSchema, decodeBody(frame.body), 'packet for a policy'))
      case 'pong':
        return undefined
    }
  }

  #finish(callId: number, error?: Error): void {
    const call = this.#calls.get(callId)
    this.#calls.delete(callId)
    call?.finish(error)
  }

  #consult(question: number, hook: Hook, packet: Packet): void {
    if (this.#questions >= CALLS) throw new MeshError('MESSAGE_INVALID', 'more policy questions than calls')
    this.#questions++
    void this.#hooks.policy(hook, packet).then(
      answer => this.#tell({ kind: 'policy', id: question, failure: null }, answer),
      (error: unknown) => this.#tell({ kind: 'policy', id: question, failure: asMeshError(error).message }),
    ).finally(() => { this.#questions-- })
  }

  /** Beyond the rate events are dropped: they are news, not state. */
  #mayEmit(): boolean {
    const now = this.#clock.monotonic()
    if (now - this.#events.since >= 1_000) this.#events = { since: now, count: 0 }
    return ++this.#events.count <= EVENTS_PER_SECOND
  }

  #send(order: Order, body?: unknown): void {
    this.#write(encodeFrame(order, body))
  }

  /** What is said in one turn of the loop goes in one call to the kernel, and is read as one: steps that come together are computed together. */
  #writeSoon(frame: Uint8Array): void {
    if (this.#pipe.writableCorked === 0) {
      this.#pipe.cork()
      process.nextTick(() => this.#pipe.uncork())
    }
    this.#write(frame)
  }

  #write(frame: Uint8Array): void {
    if (this.#pipe.writableLength > FRAME_BYTES) throw new MeshError('OVERLOADED', 'the instance does not read what it is sent')
    if (this.#pipe.writable) this.#pipe.write(frame)
  }

  /** For orders nobody waits on. */
  #tell(order: Order, body?: unknown): void {
    if (this.#pipe.writable && this.#pipe.writableLength <= FRAME_BYTES) this.#pipe.write(encodeFrame(order, body))
  }

  #kill(because: string): void {
    this.#killed ??= because
    this.#end()
  }

  #end(): void {
    this.#container?.kill()
    if (this.#container === undefined) this.#child.kill('SIGKILL')
  }

  /** Runs what reads the instance's words; one that lies about their form is not kept. */
  #believed<Value>(read: () => Value): Value {
    try {
      return read()
    } catch (error) {
      this.#kill(`it broke the protocol: ${asMeshError(error).message}`)
      throw new MeshError('INSTANCE_FAILED', `the instance answered nonsense: ${asMeshError(error).message}`, { cause: error })
    }
  }

  #spoken(code: string, message: string): MeshError {
    const known = SPOKEN.find(spoken => spoken === code)
    return known === undefined ? new MeshError('INSTANCE_FAILED', message) : new MeshError(known, message)
  }

  #failure(because: string): MeshError {
    return new MeshError('INSTANCE_FAILED', `the instance is gone: ${because}`)
  }

  #left(because: string): { readonly because: string; readonly crashed: boolean } {
    this.#gone = because
    this.#watch?.stop()
    this.#pipe?.destroy()
    const error = this.#failure(because)
    this.stage?.fail(error)
    this.#ready.reject(this.#child.exitCode === FENCE_FAILED ? new MeshError('RUNTIME_UNAVAILABLE', because) : error)
    for (const call of this.#calls.values()) call.finish(error)
    this.#calls.clear()
    return { because, crashed: !this.#stopping }
  }

  #reasonFor(code: number | null, signal: NodeJS.Signals | null): string {
    if (this.#killed !== undefined) return this.#killed
    if (this.#stopping) return 'stopped'
    const lines = this.#log.tail(60)
    const fence = lines.find(line => line.startsWith('fence: '))
    if (code === FENCE_FAILED && fence !== undefined) return `this host cannot fence instances in: ${fence.slice(7)}. The operator may allow unfenced ones with --isolation=L0`
    if (lines.some(line => line.includes('heap out of memory') || line.includes('Array buffer allocation failed'))) return 'it ran out of its memory'
    if (this.#container !== undefined && code === 137) return 'its engine killed it, most likely for its memory'
    const said = lines.findLast(line => /Error\b/.test(line)) ?? lines.at(-1)
    return `it ended with ${signal ?? `code ${code}`}${said === undefined ? '' : `: ${said.trim().slice(0, 300)}`}`
  }
}

/** DAG-CBOR can say more than JSON (bytes, links); what crosses this border may not. Throws MESSAGE_INVALID. */
function jsonOf(value: unknown, depth = 0): Json {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
  if (depth > 256) throw new MeshError('MESSAGE_INVALID', 'JSON is nested too deep')
  if (Array.isArray(value)) return value.map(inner => jsonOf(inner, depth + 1))
  if (typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, jsonOf(inner, depth + 1)]))
  throw new MeshError('MESSAGE_INVALID', `expected JSON, got ${typeof value}`)
}
