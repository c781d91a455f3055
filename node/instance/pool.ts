import { Worker } from 'node:worker_threads'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { fitting } from './metrics-fit.ts'
import { addMetrics } from './pool-metrics.ts'
import { decodeBody, encodeBody, type InstanceConfig, type Order, type Report } from './frames.ts'

export type ThreadOrder = { readonly order: Order; readonly body: Uint8Array; readonly config?: InstanceConfig }
export type ThreadReport = { readonly report: Report; readonly body: Uint8Array }
export type PoolTerms = { readonly threads: number; readonly sticky: boolean }

type CallOrder = Extract<Order, { kind: 'call' }>
type Thread = { readonly worker: Worker; readonly calls: Set<number>; metrics: Json; heard: number; ready: boolean; stopped: boolean }
/** A call that all threads are asked, and answered once. */
type Everywhere = { left: number; readonly answers: Json[]; failure: Extract<Report, { kind: 'error' }> | undefined }

/** As the supervisor has it for an instance without threads: one that holds its loop that long after a caller left is not coming back. */
const SILENCE_MS = 3_000
const METRICS_MS = 250
const MOST_THREADS = 64
/** As for the thread of models: V8 would reserve 512 MB each. */
const CODE_MB = 32
/** AIOS's own keys of `blockInitData`. Its threads and its processes are the same here: threads, each with a heap and a copy of the block of its own. */
const keys = z.looseObject({
  enable_thread_pool: z.union([z.boolean(), z.stringbool()]).default(false), max_threads: z.coerce.number().int().min(1).max(MOST_THREADS).default(4),
  sticky_sessions: z.union([z.boolean(), z.stringbool()]).default(false), thread_pool_mode: z.enum(['thread', 'process']).default('thread'),
})
const session = z.looseObject({ sessionId: z.string() })

/** Whether an instance has several threads, and how many. */
export function poolOf({ blockInitData, runtime }: Pick<InstanceConfig, 'blockInitData' | 'runtime'>): PoolTerms | undefined {
  const parsed = keys.safeParse(blockInitData)
  if (!parsed.success || !parsed.data.enable_thread_pool || runtime.name === 'llm') return undefined
  return { threads: parsed.data.max_threads, sticky: parsed.data.sticky_sessions }
}

/**
 * AIOS's job executor: copies of one block in threads, which compute at the same time. A packet goes to the thread with the least
 * to do, or with `sticky_sessions` to that of its session; health, updates and management go to all of them.
 */
export class InstancePool {
  readonly #terms: PoolTerms
  readonly #send: (report: Report, body: Uint8Array) => void
  readonly #threads: Thread[] = []
  readonly #held = new Map<number, Thread>()
  readonly #everywhere = new Map<number, Everywhere>()
  /** Questions of the threads to the daemon, by the daemon's number: whose, and its own number there. */
  readonly #questions = new Map<number, { readonly thread: Thread; readonly id: number }>()
  #asked = 0
  #failed = false
  #metricsDue = false

  constructor(terms: PoolTerms, send: (report: Report, body: Uint8Array) => void) {
    this.#terms = terms
    this.#send = send
  }

  /** Loads the block in each thread. One that cannot load it fails the instance, which says so itself. */
  async load(config: InstanceConfig): Promise<void> {
    for (let at = 0; at < this.#terms.threads; at += 1) {
      const worker = new Worker(new URL('./pool-thread.ts', import.meta.url), { name: `block-${at}`, resourceLimits: { codeRangeSizeMb: CODE_MB } })
      const thread: Thread = { worker, calls: new Set(), metrics: {}, heard: 0, ready: false, stopped: false }
      this.#threads.push(thread)
      worker.on('message', (message: ThreadReport) => this.#hear(thread, message))
      worker.on('error', error => leave(`a thread failed: ${error.message}`))
      worker.on('exit', () => thread.stopped || leave('a thread ended'))
      worker.postMessage({ order: { kind: 'start' }, body: new Uint8Array(0), config } satisfies ThreadOrder)
    }
  }

  take(order: Order, body: Uint8Array): void {
    switch (order.kind) {
      case 'call':
        return order.method === 'infer' ? this.#give(this.#choose(order, body), order, body) : this.#giveAll(order, body)
      case 'credit':
        return this.#held.get(order.id)?.worker.postMessage({ order, body } satisfies ThreadOrder)
      case 'cancel':
        return this.#cancel(order.id)
      case 'policy': {
        const question = this.#questions.get(order.id)
        this.#questions.delete(order.id)
        return question?.thread.worker.postMessage({ order: { ...order, id: question.id }, body } satisfies ThreadOrder)
      }
      case 'ping':
        return this.#send({ kind: 'pong' }, encodeBody(undefined))
      case 'start':
      case 'stop':
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#threads.map(thread => new Promise<void>(resolve => {
      thread.stopped = true
      thread.worker.once('exit', () => resolve())
      thread.worker.postMessage({ order: { kind: 'stop' }, body: new Uint8Array(0) } satisfies ThreadOrder)
    })))
  }

  #choose(order: CallOrder, body: Uint8Array): Thread {
    const asked = this.#terms.sticky ? session.safeParse(decodeBody(body)) : undefined
    const at = asked?.success === true && asked.data.sessionId !== '' ? hash(asked.data.sessionId) % this.#threads.length : undefined
    const thread = at === undefined ? this.#threads.reduce((least, one) => (one.calls.size < least.calls.size ? one : least)) : this.#threads[at]
    if (thread === undefined) throw new MeshError('INTERNAL', `call ${order.id} found no thread`)
    return thread
  }

  #give(thread: Thread, order: CallOrder, body: Uint8Array): void {
    thread.calls.add(order.id)
    this.#held.set(order.id, thread)
    thread.worker.postMessage({ order, body } satisfies ThreadOrder)
  }

  #giveAll(order: CallOrder, body: Uint8Array): void {
    this.#everywhere.set(order.id, { left: this.#threads.length, answers: [], failure: undefined })
    for (const thread of this.#threads) {
      thread.calls.add(order.id)
      thread.worker.postMessage({ order, body } satisfies ThreadOrder)
    }
  }

  #cancel(id: number): void {
    const holders = this.#threads.filter(({ calls }) => calls.has(id))
    for (const thread of holders) {
      const { heard } = thread
      thread.worker.postMessage({ order: { kind: 'cancel', id }, body: new Uint8Array(0) } satisfies ThreadOrder)
      thread.worker.postMessage({ order: { kind: 'ping' }, body: new Uint8Array(0) } satisfies ThreadOrder)
      setTimeout(() => {
        if (thread.heard === heard) leave(`a thread did not answer for ${SILENCE_MS / 1_000} s after a caller gave up: its code holds it`)
      }, SILENCE_MS).unref()
    }
  }

  #hear(thread: Thread, { report, body }: ThreadReport): void {
    thread.heard += 1
    switch (report.kind) {
      case 'ready':
        thread.ready = true
        if (this.#threads.every(({ ready }) => ready)) this.#send(report, body)
        return
      case 'failed':
        if (!this.#failed) this.#send(report, body)
        this.#failed = true
        return
      case 'policy': {
        const id = this.#asked++
        this.#questions.set(id, { thread, id: report.id })
        return this.#send({ ...report, id }, body)
      }
      case 'metrics':
        thread.metrics = decodeBody(body) as Json
        return this.#tellMetrics()
      case 'output': {
        const all = this.#everywhere.get(report.id)
        if (all !== undefined) return void all.answers.push(decodeBody(body) as Json)
        return this.#send(report, body)
      }
      case 'done':
      case 'error': {
        thread.calls.delete(report.id)
        const all = this.#everywhere.get(report.id)
        if (all !== undefined) return this.#settle(report, all)
        this.#held.delete(report.id)
        return this.#send(report, body)
      }
      case 'event':
        return this.#send(report, body)
      case 'pong':
    }
  }

  /** One answer of all: unhealthy if one is, failed if one failed, else what the first answered. */
  #settle(report: Extract<Report, { kind: 'done' | 'error' }>, all: Everywhere): void {
    all.left -= 1
    if (report.kind === 'error') all.failure ??= report
    if (all.left > 0) return
    this.#everywhere.delete(report.id)
    if (all.failure !== undefined) return this.#send(all.failure, encodeBody(undefined))
    const unwell = all.answers.find(answer => answer !== null && typeof answer === 'object' && 'healthy' in answer && answer.healthy === false)
    const answer = unwell ?? all.answers[0]
    if (answer !== undefined) this.#send({ kind: 'output', id: report.id }, encodeBody(answer))
    this.#send({ kind: 'done', id: report.id }, encodeBody(undefined))
  }

  /** What all threads count together, at most four times a second. */
  #tellMetrics(): void {
    if (this.#metricsDue) return
    this.#metricsDue = true
    setTimeout(() => {
      this.#metricsDue = false
      this.#send({ kind: 'metrics' }, encodeBody(fitting(addMetrics(this.#threads.map(({ metrics }) => metrics)))))
    }, METRICS_MS).unref()
  }
}

/** The steward starts another instance for one that has lost a part of itself. */
function leave(because: string): never {
  console.error(`Error: ${because}`)
  process.exit(1)
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let at = 0; at < text.length; at += 1) value = Math.imul(value ^ text.charCodeAt(at), 0x01000193)
  return value >>> 0
}
