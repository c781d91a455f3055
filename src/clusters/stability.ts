import { z } from 'zod'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import { background } from '../lib/background.ts'
import { Beat } from '../lib/beat.ts'
import { toJson, type JsonObject } from '../lib/json.ts'
import type { Policies } from '../policies/calls.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { ClusterBook } from './cluster-book.ts'

/** As AIOS. */
const EVERY_MS: Millis = 60_000

export type StabilityVerdict = { readonly cluster: string; readonly is_stable: boolean; readonly stability_check_data: Json; readonly at: Millis; readonly by: 'policy' | 'default' | 'fallback'; readonly because: string }
type Opinion = Pick<StabilityVerdict, 'is_stable' | 'stability_check_data'>

const answered = z.looseObject({ is_stable: z.boolean(), stability_check_data: z.json().default(null) })
const STABLE: Opinion = { is_stable: true, stability_check_data: null }

/** Asks its cluster's stability rule every minute and on demand. Each member asks for itself, of what it knows of all of them: one that hears no bids well of its cluster makes none. */
export class Stability {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'telemetry'>
  readonly #view: MeshView
  readonly #book: ClusterBook
  readonly #policies: Pick<Policies, 'decide' | 'management'>
  readonly #own: () => string
  #last: StabilityVerdict | undefined
  readonly #beat: Beat

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'telemetry'>, parts: { readonly view: MeshView; readonly book: ClusterBook; readonly policies: Pick<Policies, 'decide' | 'management'>; readonly own: () => string }) {
    this.#ports = ports
    this.#view = parts.view
    this.#book = parts.book
    this.#policies = parts.policies
    this.#own = parts.own
    this.#beat = new Beat(ports.clock, EVERY_MS, {
      needed: () => true,
      look: () => {
        // A lone host has nobody's rule to be judged by.
        if (this.#book.get(this.#own()) !== undefined) background(this.#ports.telemetry, 'cluster.not-judged', this.check(), 'warn')
      },
    })
  }

  start(): void {
    this.#beat.wake()
  }

  stop(): void {
    this.#beat.stop()
  }

  /** The last verdict about this host's cluster. */
  get last(): StabilityVerdict | undefined {
    return this.#last?.cluster === this.#own() ? this.#last : undefined
  }

  /** May this host bid? */
  bids(): Verdict<true> {
    const { last } = this
    return last === undefined || last.is_stable ? granted(true) : refused(`cluster ${last.cluster} is not stable: ${last.because}`, true)
  }

  /** Asks now. Without a rule a cluster is stable; so it is where its rule fails. */
  async check(): Promise<StabilityVerdict> {
    const cluster = this.#own()
    const rule = this.#book.get(cluster)?.stability
    const ads = this.#view.ads().filter(ad => ad.cluster === cluster)
    const document = this.#book.document(cluster, ads)
    const { value, by, because } = await this.#policies.decide<Opinion>({
      hook: 'clusterStability',
      rule,
      // AIOS's code and its documentation call the cluster by two names.
      input: { cluster: document, cluster_data: document, nodes_data: this.nodes(cluster) },
      scope: scopeOf(cluster),
      accept: answer => {
        const parsed = answered.safeParse(answer)
        return parsed.success ? granted({ is_stable: parsed.data.is_stable, stability_check_data: parsed.data.stability_check_data }) : refused('a stability checker must return { is_stable, stability_check_data }')
      },
      fallback: () => STABLE,
    })
    const verdict = { cluster, ...value, at: this.#ports.clock.unix(), by, because }
    if (verdict.is_stable !== (this.#last?.is_stable ?? true)) this.#ports.telemetry.event('warn', 'cluster.stability', { cluster, stable: verdict.is_stable, because })
    this.#ports.telemetry.gauge('cluster_stable', verdict.is_stable ? 1 : 0)
    this.#last = verdict
    return verdict
  }

  /** AIOS's `nodes_data`: every host of the cluster, heard of or not. */
  nodes(cluster: string): readonly JsonObject[] {
    const ads = this.#view.ads().filter(ad => ad.cluster === cluster)
    const silent = this.#book.nodesOf(cluster).filter(({ id, nodeMetadata }) => nodeMetadata['peer'] === true && !ads.some(({ peer }) => peer === id))
    return [...ads.map(statusOf), ...silent.map(({ id }) => ({ node_id: id, status: 'unhealthy', cpu_utilization_percent: 0, memory: { total: 0, allocatable: 0, usage_percent: 0 }, disk: { total: 0, allocatable: 0, usage_percent: 0 } }))]
  }

  /** AIOS's management command to the checker. Throws NOT_FOUND where the cluster has none, and what the rule throws. */
  async manage(action: string, data: Json): Promise<Json> {
    const cluster = this.#own()
    const rule = this.#book.get(cluster)?.stability
    if (rule === undefined) throw new MeshError('NOT_FOUND', `cluster ${cluster} has no stability checker to manage: set config.stabilityChecker`)
    return this.#policies.management(rule, action, data, 'clusterStability', scopeOf(cluster))
  }
}

function scopeOf(cluster: string): string {
  return `stability ${cluster}`
}

function statusOf({ peer, cpuLoad, total, free }: CapacityAd): JsonObject {
  const share = (has: number, left: number): number => (has === 0 ? 0 : Math.round((has - left) / has * 1_000) / 10)
  return {
    node_id: peer, status: 'healthy', cpu_utilization_percent: Math.min(100, Math.round(cpuLoad * 1_000) / 10),
    memory: { total: total.memoryMb, allocatable: free.memoryMb, usage_percent: share(total.memoryMb, free.memoryMb) },
    disk: { total: total.diskMb, allocatable: free.diskMb, usage_percent: share(total.diskMb, free.diskMb) },
    ...(total.gpus.length === 0 ? {} : { gpus: toJson(free.gpus) }),
  }
}
