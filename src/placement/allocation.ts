import { z } from 'zod'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { asMeshError, granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import { hex } from '../../protocols/codec.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import { askForBid, award, bid as bidSchema, contract as contractSchema, lease, type Ask, type Bid, type Contract, type Explanation, type InstanceInit } from '../../protocols/placement.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { hedgeWithin } from '../lib/hedge.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import { seal, unseal } from '../trust/seal.ts'
import type { Bidder } from './bidder.ts'
import type { ClusterFilter } from './cluster-document.ts'
import { permitted, type Governance } from './permission.ts'
import { byScore, choices, rank, sample, type Rank } from './rank.ts'

export type AllocationConfig = {
  readonly askMs: Millis
  readonly awardMs: Millis
  readonly holdMs: Millis
  readonly leaseMs: Millis
  readonly asksAtOnce: number
  readonly filter: ClusterFilter
}

export type Wish = {
  readonly block: BlockRecord
  readonly epoch: number
  readonly action: Ask['action']
  readonly hosting: ReadonlyMap<PeerId, number>
  /** Hosts not to ask now, and why. */
  readonly avoid: ReadonlyMap<PeerId, string>
  /** Somebody said where: that host alone is asked, and for these GPUs where any are named. */
  readonly at?: { readonly host: PeerId; readonly gpus: readonly string[] } | undefined
  /** What this instance alone starts with, over the block's own data. */
  readonly init?: InstanceInit | undefined
}
export type Placed = { readonly contract: Contract; readonly envelope: Signed }
/** A reservation that a host has signed for. */
export type Held = { readonly wish: Wish; readonly bid: Bid }
type Candidate = Explanation['candidates'][number]
type Offer = Pick<Held, 'bid'> & { readonly ad: CapacityAd; readonly rank: Rank }
type Log = { readonly lines: Candidate[] }

const LINES_BOUND = 400
/** Who has not answered by then may not have heard. Asks and awards are idempotent. */
const ASKED = { againMs: 200, times: 3 }
const AWARDED = { againMs: 500, times: 3 }
const identified = z.union([z.string(), z.looseObject({ id: z.string(), node_id: z.string().optional() })])

/** The buyer's side: AIOS's allocation sequence for one instance, by asking hosts instead of a gateway. */
export class Allocation {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #policies: PolicyCalls
  readonly #bidder: Bidder
  readonly #metrics: Pick<MetricsSource, 'clusters'>
  readonly #governance: Governance
  readonly #config: AllocationConfig

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'telemetry'>, roles: { readonly view: MeshView; readonly policies: PolicyCalls; readonly bidder: Bidder; readonly governance: Governance; readonly metrics: Pick<MetricsSource, 'clusters'> }, config: AllocationConfig) {
    this.#ports = ports
    this.#random = ports.random.fork('allocation')
    this.#view = roles.view
    this.#policies = roles.policies
    this.#bidder = roles.bidder
    this.#metrics = roles.metrics
    this.#governance = roles.governance
    this.#config = config
  }

  /** Places one instance, or says why none could be; the explanation tells of every host that had a say. */
  async place(wish: Wish): Promise<{ readonly verdict: Verdict<Placed>; readonly explanation: Explanation }> {
    const log: Log = { lines: [] }
    if (wish.at !== undefined) return this.#done(wish, log, await this.#placeAt(wish, wish.at.host, log))
    const offers = await this.#offers(wish, log, false)
    if (!offers.ok) return this.#done(wish, log, offers)
    const order = await this.#pick(wish.block, offers.value, log)
    let placed: Verdict<Placed> = refused('nobody made a bid that stood', true)
    const untried = [...order]
    for (let offer = untried.shift(); offer !== undefined; offer = untried.shift()) {
      placed = await this.award({ wish, bid: offer.bid })
      note(log, { peer: offer.bid.host, step: 'award', ok: placed.ok, because: placed.ok ? `contract ${placed.value.contract.id}` : placed.because })
      if (placed.ok) break
    }
    for (const { bid } of untried) this.giveBack({ wish, bid })
    return this.#done(wish, log, placed)
  }

  async #placeAt(wish: Wish, host: PeerId, log: Log): Promise<Verdict<Placed>> {
    const allowed = await this.permitted(wish, host)
    const held = allowed.ok ? await this.hold(wish, host) : allowed
    note(log, { peer: host, step: 'ask', ok: held.ok, because: held.ok ? held.value.bid.because : held.because })
    const placed = held.ok ? await this.award(held.value) : held
    if (held.ok) note(log, { peer: host, step: 'award', ok: placed.ok, because: placed.ok ? `contract ${placed.value.contract.id}` : placed.because })
    return placed
  }

  /** What `place` would do now. Reserves nothing. */
  async explain(block: BlockRecord, hosting: ReadonlyMap<PeerId, number>): Promise<Explanation> {
    const log: Log = { lines: [] }
    const wish: Wish = { block, epoch: 0, action: 'dry_run', hosting, avoid: new Map() }
    const offers = await this.#offers(wish, log, true)
    if (!offers.ok) return { block: block.blockId, candidates: log.lines }
    const [chosen] = await this.#pick(block, offers.value, log)
    return { block: block.blockId, ...(chosen === undefined ? {} : { chosen: chosen.bid.host }), candidates: log.lines }
  }

  /** Do the rules of the network, and those of this host's cluster, allow it there? */
  async permitted({ block, action }: Wish, host: PeerId): Promise<Verdict<true>> {
    const ads = this.#view.ads()
    const cluster = ads.find(({ peer }) => peer === host)?.cluster ?? host
    const verdict = await permitted(this.#governance, block, action, cluster, ads.filter(ad => ad.cluster === cluster))
    return verdict.ok ? granted(true) : verdict
  }

  /** Asks this one host to keep room for an instance: the first half of `place`, for those who must place several or none. */
  async hold(wish: Wish, host: PeerId, holdMs: Millis = this.#config.holdMs): Promise<Verdict<Held>> {
    const verdict = await this.#askOne(wish, host, false, holdMs)
    return verdict.ok ? granted({ wish, bid: verdict.value }) : verdict
  }

  /** What this one host would bid now. Reserves nothing. */
  ask(wish: Wish, host: PeerId): Promise<Verdict<Bid>> {
    return this.#askOne(wish, host, true)
  }

  #done(wish: Wish, log: Log, verdict: Verdict<Placed>): { readonly verdict: Verdict<Placed>; readonly explanation: Explanation } {
    this.#ports.telemetry.count('placements_total', { placed: String(verdict.ok), action: wish.action })
    return { verdict, explanation: { block: wish.block.blockId, ...(verdict.ok ? { chosen: verdict.value.contract.host } : {}), candidates: log.lines } }
  }

  /** Filter, selection, pre-checks, asks: the bids of this round. */
  async #offers(wish: Wish, log: Log, dryRun: boolean): Promise<Verdict<readonly Offer[]>> {
    const ads = this.#view.ads()
    const { block } = wish
    const clusters = Map.groupBy(ads, ({ cluster }) => cluster)
    // A filter by metrics means those of now; without one, what hosts advertise is enough.
    const measured = asksForMetrics(block) ? new Map((await this.#metrics.clusters()).map(metrics => [metrics['clusterId'], metrics])) : undefined
    const documentOf = once(id => withMetrics(this.#governance.clusters.document(id, clusters.get(id) ?? []), measured?.get(id)))
    const candidates = await this.#selected(block, this.#filtered(wish, ads, [...clusters.keys()], documentOf, log), documentOf, log)
    const { ranked, refused: unsuited } = rank(block, candidates, { hosting: wish.hosting, rtt: peer => (peer === this.#view.self ? 0 : this.#ports.network.rtt(peer)), lastResort: isMissing(wish) })
    for (const { peer, because } of unsuited) note(log, { peer, step: 'filter', ok: false, because })
    const drawn = sample(ranked, choices(ads.length), this.#random)
    if (drawn.length < ranked.length) note(log, { peer: this.#ports.identity.peer, step: 'ask', ok: true, because: `${drawn.length} of ${ranked.length} hosts that could are asked` })
    const asked = await this.#allowed(wish, drawn, new Map(candidates.map(({ peer, cluster }) => [peer, cluster])), clusters, log)
    if (asked.length === 0) return refused(ads.length === 0 ? 'no host is known' : `none of ${ads.length} hosts can run it: ${summary(log)}`, true)
    const offers = (await this.#askAll(wish, asked, dryRun, log)).flatMap(({ bid, rank }) => {
      const ad = ads.find(({ peer }) => peer === bid.host)
      return ad === undefined ? [] : [{ bid, rank, ad }]
    })
    return offers.length === 0 ? refused(`nobody bid: ${summary(log)}`, true) : granted(offers)
  }

  /** Those in whose clusters the rules of the network, and then the cluster's own, allow it. */
  async #allowed({ block, action }: Wish, asked: readonly Rank[], clusterOf: ReadonlyMap<PeerId, string>, clusters: ReadonlyMap<string, readonly CapacityAd[]>, log: Log): Promise<readonly Rank[]> {
    const ids = [...new Set(asked.map(({ peer }) => clusterOf.get(peer) ?? peer))]
    const verdicts = new Map(await Promise.all(ids.map(async id => [id, await permitted(this.#governance, block, action, id, clusters.get(id) ?? [])] as const)))
    return asked.filter(({ peer }) => {
      const verdict = verdicts.get(clusterOf.get(peer) ?? peer)
      if (verdict?.ok === false) note(log, { peer, step: 'filter', ok: false, because: verdict.because })
      return verdict?.ok !== false
    })
  }

  #filtered({ block, avoid, hosting }: Wish, ads: readonly CapacityAd[], clusters: readonly string[], documentOf: (cluster: string) => JsonObject, log: Log): readonly CapacityAd[] {
    const filter = block.policies['clusterAllocator']?.parameters['filter']
    const verdicts = new Map(clusters.map(id => [id, filter === undefined ? granted(true as const) : this.#config.filter(filter, documentOf(id))]))
    return ads.filter(ad => {
      // A stage has a second instance for when the host of the first one dies.
      const twice = block.runtime.name === 'llm' && (hosting.get(ad.peer) ?? 0) > 0 ? 'runs an instance of this stage already' : undefined
      const because = avoid.get(ad.peer) ?? twice
      const verdict = because === undefined ? verdicts.get(ad.cluster) : refused(because, true)
      if (verdict?.ok === false) note(log, { peer: ad.peer, step: 'filter', ok: false, because: verdict.because })
      return verdict?.ok === true
    })
  }

  /** AIOS's `clusterAllocator: selection` keeps some of the clusters that passed the filter. */
  async #selected(block: BlockRecord, ads: readonly CapacityAd[], documentOf: (cluster: string) => JsonObject, log: Log): Promise<readonly CapacityAd[]> {
    const ids = [...new Set(ads.map(({ cluster }) => cluster))]
    const everyone = new Set(ids)
    const decision = await this.#policies.decide<ReadonlySet<string>>({
      hook: 'clusterAllocator',
      rule: block.policies['clusterAllocator'],
      // For a rule; most blocks have none, and a document of every cluster is long.
      get input() {
        return { action: 'selection', filter_result: ids.map(documentOf), block_data: toJson(block) }
      },
      scope: block.blockId,
      accept: answer => {
        const listed = isJsonObject(answer) ? answer['clusters'] : answer
        if (!Array.isArray(listed)) return refused('selection must return { clusters: [] }')
        return granted(new Set(listed.flatMap(one => idOf(one)?.id ?? []).filter(id => everyone.has(id))))
      },
      fallback: () => everyone,
    })
    if (decision.by === 'fallback') note(log, { peer: this.#ports.identity.peer, step: 'selection', ok: false, because: `the selection policy gave no opinion: ${decision.because}` })
    return ads.filter(({ cluster, peer }) => {
      const kept = decision.value.has(cluster)
      if (!kept) note(log, { peer, step: 'selection', ok: false, because: `not selected: ${decision.because}` })
      return kept
    })
  }

  async #askAll(wish: Wish, asked: readonly Rank[], dryRun: boolean, log: Log): Promise<readonly { readonly bid: Bid; readonly rank: Rank }[]> {
    const bids: { bid: Bid; rank: Rank }[] = []
    const waiting = [...asked]
    const lane = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const verdict = await this.#askOne(wish, next.peer, dryRun)
        note(log, { peer: next.peer, step: verdict.ok ? 'bid' : 'ask', ok: verdict.ok, because: verdict.ok ? verdict.value.because : verdict.because, ...(verdict.ok ? { score: verdict.value.score } : {}) })
        if (verdict.ok) bids.push({ bid: verdict.value, rank: next })
      }
    }
    await Promise.all(Array.from({ length: Math.min(this.#config.asksAtOnce, asked.length) }, lane))
    // Answers arrive in any order; what is chosen must not depend on it.
    return bids.sort((a, b) => byScore(a.rank, b.rank))
  }

  async #askOne({ block, epoch, action, at }: Wish, host: PeerId, dryRun: boolean, holdMs: Millis = this.#config.holdMs): Promise<Verdict<Bid>> {
    const { clock, identity, network } = this.#ports
    const ask: Ask = { id: `ask-${hex(this.#random.bytes(8))}`, block, needs: block.needs, steward: identity.peer, epoch, holdMs, action, dryRun, ...(at === undefined || at.gpus.length === 0 ? {} : { gpus: [...at.gpus] }) }
    try {
      const answer = host === identity.peer ? await this.#bidder.ask(ask, host) : await hedgeWithin(clock, { ...ASKED, windowMs: this.#config.askMs }, leftMs => network.request(host, askForBid, ask, leftMs))
      if ('refusal' in answer) return refused(answer.refusal.because, answer.refusal.retryable)
      const { value, signer } = unseal(identity, 'bid', bidSchema, answer.bid, askForBid.limits.responseBytes)
      if (signer !== host || value.host !== host || value.ask !== ask.id) return refused('it answered with a bid for something else')
      if (!Number.isFinite(value.score) || value.score < 0 || value.score > 1) return refused(`its score ${value.score} is outside 0..1`)
      return granted(value)
    } catch (error) {
      return unreachable(error)
    }
  }

  /** The order in which to award: AIOS's `post_dry_run` names the first, the rest follow by score. */
  async #pick(block: BlockRecord, offers: readonly Offer[], log: Log): Promise<readonly Offer[]> {
    // The host's word about itself counts as much as what is known of it from here: spread, distance, bundle.
    const clusters = this.#governance.clusters
    const view = this.#view
    const order = [...offers].sort((a, b) => b.bid.score + b.rank.score - (a.bid.score + a.rank.score) || (a.bid.host < b.bid.host ? -1 : 1))
    const decision = await this.#policies.decide<Offer | undefined>({
      hook: 'clusterAllocator',
      rule: block.policies['clusterAllocator'],
      get input() {
        return {
          action: 'post_dry_run',
          clusters: order.map(({ bid, ad }) => ({ id: ad.cluster, node_id: bid.host, cluster: clusters.document(ad.cluster, view.ads().filter(other => other.cluster === ad.cluster)), score_data: { score: bid.score, selection_score_data: { score: bid.score, node_info: { node_id: bid.host, gpus: [...bid.gpus] } } }, block_data: toJson(block) })),
        }
      },
      scope: block.blockId,
      accept: answer => {
        const named = idOf(Array.isArray(answer) ? answer[0] ?? null : answer)
        if (named === undefined) return refused('post_dry_run must return one of the clusters')
        const found = order.find(({ bid, ad }) => ad.cluster === named.id && (named.node === undefined || bid.host === named.node))
        return found === undefined ? refused(`it chose ${named.id}, which made no bid`) : granted(found)
      },
      fallback: () => order[0],
    })
    const first = decision.value
    if (first === undefined) return order
    note(log, { peer: first.bid.host, step: 'post_dry_run', ok: true, score: first.bid.score, because: decision.by === 'default' ? `best of ${order.length} bids` : decision.because })
    return [first, ...order.filter(offer => offer !== first)]
  }

  /** Takes a reservation: the host starts the instance. Idempotent. */
  async award({ wish, bid }: Held): Promise<Verdict<Placed>> {
    const { clock, identity, network } = this.#ports
    const body = { ask: bid.ask, hold: bid.hold, block: wish.block, instance: `in-${hex(this.#random.bytes(6))}`, epoch: wish.epoch, leaseMs: this.#config.leaseMs, issuedAt: clock.unix(), ...(wish.init === undefined ? {} : { init: wish.init }) }
    const envelope = seal(identity, 'award', body)
    const send = async (): Promise<Verdict<Placed>> => {
      const answer = bid.host === identity.peer ? await this.#bidder.award(envelope, identity.peer) : await hedgeWithin(clock, { ...AWARDED, windowMs: this.#config.awardMs }, leftMs => network.request(bid.host, award, envelope, leftMs))
      if ('refusal' in answer) return refused(answer.refusal.because, answer.refusal.retryable)
      const { value, signer } = unseal(identity, 'contract', contractSchema, answer.contract, award.limits.responseBytes)
      const asAwarded = signer === bid.host && value.host === bid.host && value.instance === body.instance && value.block === wish.block.blockId && value.epoch >= wish.epoch
      return asAwarded ? granted({ contract: value, envelope: answer.contract }) : refused('it answered with a contract for something else')
    }
    try {
      return await send()
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code !== 'DEADLINE') return unreachable(error)
      // The award may have arrived and its answer been lost. It is idempotent: ask once more before going elsewhere.
      return send().catch(unreachable)
    }
  }

  /** Tells a host that its reservation is not needed, so that the next ask finds the room. Lost, it expires by itself. */
  giveBack({ wish, bid }: Held): void {
    this.#release(wish, bid.host, bid.hold, 'another bid was taken')
  }

  /** Ends what was awarded a moment ago, because the rest of what it belongs to could not be placed. Lost, its lease runs out. */
  takeBack({ wish, bid }: Held, { contract }: Placed, because: string): void {
    this.#release({ ...wish, epoch: Math.max(wish.epoch, contract.epoch) }, bid.host, contract.id, because)
  }

  #release({ block, epoch }: Wish, host: PeerId, what: string, because: string): void {
    const { clock, identity, network } = this.#ports
    const envelope = seal(identity, 'lease', { do: 'release', block: block.blockId, contract: what, epoch, leaseMs: 0, because, issuedAt: clock.unix() })
    const sent = host === identity.peer ? this.#bidder.lease(envelope, identity.peer) : network.request(host, lease, envelope, this.#config.askMs)
    sent.catch(unreachable)
  }
}

/** Made when it is first asked for. */
function once<V>(make: (key: string) => V): (key: string) => V {
  const made = new Map<string, V>()
  return key => {
    const known = made.get(key)
    if (known !== undefined) return known
    const value = make(key)
    made.set(key, value)
    return value
  }
}

function note({ lines }: Log, line: Candidate): void {
  if (lines.length < LINES_BOUND) lines.push(line)
}

/** The reasons, the most frequent first. */
function summary({ lines }: Log): string {
  const counts = new Map<string, number>()
  for (const { ok, because } of lines) if (!ok) counts.set(because, (counts.get(because) ?? 0) + 1)
  return [...counts].sort(([, a], [, b]) => b - a).slice(0, 3).map(([because, count]) => (count === 1 ? because : `${count} × ${because}`)).join('; ') || 'no host is left'
}

function unreachable(error: unknown): { readonly ok: false; readonly because: string; readonly retryable: boolean } {
  if (!(error instanceof MeshError)) throw error
  return refused(`${error.code}: ${error.message}`, true)
}

function idOf(value: Json): { readonly id: string; readonly node: string | undefined } | undefined {
  const parsed = identified.safeParse(value)
  if (!parsed.success) return undefined
  return typeof parsed.data === 'string' ? { id: parsed.data, node: undefined } : { id: parsed.data.id, node: parsed.data.node_id }
}

/** Does the filter of its `clusterAllocator` look at metrics? */
function asksForMetrics({ policies }: BlockRecord): boolean {
  const filter = policies['clusterAllocator']?.parameters['filter']
  return filter !== undefined && JSON.stringify(filter).includes('"clusterMetricsQuery"')
}

function withMetrics(document: JsonObject, metrics: JsonObject | undefined): JsonObject {
  return metrics === undefined ? document : { ...document, metrics }
}

/** Is an instance to be replaced that is gone, not one that still serves where it should not? */
function isMissing({ block, action, hosting }: Wish): boolean {
  return action === 'reassignment' && [...hosting.values()].reduce((sum, count) => sum + count, 0) < block.minInstances
}
