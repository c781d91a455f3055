import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { StageFile } from '../../../protocols/stage-file.ts'
import { KvStore, type KvRun } from './kv-store.ts'
import { encodeReport, type StageCode, type StageOrder, type StageReport, type StepOrder } from './stage-frames.ts'
import type { GraphResult, StageGraph } from './stage-graph.ts'
import type { StageMetrics } from './stage-metrics.ts'
import { joined, type StepOutput } from './stage-output.ts'
import { StageSessions, type Session } from './stage-sessions.ts'

/** Positions of prompts that are computed before decoding goes on, and of one run of a prompt. */
export const CHUNK = 128
/** How much of a run's time the next one may wait for sessions that were in the last. */
const LINGER_SHARE = 0.1
const LINGER_MS = 2
/** How much of the memory of all that may be held is kept for sessions to come. */
const SPARE_SHARE = 0.25

export type StageEngineOptions = {
  readonly file: StageFile
  readonly graph: StageGraph
  readonly kvTokens: number
  readonly weightBytes: number
  /** Rows of a run of single positions, at least. */
  /** Whether a run has one new position of a session at most. */
  readonly oneByOne: boolean
  readonly leastRows: number
  readonly metrics: StageMetrics
  /** Frames leave in this order; resolves once the pipe has taken them. */
  readonly send: (frames: readonly Uint8Array[]) => Promise<void> | undefined
}


/**
 * Computes the steps of many sessions: all that decode in one run, then a chunk of a prompt or several short ones, and so on,
 * in turn. Orders are taken between runs only, so nothing moves under a run.
 */
export class StageEngine {
  readonly #options: StageEngineOptions
  readonly #store: KvStore
  readonly #sessions: StageSessions
  readonly #inbox: StageOrder[] = []
  /** Sessions with steps, in the order of their turns. */
  readonly #turns = new Set<Session>()
  #working = false
  /** Sessions that may decode in the next run: those of the last one, and those whose prompts were answered since. */
  #expected = 0
  #lastMs = 0

  constructor(options: StageEngineOptions) {
    this.#options = options
    this.#store = new KvStore(options.graph.layout, options.weightBytes, options.leastRows, options.kvTokens * options.graph.layout.kvBytes * SPARE_SHARE)
    this.#sessions = new StageSessions(this.#store, { kvTokens: options.kvTokens, contextTokens: options.file.spec.contextTokens })
  }

  get state(): ReturnType<StageSessions['room']> & { readonly waiting: number } {
    return { ...this.#sessions.room(), waiting: this.#turns.size }
  }

  take(order: StageOrder): void {
    this.#inbox.push(order)
    this.#wake()
  }

  #wake(): void {
    if (this.#working || this.#inbox.length === 0) return
    this.#working = true
    // After all that came with the same chunk of the pipe.
    queueMicrotask(() => void this.#work())
  }

  async #work(): Promise<void> {
    try {
      this.#hear()
      while (this.#turns.size > 0) {
        const decoding = await this.#decoding()
        for (const run of this.#store.runs(decoding.map(session => session.kv))) await this.#decode(run, decoding)
        if (decoding.length > 0) this.#expected = decoding.length
        await this.#prompts(decoding)
        // What arrived meanwhile is read before the next run is put together.
        await turn()
        this.#hear()
      }
    } finally {
      this.#working = false
      this.#wake()
    }
  }

  #hear(): void {
    for (const order of this.#inbox.splice(0)) {
      switch (order.kind) {
        case 'step':
          this.#enqueue(order)
          break
        case 'open': {
          let fill = (): void => {}
          this.#answer(order.id, order.session, () => {
            const opened = this.#sessions.open(order.session, order.tokens, order.prefix, performance.now())
            const { held } = opened.kv
            fill = opened.fill
            this.#options.metrics.opened(this.state, held)
            return { kind: 'done', id: order.id, held }
          })
          // While the answer is on its way: megabytes are copied, and the first step comes behind.
          fill()
          break
        }
        case 'write':
          this.#answer(order.id, order.session, () => ({ kind: 'done', id: order.id, held: this.#sessions.write(order.session, order.position, order.count, order.rows) }))
          break
        case 'read':
          this.#answer(order.id, order.session, () => {
            const { rows, held } = this.#sessions.read(order.session, order.position, order.count)
            return { kind: 'output', id: order.id, held, batch: 1, computeMs: 0, hidden: undefined, ids: undefined, logits: undefined, kv: rows }
          })
          break
        case 'close':
          this.#close(order.session, order.keep)
          break
        case 'cancel':
          this.#cancel(order.id)
      }
    }
  }

  #answer(id: number, session: number, act: () => StageReport): void {
    try {
      this.#report([act()])
    } catch (error) {
      this.#fail(id, session, error)
    }
  }

  #close(id: number, keep: boolean): void {
    const session = this.#sessions.get(id)
    if (session === undefined) return
    for (const { order } of session.steps) this.#fail(order.id, id, new MeshError('CANCELLED', 'the session was closed'))
    this.#turns.delete(session)
    this.#sessions.close(session, keep)
    this.#options.metrics.closed(this.state)
  }

  #enqueue(order: StepOrder): void {
    const session = this.#sessions.get(order.session)
    if (session === undefined) return this.#fail(order.id, order.session, new MeshError('NOT_FOUND', 'no such session is open in this instance'))
    session.steps.push({ order, done: 0, outputs: [] })
    this.#turns.add(session)
  }

  #cancel(id: number): void {
    for (const session of this.#turns) {
      const at = session.steps.findIndex(step => step.order.id === id)
      if (at < 0) continue
      session.steps.splice(at, 1)
      if (session.steps.length === 0) this.#turns.delete(session)
      this.#fail(id, session.id, new MeshError('CANCELLED', 'the step was cancelled before it was computed'))
    }
  }

  /** Whether a session's next step is one position more, to be computed with others'. */
  #decodes({ steps: [step], kv }: Session): boolean {
    return this.#options.file.io.ragged === 'lengths' && step?.order.count === 1 && step.order.position <= kv.held
  }

  /** Sessions that decode, seated to be computed together; waits a little for those of the last run. */
  async #decoding(): Promise<readonly Session[]> {
    if (this.#options.file.io.ragged !== 'lengths') return []
    const began = performance.now()
    const until = began + Math.min(LINGER_MS, this.#lastMs * LINGER_SHARE)
    const lately = began - 2 * this.#lastMs - LINGER_MS
    for (;;) {
      const ready = [...this.#turns].filter(session => this.#decodes(session))
      const full = ready.length === 0 || ready.length >= this.#expected || ready.length < this.#turns.size
      if (full || performance.now() >= until || !this.#sessions.someAnsweredSince(lately)) return ready.filter(session => this.#ready(session))
      await turn()
      this.#hear()
    }
  }

  /** Checks a session's next step and makes room for it; a step that cannot run is answered and gone. */
  #ready(session: Session): boolean {
    const step = session.steps[0]!
    const { order } = step
    try {
      const { vocab } = this.#options.file.spec
      const wrong = order.tokens?.find(token => token >= vocab)
      if (wrong !== undefined) throw new MeshError('BAD_INPUT', `token ${wrong} is not one of the model's ${vocab}`)
      this.#sessions.makeRoom(session, order.position + step.done, order.count - step.done)
      if (order.count === 1 && this.#options.file.io.ragged === 'lengths') this.#store.seat(session.kv)
      return true
    } catch (error) {
      this.#drop(session)
      this.#fail(order.id, session.id, error)
      return false
    }
  }

  async #decode(run: KvRun, decoding: readonly Session[]): Promise<void> {
    const { inputBytes } = this.#options.file.spec
    const sessions = run.rows.map(kv => (kv === undefined ? undefined : decoding.find(session => session.kv === kv)))
    const steps = sessions.map(session => session?.steps[0])
    const tokens = inputBytes === 0 ? Uint32Array.from(steps, step => step?.order.tokens?.[0] ?? 0) : undefined
    const hidden = new Uint8Array(steps.length * inputBytes)
    for (const [row, step] of steps.entries()) if (step !== undefined && inputBytes > 0) hidden.set(step.order.hidden, row * inputBytes)
    const wants = (want: StepOrder['want']) => steps.some(step => step?.order.want === want)
    const pasts = steps.map(step => step?.order.position ?? 0)
    const rows = sessions.filter(session => session !== undefined).length
    await this.#run(sessions, rows, () => this.#options.graph.run({ arena: run.arena, first: run.first, pasts, count: 1, tokens, hidden, want: { greedy: wants('greedy'), logits: wants('logits'), all: false } }), 1)
  }

  /**
   * Chunks of prompts in turn, of as many positions together as one long prompt's. Short prompts that come at once are all
   * there then when they decode: what a run reads of weights it reads for all of them, not once for each that is further.
   */
  async #prompts(decoding: readonly Session[]): Promise<void> {
    for (let room = CHUNK; ;) {
      const next = [...this.#turns].find(session => !decoding.includes(session) && !this.#decodes(session))
      const size = next === undefined ? 0 : sizeOfChunk(next, this.#options.oneByOne)
      if (next === undefined || (room < CHUNK && size > room)) return
      await this.#chunk(next)
      room -= size
      await turn()
      this.#hear()
    }
  }

  /** The next positions of one session's step, alone. */
  async #chunk(session: Session): Promise<void> {
    // At the end of the line: prompts take turns too.
    this.#turns.delete(session)
    this.#turns.add(session)
    if (!this.#ready(session)) return
    const step = session.steps[0]!
    const { order } = step
    const { inputBytes } = this.#options.file.spec
    const count = sizeOfChunk(session, this.#options.oneByOne)
    const { arena, slot } = session.kv
    const wanted = order.all || step.done + count === order.count
    const want = { greedy: wanted && order.want === 'greedy', logits: wanted && order.want === 'logits', all: order.all && (order.want === 'greedy' || order.want === 'logits') }
    await this.#run([session], 1, () => this.#options.graph.run({
      arena: arena!, first: slot, pasts: [order.position + step.done], count, want,
      tokens: order.tokens?.subarray(step.done, step.done + count),
      hidden: order.hidden.subarray(step.done * inputBytes, (step.done + count) * inputBytes),
    }), count)
  }

  /** Runs, answers, and only then keeps the rows: whoever waits for the answer does not wait for that. */
  async #run(sessions: readonly (Session | undefined)[], rows: number, compute: () => Promise<GraphResult>, count: number): Promise<void> {
    let result: GraphResult
    try {
      result = await compute()
    } catch (error) {
      for (const session of sessions) {
        if (session === undefined) continue
        const { order } = session.steps[0]!
        this.#drop(session)
        this.#fail(order.id, session.id, error)
      }
      return
    }
    this.#lastMs = result.computeMs
    const now = performance.now()
    const reports: StageReport[] = []
    const kept: (() => void)[] = []
    for (const [row, session] of sessions.entries()) {
      if (session === undefined) continue
      const step = session.steps[0]!
      const from = step.order.position + step.done
      step.outputs.push(this.#outputOf(step.order, result, row, count, rows))
      step.done += count
      kept.push(() => {
        this.#store.append(session.kv, result.rows, row, from, count)
        session.kv.held = from + count
      })
      if (step.done < step.order.count) continue
      this.#drop(session)
      this.#options.metrics.answered(step.order, session, now)
      if (step.order.want !== 'none') {
        session.answeredAt = now
        this.#expected++
      }
      reports.push({ kind: 'output', id: step.order.id, held: from + count, ...joined(step.outputs) })
    }
    const written = this.#report(reports)
    for (const keep of kept) keep()
    this.#options.metrics.ran(result.computeMs, rows, count)
    await written
  }

  #outputOf(order: StepOrder, result: GraphResult, row: number, count: number, batch: number): StepOutput {
    const { spec } = this.#options.file
    const width = count * spec.outputBytes
    const answers = order.all ? count : 1
    return {
      hidden: order.want === 'hidden' ? result.hidden.subarray(row * width, (row + 1) * width) : undefined,
      ids: order.want === 'greedy' ? result.ids?.subarray(row * answers, (row + 1) * answers) : undefined,
      logits: order.want === 'logits' ? result.logits?.subarray(row * answers * spec.vocab, (row + 1) * answers * spec.vocab) : undefined,
      kv: order.kv ? this.#store.layout.pack(result.rows, row, count, 0, count) : undefined,
      computeMs: result.computeMs, batch,
    }
  }

  #drop(session: Session): void {
    session.steps.shift()
    if (session.steps.length === 0) this.#turns.delete(session)
  }

  #fail(id: number, session: number, error: unknown): void {
    const short = error instanceof RangeError
    const { code, message } = short ? new MeshError('NO_CAPACITY', `the instance is short of memory: ${error.message}`) : asMeshError(error)
    const spoken: StageCode = code === 'NO_CAPACITY' || code === 'NOT_FOUND' || code === 'BAD_INPUT' || code === 'CANCELLED' || code === 'MESSAGE_TOO_LARGE' ? code : 'INSTANCE_FAILED'
    if (spoken === 'INSTANCE_FAILED') console.error(error)
    if (spoken !== 'CANCELLED') this.#options.metrics.failed()
    this.#report([{ kind: 'failed', id, held: this.#sessions.get(session)?.kv.held ?? 0, code: spoken, message }])
  }

  #report(reports: readonly StageReport[]): Promise<void> | undefined {
    const frames = reports.flatMap(report => {
      try {
        return [encodeReport(report)]
      } catch (error) {
        // More than a frame holds: the asker learns that instead.
        this.#fail(report.id, -1, error)
        return []
      }
    })
    return this.#options.send(frames)
  }
}

/** Positions of a session's next run. */
function sizeOfChunk({ steps: [step] }: Session, oneByOne: boolean): number {
  const left = step === undefined ? 0 : step.order.count - step.done
  // Never one position of several alone: other kernels compute it, to other last bits. Where the graph takes no more, always.
  return oneByOne ? Math.min(1, left) : left === CHUNK + 1 ? CHUNK - 1 : Math.min(CHUNK, left)
}

function turn(): Promise<void> {
  return new Promise(resolve => { setImmediate(resolve) })
}
