import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { StagePlan } from '../../protocols/generation.ts'
import type { InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import type { StageFrame, StageOpen } from '../../protocols/stage.ts'
import { Pause } from '../lib/pause.ts'
import type { Ports } from '../ports.ts'
import { linksOf, planOf, type Chained, type ChainLink } from './chain-link.ts'
import { epochOf, restartFrom, roundOf, type Holding } from './chain.ts'
import { Overtaken } from './overtaken.ts'
import { askForSeat } from './seat-request.ts'
import { OPENING_TOKENS, packTokens } from './prompt-chunks.ts'
import type { Place, Seating } from './seating.ts'
import type { StageHost } from './stage-host.ts'
import type { StageLinks } from './stage-links.ts'

const LOOK_AGAIN_MS: Millis = 100
const LONGEST_LOOK_MS: Millis = 2_000
/** A standby has so long to say that it has room. */
const GUARD_MS: Millis = 3_000
const GUARD_AGAIN_MS: Millis = 1_000
/** A host that may be gone is left alone for so long. */
const FLED_MS: Millis = 1_000
/** How long a session waits for an instance of a stage that has none: those of the dead are placed anew. */
const WITHOUT_MS: Millis = 120_000
/** How long a new one does: a moment ago others may have been there, and the ads of those that came in their place are on their way. */
const AD_LATE_MS: Millis = 2_000

export type ChainParts = {
  readonly ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly links: StageLinks
  readonly host: StageHost
  readonly seating: Seating
  /** Does this peer, asked itself, generate the session? */
  readonly generates: (origin: PeerId, session: string, signal: AbortSignal) => Promise<boolean>
}

/** A standby that lacks no more has what it takes to go on at once. */
const CLOSE = 3

/** The stages of one session: which instance serves and which stands by at each, opened anew under a higher epoch whenever one is lost. */
export class SessionChain {
  epoch: number
  readonly #parts: ChainParts
  readonly #of: Chained
  readonly #links: ChainLink[]
  readonly #changed: () => void
  readonly #guarding = new Set<number>()
  /** Instances without room for this session, in the attempt under way. */
  readonly #full = new Set<InstanceId>()
  /** Hosts and instances that may be gone: with a standby elsewhere nobody waits to find out. */
  readonly #doubted = new Set<PeerId | InstanceId>()
  readonly #fled = new Set<PeerId>()
  readonly #pause = new Pause()
  #open = false
  #closed = false

  /** `changed`: the plan or the epoch is another. */
  constructor(parts: ChainParts, of: Chained, before: { readonly epoch: number; readonly plan: readonly StagePlan[] }, changed: () => void) {
    this.#parts = parts
    this.#of = of
    this.#changed = changed
    this.epoch = before.epoch
    this.#links = linksOf(of.served, before.plan, parts.seating)
    for (const link of this.#links) for (const place of [link.primary, link.standby]) if (place !== undefined) this.#take(link, place)
  }

  get stages(): number {
    return this.#links.length
  }

  plan(): readonly StagePlan[] {
    return planOf(this.#links)
  }

  uses(peer: PeerId): boolean {
    return this.#links.some(({ primary, standby }) => primary?.host === peer || standby?.host === peer)
  }

  /** Frames to or from `host` may be lost, and it be gone. Says whether that matters to the chain. */
  doubt(host: PeerId): boolean {
    for (const [stage, link] of this.#links.entries()) {
      if (link.standby?.host !== host) continue
      this.#flee(link, 'standby')
      if (this.#open) this.#guard(stage)
    }
    if (!this.#links.some(({ primary }) => primary?.host === host)) return false
    this.#doubted.add(host)
    return true
  }

  /** One of the instances that serve now does not answer, and none says that it is it. */
  doubtAll(): void {
    for (const { primary } of this.#links) if (primary !== undefined) this.#doubted.add(primary.instance)
  }

  /** Is the instance of a stage gone? Standbys that are, are replaced; those of instances that are to go are hurried. */
  broken(): boolean {
    let gone = false
    for (const [stage, link] of this.#links.entries()) {
      if (link.standby !== undefined && this.#parts.seating.state(link.block, link.standby) !== 'ready') {
        this.#dismiss(link)
        if (this.#open) this.#guard(stage)
      }
      const state = link.primary === undefined ? 'gone' : this.#parts.seating.state(link.block, link.primary)
      gone ||= state === 'gone'
      if (state === 'draining') this.#hurry(stage, link)
    }
    return gone
  }

  /** What the standby of a stage holds that the session is to move to. */
  caught(stage: number, position: number): void {
    const link = this.#links[stage]
    // The origin's host may be that of the stage before, and hear of those that do not hurry, too.
    if (link?.caught !== undefined) link.caught = position
  }

  /** May the session move now to the standbys of instances that are to go, with next to nothing to compute again? */
  get mayMove(): boolean {
    const moving = this.#links.filter(({ caught }) => caught !== undefined)
    return moving.length > 0 && moving.every(link => this.#ready(link) !== undefined && (link.caught ?? 0) >= this.#of.known() - CLOSE)
  }

  /** The standby, where a session may go on at it. */
  #ready({ block, standby }: ChainLink): Place | undefined {
    const { seating } = this.#parts
    return standby !== undefined && seating.state(block, standby) === 'ready' && !seating.shunned(standby) && !this.#doubted.has(standby.host) && !this.#doubted.has(standby.instance) ? standby : undefined
  }

  #hurry(stage: number, link: ChainLink): void {
    if (!this.#open || !link.guarded || link.caught !== undefined || link.primary === undefined) return
    link.caught = 0
    this.#tell(link.primary.host, stage, { kind: 'hurry' })
  }

  /** `stage` cannot go on, says `accuser`'s host `from`; tells whether that matters to the chain. */
  blame(stage: number, accuser: number, from: PeerId): boolean {
    const link = this.#links[stage]
    if (link === undefined) return false
    // A standby speaks for itself alone; its host may also serve the stage before, and accuse the primary.
    if (accuser === stage && link.standby?.host === from && link.primary?.host !== from) {
      this.#parts.seating.shun(link.standby.instance)
      this.#dismiss(link)
      this.#guard(stage)
      return false
    }
    if (link.primary !== undefined) this.#parts.seating.shun(link.primary.instance)
    return true
  }

  /**
   * Opens every stage under a new epoch, in place of what is gone its standby or another instance; waits a while for one
   * where there is none, a moment where `fresh`, and then not for room. Gives the position from which each stage needs its
   * input. Throws Overtaken, NO_CAPACITY, NO_INSTANCE, the signal's reason.
   */
  async restart(fresh: boolean, signal: AbortSignal): Promise<readonly number[]> {
    this.#open = false
    for (const link of this.#links) Object.assign(link, { guarded: false, caught: undefined })
    this.epoch = epochOf(roundOf(this.epoch) + 1, this.#of.mark)
    const opened = new Map<number, Holding>()
    let pauseMs = LOOK_AGAIN_MS
    let refusal: MeshError | undefined
    const until = this.#parts.ports.clock.monotonic() + (fresh ? AD_LATE_MS : WITHOUT_MS)
    for (;;) {
      signal.throwIfAborted()
      const tried = await Promise.all(this.#links.map(async (link, stage) => (opened.has(stage) ? undefined : this.#seat(link, stage, fresh, signal))))
      for (const [stage, result] of tried.entries()) {
        if (result === undefined) continue
        if (!(result instanceof MeshError)) opened.set(stage, result)
        else if (result.code === 'EPOCH_FENCED') {
          await this.#heedFence(result, signal)
          opened.clear()
        } else if (refusal?.code !== 'NO_CAPACITY') refusal = result
      }
      if (opened.size === this.#links.length) break
      if (this.#links.every((link, stage) => opened.has(stage) || link.primary !== undefined)) continue
      this.#full.clear()
      this.#doubted.clear()
      const waits = this.#parts.ports.clock.monotonic() < until && !(fresh && refusal?.code === 'NO_CAPACITY')
      if (refusal !== undefined && !waits) throw refusal.code === 'NO_CAPACITY' ? refusal : new MeshError('NO_INSTANCE', refusal.message, { cause: refusal })
      await this.#pause.wait(this.#parts.ports.clock, pauseMs, signal)
      pauseMs = Math.min(LONGEST_LOOK_MS, pauseMs * 2)
    }
    this.#full.clear()
    this.#doubted.clear()
    this.#open = true
    return restartFrom(this.#links.map((_, stage) => opened.get(stage) ?? { have: 0, logFrom: 0 }), this.#of.known())
  }

  /** Instances somewhere are others than they were: who waits for one looks again. */
  wake(): void {
    this.#pause.news()
  }

  /** Tells the chain of itself. */
  resume(starts: readonly number[]): void {
    this.send({ kind: 'resume', known: this.#of.known(), hops: this.#links.map(({ primary }, stage) => ({ host: primary?.host ?? '', from: starts[stage] ?? 0 })) })
  }

  /** Gives the chain standbys, and says whom it is made of. */
  protect(): void {
    for (const stage of this.#links.keys()) this.#guard(stage)
    this.#changed()
  }

  /** To the first stage. */
  send(frame: DistributiveOmit<StageFrame, 'session' | 'epoch' | 'stage'>): void {
    const first = this.#links[0]?.primary
    if (first !== undefined) this.#tell(first.host, 0, frame)
  }

  /** Is this what the last stage says now? */
  speaks(frame: StageFrame): boolean {
    return !this.#closed && frame.epoch === this.epoch
  }

  /** Keeps the seats: hosts take them back from sessions that nobody touches. */
  touch(): void {
    this.#everywhere({ kind: 'touch' })
  }

  close(keep: boolean): void {
    if (this.#closed) return
    this.#closed = true
    this.#everywhere({ kind: 'close', keep })
    for (const link of this.#links) {
      this.#release(link, 'primary')
      this.#release(link, 'standby')
    }
  }

  /** Stops without a word: the seats are another origin's now. */
  abandon(): void {
    this.#closed = true
    for (const { primary, standby } of this.#links) for (const place of [primary, standby]) if (place !== undefined) this.#parts.seating.left(place)
  }

  /** Opens one stage where it was, at its standby, or elsewhere. Why not, when it cannot; undefined when there is nowhere to try. */
  async #seat(link: ChainLink, stage: number, fresh: boolean, signal: AbortSignal): Promise<Holding | MeshError | undefined> {
    const { seating, ports } = this.#parts
    this.#settle(link)
    const { primary } = link
    if (primary === undefined) return new MeshError('NO_INSTANCE', `block ${link.block} has no ready instance for layers ${link.first} to ${link.end}`)
    try {
      // The first of several begins to compute while the others are asked, and before it hears of the chain.
      return await this.#ask(link, stage, 'primary', primary, signal, fresh && stage === 0 && this.stages > 1)
    } catch (error) {
      signal.throwIfAborted()
      const failure = asMeshError(error)
      if (failure.code === 'INTERNAL') throw failure
      if (failure.code === 'EPOCH_FENCED') return failure
      ports.telemetry.event('debug', 'llm.open_refused', { session: this.#of.session, stage, host: primary.host, code: failure.code, because: failure.message })
      // One that is full for this session may have room for others.
      if (failure.code === 'NO_CAPACITY' || failure.code === 'OVERLOADED') this.#full.add(primary.instance)
      else seating.shun(failure.code === 'PEER_UNREACHABLE' ? primary.host : primary.instance)
      this.#release(link, 'primary')
      this.#settle(link)
      return failure
    }
  }

  /** Puts somebody in the place of a primary that is gone, was blamed, or is to go. */
  #settle(link: ChainLink): void {
    const { seating } = this.#parts
    const { primary } = link
    const state = primary === undefined || seating.shunned(primary) || this.#full.has(primary.instance) ? 'gone' : seating.state(link.block, primary)
    const ready = this.#ready(link)
    // One that drains serves until a standby has what it has.
    if (state !== 'gone' && ready === undefined) return
    if (state === 'ready' && primary !== undefined && !this.#doubted.has(primary.host) && !this.#doubted.has(primary.instance)) return
    const others = { instances: new Set([...this.#full, ...(primary === undefined ? [] : [primary.instance])]), hosts: new Set<PeerId>() }
    const successor = ready ?? seating.pick(link.block, others, this.#of.prefix[0])
    if (primary !== undefined && this.#doubted.has(primary.host)) this.#flee(link, 'primary')
    else if (primary !== undefined) {
      this.#release(link, 'primary')
      this.#closeAt(link, primary)
    }
    if (ready !== undefined) Object.assign(link, { standby: undefined, guarded: false, caught: undefined })
    else if (successor !== undefined) this.#take(link, successor)
    link.primary = successor
  }

  /** To dial a host that may be gone takes time that others wait for: neither to give a seat back nor to ask for one, until it is known. */
  #flee(link: ChainLink, role: 'primary' | 'standby'): void {
    const place = link[role]
    if (place === undefined) return
    this.#release(link, role)
    this.#fled.add(place.host)
    this.#parts.ports.clock.after(FLED_MS, () => {
      this.#fled.delete(place.host)
      this.#closeAt(link, place)
    })
  }

  /** Brings a standby up, where there is none in this epoch, in the background. */
  #guard(stage: number): void {
    if (this.#closed || this.#guarding.has(stage) || this.#links[stage]?.guarded === true) return
    this.#guarding.add(stage)
    const { epoch } = this
    let againMs = GUARD_AGAIN_MS
    this.#bringUp(stage, epoch).catch(error => {
      if (!(error instanceof MeshError)) throw error
      // Whoever refused is left alone for a while: there may be another.
      if (error.code !== 'NO_CAPACITY') againMs = 1
      return false
    }).then(done => {
      this.#guarding.delete(stage)
      if (!done || epoch !== this.epoch) this.#parts.ports.clock.after(epoch === this.epoch ? againMs : 1, () => {
        if (this.#open) this.#guard(stage)
      })
    })
  }

  async #bringUp(stage: number, epoch: number): Promise<boolean> {
    const link = this.#links[stage]
    if (link?.primary === undefined) return true
    const { seating, ports } = this.#parts
    const { primary } = link
    if (link.standby === undefined) {
      const found = seating.pick(link.block, { instances: new Set([primary.instance]), hosts: new Set([primary.host, ...this.#fled]) }, undefined)
      if (found === undefined) return false
      link.standby = found
      this.#take(link, found)
    }
    const { standby } = link
    try {
      const { have } = await this.#ask(link, stage, 'standby', standby, ports.clock.deadline(GUARD_MS))
      if (this.#closed || epoch !== this.epoch || link.standby !== standby) return link.standby === standby
      this.#tell(primary.host, stage, { kind: 'guard', position: have, host: standby.host })
      link.guarded = true
      if (seating.state(link.block, primary) === 'draining') this.#hurry(stage, link)
      this.#changed()
      return true
    } catch (error) {
      if (link.standby === standby) {
        if (asMeshError(error).code !== 'NO_CAPACITY') seating.shun(standby.instance)
        this.#dismiss(link)
      }
      throw error
    }
  }

  async #ask(link: ChainLink, stage: number, role: 'primary' | 'standby', place: Place, signal: AbortSignal, begins = false): Promise<Holding> {
    const { session, reserve, prefix, prompt, known, trace } = this.#of
    const request: StageOpen = { session, epoch: this.epoch, stage, role, block: link.block, instance: place.instance, contractEpoch: place.contractEpoch, reserve, known: known(), prefix: [...prefix], ...(begins && prompt.length <= OPENING_TOKENS ? { prompt: packTokens(prompt) } : {}), ...(trace === undefined ? {} : { trace }) }
    return this.#unlessOver(stage, place, await askForSeat(this.#parts, place.host, request, signal))
  }

  /** A seat that was given after the session had ended is given back. */
  #unlessOver(stage: number, { host }: Place, holding: Holding): Holding {
    if (!this.#closed) return holding
    this.#tell(host, stage, { kind: 'close', keep: false })
    throw new MeshError('CANCELLED', 'the session has ended')
  }

  /** A host obeys another epoch: our own earlier one, that of an origin that is gone, or that of one that goes on. */
  async #heedFence({ details }: MeshError, signal: AbortSignal): Promise<void> {
    const epoch = typeof details['epoch'] === 'number' ? details['epoch'] : this.epoch
    const origin = typeof details['origin'] === 'string' ? details['origin'] : ''
    if (origin !== this.#parts.ports.network.self && origin !== '' && await this.#parts.generates(origin, this.#of.session, signal)) throw new Overtaken(origin, epoch)
    this.epoch = epochOf(roundOf(Math.max(epoch, this.epoch)) + 1, this.#of.mark)
  }

  #everywhere(frame: DistributiveOmit<StageFrame, 'session' | 'epoch' | 'stage'>): void {
    for (const [stage, { primary, standby }] of this.#links.entries()) {
      for (const place of [primary, standby]) if (place !== undefined) this.#tell(place.host, stage, frame)
    }
  }

  #dismiss(link: ChainLink): void {
    const { standby } = link
    this.#release(link, 'standby')
    if (standby !== undefined) this.#closeAt(link, standby)
  }

  /** Frees a place that may still be there. */
  #closeAt(link: ChainLink, { host }: Place): void {
    if (link.standby?.host !== host && link.primary?.host !== host) this.#tell(host, this.#links.indexOf(link), { kind: 'close', keep: false })
  }

  #tell(host: PeerId, stage: number, frame: DistributiveOmit<StageFrame, 'session' | 'epoch' | 'stage'>): void {
    this.#parts.links.send(host, { ...frame, session: this.#of.session, epoch: this.epoch, stage })
  }

  #take(link: ChainLink, place: Place): void {
    this.#parts.seating.taken(link.block, place, this.#of.prefix[0])
  }

  #release(link: ChainLink, role: 'primary' | 'standby'): void {
    const place = link[role]
    if (place === undefined) return
    this.#parts.seating.left(place)
    link[role] = undefined
    if (role === 'standby') Object.assign(link, { guarded: false, caught: undefined })
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never
