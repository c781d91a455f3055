import { z } from 'zod'
import { granted, MeshError, refused } from '../../protocols/errors.ts'
import type { BlockId, Json, Millis } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import type { VdagSpec } from '../../protocols/specs.ts'
import { Rolling } from '../../sdk/instruments.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports } from '../ports.ts'
import type { Policies } from '../policies/calls.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import type { Reviews } from './reviews.ts'
import { Quotas, type QuotaStart } from './quota.ts'
import { controllerSettings, type ControllerSettings } from './settings.ts'

type GatePorts = Pick<Ports, 'clock' | 'identity' | 'journal' | 'network' | 'random' | 'telemetry'>

const SESSIONS_BOUND = 10_000
const VDAGS_BOUND = 1_000
/** Responses that wait for a quality rule; what is more is not sampled. */
const SAMPLES_BOUND = 256
const allowed = z.looseObject({ allowed: z.boolean() })
const overall = z.looseObject({ overall_healthy: z.boolean() })

/** `stale`: a controller has changed since the settings were read. What was counted stays. */
type Watched = { settings: ControllerSettings; stale: boolean; readonly latency: Rolling; answered: number; requests: number; failures: number; refused: number }

/** What AIOS's vDAG controller does around each request, on whichever peer it enters: quota, health, metrics, quality. */
export class Gate {
  readonly #ports: GatePorts
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'vdag'>
  readonly #policies: Pick<Policies, 'decide' | 'management'>
  readonly #quotas: Quotas
  /** Requests counted by vDAG and session, for quota rules. */
  readonly #counted = new Lru<string, number>(SESSIONS_BOUND)
  readonly #watched = new Lru<string, Watched>(VDAGS_BOUND)
  /** What a name without a version stood for when somebody last used it. */
  readonly #exact = new Lru<string, string>(VDAGS_BOUND)
  /** Blocks that nodes are assigned to which name none, as found last. */
  readonly #assigned = new Lru<string, readonly BlockId[]>(VDAGS_BOUND)
  readonly #reviews: Pick<Reviews, 'ask'>
  #sampling = 0

  constructor(ports: GatePorts, parts: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'vdag'>; readonly policies: Pick<Policies, 'decide' | 'management'>; readonly reviews: Pick<Reviews, 'ask'> }) {
    this.#ports = ports
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#policies = parts.policies
    this.#reviews = parts.reviews
    this.#quotas = new Quotas(ports, key => this.#quotaOf(key))
  }

  start(): void {
    this.#quotas.start()
  }

  /** May this request enter? Throws RATE_LIMITED or POLICY_DENIED (quota), NO_INSTANCE (health), NOT_FOUND. `config`: overrides of the controller of this very version, asked for once. */
  async enter(uri: string, packet: Packet, config: (vdag: string) => Promise<Json>): Promise<void> {
    const { spec } = await this.#catalogue.vdag(uri)
    if (uri !== spec.vdagURI) this.#exact.set(uri, spec.vdagURI)
    const watched = this.#current(spec.vdagURI) ?? this.#watch(spec, await config(spec.vdagURI))
    watched.requests += 1
    try {
      await this.#withinQuota(spec, watched.settings)
      await this.#askQuotaRule(spec, watched.settings, packet)
      await this.#healthyEnough(spec, watched.settings)
    } catch (error) {
      watched.refused += 1
      this.#ports.telemetry.count('vdag_requests_refused_total', { vdag: spec.vdagURI })
      throw error
    }
  }

  /** A controller's config changed: read it anew. */
  forget(uri: string): void {
    const watched = this.#watched.peek(uri)
    if (watched !== undefined) watched.stale = true
  }

  #current(uri: string): Watched | undefined {
    const watched = this.#watched.get(uri)
    return watched?.stale === true ? undefined : watched
  }

  /** Counts what came of a request, and hands every n-th answer to the quality rule, afterwards. */
  left(asked: string, request: Packet, outcome: { readonly response: Json } | { readonly failed: true }, ms: Millis): void {
    // A name without a version meant the newest when the request entered.
    const uri = this.#exact.peek(asked) ?? asked
    const watched = this.#watched.peek(uri)
    if (watched === undefined) return
    this.#ports.telemetry.count('vdag_inference_requests_total', { vdag: uri })
    this.#ports.telemetry.observe('vdag_inference_latency_ms', ms, { vdag: uri })
    watched.latency.observe(ms / 1_000)
    if ('failed' in outcome) {
      watched.failures += 1
      return
    }
    watched.answered += 1
    const quality = watched.settings.qualityChecker
    if (quality === undefined || watched.answered % quality.framesInterval !== 0 || this.#sampling >= SAMPLES_BOUND) return
    this.#sampling += 1
    void this.#sample(uri, quality.rule, request.data, outcome.response).finally(() => {
      this.#sampling -= 1
    })
  }

  /** Requests of a session, as quota rules see them. */
  quota(uri: string, session: string): number {
    return this.#counted.peek(`${uri}\0${session}`) ?? 0
  }

  resetQuota(uri: string, session: string): void {
    this.#counted.delete(`${uri}\0${session}`)
  }

  /** What this peer saw of a vDAG. */
  metrics(uri: string): Json {
    const watched = this.#watched.peek(uri)
    return watched === undefined ? null : this.#told(uri, watched)
  }

  /** The same of every vDAG that a request came for, in the order of their URIs. */
  measured(): readonly { readonly vdag: string; readonly metrics: JsonObject }[] {
    return [...this.#watched].sort(([a], [b]) => (a < b ? -1 : 1)).map(([vdag, watched]) => ({ vdag, metrics: this.#told(vdag, watched) }))
  }

  #told(uri: string, { latency, requests, answered, failures, refused }: Watched): JsonObject {
    const { mean, perSecond, p50, p95, p99 } = latency.window(60_000)
    return {
      vdagURI: uri, timestamp: this.#ports.clock.unix() / 1_000, inference_requests_total: requests, inference_fps: perSecond, inference_latency_seconds: mean,
      inference_latency_seconds_p50: p50, inference_latency_seconds_p95: p95, inference_latency_seconds_p99: p99, answered, failed: failures, refused,
    }
  }

  /** The blocks that a vDAG's nodes are assigned to now, for what is asked about its health. */
  assigned(uri: string, blocks: readonly BlockId[]): void {
    this.#assigned.set(uri, blocks)
  }

  /** AIOS's `management(action, data)` on a checker of a vDAG. Throws NOT_FOUND where it has none, and what the rule throws. */
  async manage(uri: string, checker: 'quotaChecker' | 'qualityChecker' | 'healthChecker', command: { readonly action: string; readonly data: Json }, config: (vdag: string) => Promise<Json>): Promise<Json> {
    const { spec } = await this.#catalogue.vdag(uri)
    const { settings } = this.#current(spec.vdagURI) ?? this.#watch(spec, await config(spec.vdagURI))
    const rule = checker === 'quotaChecker' ? settings.quotaChecker : settings[checker]?.rule
    if (rule === undefined) throw new MeshError('NOT_FOUND', `${spec.vdagURI} has no ${checker} to manage: give its controller one`)
    return this.#policies.management(rule, command.action, command.data, checker, spec.vdagURI)
  }

  /** Each block of a vDAG: healthy when an instance of it is ready. */
  health(spec: VdagSpec): JsonObject {
    const blocks = [...new Set([...spec.nodes.flatMap(({ blockId }) => blockId ?? []), ...this.#assigned.peek(spec.vdagURI) ?? []])]
    return Object.fromEntries(blocks.map(block => {
      const instances = this.#view.instancesOf(block)
      return [block, { healthy: instances.some(({ ad }) => ad.state === 'ready'), instances: instances.map(({ host, ad }) => ({ instanceId: ad.instance, nodeId: host, state: ad.state })) }]
    }))
  }

  async #withinQuota(spec: VdagSpec, { quota }: ControllerSettings): Promise<void> {
    if (quota === undefined) return
    const held = await this.#quotas.open(keyOf(spec), this.#start(spec, quota))
    const verdict = await held.admit()
    if (!verdict.ok) throw new MeshError('RATE_LIMITED', `${spec.vdagURI}: ${verdict.because}`)
  }

  async #askQuotaRule(spec: VdagSpec, { quotaChecker }: ControllerSettings, packet: Packet): Promise<void> {
    const key = `${spec.vdagURI}\0${packet.sessionId}`
    const count = (this.#counted.get(key) ?? 0) + 1
    this.#counted.set(key, count)
    if (quotaChecker === undefined) return
    const { value, because } = await this.#policies.decide<boolean>({
      hook: 'quotaChecker',
      rule: quotaChecker,
      input: { quota_table: this.#table(spec.vdagURI), input: toJson(packet.data), quota: count, session_id: packet.sessionId },
      scope: spec.vdagURI,
      accept: answer => {
        const parsed = allowed.safeParse(answer)
        return parsed.success ? granted(parsed.data.allowed) : refused('a quota rule must return { allowed }')
      },
      fallback: failure => failure === undefined,
    })
    if (!value) throw new MeshError('RATE_LIMITED', `${spec.vdagURI}: the quota rule does not allow it: ${because}`)
  }

  async #healthyEnough(spec: VdagSpec, { healthChecker }: ControllerSettings): Promise<void> {
    if (healthChecker === undefined) return
    const { value, because } = await this.#policies.decide<boolean>({
      hook: 'healthChecker',
      rule: healthChecker.rule,
      input: { mode: 'fast_check', vdag: toJson(spec), health_check_data: this.health(spec) },
      scope: spec.vdagURI,
      accept: answer => {
        const parsed = overall.safeParse(answer)
        return parsed.success ? granted(parsed.data.overall_healthy) : refused('fast_check must return { overall_healthy }')
      },
      fallback: () => true,
    })
    if (!value) throw new MeshError('NO_INSTANCE', `${spec.vdagURI} is not healthy: ${because}`)
  }

  async #sample(uri: string, rule: NonNullable<ControllerSettings['quotaChecker']>, request: Json, response: Json): Promise<void> {
    const { value } = await this.#policies.decide<Json>({
      hook: 'qualityChecker', rule, scope: uri,
      input: { vdag_info: { vdagURI: uri }, input_data: { request, response } },
      accept: answer => granted(answer),
      fallback: () => null,
    })
    this.#ports.telemetry.count('vdag_quality_samples_total', { vdag: uri })
    // AIOS's rules hand doubtful answers to people by a system of their own.
    if (!isJsonObject(value) || value['review'] !== true) return
    this.#reviews.ask({ vdag: uri, request, response, opinion: value })
  }

  #watch(spec: VdagSpec, config: Json): Watched {
    // Two first requests may have met while the config was read.
    const known = this.#watched.get(spec.vdagURI)
    if (known?.stale === false) return known
    // The quota is the vDAG's alone: controllers that disagreed about it could not share it.
    const { quota } = controllerSettings(spec.controller)
    const { quota: _, ...settings } = controllerSettings(spec.controller, isJsonObject(config) ? config : {})
    const read: ControllerSettings = { ...settings, ...(quota === undefined ? {} : { quota }) }
    if (known !== undefined) return Object.assign(known, { settings: read, stale: false })
    const watched: Watched = { settings: read, stale: false, latency: new Rolling({ monotonic: () => this.#ports.clock.monotonic() }), answered: 0, requests: 0, failures: 0, refused: 0 }
    this.#watched.set(spec.vdagURI, watched)
    return watched
  }

  #table(uri: string): Json {
    return Object.fromEntries([...this.#counted].filter(([key]) => key.startsWith(`${uri}\0`)).slice(-1_000).map(([key, count]) => [key.slice(uri.length + 1), count]))
  }

  /** The author of a vDAG has all rights at first: that follows from the vDAG alone. */
  #start(spec: VdagSpec, terms: NonNullable<ControllerSettings['quota']>): QuotaStart {
    const author = spec.author ?? ''
    return { terms, initial: this.#ports.identity.peer === author ? terms.limit : 0, others: () => [...new Set([author, ...this.#view.live()])].filter(peer => peer !== '') }
  }

  async #quotaOf(key: string): Promise<QuotaStart | undefined> {
    if (!key.startsWith(VDAG)) return undefined
    const { spec } = await this.#catalogue.vdag(key.slice(VDAG.length))
    const { quota } = controllerSettings(spec.controller)
    return quota === undefined ? undefined : this.#start(spec, quota)
  }
}

const VDAG = 'vdag/'

function keyOf({ vdagURI }: VdagSpec): string {
  return `${VDAG}${vdagURI}`
}
