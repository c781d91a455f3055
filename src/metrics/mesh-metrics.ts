import type { InstanceAd } from '../../protocols/capacity.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import { metricsPull, type MetricsAsked, type MetricsTold } from '../../protocols/metrics.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports } from '../ports.ts'
import type { MeshView, MetricsAbout, MetricsSource, PolicyMetrics } from '../roles.ts'
import { aggregate, clusterMetricsOf } from './aggregate.ts'
import type { HostMetrics } from './host-metrics.ts'
import { advertisedNode } from './node-metrics.ts'

/** What is younger is not asked for again. */
const FRESH_MS = 1_000
/** Blocks of one question; as many as a request may name. */
const BLOCKS_AT_ONCE = 64
/** Hosts asked at the same time. */
const HOSTS_AT_ONCE = 32
/** Questions that policies give rise to wait this long for others to the same host. */
const TOGETHER_MS = 20
/** Rules that are asked often read the same documents for this long. */
const SHOWN_MS = 200
const SHOWN_BOUND = 256
const HOSTS_BOUND = 4_096
const INSTANCES_BOUND = 16_384
/** Reported within this: healthy, says AIOS. */
const HEALTHY_MS = 60_000

type Want = { readonly node?: boolean; readonly blocks?: readonly BlockId[]; readonly vdags?: boolean }

/** Knows the metrics of any node, block, cluster and vDAG of the mesh, in AIOS's documents: asks the hosts that have them, and keeps an answer for a second. */
export class MeshMetrics implements MetricsSource {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly #view: MeshView
  readonly #host: HostMetrics
  readonly #nodes = new Lru<PeerId, JsonObject>(HOSTS_BOUND)
  /** By host and instance: a host speaks of its own alone. */
  readonly #instances = new Lru<string, JsonObject>(INSTANCES_BOUND)
  readonly #vdags = new Lru<PeerId, MetricsTold['vdags']>(HOSTS_BOUND)
  /** When each host was last asked for the instances of a block, answered or not: nobody asks more often. */
  readonly #asked = new Lru<string, Millis>(INSTANCES_BOUND)
  readonly #asking = new Map<string, Promise<void>>()
  readonly #shown = new Lru<string, { readonly at: Millis; readonly metrics: PolicyMetrics }>(SHOWN_BOUND)
  readonly #later = new Map<PeerId, { node: boolean; readonly blocks: Set<BlockId> }>()

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>, view: MeshView, host: HostMetrics) {
    this.#ports = ports
    this.#view = view
    this.#host = host
  }

  async start(): Promise<void> {
    await this.#host.start()
    this.#ports.network.handle(metricsPull, async asked => this.#host.answer(asked))
  }

  known(about: MetricsAbout): PolicyMetrics {
    const { hosts, members, cluster } = this.#reach(about)
    if (about.block !== undefined) for (const host of hosts) this.#soon(host).blocks.add(about.block)
    for (const member of members.slice(0, HOSTS_AT_ONCE)) this.#soon(member).node = true
    const key = JSON.stringify([about.block ?? null, cluster])
    const now = this.#ports.clock.monotonic()
    const shown = this.#shown.get(key)
    if (shown !== undefined && now - shown.at < SHOWN_MS) return shown.metrics
    const metrics = this.#documents(about.block, cluster)
    this.#shown.set(key, { at: now, metrics })
    return metrics
  }

  async fresh(about: MetricsAbout): Promise<PolicyMetrics> {
    const { hosts, members, cluster } = this.#reach(about)
    const { block } = about
    await this.#refresh([...members.map(peer => [peer, { node: true }] as const), ...(block === undefined ? [] : hosts.map(host => [host, { blocks: [block] }] as const))])
    return this.#documents(block, cluster)
  }

  /** What this host measures, in Prometheus's text format. */
  exposition(): string {
    return this.#host.exposition()
  }

  async node(peer: PeerId): Promise<JsonObject> {
    if (this.#view.ad(peer) === undefined) throw new MeshError('NOT_FOUND', `no living peer is called ${peer}`)
    await this.#refresh([[peer, { node: true }]])
    return this.#nodeDocument(peer)
  }

  async nodes(): Promise<readonly JsonObject[]> {
    const peers = this.#view.ads().map(({ peer }) => peer)
    await this.#refresh(peers.map(peer => [peer, { node: true }]))
    return peers.map(peer => this.#nodeDocument(peer))
  }

  async cluster(id: string): Promise<JsonObject> {
    const members = this.#members(id)
    if (members.length === 0) throw new MeshError('NOT_FOUND', `no cluster with a living node is called ${id}`)
    await this.#refresh(members.map(peer => [peer, { node: true }]))
    return this.#clusterDocument(id)
  }

  async clusters(): Promise<readonly JsonObject[]> {
    await this.nodes()
    return this.knownClusters()
  }

  knownClusters(): readonly JsonObject[] {
    return [...new Set(this.#view.ads().map(({ cluster }) => cluster))].sort().map(id => this.#clusterDocument(id))
  }

  async blocks(ids: readonly BlockId[]): Promise<readonly JsonObject[]> {
    const byHost = new Map<PeerId, BlockId[]>()
    for (const id of ids) {
      for (const host of this.#hostsOf(id)) {
        const wanted = byHost.get(host)
        if (wanted === undefined) byHost.set(host, [id])
        else wanted.push(id)
      }
    }
    await this.#refresh([...byHost].flatMap(([host, blocks]) => chunks(blocks, BLOCKS_AT_ONCE).map(some => [host, { blocks: some }] as const)))
    return ids.map(id => this.#blockDocument(id))
  }

  knownBlock(id: BlockId): JsonObject {
    return this.#blockDocument(id)
  }

  /** AIOS's block health: healthy when every instance has reported within a minute. */
  async health(id: BlockId): Promise<JsonObject> {
    const [document] = await this.blocks([id])
    const now = this.#ports.clock.unix()
    const instances = document?.['instances']
    const reports = (Array.isArray(instances) ? instances.filter(isJsonObject) : []).map(({ instanceId, timestamp, state }) => {
      const reported = typeof timestamp === 'number' ? timestamp : 0
      return { instanceId: instanceId ?? '', healthy: state !== 'failed' && now - reported * 1_000 < HEALTHY_MS, last_reported: reported }
    })
    return { blockId: id, healthy: reports.length > 0 && reports.every(({ healthy }) => healthy), instances: reports }
  }

  /** Each vDAG that a living peer answered for: all peers together, and below `nodes` what each says. */
  async vdags(): Promise<readonly JsonObject[]> {
    const peers = this.#view.live()
    await this.#refresh(peers.map(peer => [peer, { vdags: true }]))
    const rows = peers.flatMap(peer => (this.#vdags.get(peer) ?? []).map(({ vdag, metrics }) => ({ vdag, row: { ...metrics, vdagURI: vdag, nodeId: peer } })))
    return [...Map.groupBy(rows, ({ vdag }) => vdag)].sort(([a], [b]) => (a < b ? -1 : 1)).map(([vdag, said]) => vdagDocument(vdag, said.map(({ row }) => row)))
  }

  /** What policies read keeps being asked for while they read it, in one question a host. */
  #soon(host: PeerId): { node: boolean; readonly blocks: Set<BlockId> } {
    const waiting = this.#later.get(host) ?? { node: false, blocks: new Set<BlockId>() }
    this.#later.set(host, waiting)
    if (this.#later.size === 1) this.#ports.clock.after(TOGETHER_MS, () => {
      const all = [...this.#later]
      this.#later.clear()
      void this.#refresh(all.flatMap(([peer, { node, blocks }]) => [[peer, { node }] as const, ...chunks([...blocks], BLOCKS_AT_ONCE).map(some => [peer, { blocks: some }] as const)]))
    })
    return waiting
  }

  #hostsOf(block: BlockId): PeerId[] {
    return [...new Set(this.#view.instancesOf(block).map(({ host }) => host))]
  }

  #reach({ block, cluster }: MetricsAbout): { readonly hosts: readonly PeerId[]; readonly members: readonly PeerId[]; readonly cluster: string } {
    const hosts = block === undefined ? [] : this.#hostsOf(block)
    const id = cluster ?? this.#view.ad(hosts[0] ?? this.#view.self)?.cluster ?? ''
    return { hosts, members: this.#members(id), cluster: id }
  }

  #documents(block: BlockId | undefined, cluster: string): PolicyMetrics {
    return { block_metrics: block === undefined ? {} : withAggregate(this.#blockDocument(block)), cluster_metrics: this.#clusterDocument(cluster) }
  }

  #members(cluster: string): readonly PeerId[] {
    return this.#view.ads().filter(ad => ad.cluster === cluster).map(({ peer }) => peer)
  }

  #nodeDocument(peer: PeerId): JsonObject {
    const held = peer === this.#view.self ? this.#host.node() : this.#nodes.get(peer)
    const ad = this.#view.ad(peer)
    if (held !== undefined) return ad === undefined ? held : { ...held, clusterId: ad.cluster }
    return ad === undefined ? { nodeId: peer } : advertisedNode(ad)
  }

  #clusterDocument(id: string): JsonObject {
    return clusterMetricsOf(id, this.#members(id).map(peer => this.#nodeDocument(peer)))
  }

  /** AIOS's `{ blockId, instances }`, of those that live. */
  #blockDocument(id: BlockId): JsonObject {
    return { blockId: id, instances: this.#view.instancesOf(id).map(({ host, ad }) => this.#instanceDocument(host, ad)) }
  }

  #instanceDocument(host: PeerId, ad: InstanceAd): JsonObject {
    const held = this.#instances.get(`${host}\0${ad.instance}`)
    const advertised: JsonObject = { blockId: ad.block, instanceId: ad.instance, nodeId: host, state: ad.state, queue_length: ad.queued, in_flight: ad.inFlight, latency: ad.latencyMs / 1_000 }
    if (held === undefined) return { ...advertised, timestamp: (this.#view.ad(host)?.issuedAt ?? 0) / 1_000 }
    return { ...advertised, ...held, blockId: ad.block, instanceId: ad.instance, nodeId: host }
  }

  /** Asks these hosts for what is not young enough, each once however many want it. Never throws: what a host does not say stays as it was. */
  async #refresh(wanted: readonly (readonly [host: PeerId, want: Want])[]): Promise<void> {
    const now = this.#ports.clock.monotonic()
    const due = wanted.flatMap(([host, want]) => {
      const node = want.node === true && this.#due(`node\0${host}`, now)
      const vdags = want.vdags === true && this.#due(`vdags\0${host}`, now)
      const blocks = (want.blocks ?? []).filter(block => this.#due(`${host}\0${block}`, now))
      return node || vdags || blocks.length > 0 ? [{ host, asked: { node, vdags, blocks } }] : []
    })
    // What somebody else began to ask for is worth waiting for.
    const others = wanted.flatMap(([host, want]) => keysOf(host, { node: want.node === true, vdags: want.vdags === true, blocks: [...want.blocks ?? []] })).flatMap(key => this.#asking.get(key) ?? [])
    const work = due.map(({ host, asked }) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      const keys = keysOf(host, asked)
      for (const key of keys) {
        this.#asked.set(key, now)
        this.#asking.set(key, promise)
      }
      return () => this.#pull(host, asked).finally(() => {
        for (const key of keys) if (this.#asking.get(key) === promise) this.#asking.delete(key)
        resolve()
      })
    })
    await Promise.all([...others, inTurn(work, HOSTS_AT_ONCE)])
  }

  #due(key: string, now: Millis): boolean {
    const asked = this.#asked.peek(key)
    return asked === undefined || now - asked >= FRESH_MS
  }

  async #pull(host: PeerId, asked: Required<MetricsAsked>): Promise<void> {
    this.#ports.telemetry.count('metrics_pulls_total')
    try {
      this.#hear(host, host === this.#view.self ? this.#host.answer(asked) : await this.#ports.network.request(host, metricsPull, asked))
    } catch {
      this.#ports.telemetry.count('metrics_pulls_failed_total')
    }
  }

  #hear(host: PeerId, told: MetricsTold): void {
    if (told.node !== undefined) this.#nodes.set(host, { ...told.node, nodeId: host })
    if (told.vdags.length > 0) this.#vdags.set(host, told.vdags)
    for (const { instance, metrics } of told.instances) this.#instances.set(`${host}\0${instance}`, metrics)
  }
}

/** What these peers say of a vDAG, together. The latency is over requests: a peer that answered ten times as many counts ten times. */
export function vdagDocument(vdagURI: string, nodes: readonly JsonObject[]): JsonObject {
  const numbers = (field: string): readonly number[] => nodes.map(node => (typeof node[field] === 'number' ? node[field] : 0))
  const speeds = numbers('inference_fps')
  const total = speeds.reduce((a, b) => a + b, 0)
  if (nodes.length === 0) return { vdagURI, timestamp: 0, inference_requests_total: 0, inference_fps: 0, inference_latency_seconds: 0, nodes: [] }
  const latency: JsonObject = total === 0 ? {} : { inference_latency_seconds: numbers('inference_latency_seconds').reduce((sum, seconds, at) => sum + seconds * (speeds[at] ?? 0), 0) / total }
  return { vdagURI, timestamp: Math.max(0, ...numbers('timestamp')), ...aggregate(nodes), ...latency, nodes: [...nodes] }
}

/** A block's document with its instances put together. */
export function withAggregate(block: JsonObject): JsonObject {
  const { instances } = block
  return { ...block, aggregate: Array.isArray(instances) ? aggregate(instances.filter(isJsonObject)) : {} }
}

function keysOf(host: PeerId, { node, vdags, blocks }: Required<MetricsAsked>): readonly string[] {
  return [...(node ? [`node\0${host}`] : []), ...(vdags ? [`vdags\0${host}`] : []), ...blocks.map(block => `${host}\0${block}`)]
}

function chunks<T>(items: readonly T[], size: number): readonly (readonly T[])[] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, at) => items.slice(at * size, (at + 1) * size))
}

/** Runs each, `atOnce` of them at a time. */
async function inTurn(work: readonly (() => Promise<void>)[], atOnce: number): Promise<void> {
  const left = work[Symbol.iterator]()
  await Promise.all(Array.from({ length: Math.min(atOnce, work.length) }, async () => {
    for (const next of left) await next()
  }))
}

