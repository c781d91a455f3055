import { asMeshError, isErrorCode, MeshError } from '../../protocols/errors.ts'
import type { GenerationRequest, SessionId, StagePlan } from '../../protocols/generation.ts'
import type { ModelFacts, ServedModel } from '../../protocols/model.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { StageFrame } from '../../protocols/stage.ts'
import { traceSpan } from '../lib/trace-span.ts'
import type { Clock } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { Answer, Drawn } from './answer.ts'
import type { Draft } from './draft.ts'
import { Overtaken } from './overtaken.ts'
import { prefixHashes } from './prefix.ts'
import { CHUNK, chunkAt } from './prompt-chunks.ts'
import { Recoveries } from './recoveries.ts'
import { SessionChain, type ChainParts } from './session-chain.ts'
import { SessionMirrors } from './session-mirrors.ts'
import { SessionOutputs, type Output } from './session-outputs.ts'
import { Speculation } from './speculation.ts'
import type { TokenLog } from './token-log.ts'

const TOUCH_MS: Millis = 8_000
/** Standbys are brought up once there is a token, or so long after the prompt was begun. */
const PROTECT_MS: Millis = 100
/** The first step is so far ahead of what a mirror is told. */
const BEGIN_MS: Millis = 1
/** What guesses does so no more when it takes longer: the first time it reads the whole prompt. */
const DRAFT_MS: Millis = 20_000
/** How long an ended session tries to tell its mirrors. */
const LAST_WORDS_MS: Millis = 5_000

export type SessionParts = ChainParts & { readonly view: MeshView }

/** What a session is, and as far as it has come: all a peer needs to go on with it. */
export type SessionState = {
  readonly session: SessionId
  readonly request: GenerationRequest
  readonly log: TokenLog
  readonly epoch: number
  readonly plan: readonly StagePlan[]
  /** Milliseconds it may still take. */
  readonly leftMs: Millis
  /** Whoever had it before and is gone. */
  readonly gone?: PeerId
}

export type Making = { readonly served: ServedModel; readonly facts: ModelFacts; readonly answer: Answer; readonly mark: number; /** Guesses what comes next, so that one step may give several tokens. */ readonly draft?: Draft }

export type SessionEnd = 'ended' | 'overtaken' | 'stopped'

/**
 * One generation, driven by its origin: feeds the chain, draws tokens, writes them down, has them mirrored before anybody
 * sees them, and goes on under a new epoch when a stage is lost.
 */
export class Session {
  readonly id: SessionId
  readonly log: TokenLog
  readonly request: GenerationRequest
  readonly done: Promise<SessionEnd>
  readonly #parts: SessionParts
  readonly #making: Making
  readonly #chain: SessionChain
  readonly #mirrors: SessionMirrors
  readonly #speculation = new Speculation()
  readonly #recoveries = new Recoveries()
  readonly #life = new AbortController()
  readonly #endsAt: Millis
  readonly #reserve: number
  readonly #finish: (how: SessionEnd) => void
  readonly #outputs: SessionOutputs
  readonly #stops: (() => void)[] = []
  #changed: (what: 'tokens' | 'plan') => void = () => {}
  #tokens: number[]
  #overtaken: Overtaken | undefined
  #cached: number | undefined
  #starts: readonly number[] = []
  #driving = false
  #admission: Promise<void> | undefined

  constructor(parts: SessionParts, state: SessionState, making: Making) {
    const { clock } = parts.ports
    this.id = state.session
    this.log = state.log
    this.request = state.request
    this.#parts = parts
    this.#making = making
    this.#endsAt = clock.monotonic() + state.leftMs
    this.#outputs = new SessionOutputs(clock, this.#life.signal)
    this.#tokens = [...state.request.prompt, ...state.log.tokens()]
    this.#reserve = Math.min(state.request.prompt.length + state.request.maxTokens, making.served.contextTokens)
    const { promise, resolve } = Promise.withResolvers<SessionEnd>()
    this.done = promise
    this.#finish = resolve
    const span = traceSpan(parts.ports.telemetry, `generate ${state.request.model}`, 'internal', state.request.trace, { session: this.id, model: state.request.model })
    void this.done.then(how => span.end(how === 'ended' ? undefined : how, { tokens: this.log.length, epoch: this.epoch }))
    this.#chain = new SessionChain(parts, {
      session: this.id, served: making.served, reserve: this.#reserve, mark: making.mark, prompt: state.request.prompt, known: () => this.#tokens.length - 1,
      prefix: prefixHashes(making.served.model, state.request.prompt), ...(span.traceparent === undefined ? {} : { trace: span.traceparent }),
    }, { epoch: state.epoch, plan: state.plan }, () => {
      this.#mirrors.replan()
      this.#changed('plan')
    })
    if (state.gone !== undefined) this.#chain.doubt(state.gone)
    this.#mirrors = new SessionMirrors(parts.ports, parts.view, parts.links, {
      session: this.id, request: state.request, log: this.log, epoch: () => this.#chain.epoch, plan: () => this.#chain.plan(), leftMs: () => this.leftMs,
    }, (origin, epoch) => void this.#challenged(origin, epoch))
  }

  get leftMs(): Millis {
    return Math.max(0, this.#endsAt - this.#parts.ports.clock.monotonic())
  }

  get epoch(): number {
    return this.#chain.epoch
  }

  plan(): readonly StagePlan[] {
    return this.#chain.plan()
  }

  /**
   * Gets a seat at every stage, and a mirror; the prompt is computed from the moment that there are seats, and nothing of it is
   * given out before a mirror knows of it. Throws NO_CAPACITY, NO_INSTANCE, ALREADY_EXISTS; then nothing of it is left.
   */
  async admit(signal: AbortSignal): Promise<void> {
    const admission = Promise.withResolvers<void>()
    try {
      this.#starts = await this.#chain.restart(true, signal)
      this.#admission = admission.promise
      this.#mirrors.hold()
      void this.#drive()
      // Behind the first step, so that its stage computes while the mirror reads.
      await this.#parts.ports.clock.sleep(BEGIN_MS, signal)
      await this.#mirrors.begin()
    } catch (error) {
      this.#life.abort(new MeshError('CANCELLED', 'the session was not admitted'))
      this.#making.draft?.close()
      this.#chain.close(true)
      this.#mirrors.stop()
      if (error instanceof Overtaken) throw new MeshError('ALREADY_EXISTS', error.message, { details: { origin: error.origin } })
      throw error
    } finally {
      admission.resolve()
    }
  }

  /** Generates to the end. */
  run(): void {
    const { clock } = this.#parts.ports
    // An admitted one may have come to its end already.
    if (this.#life.signal.aborted) return
    this.#stops.push(clock.after(this.leftMs, () => this.#end({ reason: 'error', failure: { code: 'DEADLINE', message: 'the generation took longer than it was given' } })))
    let again = (): void => {}
    const touch = (): void => {
      this.#chain.touch()
      this.#mirrors.push()
      again = clock.after(TOUCH_MS, touch)
    }
    if (!this.#driving) void this.#drive()
    touch()
    this.#stops.push(() => again())
  }

  /** Called when tokens, plan or epoch have changed. */
  onChange(hear: (what: 'tokens' | 'plan') => void): void {
    this.#changed = hear
  }

  cancel(): void {
    this.#end({ reason: 'cancelled' })
  }

  /** Lets go without an end: others take over. */
  stop(): void {
    this.#leave('stopped')
  }

  /** Another origin goes on with it. */
  giveWay(origin: PeerId, epoch: number): void {
    this.#yield(new Overtaken(origin, epoch))
  }

  hear(frame: StageFrame, from: PeerId): void {
    if (frame.kind === 'logged') this.#mirrors.logged(from, frame.have)
    if (!this.#chain.speaks(frame)) return
    if (frame.kind === 'held') this.#chain.caught(frame.stage, frame.position)
    else if (frame.kind === 'output') this.#outputs.push(frame)
    else if (frame.kind === 'failed' && this.#chain.blame(frame.blame, frame.stage, from)) {
      this.#outputs.interrupt(new MeshError(isErrorCode(frame.code) ? frame.code : 'INSTANCE_FAILED', `stage ${frame.blame}: ${frame.message}`))
    }
  }

  /** Frames to or from a peer may be lost. */
  lost(peer: PeerId): void {
    if (this.#chain.doubt(peer)) this.#outputs.interrupt(new MeshError('PEER_UNREACHABLE', `the connection to ${peer} was lost`))
  }

  /** Something about a peer of the chain is news: is everybody still there? */
  look(peer: PeerId): void {
    this.#chain.wake()
    if (!this.#chain.uses(peer)) return
    if (this.#chain.broken()) this.#outputs.interrupt(new MeshError('INSTANCE_FAILED', 'an instance of the chain is gone'))
  }

  /** The session is another peer's, unless that one is gone. */
  async #challenged(origin: PeerId, epoch: number): Promise<void> {
    if (this.#life.signal.aborted) return
    if (await this.#parts.generates(origin, this.id, this.#life.signal).catch(() => false)) this.#yield(new Overtaken(origin, epoch))
    else this.#outputs.interrupt(new MeshError('EPOCH_FENCED', 'an older origin spoke in a higher epoch'))
  }

  async #drive(): Promise<void> {
    const { signal } = this.#life
    this.#driving = true
    let ready = this.#starts.length > 0
    while (!signal.aborted) {
      let opened = ready
      try {
        if (!ready) {
          // Of two that begin at once one takes the other's seats: whose it is the mirrors say, not whoever comes last.
          if (this.#admission !== undefined) await this.#admission
          this.#starts = await this.#chain.restart(false, signal)
          opened = true
        }
        ready = false
        this.#outputs.clear()
        await this.#generate()
        return
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof Overtaken) return this.#yield(error)
        const failure = asMeshError(error)
        const now = this.#parts.ports.clock.monotonic()
        const last = opened ? this.#recoveries.broke(failure, this.#outputs.reached, this.#chain.stages, now, this.#outputs.waitedMs) : failure
        if (last !== undefined) return this.#end({ reason: 'error', failure: { code: last.code, message: last.message } })
        // Once is chance. Who does not answer twice is left where somebody else can go on, though nobody says what is wrong with it.
        if (this.#recoveries.silences > 1) this.#chain.doubtAll()
        this.#parts.ports.telemetry.count('llm_recoveries_total', { code: failure.code })
      }
    }
  }

  /** Feeds the chain what it lacks, then token by token. Throws when the chain is broken. */
  async #generate(): Promise<void> {
    const { answer } = this.#making
    const want = answer.greedy ? 'greedy' : 'logits'
    const [from = 0] = this.#starts
    this.#cached ??= Math.min(...this.#starts)
    const { clock } = this.#parts.ports
    this.#chain.resume(this.#starts)
    // Whoever waits for a token does not wait for those who stand by; a long prompt is guarded while it is computed.
    let late = false
    const inTime = clock.after(PROTECT_MS, () => {
      late = true
      this.#chain.protect()
    })
    let output = await this.#feed(from, want).finally(inTime)
    let guesses: readonly number[] = []
    let [draftMs, stepMs] = [0, 0]
    for (let first = true; ; first = false) {
      const right = this.#accept(output, guesses)
      if (right === undefined) return
      if (guesses.length > 0) this.#speculation.verified(guesses.length, right, stepMs, draftMs)
      if (this.#chain.mayMove) throw new MeshError('STALE', 'the session moves to the standby of an instance that is to go')
      const began = clock.monotonic()
      guesses = await this.#guess(clock)
      const drafted = clock.monotonic()
      const position = this.#tokens.length - 1
      // Somebody waits for the first token: its mirrors hear of it before anything else. From then on the next step goes first.
      if (first) this.#mirrors.push()
      this.#step(position, 1 + guesses.length, want, guesses)
      // Once the step has left: whoever computes it does not wait for what is told meanwhile.
      clock.after(0, () => {
        this.#mirrors.push()
        if (first && !late) this.#chain.protect()
        this.#changed('tokens')
      })
      output = await this.#outputs.take(position + 1 + guesses.length, 1)
      draftMs = drafted - began
      stepMs = clock.monotonic() - drafted
      if (guesses.length === 0) this.#speculation.stepped(stepMs)
    }
  }

  /**
   * Takes the tokens that an output gives: the next one and, for as long as the guesses are what it would have drawn itself,
   * those after it. Says how many guesses were right; undefined when the answer has ended.
   */
  #accept(output: Output, guesses: readonly number[]): number | undefined {
    const { answer } = this.#making
    for (let row = 0; ; row += 1) {
      const drawn = this.#draw(output, row, guesses.length + 1)
      if (drawn === undefined || this.#ends(drawn.token)) {
        this.#end({ reason: 'stop' })
        return undefined
      }
      const { text, stopped } = answer.tell(drawn.token)
      const { token, logprob, top } = drawn
      this.#tokens.push(token)
      this.log.append({ kind: 'token', index: this.log.length, token, text, ...(logprob === undefined ? {} : { logprob }), ...(top === undefined ? {} : { top: [...top] }) })
      if (stopped || this.log.length >= this.request.maxTokens || this.#tokens.length >= this.#reserve) {
        this.#end({ reason: stopped ? 'stop' : 'length' })
        return undefined
      }
      if (token !== guesses[row]) return row
    }
  }

  /** Guesses to go with the next step, none of them beyond what may be said. */
  async #guess(clock: Pick<Clock, 'deadline'>): Promise<readonly number[]> {
    const { draft } = this.#making
    const room = Math.min(this.request.maxTokens - this.log.length, this.#reserve - this.#tokens.length) - 1
    const width = draft === undefined ? 0 : Math.min(this.#speculation.width(), room)
    return width <= 0 || draft === undefined ? [] : (await draft.propose(this.#tokens, width, clock.deadline(DRAFT_MS, this.#life.signal))).slice(0, width)
  }

  /** Steps for positions from `from` on; resolves with what the last of them gave. A few are under way at once, so that all stages work. */
  async #feed(from: number, want: 'greedy' | 'logits'): Promise<Output> {
    const end = this.#tokens.length
    const under = new Set<number>()
    for (let at = from; at < end;) {
      const { position, count } = chunkAt(this.request.prompt.length, at)
      at = position + count
      this.#step(position, count, at === end ? want : 'none')
      under.add(position)
      while (at < end && under.size > this.#chain.stages + 1) under.delete((await this.#outputs.next(CHUNK)).position)
    }
    return this.#outputs.take(end, CHUNK)
  }

  #step(position: number, count: number, want: 'none' | 'greedy' | 'logits', guesses: readonly number[] = []): void {
    const tokens = guesses.length === 0 ? this.#tokens.slice(position, position + count) : [...this.#tokens.slice(position), ...guesses]
    this.#chain.send({ kind: 'step', position, count, loose: guesses.length, want, rows: guesses.length === 0 ? 'last' : 'all', input: { tokens } })
  }

  /** Of `rows` rows that an output should have, what row `row` says comes next. */
  #draw({ result }: Output, row: number, rows: number): Drawn | undefined {
    const vocab = result !== undefined && 'logits' in result ? result.logits.length / rows : 0
    if (result !== undefined && 'logits' in result && Number.isInteger(vocab) && vocab > 0) return this.#making.answer.draw(result.logits.subarray(row * vocab, (row + 1) * vocab), this.#tokens.length)
    const token = result !== undefined && 'ids' in result ? result.ids[row + result.ids.length - rows] : undefined
    if (token === undefined) throw new MeshError('INSTANCE_FAILED', 'the last stage gave no result')
    return { token }
  }

  #ends(token: number): boolean {
    const { stopTokens, ignoreEnd } = this.request
    return stopTokens.includes(token) || (!ignoreEnd && this.#making.facts.endTokens.includes(token))
  }

  #end({ reason, failure }: { readonly reason: 'stop' | 'length' | 'cancelled' | 'error'; readonly failure?: { readonly code: string; readonly message: string } }): void {
    if (this.#life.signal.aborted) return
    const tokens = this.log.length
    const text = reason === 'stop' || reason === 'length' ? this.#making.answer.rest() : ''
    this.log.append({ kind: 'end', reason, text, promptTokens: this.request.prompt.length, cachedTokens: this.#cached ?? 0, tokens, ...(failure === undefined ? {} : { failure: { code: failure.code, message: failure.message.slice(0, 2_000) } }) })
    this.#chain.close(true)
    this.#life.abort(new MeshError('CANCELLED', 'the session has ended'))
    for (const stop of this.#stops.splice(0)) stop()
    this.#making.draft?.close()
    void this.#mirrors.settled(LAST_WORDS_MS).finally(() => {
      this.#mirrors.stop()
      this.log.release(this.log.length)
      this.#finish('ended')
    })
  }

  #yield(to: Overtaken): void {
    this.#overtaken = to
    this.#leave('overtaken')
  }

  /** Who has it now, if somebody took it over. */
  get successor(): Overtaken | undefined {
    return this.#overtaken
  }

  #leave(how: SessionEnd): void {
    if (this.#life.signal.aborted) return
    this.#life.abort(new MeshError('CANCELLED', 'the session goes on elsewhere'))
    for (const stop of this.#stops.splice(0)) stop()
    this.#making.draft?.close()
    this.#chain.abandon()
    this.#mirrors.stop()
    this.#finish(how)
  }
}
