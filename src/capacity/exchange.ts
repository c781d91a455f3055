import { capacityPull } from '../../protocols/capacity.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { AskBack } from '../lib/ask-back.ts'
import { background } from '../lib/background.ts'
import { hedge } from '../lib/hedge.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import { Marks } from './marks.ts'
import { isNewer, type AdView, type Version } from './view.ts'

export type ExchangeConfig = {
  readonly pullDeadlineMs: Millis
  /** Least time between two pulls from one peer. */
  readonly pullEveryMs: Millis
  readonly pullsAtOnce: number
  /** Between two comparisons of everything held with one peer: soon while that makes peers known, and after an outage. */
  readonly compareMs: readonly [soon: Millis, calm: Millis]
}

export type ExchangeParts = {
  readonly view: AdView
  /** Alive and suspect peers, sorted. */
  readonly live: () => readonly PeerId[]
  readonly isLive: (peer: PeerId) => boolean
  /** Takes one envelope; throws a MeshError when it is not good. */
  readonly hear: (envelope: Signed) => void
  /** Somebody, who knows so many peers, told all it holds; `news`: that made peers known. */
  readonly onAnswered: (peer: PeerId, knows: number, news: boolean) => void
  /** Does this peer, which has just started, know only a part of the mesh? Then others are asked sooner. */
  readonly isNew: () => boolean
}

/** Peers asked for everything at once, until one has answered. */
const WHOLE_PULLS = 2
/** Who has not answered by then may be gone: another is asked. */
const ANOTHER = { againMs: 1_000, times: 2 }
/** Part of the usual time after which a newcomer asks the next one. */
const NEW = 0.5
/** So many that come back make it the end of an outage, of which some words will be missed. */
const CAME_BACK = 4
/** Up to this size asking at once costs nobody much. */
export const SMALL_MESH = 16
/** How long gossip may take before it counts as lost. */
const GOSSIP_MS = 500
const MISSING_BOUND = 4_096
/** Versions an asker names as held; the ads of a larger mesh come in parts anyway. */
const VERSIONS_A_PULL = 4_096
const ADS_A_PULL = 256
/** Peers named in one pull: each may have a delta besides its ad. */
const NAMED_A_PULL = 120
const PULL_BYTES = 6 * 1_048_576

/** Asks others for the ads that gossip did not bring, and answers those who ask. */
export class AdExchange {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #config: ExchangeConfig
  readonly #parts: ExchangeParts
  readonly #pulls = new Set<PeerId>()
  readonly #missing = new Map<PeerId, Version>()
  readonly #pulledAt = new Lru<PeerId, Millis>(4_096)
  #wholePulls = 0
  #asked: PeerId | undefined
  #cameBack = 0
  #compareWaitMs = 0
  #cancelCompare = (): void => undefined
  readonly #askBack: AskBack
  #answered = false
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>, random: Random, config: ExchangeConfig, parts: ExchangeParts) {
    this.#ports = ports
    this.#random = random
    this.#config = config
    this.#parts = parts
    this.#askBack = new AskBack(ports.clock, random, peer => {
      if (!this.#stopped && !this.#pulls.has(peer)) this.#background(this.#pullAll(peer))
    })
  }

  /** Has anybody told all it holds yet? */
  get answered(): boolean {
    return this.#answered
  }

  /** Answers those who ask. */
  listen(): void {
    this.#ports.network.handle(capacityPull, async ({ of, held }, from) => ({ ads: this.#passOn(of, held, from), knows: this.#parts.view.size }))
  }

  start(): void {
    this.#compareIn(this.#soon())
  }

  stop(): void {
    this.#stopped = true
    this.#cancelCompare()
  }

  /** The first peers are asked for everything; later ones only for what they say of themselves. */
  joined(peer: PeerId): void {
    if (this.#answered) this.missing(peer)
    else if (this.#wholePulls < WHOLE_PULLS) this.#background(this.#pullAll(peer))
  }

  /** One given up lives. Many at once are the end of an outage: then it is time to compare. */
  cameBack(): void {
    this.#cameBack += 1
    if (this.#cameBack === CAME_BACK) this.#compareIn(this.#config.compareMs[0])
  }

  /** What a peer says of itself is usually on its way by gossip: only what has not come after a moment is asked for. */
  missing(peer: PeerId, version: Version = { incarnation: 0, sequence: 0 }): void {
    const { view } = this.#parts
    if (!isNewer(version, view.ad(peer)) || this.#missing.size >= MISSING_BOUND || this.#missing.has(peer)) return
    // A peer that is not connected costs a connection first: those who know it say it for less.
    if (view.size <= SMALL_MESH && this.#ports.network.peers().includes(peer)) {
      this.#pullOne(peer)
      return
    }
    this.#missing.set(peer, version)
    if (this.#missing.size === 1) this.#ports.clock.after(GOSSIP_MS + this.#random.below(GOSSIP_MS), () => this.#background(this.#pullThem()))
  }

  async #pullAll(peer: PeerId): Promise<void> {
    const known = this.#parts.view.size
    this.#wholePulls += 1
    let knows = 0
    try {
      knows = await this.#pull(peer, {})
    } finally {
      this.#wholePulls -= 1
    }
    this.#answered = true
    const news = this.#parts.view.size > known
    if (news && !this.#stopped) this.#compareIn(this.#soon())
    this.#parts.onAnswered(peer, knows, news)
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
    const [, calm] = this.#config.compareMs
    const known = this.#parts.view.size
    this.#cameBack = 0
    let answered = false
    try {
      if (peers.length > 0 && (!this.#answered || known <= VERSIONS_A_PULL)) await hedge(this.#ports.clock, ANOTHER, () => this.#pullAll(this.#another(peers)))
      answered = peers.length > 0
    } finally {
      const news = !answered || this.#parts.view.size > known || this.#cameBack >= CAME_BACK
      if (!this.#stopped) this.#compareIn(news || this.#parts.isNew() ? this.#soon() : Math.min(calm, this.#compareWaitMs * 2))
    }
  }

  /** Not the same twice: it would say the same. */
  #another(peers: readonly PeerId[]): PeerId {
    const others = peers.filter(peer => peer !== this.#asked)
    this.#asked = this.#random.pick(others.length === 0 ? peers : others)
    return this.#asked
  }

  #soon(): Millis {
    const [soon] = this.#config.compareMs
    return this.#parts.isNew() ? soon * NEW : soon
  }

  /** One is asked itself where that needs no new connection. Of several, somebody who is connected tells what it knows. */
  async #pullThem(): Promise<void> {
    const { view, isLive } = this.#parts
    const connected = this.#ports.network.peers()
    const asked = [...this.#missing].slice(0, NAMED_A_PULL)
    const stillMissing = (): PeerId[] => asked.filter(([peer, version]) => isLive(peer) && isNewer(version, view.ad(peer))).map(([peer]) => peer)
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

  /** Resolves with how many peers it knows, as it says. */
  async #pull(peer: PeerId, request: { of?: PeerId[] }): Promise<number> {
    const { clock, network } = this.#ports
    const { view, hear } = this.#parts
    this.#pulls.add(peer)
    this.#pulledAt.set(peer, clock.monotonic())
    try {
      const held = request.of === undefined && view.size > 1 ? { held: view.marks(VERSIONS_A_PULL) } : {}
      const { ads, knows } = await network.request(peer, capacityPull, { ...request, ...held }, this.#config.pullDeadlineMs)
      for (const envelope of ads) hearOne(hear, envelope)
      return knows ?? 0
    } finally {
      this.#pulls.delete(peer)
    }
  }

  #passOn(of: readonly PeerId[] | undefined, held: Uint8Array | undefined, from: PeerId): Signed[] {
    const { view, live, isLive } = this.#parts
    const { peer: self } = this.#ports.identity
    const asker = held === undefined ? undefined : new Marks(held)
    const others = (): readonly PeerId[] => {
      if (asker === undefined) return live().filter(peer => peer !== self)
      const { lacking, unknown } = view.compared(asker)
      if (unknown > lacking.length && !this.#stopped) this.#askBack.soon(from)
      return lacking.filter(peer => peer !== self)
    }
    const wanted = of ?? [...(asker?.has(view.mark(self)) === true ? [] : [self]), ...others()]
    const ads: Signed[] = []
    let bytes = 0
    // In a mesh larger than one answer, each asker gets another part of it after our own.
    const start = of === undefined && wanted.length > ADS_A_PULL / 2 ? this.#random.below(wanted.length - 1) : 0
    for (let at = 0; at < wanted.length && ads.length < ADS_A_PULL - 1 && bytes < PULL_BYTES; at += 1) {
      const peer = at === 0 ? wanted[0]! : wanted[1 + ((start + at - 1) % (wanted.length - 1))]!
      if (!isLive(peer)) continue
      for (const envelope of view.envelopes(peer, asker)) {
        ads.push(envelope)
        bytes += envelope.payload.byteLength
      }
    }
    return ads
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'capacity.failed', work)
  }
}

/** One bad ad in a bundle must not hide the others. */
export function hearOne(hear: (envelope: Signed) => void, envelope: Signed): void {
  try {
    hear(envelope)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
  }
}
