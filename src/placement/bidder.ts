import { z } from 'zod'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { encode, hex } from '../../protocols/codec.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import { askForBid, award, awardBody, lease, leaseBody, type Ask } from '../../protocols/placement.ts'
import type { Needs } from '../../protocols/resources.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import { sameBytes } from '../lib/same-bytes.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import { seal, unseal } from '../trust/seal.ts'
import { aiosFilter, nodeDocument, type ClusterFilter } from './cluster-document.ts'
import type { Hosting } from './hosting.ts'
import { fits } from './ledger.ts'
import { permitted, type Governance } from './permission.ts'
import { couldRun, score, suits } from './rank.ts'
import { termsOf } from './terms.ts'

export type BidderConfig = {
  readonly holdMs: readonly [least: Millis, most: Millis]
  /** Reservations one steward may have open here. */
  readonly holdsOfOne: number
  readonly skewMs: Millis
  readonly askBytes: number
  /** What an instance takes to start, for the bid. */
  readonly readyInMs: { readonly warm: Millis; readonly cold: Millis }
  /** Is this peer one whose awards and leases are obeyed? */
  readonly maySteward: (peer: PeerId) => Verdict<true>
  /** Residency is the host's own business, too: it serves no block whose filter leaves its cluster out. */
  readonly filter: ClusterFilter
}

export const BIDDER: BidderConfig = {
  holdMs: [500, 30_000], holdsOfOne: 64, skewMs: 60_000, askBytes: 131_072, readyInMs: { warm: 1_000, cold: 10_000 }, maySteward: () => granted(true), filter: aiosFilter,
}

type Held = { readonly ask: string; readonly steward: PeerId; readonly block: Uint8Array; readonly action: Ask['action']; readonly needs: Needs; readonly gpus: readonly string[]; readonly until: Millis }
type Answer = { readonly bid: Signed } | { readonly refusal: { ask: string; because: string; retryable: boolean } }

const node = z.looseObject({ node_id: z.string().optional(), gpus: z.array(z.union([z.string(), z.number()]).transform(String)).max(64).optional() })
const dryRunAnswer = z.looseObject({ selection_score_data: z.looseObject({ score: z.number(), node_info: node.optional() }) })
const HELD_BOUND = 512

/** The host's side of placement: answers asks with signed bids that hold resources, and awards with contracts. */
export class Bidder {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #hosting: Hosting
  readonly #view: MeshView
  readonly #policies: PolicyCalls
  readonly #metrics: Pick<MetricsSource, 'known'>
  readonly #governance: Governance
  readonly #config: BidderConfig
  /** Open reservations by their key; the ledger decides whether they still stand. */
  readonly #held = new Lru<string, Held>(HELD_BOUND)
  /** Answers to asks in flight or just given: an ask that arrives twice is one ask. */
  readonly #answers = new Lru<string, Promise<Answer>>(HELD_BOUND)

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'telemetry'>, roles: { readonly hosting: Hosting; readonly view: MeshView; readonly policies: PolicyCalls; readonly metrics: Pick<MetricsSource, 'known'>; readonly governance: Governance }, config: BidderConfig) {
    this.#ports = ports
    this.#random = ports.random.fork('bidder')
    this.#hosting = roles.hosting
    this.#view = roles.view
    this.#policies = roles.policies
    this.#metrics = roles.metrics
    this.#governance = roles.governance
    this.#config = config
  }

  start(): void {
    const { network } = this.#ports
    network.handle(askForBid, (ask, from) => this.ask(ask, from))
    network.handle(award, (envelope, from) => this.award(envelope, from))
    network.handle(lease, (envelope, from) => this.lease(envelope, from))
  }

  /** "Could you?": a signed bid, or why not. */
  ask(ask: Ask, from: PeerId): Promise<Answer> {
    const key = `${from} ${ask.id}`
    const known = this.#answers.get(key)
    if (known !== undefined) return known
    const answering = this.#bid(ask, from).then(verdict => {
      if (verdict.ok) return { bid: verdict.value }
      // A refusal is asked about anew next time; only bids are remembered, for they hold something.
      this.#answers.delete(key)
      this.#ports.telemetry.count('asks_refused_total')
      return { refusal: { ask: ask.id, because: verdict.because.slice(0, 300), retryable: verdict.retryable } }
    })
    answering.catch(() => this.#answers.delete(key))
    this.#answers.set(key, answering)
    return answering
  }

  async #bid(ask: Ask, from: PeerId): Promise<Verdict<Signed>> {
    const { clock, identity } = this.#ports
    const { block } = ask
    if (ask.steward !== from) return refused(`${from} asked in the name of ${ask.steward}`)
    const authority = this.#config.maySteward(from)
    if (!authority.ok) return authority
    const highest = this.#hosting.highestEpoch(block.blockId)
    if (ask.epoch < highest && !ask.dryRun) return refused(`epoch ${ask.epoch} of block ${block.blockId} is over: ${highest} has begun`)
    if (!same(ask.needs, block.needs)) return refused('the needs of the ask are not those of the block')
    const self = this.#self()
    if (self === undefined) return refused('this host is still starting', true)
    const willing = this.#governance.bids()
    if (!willing.ok) return willing
    // Whoever replaces a dead instance asks a host that drains only when there is no other.
    const able = ask.action === 'reassignment' ? couldRun(block, self) : suits(block, self)
    if (!able.ok) return able
    if (!ask.dryRun && this.#openHolds(from) >= this.#config.holdsOfOne) return refused(`${from} holds ${this.#config.holdsOfOne} reservations here already`, true)
    const allowed = await this.#permitted(block, ask.action)
    if (!allowed.ok) return allowed
    const named = this.#theirGpus({ gpus: ask.gpus }, ask.needs, self)
    if (!named.ok) return named
    const offer = await this.#opinion({ ...ask, block: allowed.value }, self)
    if (!offer.ok) return offer
    const { rating, because } = offer.value
    const gpus = named.value ?? offer.value.gpus
    const needs: Needs = gpus === undefined ? block.needs : { ...block.needs, gpus: gpus.length }
    const [least, most] = this.#config.holdMs
    const holdMs = Math.max(least, Math.min(most, ask.holdMs))
    const key = `h-${hex(this.#random.bytes(10))}`
    const reserved = ask.dryRun ? wouldFit(needs, this.#hosting.free(), gpus) : this.#hosting.reserve(key, needs, holdMs, gpus)
    if (!reserved.ok) return reserved
    if (!ask.dryRun) this.#held.set(key, { ask: ask.id, steward: from, block: encode(block), action: ask.action, needs, gpus: reserved.value, until: clock.monotonic() + holdMs })
    const readyInMs = self.holds.includes(block.component) ? this.#config.readyInMs.warm : this.#config.readyInMs.cold
    return granted(seal(identity, 'bid', { ask: ask.id, host: identity.peer, hold: key, score: rating, gpus: reserved.value, holdMs: ask.dryRun ? 0 : holdMs, readyInMs, because: because.slice(0, 300) }))
  }

  async award(envelope: Signed, from: PeerId): Promise<{ readonly contract: Signed } | { readonly refusal: { ask: string; because: string; retryable: boolean } }> {
    const { clock, identity } = this.#ports
    const { value: body, signer } = unseal(identity, 'award', awardBody, envelope, award.limits.requestBytes)
    const refuse = ({ because, retryable }: { because: string; retryable: boolean }): { refusal: { ask: string; because: string; retryable: boolean } } => ({ refusal: { ask: body.ask, because: because.slice(0, 300), retryable } })
    const authority = this.#authority(signer, from, body.issuedAt)
    if (!authority.ok) return refuse(authority)
    const held = this.#held.peek(body.hold)
    const signed = this.#hosting.signedFor(body.hold, body.instance, signer)
    if (signed !== undefined) return { contract: signed }
    if (held === undefined) return refuse(refused('the reservation is unknown or has expired: ask again', true))
    if (held.steward !== signer || held.ask !== body.ask) return refuse(refused('the reservation was made for somebody else'))
    if (!sameBytes(held.block, encode(body.block))) return refuse(refused('the block is not the one that was asked about: ask again', true))
    const allowed = await this.#permitted(body.block, held.action)
    if (!allowed.ok) {
      this.#hosting.cancel(body.hold)
      return refuse(allowed)
    }
    const { init } = body
    const block = init === undefined ? allowed.value : { ...allowed.value, initData: { ...allowed.value.initData, ...init } }
    const verdict = await this.#hosting.accept({ hold: body.hold, block, init, terms: termsOf(body.block), instance: body.instance, steward: signer, epoch: body.epoch, leaseMs: body.leaseMs, needs: held.needs, gpus: held.gpus })
    this.#ports.telemetry.count('awards_total', { accepted: String(verdict.ok) })
    this.#ports.telemetry.observe('award_age_ms', Math.max(0, clock.unix() - body.issuedAt))
    return verdict.ok ? { contract: verdict.value } : refuse(verdict)
  }

  async lease(envelope: Signed, from: PeerId): ReturnType<Hosting['lease']> {
    const { value: body, signer } = unseal(this.#ports.identity, 'lease', leaseBody, envelope, lease.limits.requestBytes)
    const authority = this.#authority(signer, from, body.issuedAt)
    if (!authority.ok) return { refusal: { because: authority.because, retryable: authority.retryable } }
    const held = body.do === 'release' ? this.#held.peek(body.contract) : undefined
    if (held?.steward === signer) {
      // A reservation that lost: given back before its time, so that the next ask finds the room.
      this.#hosting.cancel(body.contract)
      return { refusal: { because: 'the reservation was given back', retryable: false } }
    }
    return this.#hosting.lease(body, signer)
  }

  #authority(signer: PeerId, from: PeerId, issuedAt: Millis): Verdict<true> {
    if (signer !== from) return refused(`signed by ${signer} but sent by ${from}`)
    const age = this.#ports.clock.unix() - issuedAt
    if (Math.abs(age) > this.#config.skewMs) return refused(`it was issued ${Math.abs(age)} ms ${age > 0 ? 'ago' : 'in the future'}: are both clocks right?`, true)
    return this.#config.maySteward(signer)
  }

  /** What those over this host say: the filter of the block about our cluster, and the rules of the network and of our cluster. */
  async #permitted(block: BlockRecord, action: Ask['action']): Promise<Verdict<BlockRecord>> {
    const self = this.#self()
    if (self === undefined) return refused('this host is still starting', true)
    const members = this.#members(self)
    const filter = block.policies['clusterAllocator']?.parameters['filter']
    if (filter !== undefined) {
      const kept = this.#config.filter(filter, this.#governance.clusters.document(self.cluster, members))
      if (!kept.ok) return kept
    }
    return permitted(this.#governance, block, action, self.cluster, members)
  }

  /** The hosts of our cluster, ourselves as we are this instant first. */
  #members(self: CapacityAd): readonly CapacityAd[] {
    return [self, ...this.#view.ads().filter(ad => ad.cluster === self.cluster && ad.peer !== self.peer)]
  }

  /** Our own ad with what is free this instant. */
  #self(): CapacityAd | undefined {
    const ad = this.#view.ad(this.#ports.identity.peer)
    return ad === undefined ? undefined : { ...ad, total: this.#hosting.total(), free: this.#hosting.free() }
  }

  #openHolds(steward: PeerId): number {
    const now = this.#ports.clock.monotonic()
    return [...this.#held].filter(([, held]) => held.steward === steward && held.until > now).length
  }

  /** The block's `resourceAllocator`, asked what AIOS asks it: `dry_run` for the score, then the action for GPUs. */
  async #opinion(ask: Ask, self: CapacityAd): Promise<Verdict<{ readonly gpus: readonly string[] | undefined; readonly rating: number; readonly because: string }>> {
    const own = score(ask.block, self, { hosting: new Map(), rtt: () => 0 })
    const tried = await this.#call<{ readonly declined: boolean; readonly score: number; readonly gpus: readonly string[] | undefined }>(ask, 'dry_run', self, answer => {
      if (isNothing(answer)) return granted({ declined: true, score: 0, gpus: undefined })
      const parsed = dryRunAnswer.safeParse(answer)
      if (!parsed.success) return refused('dry_run must return { selection_score_data: { score, node_info: { node_id, gpus[] } } }')
      const { score, node_info } = parsed.data.selection_score_data
      const gpus = this.#theirGpus(node_info, ask.block.needs, self)
      return gpus.ok ? granted({ declined: false, score: clamp(score), gpus: gpus.value }) : gpus
    }, { declined: false, score: clamp(own.score), gpus: undefined })
    if (tried.value.declined) return refused(`its resource allocator declines: ${tried.because}`, true)
    if (ask.action === 'dry_run') return granted({ gpus: tried.value.gpus, rating: tried.value.score, because: tried.by === 'default' ? own.because : tried.because })
    const chosen = await this.#call<{ readonly declined: boolean; readonly gpus: readonly string[] | undefined }>(ask, ask.action, self, answer => {
      if (isNothing(answer)) return granted({ declined: true, gpus: undefined })
      const parsed = node.safeParse(answer)
      if (!parsed.success) return refused(`${ask.action} must return { node_id, gpus[] }`)
      const gpus = this.#theirGpus(parsed.data, ask.block.needs, self)
      return gpus.ok ? granted({ declined: false, gpus: gpus.value }) : gpus
    }, { declined: false, gpus: tried.value.gpus })
    if (chosen.value.declined) return refused(`its resource allocator declines: ${chosen.because}`, true)
    return granted({ gpus: chosen.value.gpus, rating: tried.value.score, because: tried.by === 'default' ? own.because : tried.because })
  }

  #call<T>(ask: Ask, action: Ask['action'], self: CapacityAd, accept: (answer: Json) => Verdict<T>, fallback: T) {
    const members = (): readonly CapacityAd[] => this.#members(self)
    const { clusters } = this.#governance
    const rule = ask.block.policies['resourceAllocator']
    const metrics = rule === undefined ? undefined : this.#metrics.known({ block: ask.block.blockId, cluster: self.cluster })
    return this.#policies.decide<T>({
      hook: 'resourceAllocator',
      rule,
      // This host answers for itself alone, so it is the only node that the rule may choose. Most blocks have no rule, and none of it is made.
      get input() {
        return { action, payload: { block: toJson(ask.block), cluster: clusters.document(self.cluster, members()), cluster_metrics: metrics?.cluster_metrics ?? {}, block_metrics: metrics?.block_metrics ?? {}, healthy_nodes: [nodeDocument(self)] } }
      },
      settings: { get_metrics: metrics ?? {} },
      scope: ask.block.blockId,
      accept,
      fallback: () => fallback,
    })
  }

  /** GPUs a rule named: real, free, and this host's. None named leaves the choice to the ledger. */
  #theirGpus(info: z.infer<typeof node> | undefined, needs: Needs, self: CapacityAd): Verdict<readonly string[] | undefined> {
    if (info?.node_id !== undefined && info.node_id !== self.peer) return refused(`it chose node ${info.node_id}, which is not this host`)
    const gpus = info?.gpus
    if (gpus === undefined || gpus.length === 0) return granted(undefined)
    // AIOS counts GPUs from 0; here they have names.
    const named = gpus.map(gpu => self.total.gpus.find(({ id }) => id === gpu)?.id ?? self.total.gpus[/^\d+$/.test(gpu) ? Number(gpu) : -1]?.id ?? gpu)
    const unreal = named.find(id => !self.total.gpus.some(gpu => gpu.id === id))
    if (unreal !== undefined) return refused(`it chose GPU ${unreal}, which this host does not have`)
    const room = wouldFit({ ...needs, gpus: named.length }, self.free, named)
    return room.ok ? granted(named) : room
  }
}

function wouldFit(needs: Needs, free: CapacityAd['free'], wanted: readonly string[] | undefined): Verdict<readonly string[]> {
  const room = fits(needs, free)
  if (!room.ok) return room
  const ids = room.value.map(({ id }) => id)
  const missing = wanted?.find(id => !ids.includes(id))
  return missing === undefined ? granted(wanted ?? ids.slice(0, needs.gpus)) : refused(`GPU ${missing} is not there or not free`, true)
}

/** AIOS: a policy that returns nothing skips. */
function isNothing(answer: Json): boolean {
  return answer === null || answer === false || (isJsonObject(answer) && Object.keys(answer).length === 0)
}

function clamp(value: number): number {
  return Number.isFinite(value) ? Math.max(0, Math.min(1, value)) : 0
}

function same(a: unknown, b: unknown): boolean {
  return sameBytes(encode(a), encode(b))
}
