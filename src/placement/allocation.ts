import { z } from 'zod'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import type { Bid, Explanation, InstanceInit } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import type { Bidder } from './bidder.ts'
import type { ClusterFilter } from './cluster-document.ts'
import { Dealings, type DealingsConfig, type Held, type Placed, type Wish } from './dealings.ts'
import { permitted, type Governance } from './permission.ts'
import { byScore, choices, rank, sample, type Rank } from './rank.ts'

export type AllocationConfig = DealingsConfig & { readonly filter: ClusterFilter }

/** Several instances of one block: `inits` has what each of them alone starts with. */
export type Wishes = Omit<Wish, 'gpus' | 'init'> & { readonly inits: readonly (InstanceInit | undefined)[] }
type Candidate = Explanation['candidates'][number]
type Offer = Pick<Held, 'bid'> & { readonly ad: CapacityAd; readonly rank: Rank }
type Log = { readonly lines: Candidate[] }

const LINES_BOUND = 400
/** Of so many hosts that are asked this part must have answered: one that is far, busy or dead without a word keeps nobody waiting. */
const MANY = 8
const ENOUGH = 3 / 4
const identified = z.union([z.string(), z.looseObject({ id: z.string(), node_id: z.string().optional() })])

/** The buyer's side: AIOS's allocation sequence, by asking hosts instead of a gateway. */
export class Allocation {
  /** With one host at a time. */
  readonly dealings: Dealings
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #policies: PolicyCalls
  readonly #metrics: Pick<MetricsSource, 'clusters'>
  readonly #governance: Governance
  readonly #config: AllocationConfig

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'telemetry'>, roles: { readonly view: MeshView; readonly policies: PolicyCalls; readonly bidder: Bidder; readonly governance: Governance; readonly metrics: Pick<MetricsSource, 'clusters'> }, config: AllocationConfig) {
    this.#ports = ports
    this.#random = ports.random.fork('allocation')
    this.#view = roles.view
    this.#policies = roles.policies
    this.dealings = new Dealings(ports, this.#random, roles.bidder, config)
    this.#metrics = roles.metrics
    this.#governance = roles.governance
    this.#config = config
  }

  /** Places one instance on a host that somebody named, or says why it could not be. */
  async placeAt(wish: Wish, host: PeerId): Promise<{ readonly verdict: Verdict<Placed>; readonly explanation: Explanation }> {
    const log: Log = { lines: [] }
    const allowed = await this.permitted(wish, host)
    const held = allowed.ok ? await this.dealings.hold(wish, host) : allowed
    note(log, { peer: host, step: 'ask', ok: held.ok, because: held.ok ? held.value.bid.because : held.because })
    const verdict = held.ok ? await this.#award(held.value, log) : held
    return { verdict, explanation: this.#done(wish, log, [verdict]) }
  }

  /**
   * Places several instances at once, each on another of the hosts that bid, and calls `took` with each of `inits` as soon as it is known
   * what became of it. Not with all: where a host that was just taken would come before the others again, another round does better.
   * The explanation tells of every host that had a say.
   */
  async place(wishes: Wishes, took: (at: number, verdict: Verdict<Placed>) => void): Promise<Explanation> {
    const log: Log = { lines: [] }
    const offers = await this.#offers(wishes, log, false)
    if (!offers.ok) {
      for (const at of wishes.inits.keys()) took(at, offers)
      return this.#done(wishes, log, [offers])
    }
    const { chosen, others } = await this.#choose(wishes, offers.value, log)
    const verdicts = await Promise.all(chosen.map(async (offer, at) => {
      const verdict = await this.#awardFirst({ ...wishes, init: wishes.inits[at] }, offer, others, log)
      took(at, verdict)
      return verdict
    }))
    for (const { bid } of others) this.dealings.giveBack({ wish: wishes, bid })
    return this.#done(wishes, log, verdicts)
  }

  /** A host for each instance, and those to fall back on, best first. */
  async #choose({ block, inits }: Wishes, offers: readonly Offer[], log: Log): Promise<{ readonly chosen: readonly Offer[]; readonly others: Offer[] }> {
    const chosen: Offer[] = []
    let others = offers
    let again = 0
    while (chosen.length < inits.length && others.length > 0) {
      const [next, ...rest] = await this.#pick(block, others, log)
      if (next === undefined || worth(next) < again) break
      chosen.push(next)
      others = rest
      again = Math.max(again, worth(next) / 2)
      // A rule says where the next one goes when it sees where this one went.
      if (block.policies['clusterAllocator'] !== undefined) break
    }
    return { chosen, others: [...others] }
  }

  /** Awards to the host that was chosen, or to the best of the others that takes it. */
  async #awardFirst(wish: Wish, offer: Offer, others: Offer[], log: Log): Promise<Verdict<Placed>> {
    let placed: Verdict<Placed> = refused('nobody made a bid that stood', true)
    for (let next: Offer | undefined = offer; next !== undefined; next = others.shift()) {
      placed = await this.#award({ wish, bid: next.bid }, log)
      if (placed.ok) break
    }
    return placed
  }

  async #award(held: Held, log: Log): Promise<Verdict<Placed>> {
    const placed = await this.dealings.award(held)
    note(log, { peer: held.bid.host, step: 'award', ok: placed.ok, because: placed.ok ? `contract ${placed.value.contract.id}` : placed.because })
    return placed
  }

  /** What `place` would do now. Reserves nothing. */
  async explain(block: BlockRecord, hosting: ReadonlyMap<PeerId, number>): Promise<Explanation> {
    const log: Log = { lines: [] }
    const offers = await this.#offers({ block, epoch: 0, action: 'dry_run', hosting, avoid: new Map(), inits: [undefined] }, log, true)
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

  #done({ block, action }: Wish, log: Log, verdicts: readonly Verdict<Placed>[]): Explanation {
    for (const { ok } of verdicts) this.#ports.telemetry.count('placements_total', { placed: String(ok), action })
    const first = verdicts.find(({ ok }) => ok)
    return { block: block.blockId, ...(first?.ok === true ? { chosen: first.value.contract.host } : {}), candidates: log.lines }
  }

  /** Filter, selection, pre-checks, asks: the bids of this round. */
  async #offers(wish: Wishes, log: Log, dryRun: boolean): Promise<Verdict<readonly Offer[]>> {
    const ads = this.#view.ads()
    const { block } = wish
    const clusters = Map.groupBy(ads, ({ cluster }) => cluster)
    // A filter by metrics means those of now; without one, what hosts advertise is enough.
    const measured = asksForMetrics(block) ? new Map((await this.#metrics.clusters()).map(metrics => [metrics['clusterId'], metrics])) : undefined
    const documentOf = once(id => withMetrics(this.#governance.clusters.document(id, clusters.get(id) ?? []), measured?.get(id)))
    const candidates = await this.#selected(block, this.#filtered(wish, ads, [...clusters.keys()], documentOf, log), documentOf, log)
    const { ranked, refused: unsuited } = rank(block, candidates, { hosting: wish.hosting, rtt: peer => (peer === this.#view.self ? 0 : this.#ports.network.rtt(peer)), lastResort: isMissing(wish) })
    for (const { peer, because } of unsuited) note(log, { peer, step: 'filter', ok: false, because })
    const drawn = sample(ranked, Math.max(choices(ads.length), 2 * wish.inits.length), this.#random)
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

  /** Of many that are asked, those who take longest are not waited for; a dry run tells of each. */
  async #askAll(wish: Wishes, asked: readonly Rank[], dryRun: boolean, log: Log): Promise<readonly { readonly bid: Bid; readonly rank: Rank }[]> {
    const bids: { bid: Bid; rank: Rank }[] = []
    const waiting = new Set(asked)
    const enough = dryRun || asked.length < MANY ? asked.length : Math.ceil(asked.length * ENOUGH)
    let over = false
    await new Promise<void>((resolve, reject) => {
      for (const rank of asked) {
        const { peer } = rank
        this.dealings.ask(wish, peer, dryRun).then(verdict => {
          if (over) {
            if (verdict.ok) this.dealings.giveBack({ wish, bid: verdict.value })
            return
          }
          waiting.delete(rank)
          note(log, { peer, step: verdict.ok ? 'bid' : 'ask', ok: verdict.ok, because: verdict.ok ? verdict.value.because : verdict.because, ...(verdict.ok ? { score: verdict.value.score } : {}) })
          if (verdict.ok) bids.push({ bid: verdict.value, rank })
          if (waiting.size === 0 || (asked.length - waiting.size >= enough && bids.length >= wish.inits.length)) resolve()
        }).catch(reject)
      }
    })
    over = true
    for (const { peer } of waiting) note(log, { peer, step: 'ask', ok: false, because: `${asked.length - waiting.size} others had answered before it did` })
    // Answers arrive in any order; what is chosen must not depend on it.
    return bids.sort((a, b) => byScore(a.rank, b.rank))
  }

  /** The order in which to award: AIOS's `post_dry_run` names the first, the rest follow by score. */
  async #pick(block: BlockRecord, offers: readonly Offer[], log: Log): Promise<readonly Offer[]> {
    const clusters = this.#governance.clusters
    const view = this.#view
    const order = [...offers].sort((a, b) => worth(b) - worth(a) || (a.bid.host < b.bid.host ? -1 : 1))
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
}

/** The host's word about itself counts as much as what is known of it from here: spread, distance, bundle. Half of it for its second instance. */
function worth({ bid, rank }: Pick<Offer, 'bid' | 'rank'>): number {
  return bid.score + rank.score
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
