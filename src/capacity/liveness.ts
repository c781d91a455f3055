import { livenessBody, livenessTopic, probe, type Rumour } from '../../protocols/capacity.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { background } from '../lib/background.ts'
import type { Ports, Random } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'
import { Beliefs, overrides, type LifeState } from './beliefs.ts'

export type LivenessConfig = {
  /** Every peer we watch is probed once in this time. */
  readonly periodMs: Millis
  readonly probeMs: Millis
  /** A probe of a peer that is not connected gets this much more: three round trips and a handshake. */
  readonly dialMs: Millis
  /** A relay's own probe must end before the asker gives the relay up. */
  readonly relayMs: Millis
  readonly suspectMs: Millis
  /** Ring successors probed each period, besides one peer at random. */
  readonly watched: number
  readonly relays: number
  /** Every so many periods one peer given up is tried again: a partition may have healed. */
  readonly retryDeadPeriods: number
  readonly skewMs: Millis
}

/**
 * A silent death is noticed within period + probe + relay + suspicion + a last probe: 2.5 s. A broken connection starts the same
 * sequence at once, and a refused redial that every relay confirms ends it at once.
 */
export const LIVENESS: LivenessConfig = { periodMs: 900, probeMs: 400, dialMs: 800, relayMs: 300, suspectMs: 400, watched: 3, relays: 3, retryDeadPeriods: 5, skewMs: 60_000 }

export type LivenessParts = {
  readonly isMember: (peer: PeerId) => boolean
  /** Our own newest ad. */
  readonly own: () => { readonly incarnation: number; readonly sequence: number }
  /** Somebody believes that we are gone: take a higher incarnation than this. */
  readonly refute: (incarnation: number) => void
  /** A peer answered that it has a newer ad than this. */
  readonly onProbed: (peer: PeerId, incarnation: number, sequence: number) => void
  readonly onState: (peer: PeerId, state: LifeState) => void
}

/** The ring watches everybody; the peer probed besides is one that costs no new connection, except this often. */
const STRANGER_PERIODS = 8
const RUMOURS_A_MESSAGE = 32
const OUTBOX_BOUND = 512
const RELAYING_BOUND = 64

/** Notices who died, tells others, and refutes what is wrongly said of us. What others say is believed only of peers we cannot ask. */
export class Liveness {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #config: LivenessConfig
  readonly #parts: LivenessParts
  readonly #beliefs: Beliefs
  readonly #checking = new Set<PeerId>()
  readonly #outbox = new Map<PeerId, { readonly rumour: Rumour; readonly saidBy: Set<PeerId> }>()
  readonly #stops: (() => void)[] = []
  #flushing = false
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
  }

  start(): void {
    const { network } = this.#ports
    network.handle(probe, (request, from, signal) => this.#answer(request, from, signal))
    this.#stops.push(network.subscribe(livenessTopic, envelope => this.#hear(envelope)))
    this.#stops.push(network.onPeer((peer, event) => {
      if (event === 'gone') this.#background(this.#check(peer, true))
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
    return this.#beliefs.of(peer)?.state ?? 'unknown'
  }

  /** Alive and suspect peers and ourselves, sorted. */
  living(): readonly PeerId[] {
    return this.#beliefs.living()
  }

  /** Something the peer itself signed has just arrived. */
  heardFrom(peer: PeerId, incarnation: number): void {
    const belief = this.#beliefs.of(peer)
    if (belief === undefined || incarnation > belief.incarnation) this.#set(peer, 'alive', incarnation)
    else if (incarnation === belief.incarnation && (belief.state === 'suspect' || belief.state === 'dead')) this.#background(this.#check(peer, false))
  }

  /** Nobody has heard of it for a whole TTL. */
  expired(peer: PeerId): void {
    const belief = this.#beliefs.of(peer)
    if (belief !== undefined && belief.state !== 'left') this.#set(peer, 'dead', belief.incarnation)
  }

  /** Tells the others of our new life. */
  async announce(): Promise<void> {
    await this.#publish([{ about: this.#ports.identity.peer, incarnation: this.#parts.own().incarnation, state: 'alive' }])
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
    const targets = new Set(this.#beliefs.watched(this.#config.watched))
    const other = this.#periods % STRANGER_PERIODS === 0 ? this.#anyLiving(1, [...targets])[0] : this.#anyConnected()
    if (other !== undefined) targets.add(other)
    if (this.#periods % this.#config.retryDeadPeriods === 0) {
      const dead = this.#beliefs.dead()
      if (dead.length > 0) targets.add(this.#random.pick(dead))
    }
    for (const peer of targets) this.#background(this.#check(peer, false))
  }

  /** Is the peer there? Asks it, then others about it, then gives it a moment, then gives it up. */
  async #check(peer: PeerId, connectionLost: boolean): Promise<void> {
    if (this.#stopped || peer === this.#ports.identity.peer || this.#checking.has(peer)) return
    const before = this.#beliefs.of(peer)
    if (before === undefined || before.state === 'left') return
    this.#checking.add(peer)
    try {
      const direct = await this.#ask(peer, !connectionLost)
      if (direct === 'alive' || before.state === 'dead') return
      const relayed = await this.#askOthers(peer)
      if (relayed.some(answer => answer === 'alive')) return
      const conclusive = connectionLost && direct === 'refused' && relayed.every(answer => answer !== 'silent')
      const incarnation = this.#beliefs.of(peer)?.incarnation ?? before.incarnation
      if (incarnation > before.incarnation) return
      if (!conclusive) {
        this.#detected(peer, 'suspect', incarnation)
        await this.#ports.clock.sleep(this.#config.suspectMs)
        if (await this.#ask(peer) === 'alive' || this.#stopped) return
      }
      this.#detected(peer, 'dead', incarnation)
    } finally {
      this.#checking.delete(peer)
    }
  }

  /** `patient`: a peer we are not connected to may need the time of a dial besides. */
  async #ask(peer: PeerId, patient = false): Promise<'alive' | 'refused' | 'silent'> {
    const { probeMs, dialMs } = this.#config
    const waitMs = probeMs + (patient && !this.#ports.network.peers().includes(peer) ? dialMs : 0)
    const belief = this.#beliefs.of(peer)
    const believed = belief?.state === 'suspect' || belief?.state === 'dead' ? { believed: belief.state } : {}
    try {
      const answer = await this.#ports.network.request(peer, probe, { incarnation: belief?.incarnation ?? 0, ...believed }, this.#ports.clock.deadline(waitMs))
      this.#set(peer, 'alive', answer.incarnation)
      if (answer.sequence !== undefined) this.#parts.onProbed(peer, answer.incarnation, answer.sequence)
      return this.#beliefs.of(peer)?.state === 'dead' ? 'silent' : 'alive'
    } catch (error) {
      return this.#verdict(error)
    }
  }

  /** `absent`: the relay itself is gone and says nothing about the peer. */
  async #askOthers(peer: PeerId): Promise<readonly ('alive' | 'refused' | 'silent' | 'absent')[]> {
    const incarnation = this.#beliefs.of(peer)?.incarnation ?? 0
    return Promise.all(this.#relaysFor(peer).map(async relay => {
      try {
        const answer = await this.#ports.network.request(relay, probe, { of: peer, incarnation }, this.#ports.clock.deadline(this.#config.relayMs + 100))
        return answer.alive ? 'alive' : 'refused'
      } catch (error) {
        return this.#verdict(error) === 'refused' ? 'absent' : 'silent'
      }
    }))
  }

  async #answer(request: { readonly of?: PeerId | undefined; readonly incarnation: number; readonly believed?: 'suspect' | 'dead' | undefined }, from: PeerId, signal: AbortSignal): Promise<{ alive: boolean; incarnation: number; sequence?: number }> {
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
      const answer = await this.#ports.network.request(of, probe, { incarnation: belief.incarnation }, this.#ports.clock.deadline(this.#config.relayMs, signal))
      this.#set(of, 'alive', answer.incarnation)
      return { alive: true, incarnation: answer.incarnation }
    } catch (error) {
      if (this.#verdict(error) === 'silent') throw new MeshError('DEADLINE', `${of} did not answer`)
      return { alive: false, incarnation: belief.incarnation }
    } finally {
      this.#relaying -= 1
    }
  }

  #verdict(error: unknown): 'refused' | 'silent' {
    return asMeshError(error).code === 'PEER_UNREACHABLE' ? 'refused' : 'silent'
  }

  #refute(incarnation: number): void {
    const now = this.#ports.clock.monotonic()
    if (incarnation < this.#parts.own().incarnation || now - this.#refutedAt < this.#config.probeMs / 2) return
    this.#refutedAt = now
    this.#ports.telemetry.count('liveness_refuted_total')
    this.#parts.refute(incarnation)
  }

  /** We found out ourselves. */
  #detected(peer: PeerId, state: 'suspect' | 'dead', incarnation: number): void {
    if (this.#stopped || !this.#set(peer, state, incarnation)) return
    this.#tell({ about: peer, incarnation, state })
  }

  #set(peer: PeerId, state: LifeState, incarnation: number): boolean {
    const before = this.#beliefs.of(peer)
    if (!this.#beliefs.hear(peer, state, incarnation, this.#ports.clock.monotonic())) return false
    if (before?.state === state) return true
    this.#ports.telemetry.event('debug', 'peer.state', { peer, state, incarnation })
    this.#parts.onState(peer, state)
    return true
  }

  #tell(rumour: Rumour): void {
    if (this.#outbox.size >= OUTBOX_BOUND && !this.#outbox.has(rumour.about)) return
    this.#outbox.set(rumour.about, { rumour, saidBy: new Set() })
    if (this.#flushing) return
    this.#flushing = true
    // All who were connected to the dead notice together: whoever draws the longest wait finds that it has been said.
    const spreadMs = Math.min(1_000, 10 * this.#ports.network.peers().length)
    this.#ports.clock.after(5 + this.#random.below(spreadMs + 1), () => this.#background(this.#flush()))
  }

  async #flush(): Promise<void> {
    this.#flushing = false
    const due = [...this.#outbox.values()].filter(({ saidBy }) => saidBy.size < 2).map(({ rumour }) => rumour)
    this.#outbox.clear()
    for (let at = 0; at < due.length; at += RUMOURS_A_MESSAGE) await this.#publish(due.slice(at, at + RUMOURS_A_MESSAGE))
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
    const said = this.#outbox.get(about)
    if (said !== undefined && said.rumour.state === state && said.rumour.incarnation === incarnation) said.saidBy.add(signer)
    const belief = this.#beliefs.of(about)
    if (state === 'alive' || state === 'left') {
      // Of its life and its leaving only the peer itself may speak.
      if (signer === about && (state === 'alive' || belief !== undefined)) this.#set(about, state, incarnation)
      return
    }
    if (belief === undefined || !overrides(rumour, belief)) return
    // A word about a life that the peer never claimed here, or about one we are connected to, is a reason to ask it, no more.
    const askIt = incarnation > belief.incarnation || this.#ports.network.peers().includes(about)
    if (askIt) this.#background(this.#check(about, false))
    else {
      this.#set(about, state, incarnation)
      if (state === 'suspect') this.#background(this.#settleSuspicion(about))
    }
  }

  /** Whoever suspected it says what became of it; if we miss that, we ask. */
  async #settleSuspicion(peer: PeerId): Promise<void> {
    await this.#ports.clock.sleep(this.#config.suspectMs * 2 + this.#random.below(this.#config.suspectMs + 1))
    if (this.#beliefs.of(peer)?.state === 'suspect') await this.#check(peer, false)
  }

  /** Connected ones first: a relay that must be dialled answers too late. */
  #relaysFor(peer: PeerId): readonly PeerId[] {
    const { relays } = this.#config
    const connected = this.#ports.network.peers().filter(other => other !== peer && this.#beliefs.of(other)?.state === 'alive')
    const from = this.#random.below(Math.max(1, connected.length))
    const chosen = [...connected.slice(from), ...connected.slice(0, from)].slice(0, relays)
    return chosen.length < relays ? [...chosen, ...this.#anyLiving(relays - chosen.length, [peer, ...chosen])] : chosen
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
