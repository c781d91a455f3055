import { capacityAd, capacityDelta, capacityPull, capacityTopic, type CapacityAd, type InstanceAd } from '../../protocols/capacity.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { background } from '../lib/background.ts'
import { hedge } from '../lib/hedge.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { unseal } from '../trust/seal.ts'
import { checkAd, checkDelta, type AdLimits } from './ad.ts'
import { Advertiser, type AdSources, type AdvertiserConfig } from './advertiser.ts'
import type { LifeState } from './beliefs.ts'
import { Liveness, LIVENESS, type LivenessConfig } from './liveness.ts'
import { AdView, isNewer, readMarks, type Version } from './view.ts'

export type CapacityConfig = {
  readonly advertiser: AdvertiserConfig
  readonly liveness: LivenessConfig
  readonly limits: AdLimits
  /** Has this peer proved its membership? */
  readonly isMember: (peer: PeerId) => boolean
  readonly expireEveryMs: Millis
  readonly pullDeadlineMs: Millis
  /** Least time between two pulls from one peer. */
  readonly pullEveryMs: Millis
  readonly pullsAtOnce: number
  /** Between two comparisons of everything held with one peer: soon while that makes peers known, and after an outage. */
  readonly compareMs: readonly [soon: Millis, calm: Millis]
  /** How long a peer that has met others before waits for one of them before it counts itself alone. */
  readonly lonelyMs: Millis
  /** The same for one that never met anybody. */
  readonly firstMs: Millis
}

export const CAPACITY: CapacityConfig = {
  advertiser: { cluster: '', labels: {}, protocolMajor: 1, http: undefined, ttlMs: 30_000, ttlMostMs: 600_000, smallMesh: 50, coalesceMs: 250, deltaEveryMs: 500, pollMs: 1_000 },
  liveness: LIVENESS,
  limits: { skewMs: 60_000, ttlMs: [1_000, 900_000] },
  isMember: () => true,
  expireEveryMs: 1_000,
  pullDeadlineMs: 3_000,
  pullEveryMs: 500,
  pullsAtOnce: 16,
  compareMs: [500, 4_000],
  lonelyMs: 5_000,
  firstMs: 300,
}

const MET = 'capacity/met'
/** Peers asked for everything at once, until one has answered. */
const WHOLE_PULLS = 2
/** Who has not answered by then may be gone: another is asked. */
const ANOTHER = { againMs: 1_000, times: 2 }
/** So many that come back make it the end of an outage, of which some words will be missed. */
const CAME_BACK = 4
/** Up to this size asking at once costs nobody much. */
const SMALL_MESH = 16
/** How long gossip may take before it counts as lost. */
const GOSSIP_MS = 500
const MISSING_BOUND = 4_096
/** Versions an asker names as held; the ads of a larger mesh come in parts anyway. */
const VERSIONS_A_PULL = 4_096
const ADS_A_PULL = 256
/** Peers named in one pull: each may have a delta besides its ad. */
const NAMED_A_PULL = 120
const PULL_BYTES = 6 * 1_048_576
const UNPROVED_BYTES = 16_384
const AD_BYTES = capacityTopic.limits.messageBytes

type Hearer = (peer: PeerId, what: 'ad' | 'alive' | 'suspect' | 'dead' | 'left') => void

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
  readonly #pulls = new Set<PeerId>()
  readonly #missing = new Map<PeerId, Version>()
  readonly #pulledAt = new Lru<PeerId, Millis>(4_096)
  readonly #unproved = new Lru<PeerId, Signed>(256)
  readonly #stops: (() => void)[] = []
  #caughtUp = false
  #met = false
  #pulled = false
  #wholePulls = 0
  #startedAt = 0
  #cameBack = 0
  #compareWaitMs = 0
  #cancelCompare = (): void => undefined
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
        this.#pullMissing(peer, { incarnation, sequence })
      },
      onState: (peer, state, before) => this.#moved(peer, state, before),
    })
  }

  /** Probes the machine, says the first ad, and pulls those of others. Resolves when the first ad is out. */
  async start(sources: AdSources): Promise<void> {
    const { network, journal, clock } = this.#ports
    network.handle(capacityPull, async ({ of, held }) => ({ ads: this.#passOn(of, held) }))
    this.#stops.push(network.subscribe(capacityTopic, envelope => this.#hear(envelope)))
    this.#startedAt = clock.monotonic()
    this.#met = (await journal.get(MET)) !== undefined
    await this.#advertiser.start(sources)
    this.#liveness.start()
    this.#stops.push(network.onPeer((peer, event) => {
      if (event === 'joined') this.#joined(peer)
    }))
    for (const peer of network.peers()) this.#joined(peer)
    this.#stops.push(clock.after(this.#met ? this.#config.lonelyMs : this.#config.firstMs, () => this.#background(this.#catchUp())))
    this.#compareIn(this.#config.compareMs[0])
    this.#expire()
  }

  /** Says goodbye. */
  async stop(): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    this.#advertiser.stop()
    this.#cancelCompare()
    for (const stop of this.#stops) stop()
    await this.#liveness.stop()
  }

  /** Something that the own ad tells has changed: instances, contracts, free resources. */
  changed(): void {
    this.#advertiser.changed()
  }

  /** The machine was measured after the first ad: the next one tells its speed. */
  measured(): Promise<void> {
    return this.#advertiser.measured()
  }

  /** Has the peer heard what others know since it started? */
  get caughtUp(): boolean {
    return this.#caughtUp
  }

  ads(): readonly CapacityAd[] {
    this.#ads ??= this.live().flatMap(peer => this.#view.ad(peer) ?? [])
    return this.#ads
  }

  ad(peer: PeerId): CapacityAd | undefined {
    return this.#isLive(peer) ? this.#view.ad(peer) : undefined
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
    if (!this.#pulled && this.#caughtUp && this.#ports.clock.monotonic() - this.#startedAt < this.#config.lonelyMs) {
      this.#caughtUp = false
      this.#background(this.#advertiser.whole())
    }
    // The first peers are asked for everything; later ones only for what they say of themselves.
    if (!this.#pulled) {
      if (this.#wholePulls < WHOLE_PULLS) this.#background(this.#pullAll(peer))
    } else this.#pullMissing(peer)
  }

  async #pullAll(peer: PeerId): Promise<void> {
    this.#wholePulls += 1
    try {
      await this.#pull(peer, {})
    } finally {
      this.#wholePulls -= 1
    }
    this.#pulled = true
    await this.#catchUp()
  }

  /** Gossip loses words, and peers that start together do not know each other at first: now and then somebody is asked what it holds that we do not. */
  #compareIn(waitMs: Millis): void {
    const { clock } = this.#ports
    this.#cancelCompare()
    this.#compareWaitMs = waitMs
    this.#cancelCompare = clock.after(Math.round(waitMs * (0.75 + this.#random.float() / 2)), () => this.#background(this.#compare()))
  }

  async #compare(): Promise<void> {
    const peers = this.#ports.network.peers()
    const [soon, calm] = this.#config.compareMs
    const known = this.#view.size
    this.#cameBack = 0
    let answered = false
    try {
      if (peers.length > 0 && (!this.#pulled || known <= VERSIONS_A_PULL)) await hedge(this.#ports.clock, ANOTHER, () => this.#pullAll(this.#random.pick(peers)))
      answered = peers.length > 0
    } finally {
      const news = !answered || this.#view.size > known || this.#cameBack >= CAME_BACK
      if (!this.#stopped) this.#compareIn(news ? soon : Math.min(calm, this.#compareWaitMs * 2))
    }
  }

  async #catchUp(): Promise<void> {
    if (this.#caughtUp || this.#stopped) return
    this.#caughtUp = true
    await this.#advertiser.whole()
  }

  /** What a peer says of itself is usually on its way by gossip: only what has not come after a moment is asked for. */
  #pullMissing(peer: PeerId, version: Version = { incarnation: 0, sequence: 0 }): void {
    if (!isNewer(version, this.#view.ad(peer)) || this.#missing.size >= MISSING_BOUND || this.#missing.has(peer)) return
    if (this.#view.size <= SMALL_MESH) {
      this.#pullOne(peer)
      return
    }
    this.#missing.set(peer, version)
    if (this.#missing.size === 1) this.#ports.clock.after(GOSSIP_MS + this.#random.below(GOSSIP_MS), () => this.#background(this.#pullThem()))
  }

  /** One is asked itself where that needs no new connection. Of several, somebody who is connected tells what it knows. */
  async #pullThem(): Promise<void> {
    const connected = this.#ports.network.peers()
    const stillMissing = (): PeerId[] => asked.filter(([peer, version]) => this.#isLive(peer) && isNewer(version, this.#view.ad(peer))).map(([peer]) => peer)
    const asked = [...this.#missing].slice(0, NAMED_A_PULL)
    this.#missing.clear()
    const them = stillMissing()
    if (this.#stopped || them.length === 0 || connected.length === 0) return
    if (them.length > 1 || !connected.includes(them[0]!)) await this.#pull(this.#random.pick(connected), { of: them })
    for (const peer of stillMissing()) if (connected.includes(peer)) this.#pullOne(peer)
  }

  #pullOne(peer: PeerId): void {
    const now = this.#ports.clock.monotonic()
    if (this.#pulls.has(peer) || this.#pulls.size >= this.#config.pullsAtOnce || now - (this.#pulledAt.peek(peer) ?? -Infinity) < this.#config.pullEveryMs) return
    this.#background(this.#pull(peer, { of: [peer] }))
  }

  async #pull(peer: PeerId, request: { of?: PeerId[] }): Promise<void> {
    this.#pulls.add(peer)
    this.#pulledAt.set(peer, this.#ports.clock.monotonic())
    try {
      const held = request.of === undefined && this.#view.size > 1 ? { held: this.#view.marks(VERSIONS_A_PULL) } : {}
      const { ads } = await this.#ports.network.request(peer, capacityPull, { ...request, ...held }, this.#ports.clock.deadline(this.#config.pullDeadlineMs))
      this.#hearAll(ads)
    } finally {
      this.#pulls.delete(peer)
    }
  }

  /** One bad ad in a bundle must not hide the others. */
  #hearAll(envelopes: readonly Signed[]): void {
    for (const envelope of envelopes) {
      try {
        this.#hear(envelope)
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
      }
    }
  }

  #passOn(of: readonly PeerId[] | undefined, held: Uint8Array | undefined): Signed[] {
    const asker = held === undefined ? undefined : readMarks(held)
    const lacks = (peer: PeerId): boolean => !(asker?.has(this.#view.mark(peer)) ?? false)
    const wanted = of ?? [...(lacks(this.self) ? [this.self] : []), ...this.live().filter(peer => peer !== this.self && lacks(peer))]
    const ads: Signed[] = []
    let bytes = 0
    // In a mesh larger than one answer, each asker gets another part of it after our own.
    const from = of === undefined && wanted.length > ADS_A_PULL / 2 ? this.#random.below(wanted.length - 1) : 0
    for (let at = 0; at < wanted.length && ads.length < ADS_A_PULL - 1 && bytes < PULL_BYTES; at += 1) {
      const peer = at === 0 ? wanted[0]! : wanted[1 + ((from + at - 1) % (wanted.length - 1))]!
      if (!this.#isLive(peer)) continue
      for (const envelope of this.#view.envelopes(peer)) {
        ads.push(envelope)
        bytes += envelope.payload.byteLength
      }
    }
    return ads
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
      const change = this.#view.apply(value, envelope, now)
      if (change === 'base-missing') this.#pullMissing(signer, value)
      if (change !== 'stale') this.#liveness.heardFrom(signer, value.incarnation)
      if (change === 'newer') this.#changed(signer, 'ad')
      return
    }
    const { value, signer } = unseal(identity, 'capacity', capacityAd, envelope, AD_BYTES)
    const verdict = checkAd(value, signer, clock.unix(), this.#config.limits)
    if (!verdict.ok) throw refusedAd(telemetry, signer, verdict.because)
    if (this.#view.hear(value, envelope, now) === 'stale') return
    this.#liveness.heardFrom(signer, value.incarnation)
    this.#changed(signer, 'ad')
  }

  #moved(peer: PeerId, state: LifeState, before: LifeState | 'unknown'): void {
    if (state === 'alive' && before === 'dead') {
      this.#cameBack += 1
      if (this.#cameBack === CAME_BACK) this.#compareIn(this.#config.compareMs[0])
    }
    if (state === 'dead' || state === 'left') this.#view.forget(peer)
    else if (state === 'alive') this.#pullMissing(peer)
    this.#changed(peer, state)
  }

  async #refute(incarnation: number): Promise<void> {
    if (this.#stopped) return
    await this.#advertiser.refute(incarnation)
  }

  #expire(): void {
    this.#ports.clock.after(this.#config.expireEveryMs, () => {
      if (this.#stopped) return
      for (const peer of this.#view.expire(this.#ports.clock.monotonic(), this.self)) {
        this.#liveness.expired(peer)
        this.#changed(peer, 'dead')
      }
      const unproved = [...this.#unproved]
      for (const [peer, envelope] of unproved) {
        if (!this.#config.isMember(peer)) continue
        this.#unproved.delete(peer)
        this.#hearAll([envelope])
      }
      this.#expire()
    })
  }

  #changed(peer: PeerId, what: Parameters<Hearer>[1]): void {
    this.#ads = undefined
    for (const hear of this.#hearers) hear(peer, what)
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'capacity.failed', work)
  }
}

function refusedAd(telemetry: Ports['telemetry'], signer: PeerId, because: string): MeshError {
  telemetry.count('ads_refused_total')
  return new MeshError('MESSAGE_INVALID', `the ad of ${signer} was refused: ${because}`)
}
