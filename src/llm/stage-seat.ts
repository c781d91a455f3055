import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Hop, StageFrame } from '../../protocols/stage.ts'
import type { StageOutput, StageRunner, TraceSpan } from '../ports.ts'
import { BoundaryLog, type LogBudget } from './boundary-log.ts'

/** What a standby has not confirmed by then is sent again. */
const GUARD_MS: Millis = 3_000
const KV_FRAME_BYTES = 2_097_152
const TASKS_BOUND = 4_096

export type Step = Extract<StageFrame, { kind: 'step' }>

/** What a seat needs of its host. */
export type Surroundings = {
  readonly self: PeerId
  readonly send: (to: PeerId, frame: StageFrame) => void
  readonly after: (duration: Millis, run: () => void) => () => void
  readonly budget: LogBudget
}

export type Terms = { readonly session: string; readonly stage: number; readonly instance: InstanceId; readonly runner: StageRunner; readonly span: TraceSpan }

/** One session at one stage on this host: what it holds, under which epoch, who comes before and after, and who stands by. */
export class Seat {
  readonly terms: Terms
  readonly log: BoundaryLog
  origin: PeerId
  epoch: number
  role: 'primary' | 'standby' = 'primary'
  touchedAt: Millis
  /** KV for [0, have). */
  have = 0
  #confirmed = 0
  #hops: readonly Hop[] = []
  #known = 0
  /** What was begun before anybody asked for it. */
  #begun: { readonly position: number; readonly tokens: readonly number[]; readonly out: Promise<StageOutput> } | undefined
  #guard: { readonly host: PeerId; acked: number } | undefined
  #sending: (() => void) | undefined
  #tasks: (() => Promise<void>)[] = []
  #running: Promise<void> | undefined
  #life = new AbortController()
  #closed = false
  #hurried = false
  #accused = false
  readonly #around: Surroundings

  constructor(around: Surroundings, terms: Terms, origin: PeerId, epoch: number, now: Millis) {
    this.#around = around
    this.terms = terms
    this.log = new BoundaryLog(around.budget)
    this.origin = origin
    this.epoch = epoch
    this.touchedAt = now
  }

  /** Steps, replays and rows that wait. */
  get waiting(): number {
    return this.#tasks.length
  }

  get next(): Hop | undefined {
    return this.#hops[this.terms.stage + 1]
  }

  /** From now on only `epoch` counts. Resolves when nothing of an older one runs any more. */
  async fence(epoch: number, origin: PeerId): Promise<void> {
    this.epoch = epoch
    this.origin = origin
    this.#hops = []
    this.#hurried = false
    this.#accused = false
    this.#begun = undefined
    this.#protect(undefined)
    this.#tasks = []
    this.#life.abort(new MeshError('EPOCH_FENCED', 'the session has gone on under a newer epoch'))
    this.#life = new AbortController()
    await this.#running
  }

  /** Positions that hold what the answer holds, and not the guess of a step that was never confirmed. */
  get certain(): number {
    return Math.min(this.have, this.#confirmed)
  }

  /** What is held under the new epoch: positions from `known` on the origin does not vouch for. */
  settle(role: 'primary' | 'standby', have: number, known: number): { readonly have: number; readonly logFrom: number } {
    this.role = role
    this.have = Math.min(have, known)
    this.#confirmed = this.have
    this.#known = known
    this.log.cut(this.have)
    if (this.log.end !== this.have) this.log.clear()
    return { have: this.have, logFrom: this.log.from ?? this.have }
  }

  /** May this peer send us steps? The stage before, or the origin. */
  follows(from: PeerId): boolean {
    return from === this.origin || from === this.#hops[this.terms.stage - 1]?.host
  }

  /** The chain under this epoch. What the next stage lacks it is sent, after it has heard the same. */
  resume(known: number, hops: readonly Hop[]): void {
    this.#hops = hops
    this.#known = known
    const { next } = this
    if (next === undefined) return
    this.#around.send(next.host, { ...this.#head(this.terms.stage + 1), kind: 'resume', known, hops })
    // What it no longer has it will be given to compute again.
    if ((this.log.from ?? this.have) > next.from) return
    for (const { position, count, hidden } of this.log.since(next.from)) this.#forward(next, { position, count, loose: 0, want: 'none', rows: 'last', hidden })
  }

  /** Computes what a new session will ask its first stage for, while that opens the others. */
  begin(position: number, tokens: readonly number[]): void {
    const { runner, session } = this.terms
    if (this.role !== 'primary' || runner.spec.end === runner.spec.layers) return
    const out = runner.step({ session, position, count: tokens.length, input: { tokens }, want: 'hidden', rows: 'all', kv: false }, this.#life.signal)
    // Whoever asks for it hears of it.
    out.catch(() => undefined)
    this.#begun = { position, tokens, out }
  }

  step(step: Step): void {
    if (this.role !== 'primary' || this.#hops.length === 0) return this.#fail(new MeshError('STALE', `stage ${this.terms.stage} was not told of the chain`))
    this.#later(() => this.#step(step))
  }

  /** Rows from the primary. */
  keep(from: PeerId, position: number, count: number, rows: Uint8Array): void {
    if (this.role !== 'standby') return
    this.#later(async () => {
      const { epoch } = this
      if (position <= this.have) {
        await this.terms.runner.writeKv(this.terms.session, position, count, rows)
        if (epoch !== this.epoch) return
        this.have = position + count
        this.#confirmed = this.have
      }
      this.#around.send(from, { ...this.#head(), kind: 'held', position: this.have })
    })
  }

  /** `host` stands by and holds [0, position). */
  guard(host: PeerId, position: number): void {
    this.#protect(host === '' ? undefined : { host, acked: Math.min(position, this.have) })
    this.#replicate()
  }

  /** The standby holds [0, position). The stage before need not remember what led to it. */
  held(from: PeerId, position: number): void {
    if (this.#guard?.host !== from) return
    if (this.#hurried) this.#around.send(this.origin, { ...this.#head(), kind: 'held', position })
    this.#guard.acked = position
    this.#sending?.()
    this.#sending = undefined
    this.#replicate()
    const before = this.#hops[this.terms.stage - 1]
    if (before !== undefined) this.#around.send(before.host, { ...this.#head(), kind: 'held', position })
  }

  /** The session is to move to the standby. */
  hurry(): void {
    this.#hurried = true
    if (this.#guard !== undefined) this.#around.send(this.origin, { ...this.#head(), kind: 'held', position: this.#guard.acked })
    this.#replicate()
  }

  close(keep: boolean): void {
    this.#closed = true
    this.#tasks = []
    this.#protect(undefined)
    this.#life.abort(new MeshError('CANCELLED', 'the session is over'))
    this.log.clear()
    this.terms.runner.close(this.terms.session, keep)
  }

  async #step(step: Step): Promise<void> {
    const { session, stage, runner } = this.terms
    const { position, count, loose, input } = step
    const { epoch } = this
    if (position > this.have) throw new MeshError('STALE', `stage ${stage} holds ${this.have} positions and was given position ${position}`)
    const end = position + count
    const last = this.next === undefined
    const want = last ? (end <= this.#known ? 'none' : step.want) : 'hidden'
    // What it holds from there on is worth nothing from the moment that the instance begins.
    this.have = position
    // A step vouches for all before it, be they guesses of the step before.
    this.#confirmed = position
    if (this.#guard !== undefined) this.#guard.acked = Math.min(this.#guard.acked, position)
    const guard = this.#guard
    // Where the standby has all before it, the instance gives the rows along and need not be asked.
    const kv = guard?.acked === position && count === 1 && loose === 0 && this.#sending === undefined
    const begun = this.#begun
    this.#begun = undefined
    const out = begun !== undefined && !kv && isStep(begun, step) ? await begun.out : await runner.step({ session, position, count, input, want, rows: last ? step.rows : 'all', kv }, this.#life.signal)
    if (epoch !== this.epoch) return
    this.have = end
    this.#confirmed = end - loose
    const { next } = this
    if (next !== undefined && out.hidden !== undefined) {
      this.log.append({ position, count, hidden: out.hidden })
      if (end > next.from) this.#forward(next, { ...step, hidden: out.hidden })
    }
    if (next === undefined || end <= next.from) {
      const result = out.ids !== undefined ? { ids: out.ids } : out.logits !== undefined ? { logits: out.logits } : undefined
      this.#around.send(this.origin, { ...this.#head(), kind: 'output', position, count, computeMs: out.computeMs, result })
    }
    if (guard !== undefined && guard === this.#guard && out.kv !== undefined && guard.acked === position && this.#sending === undefined) {
      this.#await()
      this.#give(guard.host, position, count, out.kv)
    } else this.#replicate()
  }

  #forward(next: Hop, { position, count, loose, want, rows, hidden }: Pick<Step, 'position' | 'count' | 'loose' | 'want' | 'rows'> & { readonly hidden: Uint8Array }): void {
    this.#around.send(next.host, { ...this.#head(this.terms.stage + 1), kind: 'step', position, count, loose, want, rows, input: { hidden } })
  }

  /** Sends the standby what it lacks of what is certain, one frame at a time: the next goes when it has confirmed. */
  #replicate(): void {
    const guard = this.#guard
    if (guard === undefined || this.#sending !== undefined || this.#confirmed <= guard.acked) return
    const { session, runner } = this.terms
    const { epoch } = this
    const position = guard.acked
    const count = Math.max(1, Math.min(this.#confirmed - position, Math.floor(KV_FRAME_BYTES / Math.max(1, runner.spec.kvBytes))))
    this.#await()
    runner.readKv(session, position, count).then(rows => {
      // A step may have overwritten them while they were read.
      if (epoch === this.epoch && this.#guard === guard && this.#confirmed >= position + count) this.#give(guard.host, position, count, rows)
    }, error => {
      // The instance says why to whoever steps it; a standby that lags is no reason to stop.
      if (!(error instanceof MeshError)) throw error
    })
  }

  #give(host: PeerId, position: number, count: number, rows: Uint8Array): void {
    this.#around.send(host, { ...this.#head(), kind: 'kv', position, count, rows })
  }

  /** What the standby has not confirmed by then it is sent again. */
  #await(): void {
    this.#sending = this.#around.after(GUARD_MS, () => {
      this.#sending = undefined
      this.#replicate()
    })
  }

  #protect(guard: { readonly host: PeerId; acked: number } | undefined): void {
    this.#sending?.()
    this.#sending = undefined
    this.#guard = guard
  }

  #later(task: () => Promise<void>): void {
    if (this.#tasks.push(task) > TASKS_BOUND) return this.#fail(new MeshError('OVERLOADED', `${TASKS_BOUND} steps wait at stage ${this.terms.stage}`))
    this.#running ??= this.#work()
  }

  async #work(): Promise<void> {
    for (let task = this.#tasks.shift(); task !== undefined; task = this.#tasks.shift()) {
      const { epoch } = this
      try {
        await task()
      } catch (error) {
        const failure = asMeshError(error)
        if (epoch !== this.epoch || this.#closed) continue
        if (failure.code === 'INTERNAL') throw failure
        this.#fail(failure)
      }
    }
    // In the same turn in which nothing waited: what comes next must not count on us.
    this.#running = undefined
  }

  #fail({ code, message }: MeshError, blame = this.terms.stage): void {
    this.#tasks = []
    this.#around.send(this.origin, { ...this.#head(), kind: 'failed', blame, code, message })
  }

  /** Tells the origin that this stage, or the next, cannot go on: once an epoch. */
  accuse(blame: number, because: MeshError): void {
    if (this.#accused) return
    this.#accused = true
    this.#fail(because, blame)
  }

  #head(stage = this.terms.stage): { readonly session: string; readonly epoch: number; readonly stage: number } {
    return { session: this.terms.session, epoch: this.epoch, stage }
  }
}

/** Is what was begun just what a step wants? */
function isStep({ position, tokens }: { readonly position: number; readonly tokens: readonly number[] }, { input, ...step }: Step): boolean {
  return step.position === position && step.loose === 0 && 'tokens' in input && input.tokens.length === tokens.length && tokens.every((token, at) => token === input.tokens[at])
}
