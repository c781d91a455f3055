import { digest, hex, utf8 } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import { generationAsk } from '../../protocols/generation-log.ts'
import type { GenerationEvent, GenerationRequest, SessionId, StagePlan } from '../../protocols/generation.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { ModelFacts, ServedModel } from '../../protocols/model.ts'
import { background } from '../lib/background.ts'
import { keyName } from '../lib/key-name.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { ContractBook, Generations, MeshView, Models } from '../roles.ts'
import type { Answers } from './answer.ts'
import { LookupDraft, type Draft } from './draft.ts'
import { Follow } from './follow.ts'
import { GenerationBook, type Entry, type GenerationBookLimits } from './generation-book.ts'
import { begunElsewhere, Mirror } from './mirror.ts'
import { Seating } from './seating.ts'
import { Session, type SessionParts } from './session.ts'
import { StageDraft } from './stage-draft.ts'
import { STAGE_HOST, StageHost, type StageHostConfig, type StageInstances } from './stage-host.ts'
import { StageLinks } from './stage-links.ts'
import { Takeover, type TakeoverTimes } from './takeover.ts'
import { TokenLog } from './token-log.ts'

export type GenerationConfig = TakeoverTimes & {
  /** Sessions this peer drives at once; one more is refused. */
  readonly active: number
  /** Said to who is refused. */
  readonly retryAfterMs: Millis
  readonly book: GenerationBookLimits
  readonly stages: StageHostConfig
}

export const GENERATIONS: GenerationConfig = {
  turnMs: 500, sweepMs: 5_000, silentMs: 50_000, graceMs: 3_000,
  active: 512,
  retryAfterMs: 2_000,
  book: { ended: 1_000, endedMs: 15 * 60_000, open: 4_096, flushMs: 500 },
  stages: STAGE_HOST,
}

export type GenerationParts = {
  readonly view: MeshView
  readonly models: Models
  readonly instances: StageInstances
  readonly book: Pick<ContractBook, 'fence'>
  readonly answers: Answers
  readonly may: (peer: PeerId) => Verdict<true>
}

const MARKS = 16_777_216
const BEGIN_TRIES = 5
const MODELS_BOUND = 256
const PEERS_BOUND = 20_000
const MODEL_MS: Millis = 30_000

/** Generates with served models: as the origin of its own sessions, as stage, as mirror, and as the origin that follows one that died. */
export class SplitGenerations implements Generations {
  readonly #ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>
  readonly #parts: GenerationParts
  readonly #config: GenerationConfig
  readonly #random: Random
  readonly #book: GenerationBook
  readonly #links: StageLinks
  readonly #stages: StageHost
  readonly #mirror: Mirror
  readonly #takeover: Takeover
  readonly #follow: Follow
  readonly #session: SessionParts
  readonly #driven = new Map<SessionId, Session>()
  /** Those whose prompt is computed already and of which no mirror knows yet. */
  readonly #admitting = new Map<SessionId, Session>()
  readonly #beginning = new Map<SessionId, Promise<SessionId>>()
  readonly #states = new Lru<PeerId, string>(PEERS_BOUND)
  readonly #known = new Lru<string, true>(MODELS_BOUND)
  readonly #stopped = new AbortController()
  readonly #mark: number

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>, parts: GenerationParts, config: Partial<GenerationConfig> = {}) {
    this.#ports = ports
    this.#parts = parts
    this.#config = { ...GENERATIONS, ...config }
    this.#random = ports.random.fork('generations')
    this.#mark = new DataView(digest(utf8(ports.identity.peer)).buffer).getUint32(0) % MARKS
    const { view } = parts
    this.#book = new GenerationBook(ports, this.#config.book)
    this.#links = new StageLinks(ports)
    this.#stages = new StageHost(ports, { links: this.#links, instances: parts.instances, book: parts.book, may: parts.may }, this.#config.stages)
    this.#mirror = new Mirror(ports, view, this.#book, this.#links, {
      drives: session => (this.#driven.has(session) ? 'driving' : this.#beginning.has(session) ? 'beginning' : undefined),
      moved: session => this.#follow.news(session),
      giveUp: (session, to, epoch) => this.#driven.get(session)?.giveWay(to, epoch),
      kept: entry => background(ports.telemetry, 'llm.mirror_not_ready', this.#ready(entry)),
    })
    this.#takeover = new Takeover({
      ports, view, book: this.#book, stopped: this.#stopped.signal,
      drives: session => this.#driven.has(session) || this.#beginning.has(session),
      resume: entry => this.#resume(entry),
      catchUp: (entry, peer, events, signal) => this.#catchUp(entry, peer, events, signal),
    }, this.#config)
    this.#follow = new Follow({ ports, random: this.#random.fork('follow'), view, book: this.#book, log: session => this.#readable(session), ask: (...asked) => this.#takeover.ask(...asked) })
    this.#session = {
      ports, links: this.#links, host: this.#stages, seating: new Seating(ports.clock, this.#random.fork('seating'), view), view,
      generates: (origin, session, signal) => this.#takeover.generates(origin, session, signal),
    }
  }

  /** Reads back what this peer had, serves stages, and watches over the sessions it mirrors. */
  async open(): Promise<void> {
    const { network } = this.#ports
    await this.#book.load()
    this.#links.start(peer => this.#parts.may(peer).ok)
    this.#stages.start()
    this.#mirror.start()
    this.#follow.start()
    this.#links.listen((frame, from) => {
      if (frame.kind === 'output' || frame.kind === 'failed' || frame.kind === 'logged' || frame.kind === 'held') (this.#driven.get(frame.session) ?? this.#admitting.get(frame.session))?.hear(frame, from)
    })
    const lost = (peer: PeerId): void => {
      for (const session of this.#computing()) session.lost(peer)
    }
    this.#links.onLost(lost)
    const hung = network.onPeer((peer, state) => {
      if (state === 'gone') lost(peer)
    })
    const deaf = this.#parts.view.onChange((peer, what) => {
      if (this.#driven.size + this.#admitting.size === 0 || (what === 'ad' && !this.#moved(peer))) return
      for (const session of this.#computing()) session.look(peer)
    })
    this.#stopped.signal.addEventListener('abort', () => {
      hung()
      deaf()
    }, { once: true })
    network.handle(generationAsk, async ({ session, do: what }, from) => {
      const entry = this.#book.get(session)
      if (what === 'cancel') this.#driven.get(session)?.cancel()
      if (what === 'drop' && entry?.origin === from && entry.log.length === 0 && !this.#driven.has(session)) await this.#book.forget(session)
      if (entry === undefined) return { known: false, events: 0, ended: false }
      return { known: true, ...this.#origin(entry), epoch: entry.epoch, events: entry.log.length, ended: entry.log.ended }
    })
    this.#takeover.start()
  }

  /** Lets go of everything; others take over. What was logged is written. */
  async stop(): Promise<void> {
    this.#stopped.abort(new MeshError('CANCELLED', 'the peer is stopping'))
    for (const session of this.#computing()) session.stop()
    this.#stages.stop()
    this.#links.stop()
    await this.#book.stop()
  }

  /**
   * Admits a session, or finds the one that this key began. Throws NOT_FOUND (no such model is served), BAD_INPUT,
   * NO_CAPACITY, NO_INSTANCE and OVERLOADED (with `retryAfterMs` in their details), CONFLICT.
   */
  start(request: GenerationRequest, options: { readonly key?: string; readonly deadlineMs: Millis; readonly signal?: AbortSignal }): Promise<SessionId> {
    const session = sessionOf(request.model, options.key, this.#random)
    const beginning = this.#beginning.get(session)
    if (beginning !== undefined) return beginning
    const begun = this.#begin(session, request, options).finally(() => this.#beginning.delete(session))
    this.#beginning.set(session, begun)
    return begun
  }

  follow(session: SessionId, after: number, signal: AbortSignal): AsyncIterable<GenerationEvent> {
    return this.#follow.read(session, after, AbortSignal.any([signal, this.#stopped.signal]))
  }

  async cancel(session: SessionId): Promise<void> {
    const own = this.#driven.get(session)
    if (own !== undefined) return own.cancel()
    if (this.#book.get(session)?.log.ended === true) return
    const origin = await this.#follow.find(session, this.#stopped.signal)
    if (origin === undefined) throw new MeshError('NOT_FOUND', `no peer in reach has ${session}`)
    await this.#ports.network.request(origin, generationAsk, { session, do: 'cancel' })
  }

  /** Sessions this peer drives now. */
  driving(): readonly { readonly session: SessionId; readonly epoch: number; readonly tokens: number; readonly plan: readonly StagePlan[] }[] {
    return [...this.#driven.values()].map(session => ({ session: session.id, epoch: session.epoch, tokens: session.log.length, plan: session.plan() }))
  }

  /** For checkers: every log that this peer holds, and what its stages hold. */
  inspect(): { readonly logs: readonly { readonly session: SessionId; readonly origin: PeerId; readonly epoch: number; readonly ended: boolean; readonly events: number }[]; readonly stages: ReturnType<StageHost['inspect']> } {
    const logs = [...this.#book.all()].map(({ session, origin, epoch, log }) => ({ session, origin, epoch, ended: log.ended, events: log.length }))
    return { logs, stages: this.#stages.inspect() }
  }

  /** Sessions that have a seat at an instance here. */
  sessionsOf(instance: string): number {
    return this.#stages.sessionsOf(instance)
  }

  async #begin(session: SessionId, request: GenerationRequest, { key, deadlineMs, signal = this.#stopped.signal }: { readonly key?: string; readonly deadlineMs: Millis; readonly signal?: AbortSignal }): Promise<SessionId> {
    if (this.#book.get(session) !== undefined) return session
    const whole = AbortSignal.any([signal, this.#stopped.signal])
    if (key !== undefined && await this.#follow.find(session, whole) !== undefined) return session
    if (this.#driven.size >= this.#config.active) throw this.#later(new MeshError('OVERLOADED', `this peer drives ${this.#driven.size} generations already: ask another one, or later`))
    const { served, facts } = await this.#model(request.model, whole)
    const wrong = unfit(request, served, facts)
    if (wrong !== undefined) throw new MeshError('BAD_INPUT', wrong)
    const answer = await this.#parts.answers.answer(served, facts, request, whole)
    for (let tries = 1; ; tries += 1) {
      const draft = await this.#draft(session, served, facts)
      const driven = new Session(this.#session, { session, request, log: new TokenLog(), epoch: 0, plan: [], leftMs: deadlineMs }, { served, facts, answer, mark: this.#mark, ...(draft === undefined ? {} : { draft }) })
      this.#admitting.set(session, driven)
      try {
        await driven.admit(whole)
      } catch (error) {
        const origin = begunElsewhere(error)
        if (origin === undefined) throw this.#later(asMeshError(error))
        // Of two that began at once one is told to follow; perhaps both were.
        if (await this.#takeover.generates(origin, session, whole)) return session
        if (tries >= BEGIN_TRIES) throw new MeshError('CONFLICT', `${session} is begun by several peers at once: ask again`, { retryable: true })
        await this.#ports.clock.sleep(50 + this.#random.below(200 * tries), whole)
        continue
      } finally {
        this.#admitting.delete(session)
      }
      try {
        const entry = this.#book.add({ session, request, log: driven.log, origin: this.#ports.identity.peer, epoch: driven.epoch, plan: driven.plan(), endsAt: this.#ports.clock.monotonic() + deadlineMs })
        this.#drive(driven, entry)
        // Acknowledged is durable: it comes to its end though all who know of it die at once.
        await this.#book.save(entry)
      } catch (error) {
        driven.cancel()
        throw error
      }
      return session
    }
  }

  #computing(): readonly Session[] {
    return [...this.#driven.values(), ...this.#admitting.values()]
  }

  #drive(driven: Session, entry: Entry): void {
    this.#driven.set(driven.id, driven)
    driven.onChange(what => {
      if (what === 'plan') Object.assign(entry, { epoch: driven.epoch, plan: driven.plan(), headDirty: true })
      this.#book.touch(entry)
    })
    void driven.done.then(how => {
      if (this.#driven.get(driven.id) === driven) this.#driven.delete(driven.id)
      const { successor } = driven
      if (successor !== undefined && entry.epoch <= successor.epoch) Object.assign(entry, { origin: successor.origin, epoch: successor.epoch, headDirty: true })
      entry.heardAt = this.#ports.clock.monotonic()
      driven.log.close()
      this.#book.touch(entry)
      this.#ports.telemetry.count('llm_sessions_total', { how })
    })
    driven.run()
    this.#follow.news(driven.id)
  }

  /** Goes on with a session whose origin is gone, from its log. */
  async #resume(entry: Entry): Promise<void> {
    const { session, request, log, epoch, plan, endsAt } = entry
    if (this.#ports.clock.monotonic() >= endsAt) {
      log.append({ kind: 'end', reason: 'error', text: '', promptTokens: request.prompt.length, cachedTokens: 0, tokens: log.length, failure: { code: 'DEADLINE', message: 'nobody could go on with it in the time that it was given' } })
      log.release(log.length)
      return this.#book.touch(entry)
    }
    const { served, facts } = await this.#model(request.model, this.#stopped.signal)
    const answer = await this.#parts.answers.answer(served, facts, request, this.#stopped.signal)
    if (this.#driven.has(session) || entry.epoch !== epoch || log.ended) return
    const draft = await this.#draft(session, served, facts)
    const own = new TokenLog(log.slice(0))
    for (const token of own.tokens()) answer.tell(token)
    const fresh = this.#book.replace(entry, own, this.#ports.identity.peer)
    const leftMs = Math.max(0, endsAt - this.#ports.clock.monotonic())
    this.#drive(new Session(this.#session, { session, request, log: own, epoch, plan, leftMs, ...(entry.origin === this.#parts.view.self ? {} : { gone: entry.origin }) }, { served, facts, answer, mark: this.#mark, ...(draft === undefined ? {} : { draft }) }), fresh)
  }

  /** Brings here what an answer of this model takes, once. */
  async #ready({ request }: Entry): Promise<void> {
    if (this.#known.has(request.model)) return
    this.#known.set(request.model, true)
    try {
      const { served, facts } = await this.#model(request.model, this.#stopped.signal)
      await this.#parts.answers.answer(served, facts, request, this.#stopped.signal)
    } catch (error) {
      this.#known.delete(request.model)
      throw error
    }
  }

  async #catchUp(entry: Entry, peer: PeerId, events: number, signal: AbortSignal): Promise<void> {
    try {
      for await (const event of this.#follow.copy(peer, entry.session, entry.log.length, signal)) {
        // Its origin, or a newer one, may have sent the same meanwhile.
        if (event.kind === 'token' && event.index !== entry.log.length) break
        entry.log.append(event)
        if (entry.log.length >= events) break
      }
    } catch (error) {
      // What it would have said will be drawn again, the same.
      if (asMeshError(error).code === 'INTERNAL') throw error
    }
    entry.log.release(entry.log.length)
    this.#book.touch(entry)
  }

  async #model(name: string, signal: AbortSignal): Promise<{ readonly served: ServedModel; readonly facts: ModelFacts }> {
    const served = await this.#parts.models.served(name)
    if (served === undefined) throw new MeshError('NOT_FOUND', `no model called ${name} is served: \`aios model list\` shows those that are`)
    const patience = this.#ports.clock.deadline(MODEL_MS, signal)
    return { served, facts: (await this.#parts.models.modelByCid(served.model, patience)).facts }
  }

  /** What guesses ahead, where the service wants it: the model named for it if its only stage runs here, else what the text itself repeats. */
  async #draft(session: SessionId, { draft, service, contextTokens }: ServedModel, facts: ModelFacts): Promise<Draft | undefined> {
    if (draft === undefined) return undefined
    const { models, view, instances } = this.#parts
    const small = draft === service ? undefined : await models.served(draft)
    const [stage, ...more] = small?.stages ?? []
    const local = stage === undefined || more.length > 0 ? undefined : view.instancesOf(stage.block).find(({ host, ad }) => host === view.self && ad.state === 'ready')
    if (local === undefined) return new LookupDraft()
    try {
      const runner = instances.stage(local.ad.instance, true)
      return runner.spec.vocab === facts.vocab ? new StageDraft(runner, `${session}-draft`, contextTokens) : new LookupDraft()
    } catch (error) {
      if (asMeshError(error).code === 'INTERNAL') throw error
      return new LookupDraft()
    }
  }

  /** A log that others may read here: of a session driven here, or one that has ended. */
  #readable(session: SessionId): TokenLog | undefined {
    const driven = this.#driven.get(session)
    if (driven !== undefined) return driven.log
    const entry = this.#book.get(session)
    return entry?.log.ended === true ? entry.log : undefined
  }

  #origin(entry: Entry): { readonly origin?: PeerId } {
    const { self } = this.#parts.view
    // What this peer drove before it last stopped it does not drive now.
    return entry.origin === self && !this.#driven.has(entry.session) && !entry.log.ended ? {} : { origin: entry.origin }
  }

  /** Are the instances of a peer others than they were, or in another state? Most of its ads tell of its load alone. */
  #moved(peer: PeerId): boolean {
    const now = (this.#parts.view.ad(peer)?.instances ?? []).map(({ instance, state }) => `${instance} ${state}`).join('\n')
    if (this.#states.peek(peer) === now) return false
    this.#states.set(peer, now)
    return true
  }

  #later(error: MeshError): MeshError {
    const { code, message, details } = error
    return error.retryable && details['retryAfterMs'] === undefined ? new MeshError(code, message, { details: { ...details, retryAfterMs: this.#config.retryAfterMs }, cause: error }) : error
  }
}

/** The same key with the same model names the same session on every peer. */
function sessionOf(model: string, key: string | undefined, random: Random): SessionId {
  if (key === undefined) return `gen-${hex(random.bytes(16))}`
  if (key.length === 0 || key.length > 200) throw new MeshError('BAD_INPUT', 'an idempotency key has 1 to 200 characters')
  return `gen-${keyName('generation', model, key)}`
}

function unfit({ prompt, stopTokens }: GenerationRequest, served: ServedModel, facts: ModelFacts): string | undefined {
  if (prompt.length >= served.contextTokens) return `a prompt of ${prompt.length} tokens leaves no room for an answer: ${served.service} is served with a context of ${served.contextTokens}`
  const strange = [...prompt, ...stopTokens].find(token => token >= facts.vocab)
  return strange === undefined ? undefined : `token ${strange} is not in the vocabulary of ${facts.vocab}`
}
