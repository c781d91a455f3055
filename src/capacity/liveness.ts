import { livenessBody, livenessTopic, probe, type Rumour } from '../../protocols/capacity.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { background } from '../lib/background.ts'
import type { Ports, Random } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'
import { inquire, reach, reachThrough, unheard, verdictOf, type ProbeAnswer, type ProbeRequest } from './asking.ts'
import { Beliefs, overrides, type Belief, type LifeState } from './beliefs.ts'
import { Rumours } from './rumours.ts'
import type { LivenessConfig } from './timings.ts'

export type LivenessParts = {
  readonly isMember: (peer: PeerId) => boolean
  /** Our own newest ad. */
  readonly own: () => { readonly incarnation: number; readonly sequence: number }
  /** Somebody believes that we are gone: take a higher incarnation than this. */
  readonly refute: (incarnation: number) => void
  /** A peer answered that it has a newer ad than this. */
  readonly onProbed: (peer: PeerId, incarnation: number, sequence: number) => void
  readonly onState: (peer: PeerId, state: LifeState, before: LifeState | 'unknown') => void
}

/** The ring watches everybody; the peer probed besides is one that costs no new connection, except this often. */
const STRANGER_PERIODS = 8
const RELAYING_BOUND = 64
/** Questions within one probe, and within the one that decides about a rumour. */
const ASKED = 2
const ASKED_OF_RUMOUR = 3
const RUMOUR_MS = 100
/** What a sign of life of one given up makes us do, we do within this time: the first to do it saves the others the work. */
const RECONSIDER_MS = 1_000
const RETRY_MS = 500
/** How many of the mesh try each peer given up at a time: in a large one all of them would fall on the few that restart. */
const TRIED_BY = 8
/** What was under way at a peer whose connection broke goes on elsewhere first: to bury it, and to start others in its place, takes the time of the same hosts. */
const GONE_MS: Millis = 150

type Check = { readonly before: Belief; refused: boolean; told: boolean }

/** Notices who died, tells others, and refutes what is wrongly said of us. What others say is believed only of peers we cannot ask. */
export class Liveness {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #config: LivenessConfig
  readonly #parts: LivenessParts
  readonly #beliefs: Beliefs
  readonly #rumours: Rumours
  /** Being asked. `refused`: its connection broke and nobody answers there. `told`: another has given it up. */
  readonly #checking = new Map<PeerId, Pick<Check, 'refused' | 'told'>>()
  /** Silent to us and to those who were asked about it, and given a last moment. */
  readonly #suspects = new Set<PeerId>()
  readonly #reconsidering = new Set<PeerId>()
  /** Who came next in the ring a period ago. */
  #successors: readonly PeerId[] = []
  readonly #stops: (() => void)[] = []
  #retrying = false
  #relaying = 0
  #periods = 0
  #refutedAt = -Infinity
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry' | 'random'>, config: LivenessConfig, parts: LivenessParts) {
    this.#ports = ports
    this.#random = ports.random.fork('liveness')
    this.#config = config
    this.#parts = parts
    this.#beliefs = new Beliefs(ports.identity.peer)
    this.#rumours = new Rumours(ports.clock, ports.random.fork('rumours'), ports.identity.peer, rumours => this.#background(this.#publish(rumours)))
  }

  start(): void {
    const { network } = this.#ports
    network.handle(probe, (request, from) => this.#answer(request, from))
    this.#stops.push(network.subscribe(livenessTopic, envelope => this.#hear(envelope)))
    this.#stops.push(network.onPeer((peer, event) => {
      if (event === 'gone') this.#ports.clock.after(GONE_MS, () => this.#background(this.#check(peer, true)))
      else if (this.#beliefs.of(peer)?.state === 'dead') this.#background(this.#check(peer, false))
    }))
    this.#next()
  }

  /** Says goodbye, so that nobody has to find out. */
  async stop(): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    for (const stop of this.#stops) stop()
    await this.#publish([{ about: this.#ports.identity.peer, incarnation: this.#parts.own().incarnation, state: 'left' }])
  }

  state(peer: PeerId): LifeState | 'unknown' {
    if (peer === this.#ports.identity.peer) return 'alive'
    const state = this.#beliefs.of(peer)?.state ?? 'unknown'
    return state === 'alive' && this.#suspects.has(peer) ? 'suspect' : state
  }

  /** Alive and suspect peers and ourselves, sorted. */
  living(): readonly PeerId[] {
    return this.#beliefs.living()
  }

  /** Something the peer itself signed has just arrived. */
  heardFrom(peer: PeerId, incarnation: number): void {
    const belief = this.#beliefs.of(peer)
    if (belief === undefined || incarnation > belief.incarnation) this.#set(peer, 'alive', incarnation)
    else if (incarnation === belief.incarnation && belief.state === 'dead') this.#background(this.#reconsider(peer))
  }

  /** Nobody has heard of it for a whole TTL. */
  expired(peer: PeerId): void {
    const belief = this.#beliefs.of(peer)
    if (belief !== undefined && belief.state !== 'left') this.#set(peer, 'dead', belief.incarnation)
  }

  #next(): void {
    const { periodMs } = this.#config
    // A little jitter keeps peers that started together from probing together; never longer than the period.
    this.#ports.clock.after(Math.max(1, Math.round(periodMs * (0.85 + this.#random.float() * 0.15))), () => {
      if (this.#stopped) return
      this.#period()
      this.#next()
    })
  }

  #period(): void {
    this.#periods += 1
    const successors = this.#beliefs.watched(this.#config.watched)
    // While we learn of many, most come next for a moment only: who needs a connection gets one when it still does a period later.
    const targets = new Set(successors.filter(peer => this.#successors.includes(peer) || this.#isConnected(peer)))
    this.#successors = successors
    const other = this.#periods % STRANGER_PERIODS === 0 ? this.#anyLiving(1, [...targets])[0] : this.#anyConnected()
    if (other !== undefined) targets.add(other)
    if (this.#periods % this.#config.retryDeadPeriods === 0) this.#tryDead()
    const asked: (() => void)[] = []
    for (const peer of targets) {
      if (this.#isConnected(peer)) asked.push(this.#probe(peer))
      else this.#background(this.#check(peer, false))
    }
    if (asked.length > 0) this.#ports.clock.after(Math.floor(this.#config.probeMs / ASKED), () => asked.forEach(again => again()))
  }

  /** `#check` of one that is connected: the answer almost always comes. The function asks again where it has not. */
  #probe(peer: PeerId): () => void {
    const check = this.#begin(peer)
    if (check === undefined) return () => undefined
    const conclude = (direct: 'alive' | 'refused' | 'silent'): void => {
      if (direct === 'alive') this.#checking.delete(peer)
      else this.#background(this.#doubt(peer, check, direct, false))
    }
    return inquire(this.#ports, peer, this.#question(peer), this.#config.probeMs, answer => conclude(this.#hasAnswered(peer, answer)), conclude)
  }

  /** Undefined where there is nothing to ask. */
  #begin(peer: PeerId): Check | undefined {
    const before = this.#beliefs.of(peer)
    if (this.#stopped || peer === this.#ports.identity.peer || this.#checking.has(peer) || before === undefined || before.state === 'left') return undefined
    const check: Check = { before, refused: false, told: false }
    this.#checking.set(peer, check)
    return check
  }

  /** Is the peer there? Asks it, then others about it, then gives it a moment, then gives it up. */
  async #check(peer: PeerId, connectionLost: boolean): Promise<void> {
    const check = this.#begin(peer)
    if (check !== undefined) await this.#doubt(peer, check, await this.#ask(peer, !connectionLost), connectionLost)
  }

  async #doubt(peer: PeerId, check: Check, direct: 'alive' | 'refused' | 'silent', connectionLost: boolean): Promise<void> {
    const { before } = check
    try {
      if (direct === 'alive' || before.state === 'dead') return
      check.refused = connectionLost && direct === 'refused'
      // Those who watch it find out at the same time, and their word spares the others the questions.
      const watched = this.#beliefs.watched(this.#config.watched).includes(peer)
      if (check.refused && !watched && !check.told) await this.#ports.clock.sleep(this.#config.deferMs + this.#random.below(this.#config.deferMs))
      if (!check.told) {
        const relayed = await this.#askOthers(peer, direct)
        if (relayed.includes('alive')) return
        if (!check.refused || relayed.includes('silent')) {
          this.#suspect(peer)
          await this.#ports.clock.sleep(this.#config.suspectMs)
          if (await this.#ask(peer) === 'alive') return
        }
      }
      this.#giveUp(peer, before.incarnation)
      if (this.#beliefs.of(peer)?.state === 'dead') this.#rumours.tell({ about: peer, incarnation: before.incarnation, state: 'dead' }, watched ? 0 : this.#config.deferMs)
    } finally {
      this.#checking.delete(peer)
      if (this.#suspects.delete(peer) && this.#beliefs.of(peer)?.state === 'alive') this.#parts.onState(peer, 'alive', 'suspect')
    }
  }

  /** Silent to us, and to whom we asked about it. Nobody is told before it is certain: a suspicion told would have to be taken back. */
  #suspect(peer: PeerId): void {
    if (this.#stopped || this.#beliefs.of(peer)?.state !== 'alive') return
    this.#suspects.add(peer)
    this.#parts.onState(peer, 'suspect', 'alive')
  }

  #giveUp(peer: PeerId, incarnation: number): void {
    if (!this.#stopped) this.#set(peer, 'dead', incarnation)
  }

  /** `patient`: a peer we are not connected to may need the time of a dial besides. */
  async #ask(peer: PeerId, patient = false, windowMs = this.#config.probeMs, times = ASKED): Promise<'alive' | 'refused' | 'silent'> {
    const waitMs = windowMs + (patient && !this.#isConnected(peer) ? this.#config.dialMs : 0)
    try {
      return this.#hasAnswered(peer, await reach(this.#ports, peer, this.#question(peer), waitMs, times))
    } catch (error) {
      return verdictOf(error)
    }
  }

  #question(peer: PeerId): ProbeRequest {
    const belief = this.#beliefs.of(peer)
    return { incarnation: belief?.incarnation ?? 0, ...(belief?.state === 'dead' ? { believed: 'dead' } : {}) }
  }

  #hasAnswered(peer: PeerId, { incarnation, sequence }: ProbeAnswer): 'alive' | 'silent' {
    this.#set(peer, 'alive', incarnation)
    if (sequence !== undefined) this.#parts.onProbed(peer, incarnation, sequence)
    return this.#beliefs.of(peer)?.state === 'dead' ? 'silent' : 'alive'
  }

  /** Asks those who watch it too, and it itself once more: loss must not look like death. */
  #askOthers(peer: PeerId, direct: 'refused' | 'silent'): Promise<readonly ('alive' | 'refused' | 'silent' | 'absent')[]> {
    const incarnation = this.#beliefs.of(peer)?.incarnation ?? 0
    const windowMs = this.#config.relayMs + 100
    const relayed = this.#relaysFor(peer).map(relay => reachThrough(this.#ports, relay, peer, incarnation, windowMs))
    return Promise.all(direct === 'silent' ? [...relayed, this.#ask(peer, false, windowMs)] : relayed)
  }

  async #answer(request: { readonly of?: PeerId | undefined; readonly incarnation: number; readonly believed?: 'suspect' | 'dead' | undefined }, from: PeerId): Promise<ProbeAnswer> {
    if (request.of === undefined || request.of === this.#ports.identity.peer) {
      if (request.believed !== undefined && this.#parts.isMember(from)) this.#refute(request.incarnation)
      return { alive: true, ...this.#parts.own() }
    }
    const { of } = request
    const belief = this.#beliefs.of(of)
    // Only for peers we know, and only so many at a time: nobody can make us dial whom he likes.
    if (belief === undefined || belief.state === 'left' || this.#relaying >= RELAYING_BOUND) return { alive: false, incarnation: belief?.incarnation ?? 0 }
    this.#relaying += 1
    try {
      const answer = await reach(this.#ports, of, { incarnation: belief.incarnation }, this.#config.relayMs, ASKED)
      this.#set(of, 'alive', answer.incarnation)
      return { alive: true, incarnation: answer.incarnation }
    } catch (error) {
      if (verdictOf(error) === 'silent') throw unheard(of)
      return { alive: false, incarnation: belief.incarnation }
    } finally {
      this.#relaying -= 1
    }
  }

  #refute(incarnation: number): void {
    const now = this.#ports.clock.monotonic()
    if (incarnation < this.#parts.own().incarnation || now - this.#refutedAt < this.#config.probeMs / 2) return
    this.#refutedAt = now
    this.#ports.telemetry.count('liveness_refuted_total')
    this.#parts.refute(incarnation)
  }

  #set(peer: PeerId, state: LifeState, incarnation: number): boolean {
    const before = this.#beliefs.of(peer)
    if (!this.#beliefs.hear(peer, state, incarnation, this.#ports.clock.monotonic())) return false
    if (before?.state === state) return true
    this.#ports.telemetry.event('debug', 'peer.state', { peer, state, incarnation })
    if (before?.state === 'dead' && state === 'alive') this.#resurrected()
    this.#parts.onState(peer, state, before?.state ?? 'unknown')
    return true
  }

  async #publish(rumours: readonly Rumour[]): Promise<void> {
    await this.#ports.network.publish(livenessTopic, seal(this.#ports.identity, 'liveness', { rumours, issuedAt: this.#ports.clock.unix() }))
  }

  #hear(envelope: Signed): void {
    if (!this.#parts.isMember(envelope.signer)) return
    const { value, signer } = unseal(this.#ports.identity, 'liveness', livenessBody, envelope, livenessTopic.limits.messageBytes)
    if (Math.abs(this.#ports.clock.unix() - value.issuedAt) > this.#config.skewMs) return
    for (const rumour of value.rumours) this.#weigh(rumour, signer)
  }

  #weigh(rumour: Rumour, signer: PeerId): void {
    const { about, state, incarnation } = rumour
    if (about === this.#ports.identity.peer) {
      if (state === 'suspect' || state === 'dead') this.#refute(Math.min(incarnation, this.#parts.own().incarnation))
      return
    }
    const belief = this.#beliefs.of(about)
    if (state === 'alive' || state === 'left') {
      // Of its life and its leaving only the peer itself may speak.
      if (signer === about && (state === 'alive' || belief !== undefined)) this.#set(about, state, incarnation)
      return
    }
    if (belief === undefined) return
    this.#rumours.heard(rumour, signer)
    if (!overrides(rumour, belief)) return
    // A word about a life that the peer never claimed here is a reason to ask it, no more. So is a suspicion, for those who watch it.
    if (incarnation > belief.incarnation || (state === 'suspect' && this.#beliefs.watched(this.#config.watched).includes(about))) this.#background(this.#check(about, false))
    else if (state === 'dead') this.#background(this.#verify(about, incarnation))
  }

  /** Another gave a peer up. One that we are connected to is asked first: no member can talk another to death. */
  async #verify(about: PeerId, incarnation: number): Promise<void> {
    const { probeMs } = this.#config
    const under = this.#checking.get(about)
    if (under !== undefined) {
      under.told = true
      if (under.refused) this.#giveUp(about, incarnation)
      return
    }
    if (this.#isConnected(about)) {
      this.#checking.set(about, { refused: false, told: true })
      try {
        if (await this.#ask(about, false, probeMs + RUMOUR_MS, ASKED_OF_RUMOUR) === 'alive') return
      } finally {
        this.#checking.delete(about)
      }
    }
    this.#giveUp(about, incarnation)
  }

  /** One given up shows signs of life. Most of us see them together: the first that asks makes it say so to all. */
  async #reconsider(peer: PeerId): Promise<void> {
    if (this.#reconsidering.has(peer)) return
    this.#reconsidering.add(peer)
    await this.#ports.clock.sleep(this.#random.below(RECONSIDER_MS))
    this.#reconsidering.delete(peer)
    if (this.#beliefs.of(peer)?.state === 'dead') await this.#check(peer, false)
  }

  /** One given up has come back: a partition may have healed, and others are there again too. */
  #resurrected(): void {
    if (this.#retrying) return
    this.#retrying = true
    this.#ports.clock.after(this.#random.below(RETRY_MS), () => {
      this.#retrying = false
      this.#tryDead()
    })
  }

  #tryDead(): void {
    const dead = this.#beliefs.dead()
    // Everybody does this at about the same time.
    const enough = (TRIED_BY * dead.length) / this.#beliefs.living().length
    if (this.#stopped || dead.length === 0 || this.#random.float() >= enough) return
    // After a cut the connections that it silenced still stand: a probe of one that we hold costs no dial.
    const held = dead.filter(peer => this.#isConnected(peer))
    this.#background(this.#check(this.#random.pick(held.length > 0 ? held : dead), false))
  }

  /** Those who watch it are connected to it. Connected ones first: a relay that must be dialled answers too late. */
  #relaysFor(peer: PeerId): readonly PeerId[] {
    const { relays, watched } = this.#config
    const chosen = this.#beliefs.watchersOf(peer, watched).filter(relay => this.#isConnected(relay))
    const connected = this.#ports.network.peers()
    const from = this.#random.below(Math.max(1, connected.length))
    for (let at = 0; chosen.length < relays && at < connected.length; at += 1) {
      const relay = connected[(from + at) % connected.length]!
      if (relay !== peer && !chosen.includes(relay) && this.#beliefs.of(relay)?.state === 'alive') chosen.push(relay)
    }
    return chosen.length < relays ? [...chosen, ...this.#anyLiving(relays - chosen.length, [peer, ...chosen])] : chosen.slice(0, relays)
  }

  #isConnected(peer: PeerId): boolean {
    return this.#ports.network.peers().includes(peer)
  }

  #anyConnected(): PeerId | undefined {
    const connected = this.#ports.network.peers()
    return connected.length === 0 ? undefined : this.#random.pick(connected)
  }

  #anyLiving(count: number, except: readonly PeerId[]): readonly PeerId[] {
    const living = this.#beliefs.living()
    const chosen = new Set<PeerId>()
    // Rejection sampling: cheap in a large mesh, and bounded in a small one.
    for (let tries = 0; chosen.size < count && tries < count * 8; tries += 1) {
      const peer = this.#random.pick(living)
      if (peer !== this.#ports.identity.peer && !except.includes(peer) && this.#beliefs.of(peer)?.state === 'alive') chosen.add(peer)
    }
    return [...chosen]
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'liveness.failed', work)
  }
}
