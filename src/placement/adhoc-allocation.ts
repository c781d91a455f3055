import { z } from 'zod'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { check, hex } from '../../protocols/codec.ts'
import { granted, MeshError, refused } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Bid } from '../../protocols/placement.ts'
import { needs as needsSchema } from '../../protocols/resources.ts'
import { blockRecord, type BlockRecord } from '../../protocols/specs.ts'
import type { Inventory } from '../inventory.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import { blockComponentUri, parseBlock } from '../specs/block.ts'
import type { Held } from './dealings.ts'
import type { Placement } from './placement.ts'
import { rank, type Rank } from './rank.ts'

const FETCH_MS: Millis = 30_000
/** Hosts that are asked at once for what they would bid. */
const ASKED = 16
/** Clusters a rule is shown. */
const SHOWN = 500
const RESERVATIONS = 256
const MOST_HOLD_MS: Millis = 30_000

const asked = z.looseObject({
  policy_rule_uri: z.string().max(300).optional(), clusters: z.array(z.string().min(1)).max(10_000).optional(), filter: z.json().optional(), search: z.json().optional(),
  inputs: z.record(z.string(), z.json()).default({}), parameters: z.record(z.string(), z.json()).default({}), settings: z.record(z.string(), z.json()).default({}),
  /** For how long the chosen host is to keep the room. */
  reserve_ms: z.coerce.number().int().min(1).max(MOST_HOLD_MS).optional(), reserve: z.boolean().default(false),
  input: z.record(z.string(), z.json()).optional(), mode: z.string().max(40).optional(),
})
const chosen = z.looseObject({ cluster_id: z.string(), node_id: z.string().optional(), gpus: z.array(z.union([z.string(), z.number()]).transform(String)).optional() })

export type Fit = {
  readonly cluster_id: string
  readonly node_id: string | null
  readonly gpus: readonly string[]
  readonly score: number | null
  /** Does the host say that it fits? A rule may choose one that does not. */
  readonly fits: boolean
  readonly by: 'policy' | 'default' | 'fallback'
  readonly because: string
  readonly candidates: readonly { readonly cluster_id: string; readonly node_id: PeerId; readonly ok: boolean; readonly score: number | null; readonly because: string }[]
  readonly reservation?: { readonly id: string; readonly holdMs: Millis; readonly gpus: readonly string[] }
}
/** AIOS's clients send every field, and leave those empty that they do not use. */
const OPTIONAL: readonly string[] = ['policy_rule_uri', 'filter', 'search', 'input', 'mode']
type Choice = { readonly cluster: string; readonly node: PeerId | undefined; readonly gpus: readonly string[] }

type Parts = { readonly view: MeshView; readonly inventory: Inventory; readonly policies: PolicyCalls; readonly metrics: MetricsSource; readonly catalogue: Pick<Catalogue, 'component'>; readonly placement: Pick<Placement, 'ask' | 'reserve' | 'giveBack'> }

/** Answers "where would this fit?": of the clusters listed, filtered or searched for, by a rule or by what their hosts would bid; and has the host keep the room for a moment. */
export class AdhocAllocation {
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'identity' | 'network'>
  readonly #random: Random
  readonly #parts: Parts
  readonly #reservations = new Lru<string, Held>(RESERVATIONS)

  constructor(ports: Pick<Ports, 'clock' | 'content' | 'identity' | 'network' | 'random'>, parts: Parts) {
    this.#ports = ports
    this.#random = ports.random.fork('adhoc allocation')
    this.#parts = parts
  }

  /**
   * AIOS's `/allocate`: `{ policy_rule_uri?, clusters? | filter? | search?, inputs, parameters, settings }`, or `{ input, mode }` with a
   * block spec. `inputs` may carry what is to fit: `block` (a spec), `componentURI`, or `needs`. Throws SPEC_INVALID, NOT_FOUND, NO_CAPACITY
   * with each host's reason.
   */
  async allocate(document: Json): Promise<Fit> {
    const ask = check(asked, withoutEmpty(document), 'allocation', 'SPEC_INVALID')
    const inputs: JsonObject = ask.input === undefined ? ask.inputs : { block: ask.input, ...ask.inputs }
    const clusters = await this.#clusters(ask)
    if (clusters.length === 0) throw new MeshError('NO_CAPACITY', 'allocation: no live cluster is among those asked for: change the filter, or list others')
    const block = await this.#wanted(inputs)
    const ads = this.#parts.view.ads()
    const within = new Set(clusters.map(({ id }) => id))
    const choice = await this.#choose(ask, clusters, inputs, ads)
    const hosts = ads.filter(({ cluster, peer }) => within.has(cluster) && (choice.value === undefined || (cluster === choice.value.cluster && (choice.value.node === undefined || peer === choice.value.node))))
    const { best, candidates } = await this.#bids(block, hosts)
    const cluster = choice.value?.cluster ?? best?.ad.cluster
    if (cluster === undefined) throw new MeshError('NO_CAPACITY', `allocation: ${candidates.length === 0 ? 'no host is left' : candidates.slice(0, 4).map(({ node_id, because }) => `${node_id.slice(-6)}: ${because}`).join('; ')}`)
    const gpus = choice.value !== undefined && choice.value.gpus.length > 0 ? choice.value.gpus : best?.bid.gpus ?? []
    const fit: Fit = {
      cluster_id: cluster, node_id: choice.value?.node ?? best?.ad.peer ?? null, gpus, score: best?.bid.score ?? null, fits: best !== undefined, by: choice.by,
      because: choice.by === 'default' ? best?.bid.because ?? '' : choice.because, candidates,
    }
    const holdMs = ask.reserve_ms ?? (ask.reserve ? MOST_HOLD_MS : undefined)
    return holdMs === undefined ? fit : { ...fit, reservation: await this.#reserve(block, best?.ad.peer, holdMs) }
  }

  /** Throws NOT_FOUND: it was given back, or this peer did not make it. */
  release(id: string): void {
    const held = this.#reservations.peek(id)
    if (held === undefined) throw new MeshError('NOT_FOUND', `no reservation of this peer is called ${id}: it may have expired`)
    this.#reservations.delete(id)
    this.#parts.placement.giveBack(held)
  }

  /** A list, else a filter, else a search, else all. */
  async #clusters({ clusters, filter, search }: z.infer<typeof asked>): Promise<readonly { readonly id: string; readonly data: JsonObject }[]> {
    const { inventory } = this.#parts
    const all = inventory.clusters()
    if (clusters !== undefined && clusters.length > 0) {
      const missing = clusters.find(id => !all.some(cluster => cluster['id'] === id))
      if (missing !== undefined) throw new MeshError('NOT_FOUND', `allocation: clusters: there is no cluster ${missing}`)
      return named(all.filter(cluster => clusters.some(id => id === cluster['id'])))
    }
    if (filter !== undefined && filter !== null) return named(await inventory.filter(isJsonObject(filter) && filter['matchType'] === undefined && filter['filter'] !== undefined ? { matchType: 'cluster', ...filter } : filter))
    return named(search === undefined || search === null ? all : (await inventory.search(search)).filter(isJsonObject))
  }

  /** What is to fit, as a block that nobody registers. */
  async #wanted(inputs: JsonObject): Promise<BlockRecord> {
    const { catalogue } = this.#parts
    const owner = this.#ports.identity.peer
    const blockId = `adhoc-${hex(this.#random.bytes(5))}`
    const uri = inputs['componentURI'] ?? inputs['blockComponentURI'] ?? inputs['component_uri']
    const spec = [inputs['block'], inputs['block_data'], inputs['blockSpec']].find(isJsonObject) ?? (typeof uri === 'string' ? { blockComponentURI: uri, minInstances: 1, maxInstances: 1 } : undefined)
    if (spec !== undefined) {
      const component = await catalogue.component(blockComponentUri(spec), this.#ports.clock.deadline(FETCH_MS))
      return { ...parseBlock(spec, component, { owner, newId: () => blockId }), blockId }
    }
    const needs = check(needsSchema, inputs['needs'] ?? {}, 'allocation: inputs.needs', 'SPEC_INVALID')
    // It is asked about and never run: the component only has to be a name.
    return blockRecord.parse({ blockId, componentURI: 'adhoc.needs:1.0.0-any', component: await this.#ports.content.putRecord(needs), runtime: { name: 'node' }, minInstances: 1, maxInstances: 1, needs, owner, revision: 0 })
  }

  /** The rule's opinion, if one is named. */
  async #choose({ policy_rule_uri: uri, parameters, settings }: z.infer<typeof asked>, clusters: readonly { readonly id: string; readonly data: JsonObject }[], inputs: JsonObject, ads: readonly CapacityAd[]) {
    const shown = clusters.slice(0, SHOWN)
    const metrics = new Map(shown.map(({ id }) => [id, this.#parts.metrics.known({ cluster: id }).cluster_metrics]))
    const documents = Object.fromEntries(shown.map(({ id, data }) => [id, data]))
    return this.#parts.policies.decide<Choice | undefined>({
      hook: 'adhocAllocator',
      rule: uri === undefined || uri === '' ? undefined : { policyRuleURI: uri, parameters, settings },
      input: { cluster_data: Object.fromEntries(shown.map(({ id, data }) => [id, { data, metrics: metrics.get(id) ?? {}, cluster_metrics: metrics.get(id) ?? {} }])), inputs },
      settings: { cluster_client: { get_cluster: documents, list: documents }, cluster_metrics_client: { get_cluster: Object.fromEntries(metrics), list: Object.fromEntries(metrics) } },
      accept: answer => {
        const said = chosen.safeParse(answer)
        if (!said.success) return refused('it must return { cluster_id, node_id?, gpus? }')
        const { cluster_id: cluster, node_id: node, gpus = [] } = said.data
        if (!shown.some(({ id }) => id === cluster)) return refused(`it chose cluster ${cluster}, which is not one of those asked about`)
        if (node !== undefined && !ads.some(ad => ad.peer === node && ad.cluster === cluster)) return refused(`it chose node ${node}, which is no live host of ${cluster}`)
        return granted({ cluster, node, gpus })
      },
      fallback: () => undefined,
    })
  }

  async #bids(block: BlockRecord, hosts: readonly CapacityAd[]): Promise<{ readonly best: { readonly bid: Bid; readonly ad: CapacityAd } | undefined; readonly candidates: Fit['candidates'] }> {
    const { ranked, refused: unsuited } = rank(block, hosts, { hosting: new Map(), rtt: peer => (peer === this.#parts.view.self ? 0 : this.#ports.network.rtt(peer)) })
    const ad = new Map(hosts.map(host => [host.peer, host]))
    const verdicts = await Promise.all(ranked.slice(0, ASKED).map(async ({ peer }: Rank) => ({ peer, verdict: await this.#parts.placement.ask(block, peer) })))
    const line = (peer: PeerId, ok: boolean, score: number | null, because: string): Fit['candidates'][number] => ({ cluster_id: ad.get(peer)?.cluster ?? peer, node_id: peer, ok, score, because })
    const bids = verdicts.flatMap(({ peer, verdict }) => {
      const host = ad.get(peer)
      return verdict.ok && host !== undefined ? [{ bid: verdict.value, ad: host }] : []
    }).sort((a, b) => b.bid.score - a.bid.score || (a.ad.peer < b.ad.peer ? -1 : 1))
    return {
      best: bids[0],
      candidates: [
        ...bids.map(({ bid, ad: { peer } }) => line(peer, true, bid.score, bid.because)),
        ...verdicts.flatMap(({ peer, verdict }) => (verdict.ok ? [] : [line(peer, false, null, verdict.because)])),
        ...unsuited.slice(0, ASKED).map(({ peer, because }) => line(peer, false, null, because)),
      ],
    }
  }

  async #reserve(block: BlockRecord, host: PeerId | undefined, holdMs: Millis): Promise<NonNullable<Fit['reservation']>> {
    if (host === undefined) throw new MeshError('NO_CAPACITY', 'allocation: the host that was chosen has no room to keep')
    const held = await this.#parts.placement.reserve(block, host, holdMs)
    if (!held.ok) throw new MeshError('NO_CAPACITY', `allocation: ${host.slice(-6)} does not keep the room: ${held.because}`)
    const id = `reservation-${hex(this.#random.bytes(6))}`
    this.#reservations.set(id, held.value)
    this.#ports.clock.after(held.value.bid.holdMs, () => this.#reservations.delete(id))
    return { id, holdMs: held.value.bid.holdMs, gpus: held.value.bid.gpus }
  }
}

function named(documents: readonly JsonObject[]): readonly { readonly id: string; readonly data: JsonObject }[] {
  return documents.flatMap(data => (typeof data['id'] === 'string' ? [{ id: data['id'], data }] : []))
}

function withoutEmpty(document: Json): Json {
  if (!isJsonObject(document)) return document
  const empty = (value: Json): boolean => value === null || value === '' || (isJsonObject(value) && Object.keys(value).length === 0)
  return Object.fromEntries(Object.entries(document).filter(([name, value]) => !OPTIONAL.includes(name) || !empty(value)))
}
