import { granted } from '../../protocols/errors.ts'
import type { BlockId, InstanceId, Json } from '../../protocols/ids.ts'
import { isJsonObject } from '../lib/json.ts'
import type { Telemetry } from '../ports.ts'
import type { MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import type { BlockDocuments } from './block-documents.ts'
import { healthRound, healthSettings, namedByRule, toReplace, type Checked, type InstanceHealth } from './health-round.ts'
import type { BlockInvoker } from './invoker.ts'
import type { BlockDesk } from './upkeep.ts'

/** Crashes within a minute from which an instance counts as unhealthy, though it has come up again. */
const CRASH_LOOP = 2
const LOAD_MS = 3_000
/** What a host says of an instance that it has no more: its next ad says the same. */
const GONE: ReadonlySet<Json> = new Set(['EPOCH_FENCED', 'NO_INSTANCE'])

/** What was known of an instance's process when it was judged: the same instance may have another by now. */
type Judged = { crashes: number; readonly starting: boolean; anew: boolean }

type Parts = { readonly desk: BlockDesk; readonly view: MeshView; readonly invoker: Pick<BlockInvoker, 'health' | 'load'>; readonly policies: PolicyCalls; readonly documents: BlockDocuments; readonly metrics: MetricsSource; readonly onUnhealthy: (block: BlockId, instance: InstanceId, because: string) => void }

/** Asks every instance of a block how it is, round by round, tells the block's stability rule, and has those replaced that stay unhealthy. */
export class HealthChecker {
  readonly #telemetry: Telemetry
  readonly #parts: Parts
  readonly #health = new Map<BlockId, ReadonlyMap<InstanceId, InstanceHealth>>()
  readonly #judged = new Map<BlockId, ReadonlyMap<InstanceId, Judged>>()
  /** Calls that those which did not answer had served when they were last looked at. */
  readonly #served = new Map<BlockId, ReadonlyMap<InstanceId, number>>()

  constructor(telemetry: Telemetry, parts: Parts) {
    this.#telemetry = telemetry
    this.#parts = parts
  }

  forget(block: BlockId): void {
    this.#health.delete(block)
    this.#judged.delete(block)
    this.#served.delete(block)
  }

  /** As the last round found them, without those that have started anew since: of their process nothing is known yet. */
  of(block: BlockId): ReadonlyMap<InstanceId, InstanceHealth> {
    this.look(block)
    const judged = this.#judged.get(block)
    return new Map([...this.#health.get(block) ?? []].filter(([instance]) => judged?.get(instance)?.anew !== true))
  }

  /** Notes which instances have crashed and started anew since they were judged; to be called more often than crashes are forgotten. One that does so again and again keeps its verdict. */
  look(block: BlockId): void {
    const judged = this.#judged.get(block)
    if (judged === undefined) return
    for (const { ad: { instance, state, crashes = 0 } } of this.#parts.view.instancesOf(block)) {
      const one = judged.get(instance)
      if (one === undefined) continue
      one.anew = crashes < CRASH_LOOP && (one.anew || crashes > one.crashes || (one.starting && state === 'ready'))
      one.crashes = crashes
    }
  }

  /** One round. */
  async round(block: BlockId): Promise<ReadonlyMap<InstanceId, InstanceHealth>> {
    const { desk, view, policies, metrics, documents, onUnhealthy } = this.#parts
    const tended = desk.tended(block)
    if (tended === undefined) return new Map()
    const { record } = tended
    const { timeoutMs, rounds } = healthSettings(record)
    const ads = view.instancesOf(block).map(({ ad }) => ad)
    const answers = await this.#ask(block, timeoutMs, ads.some(({ state }) => state === 'ready'))
    // One that was released meanwhile, or just before while its ad is late, is not ill: it is gone.
    const held = new Set((desk.tended(block) ?? tended).observed.map(({ instance }) => instance))
    for (const instance of answers.keys()) if (!held.has(instance)) answers.delete(instance)
    const looping = new Map(ads.flatMap(ad => {
      if (ad.state === 'failed') return [[ad.instance, ad.because ?? 'it failed'] as const]
      if (ad.state === 'starting' && (ad.crashes ?? 0) > 0) return [[ad.instance, `it crashed ${ad.crashes} times in a minute and starts again`] as const]
      return []
    }))
    for (const { instance, crashes = 0 } of ads) if (crashes >= CRASH_LOOP && answers.has(instance)) answers.set(instance, { healthy: false, because: `it crashed ${crashes} times in a minute` })
    const after = healthRound(this.#health.get(block) ?? new Map(), answers, looping)
    this.#health.set(block, after)
    // As they were before they were asked: one that was killed because it did not answer is judged for that, and another when it is up.
    this.#judged.set(block, new Map(ads.map(({ instance, state, crashes = 0 }) => [instance, { crashes, starting: state === 'starting', anew: false }])))
    const sick = [...after].filter(([, { healthy }]) => !healthy)
    this.#telemetry.gauge('block_unhealthy_instances', sick.length, { block })
    const rule = record.policies['stabilityChecker']
    const { value: named } = await policies.decide<readonly string[]>({
      hook: 'stabilityChecker', rule, scope: block,
      input: { block_data: documents.block(record), cluster_data: documents.cluster(), health_check_data: Object.fromEntries([...after].map(([instance, { healthy }]) => [instance, healthy])), instances: [...after.keys()] },
      settings: { block_data: documents.block(record), cluster_data: documents.cluster(), get_metrics: rule === undefined ? {} : await metrics.fresh({ block }) },
      accept: answer => granted(namedByRule(answer)),
      fallback: () => [],
    })
    for (const instance of new Set([...toReplace(after, new Set(answers.keys()), rounds), ...named.filter(one => after.has(one))])) {
      const { misses = 0, because = '' } = after.get(instance) ?? {}
      const why = named.includes(instance) ? 'its stability rule wants another' : `unhealthy in ${misses} rounds: ${because}`
      this.#telemetry.event('warn', 'instance.unhealthy', { block, instance, because: why })
      desk.send(block, [instance], 'replaced', why)
      onUnhealthy(block, instance, why)
    }
    return after
  }

  async #ask(block: BlockId, timeoutMs: number, any: boolean): Promise<Map<InstanceId, Checked>> {
    const answers = any ? await this.#parts.invoker.health(block, { deadlineMs: timeoutMs }) : {}
    const busy = await this.#busy(block, Object.entries(answers).filter(([, { detail }]) => failureOf(detail) === 'DEADLINE').map(([instance]) => instance))
    return new Map(Object.entries(answers).filter(([, { detail }]) => !GONE.has(failureOf(detail) ?? '')).map(([instance, { healthy, detail }]) => [instance, healthy || busy.has(instance) ? { healthy: true, because: '' } : { healthy, because: reasonOf(detail) }]))
  }

  /** Of those that said nothing in time, those that have served calls since the last such round: they compute, and answer when they are done. */
  async #busy(block: BlockId, silent: readonly InstanceId[]): Promise<ReadonlySet<InstanceId>> {
    if (silent.length === 0) return new Set()
    const before = this.#served.get(block)
    const loads = await this.#parts.invoker.load(block, { deadlineMs: LOAD_MS })
    this.#served.set(block, new Map(Object.entries(loads).map(([instance, { served }]) => [instance, served])))
    return new Set(silent.filter(instance => (loads[instance]?.served ?? 0) > (before?.get(instance) ?? Infinity)))
  }
}

/** Why an instance did not say how it is. */
function failureOf(detail: Json): Json | undefined {
  const error: Json | undefined = isJsonObject(detail) ? detail['error'] : undefined
  return isJsonObject(error) ? error['code'] : undefined
}

function reasonOf(detail: Json): string {
  if (!isJsonObject(detail)) return 'it said so'
  const error: Json | undefined = detail['error']
  const said = isJsonObject(error) ? error['message'] : error ?? detail['reason'] ?? detail['status']
  return typeof said === 'string' ? said.slice(0, 200) : 'it said so'
}
