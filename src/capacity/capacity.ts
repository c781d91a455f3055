import { capacityAd, capacityDelta, capacityTopic, type CapacityAd, type InstanceAd } from '../../protocols/capacity.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { background } from '../lib/background.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { shared, unseal } from '../trust/seal.ts'
import { checkAd, checkDelta, type AdLimits } from './ad.ts'
import { Advertiser, type AdSources, type AdvertiserConfig } from './advertiser.ts'
import type { LifeState } from './beliefs.ts'
import { AdExchange, hearOne, SMALL_MESH, type ExchangeConfig } from './exchange.ts'
import { Liveness } from './liveness.ts'
import { Newcomer } from './newcomer.ts'
import { LIVENESS, type LivenessConfig } from './timings.ts'
import { AdView } from './view.ts'

export type CapacityConfig = {
  readonly advertiser: AdvertiserConfig
  readonly liveness: LivenessConfig
  readonly limits: AdLimits
  /** Has this peer proved its membership? */
  readonly isMember: (peer: PeerId) => boolean
  /** An ad as it counts, by what others say of its peer; what is passed on is the ad as it was signed. */
  readonly resolve: (ad: CapacityAd) => CapacityAd
  readonly expireEveryMs: Millis
  readonly exchange: ExchangeConfig
  /** How long a peer that has met others before waits for one of them before it counts itself alone. */
  readonly lonelyMs: Millis
  /** The same for one that never met anybody. */
  readonly firstMs: Millis
}

export const CAPACITY: CapacityConfig = {
  advertiser: { cluster: '', labels: {}, protocolMajor: 1, http: undefined, ttlMs: 30_000, ttlMostMs: 600_000, smallMesh: 50, coalesceMs: 250, deltaEveryMs: 500, pollMs: 1_000, firstMs: 1_000 },
  liveness: LIVENESS,
  limits: { skewMs: 60_000, ttlMs: [1_000, 900_000] },
  isMember: () => true,
  resolve: ad => ad,
  expireEveryMs: 1_000,
  exchange: { pullDeadlineMs: 3_000, pullEveryMs: 500, pullsAtOnce: 16, compareMs: [500, 4_000] },
  lonelyMs: 5_000,
  firstMs: 300,
}

const MET = 'capacity/met'
const UNPROVED_BYTES = 16_384
const AD_BYTES = capacityTopic.limits.messageBytes

type Hearer = (peer: PeerId, what: 'ad' | LifeState) => void
type LifeHearer = (peer: PeerId, what: LifeState) => void

/** What this peer believes of the mesh, and what it tells the mesh of itself. */
export class Capacity implements MeshView {
  readonly self: PeerId
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'journal' | 'telemetry'>
  readonly #random: Random
  readonly #config: CapacityConfig
  readonly #view = new AdView()
  readonly #liveness: Liveness
  readonly #advertiser: Advertiser
  readonly #hearers = new Set<Hearer>()
  readonly #lifeHearers = new Set<LifeHearer>()
  readonly #exchange: AdExchange
  readonly #newcomer: Newcomer
  readonly #unproved = new Lru<PeerId, Signed>(256)
  readonly #stops: (() => void)[] = []
  #caughtUp = false
  #met = false
  #startedAt = 0
  #stopped = false
  #ads: readonly CapacityAd[] | undefined

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'machine' | 'telemetry'>, config: CapacityConfig) {
    this.#ports = ports
    this.#random = ports.random.fork('capacity')
    this.#config = config
    this.self = ports.identity.peer
    this.#advertiser = new Advertiser(ports, { ...config.advertiser, cluster: config.advertiser.cluster === '' ? this.self : config.advertiser.cluster }, {
      meshSize: () => this.#view.size,
      ready: () => this.#caughtUp,
      onWhole: (ad, envelope) => {
        this.#view.hear(ad, envelope, this.#ports.clock.monotonic())
        this.#changed(this.self, 'ad')
      },
      onDelta: (delta, envelope) => {
        this.#view.apply(delta, envelope, this.#ports.clock.monotonic())
        this.#changed(this.self, 'ad')
      },
    })
    this.#liveness = new Liveness(ports, config.liveness, {
      isMember: config.isMember,
      own: () => this.#advertiser.version(),
      refute: incarnation => this.#background(this.#refute(incarnation)),
      onProbed: (peer, incarnation, sequence) => {
        this.#exchange.missing(peer, { incarnation, sequence })
      },
      onState: (peer, state, before) => this.#moved(peer, state, before),
    })
    this.#newcomer = new Newcomer(ports.clock, () => ports.network.peers().length)
    this.#exchange = new AdExchange(ports, this.#random, config.exchange, {
      view: this.#view,
      live: () => this.live(),
      isLive: peer => this.#isLive(peer),
      hear: envelope => this.#hear(envelope),
      // In a large mesh the first that answers may have just started too: who hears of nobody new has caught up.
      onAnswered: (peer, knows, news) => {
        this.#newcomer.told(peer, knows, this.#view.size + this.#unproved.size)
        this.#background(!news || this.#view.size <= SMALL_MESH ? this.#catchUp() : this.#advertiser.tell())
      },
      isNew: () => this.#newcomer.growing,
    })
  }

  /** Probes the machine, makes the first ad, and pulls those of others. Resolves when others can ask for the first ad. */
  async start(sources: AdSources): Promise<void> {
    const { network, journal, clock } = this.#ports
    this.#exchange.listen()
    this.#stops.push(network.subscribe(capacityTopic, envelope => this.#hear(envelope)))
    this.#startedAt = clock.monotonic()
    this.#newcomer.start()
    this.#met = (await journal.get(MET)) !== undefined
    await this.#advertiser.start(sources)
    this.#liveness.start()
    this.#stops.push(network.onPeer((peer, event) => {
      if (event === 'joined') this.#joined(peer)
    }))
    for (const peer of network.peers()) this.#joined(peer)
    // Alone, or among others who are as new: at last it counts as caught up.
    this.#stops.push(clock.after(this.#config.lonelyMs, () => this.#background(this.#catchUp())))
    if (!this.#met) this.#stops.push(clock.after(this.#config.firstMs, () => network.peers().length > 0 || this.#background(this.#catchUp())))
    this.#exchange.start()
    this.#expire()
  }

  /** Says goodbye. */
  async stop(): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    this.#advertiser.stop()
    this.#exchange.stop()
    this.#newcomer.stop()
    for (const stop of this.#stops) stop()
    await this.#liveness.stop()
  }

  /** Something that the own ad tells has changed: instances, contracts, free resources. */
  changed(): void {
    this.#advertiser.changed()
  }

  /** What others say of peers has changed: their ads may count differently. */
  reviewed(): void {
    this.#ads = undefined
  }

  /** The machine was measured after the first ad: the next one tells its speed. */
  measured(): Promise<void> {
    return this.#advertiser.measured()
  }

  /** A peer has proved its membership: what it said of itself counts from now on. */
  proved(peer: PeerId): void {
    const envelope = this.#unproved.peek(peer)
    if (envelope === undefined || !this.#config.isMember(peer)) return
    this.#unproved.delete(peer)
    hearOne(other => this.#hear(other), envelope)
  }

  /** Has the peer heard what others know since it started? */
  get caughtUp(): boolean {
    return this.#caughtUp
  }

  /** Resolves once this peer, which has just started, takes what it sees for the mesh. */
  settled(): Promise<void> {
    return this.#newcomer.settled()
  }

  /** Resolves once this peer, which has just started, knows most of the mesh. */
  knowsMost(): Promise<void> {
    return this.#newcomer.knowsMost()
  }

  ads(): readonly CapacityAd[] {
    if (this.#ads !== undefined) return this.#ads
    const ads: CapacityAd[] = []
    for (const peer of this.live()) {
      const ad = this.#view.ad(peer)
      if (ad !== undefined) ads.push(this.#config.resolve(ad))
    }
    this.#ads = ads
    return ads
  }

  ad(peer: PeerId): CapacityAd | undefined {
    const ad = this.#isLive(peer) ? this.#view.ad(peer) : undefined
    return ad === undefined ? undefined : this.#config.resolve(ad)
  }

  live(): readonly PeerId[] {
    return this.#liveness.living()
  }

  state(peer: PeerId): LifeState | 'unknown' {
    return this.#liveness.state(peer)
  }

  instancesOf(block: BlockId): readonly { readonly host: PeerId; readonly ad: InstanceAd }[] {
    return [...this.#view.hostsOf(block)]
      .filter(([host]) => this.#isLive(host))
      .flatMap(([host, instances]) => instances.map(ad => ({ host, ad })))
      .sort((a, b) => (a.host === b.host ? (a.ad.instance < b.ad.instance ? -1 : 1) : a.host < b.host ? -1 : 1))
  }

  onChange(hear: Hearer): () => void {
    this.#hearers.add(hear)
    return () => this.#hearers.delete(hear)
  }

  onLife(hear: LifeHearer): () => void {
    this.#lifeHearers.add(hear)
    return () => this.#lifeHearers.delete(hear)
  }

  #isLive(peer: PeerId): boolean {
    const state = this.#liveness.state(peer)
    return state === 'alive' || state === 'suspect'
  }

  #joined(peer: PeerId): void {
    if (!this.#met) {
      this.#met = true
      this.#background(this.#ports.journal.set(MET, Uint8Array.of(1)))
    }
    // Just started and counted itself alone too early: back to catching up.
    if (!this.#exchange.answered && this.#caughtUp && this.#ports.clock.monotonic() - this.#startedAt < this.#config.lonelyMs) {
      this.#caughtUp = false
      this.#background(this.#advertiser.whole())
    }
    this.#exchange.joined(peer)
  }

  async #catchUp(): Promise<void> {
    if (this.#caughtUp || this.#stopped) return
    this.#caughtUp = true
    await this.#advertiser.whole()
  }

  #hear(envelope: Signed): void {
    const { identity, clock, telemetry } = this.#ports
    if (this.#stopped || envelope.signer === this.self) return
    if (!this.#config.isMember(envelope.signer)) {
      // Gossip may bring an ad before the proof that its peer is a member: looked at again when that has arrived.
      if (envelope.domain === 'capacity' && envelope.payload.byteLength <= UNPROVED_BYTES) this.#unproved.set(envelope.signer, envelope)
      return
    }
    if (this.#view.holds(envelope)) return
    const now = clock.monotonic()
    if (envelope.domain === 'capacity-delta') {
      const { value, signer } = unseal(identity, 'capacity-delta', capacityDelta, envelope, AD_BYTES)
      const verdict = checkDelta(value, signer, clock.unix(), this.#config.limits, this.#view.ad(signer)?.total)
      if (!verdict.ok) throw refusedAd(telemetry, signer, verdict.because)
      const change = this.#view.apply(value, shared(envelope), now)
      if (change === 'base-missing') this.#exchange.missing(signer, value)
      if (change !== 'stale') this.#liveness.heardFrom(signer, value.incarnation)
      if (change === 'newer') this.#changed(signer, 'ad')
      return
    }
    const { value, signer } = unseal(identity, 'capacity', capacityAd, envelope, AD_BYTES)
    const verdict = checkAd(value, signer, clock.unix(), this.#config.limits)
    if (!verdict.ok) throw refusedAd(telemetry, signer, verdict.because)
    if (this.#view.hear(value, shared(envelope), now) === 'stale') return
    this.#liveness.heardFrom(signer, value.incarnation)
    this.#changed(signer, 'ad')
  }

  #moved(peer: PeerId, state: LifeState, before: LifeState | 'unknown'): void {
    if (state === 'alive' && before === 'dead') this.#exchange.cameBack()
    if (state === 'dead' || state === 'left') this.#view.forget(peer)
    else if (state === 'alive') this.#exchange.missing(peer)
    this.#changed(peer, state)
  }

  async #refute(incarnation: number): Promise<void> {
    if (this.#stopped) return
    await this.#advertiser.refute(incarnation)
  }

  #expire(): void {
    this.#ports.clock.after(this.#config.expireEveryMs, () => {
      if (this.#stopped) return
      for (const peer of this.#view.expire(this.#ports.clock.monotonic(), this.self, this.#advertiser.ttlMs())) {
        this.#liveness.expired(peer)
        this.#changed(peer, 'dead')
      }
      // A peer may have proved itself before its ad came into the list.
      const unproved = [...this.#unproved]
      for (const [peer] of unproved) this.proved(peer)
      this.#expire()
    })
  }

  #changed(peer: PeerId, what: Parameters<Hearer>[1]): void {
    this.#ads = undefined
    this.#newcomer.knows(this.#view.size)
    for (const hear of this.#hearers) hear(peer, what)
    if (what !== 'ad') for (const hear of this.#lifeHearers) hear(peer, what)
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'capacity.failed', work)
  }
}

function refusedAd(telemetry: Ports['telemetry'], signer: PeerId, because: string): MeshError {
  telemetry.count('ads_refused_total')
  return new MeshError('MESSAGE_INVALID', `the ad of ${signer} was refused: ${because}`)
}
