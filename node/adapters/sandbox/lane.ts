import { Worker } from 'node:worker_threads'
import type { SandboxResult } from '../../../src/ports.ts'
import type { ThreadData, ThreadMessage, ThreadReply, ThreadRequest } from './messages.ts'

type Failure = Extract<SandboxResult, { ok: false }>
export type LaneAnswer = ThreadReply | { readonly answer: Failure; readonly live: false; readonly bytes: 0; readonly killed: boolean }
type Waiting = { readonly request: ThreadRequest; readonly settle: (answer: LaneAnswer) => void }

const QUEUE_LIMIT = 1_024
const BOOT_MS = 30_000
/** A stalled event loop runs timers before it reads messages: an answer that is already there gets this long to be seen. */
const GRACE_MS = 20
const WALL_FACTOR = 10
const HEAP_MB = 64

/** One thread that is asked one thing at a time, and killed when it does not answer in time. Starts when first needed. */
export class Lane {
  readonly #data: () => Promise<ThreadData>
  readonly #deadlineMs: number
  readonly #onLost: () => void
  readonly #queue: Waiting[] = []
  #current: Waiting | undefined
  #thread: Worker | undefined
  #timer: NodeJS.Timeout | undefined
  #generation = 0
  /** CPU time of the thread when it last spoke; it uses none while it waits. */
  #computedMs = 0
  #closed = false

  /** `onLost` hears that every VM of the thread is gone. */
  constructor(data: () => Promise<ThreadData>, deadlineMs: number, onLost: () => void) {
    this.#data = data
    this.#deadlineMs = deadlineMs
    this.#onLost = onLost
  }

  /** Rises each time the thread is lost: a VM opened in an earlier generation is no more. */
  get generation(): number {
    return this.#generation
  }

  get running(): boolean {
    return this.#thread !== undefined || this.#current !== undefined
  }

  /** Requests under way and waiting. */
  get load(): number {
    return this.#queue.length + (this.#current === undefined ? 0 : 1)
  }

  ask(request: ThreadRequest): Promise<LaneAnswer> {
    if (this.#closed) return Promise.resolve(lost('the sandbox is closed', false))
    if (this.#queue.length >= QUEUE_LIMIT) return Promise.resolve(lost(`the sandbox is busy: ${QUEUE_LIMIT} calls are waiting`, false))
    return new Promise(settle => {
      this.#queue.push({ request, settle })
      this.#next()
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    const thread = this.#thread
    this.#fail('the sandbox is closed', false)
    for (const { settle } of this.#queue.splice(0)) settle(lost('the sandbox is closed', false))
    await thread?.terminate()
  }

  #next(): void {
    if (this.#current !== undefined) return
    const next = this.#queue.shift()
    if (next === undefined) {
      this.#thread?.unref()
      return
    }
    this.#current = next
    if (this.#thread === undefined) this.#start().catch(error => this.#fail(`the sandbox thread did not start: ${error instanceof Error ? error.message.slice(0, 200) : ''}`, false))
    else this.#send(this.#thread)
  }

  async #start(): Promise<void> {
    const generation = this.#generation
    const data = await this.#data()
    if (this.#closed || generation !== this.#generation) return
    const thread = new Worker(new URL('./thread.ts', import.meta.url), {
      workerData: data,
      env: {},
      execArgv: [],
      stdin: false,
      stdout: true,
      stderr: true,
      name: 'policy sandbox',
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB, maxYoungGenerationSizeMb: 8 },
    })
    this.#thread = thread
    this.#timer = setTimeout(() => this.#fail('the sandbox thread did not start', true), BOOT_MS)
    thread.on('message', (message: ThreadMessage) => {
      if (this.#thread !== thread) return
      this.#computedMs = message.computedMs
      if (message.kind === 'answer') this.#answered(message)
      else if (this.#current !== undefined) this.#send(thread)
    })
    thread.on('error', error => {
      if (this.#thread === thread) this.#fail(`the sandbox thread failed: ${error.message.slice(0, 200)}`, true)
    })
    thread.on('exit', () => {
      if (this.#thread === thread) this.#fail('the sandbox thread stopped', true)
    })
  }

  #send(thread: Worker): void {
    thread.ref()
    this.#watch(thread)
    thread.postMessage(this.#current?.request)
  }

  /**
   * Gives up on the thread once it has computed for `deadlineMs`: its own CPU time counts, so that a rule is not
   * stopped because the machine was busy with other things. A few times that on the wall clock ends it in any case.
   */
  #watch(thread: Worker): void {
    clearTimeout(this.#timer)
    const current = this.#current
    const deadlineMs = this.#deadlineMs
    const ends = performance.now() + deadlineMs * WALL_FACTOR
    const computedBefore = this.#computedMs
    const watched = (): boolean => this.#thread === thread && this.#current === current
    const computed = async (): Promise<number> => {
      const { user, system } = await thread.cpuUsage()
      return (user + system) / 1_000
    }
    const check = async (): Promise<void> => {
      const leftMs = deadlineMs - ((await computed()) - computedBefore)
      if (!watched()) return
      if (leftMs > 0 && performance.now() < ends) this.#timer = setTimeout(() => void check().catch(giveUp), Math.max(5, Math.min(leftMs, ends - performance.now())))
      else this.#timer = setTimeout(giveUp, GRACE_MS)
    }
    const giveUp = (): void => {
      if (watched()) this.#fail(`did not finish within ${deadlineMs} ms and was stopped`, true)
    }
    this.#timer = setTimeout(() => void check().catch(giveUp), deadlineMs)
  }

  #answered(reply: ThreadReply): void {
    clearTimeout(this.#timer)
    const current = this.#current
    this.#current = undefined
    current?.settle(reply)
    this.#next()
  }

  /** Gives up on the thread; what waits goes on in a new one. */
  #fail(because: string, killed: boolean): void {
    clearTimeout(this.#timer)
    const thread = this.#thread
    const current = this.#current
    this.#thread = undefined
    this.#current = undefined
    this.#generation += 1
    void thread?.terminate()
    if (thread !== undefined) this.#onLost()
    current?.settle(lost(because, killed))
    if (!this.#closed) this.#next()
  }
}

function lost(because: string, killed: boolean): LaneAnswer {
  return { answer: { ok: false, error: 'deadline', message: because }, live: false, bytes: 0, killed }
}
