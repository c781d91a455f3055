import { z } from 'zod'
import type { BlockId, InstanceId, Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { WindowSummary } from '../../sdk/instruments.ts'
import { CATEGORY } from '../../sdk/metrics.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'

/** What a host knows of an instance besides what the instance says. */
export type InstanceFacts = {
  readonly block: BlockId
  readonly instance: InstanceId
  readonly host: PeerId
  readonly state: string
  readonly at: Millis
  readonly uptimeMs: Millis
  readonly queued: number
  readonly inFlight: number
  readonly served: number
  readonly failed: number
  /** Of whole calls, waiting included, in seconds. */
  readonly latency: WindowSummary
  readonly memoryMb: number
  /** 100: one core, whole. */
  readonly cpuPercent: number
  /** Of the GPUs in its contract, together: percent, where their driver tells. */
  readonly gpuPercent?: number | undefined
  /** As its SDK gives it: `{ name: { type, series } }`. */
  readonly reported: Json
}

/** Bytes of JSON that one instance's document may have; the largest of its own metrics are left out first. */
const DOCUMENT_BYTES = 32_768
/** Label sets of one metric that are told one by one. */
const LABELLED = 32

const window = z.looseObject({ count: z.number(), mean: z.number(), perSecond: z.number().default(0), p50: z.number().default(0), p95: z.number().default(0), p99: z.number().default(0) })
const rolling = z.looseObject({ current: z.number().default(0), '1m': window, '5m': window, '15m': window })
const histogram = z.looseObject({ count: z.number(), sum: z.number(), buckets: z.array(z.tuple([z.number(), z.number()])).max(256) })
const labels = z.record(z.string().max(100), z.string().max(200))
const family = z.discriminatedUnion('type', [
  z.looseObject({ type: z.enum(['counter', 'gauge']), series: z.array(z.object({ labels, value: z.number() })).max(256) }),
  z.looseObject({ type: z.literal('histogram'), series: z.array(z.object({ labels, value: histogram })).max(256) }),
  z.looseObject({ type: z.literal('rolling'), series: z.array(z.object({ labels, value: rolling })).max(256) }),
])
export type Family = z.infer<typeof family>
const NAME = /^[A-Za-z_][A-Za-z0-9_.:-]{0,119}$/
/** AIOS's own three, which its SDK measures around the callbacks. */
const STEPS = ['on_preprocess', 'on_data', 'end_to_end'] as const
/** What the document says itself. */
const TAKEN = new Set(['instanceId', 'blockId', 'nodeId', 'timestamp', 'uptime', 'state', 'hardware', 'custom', 'labelled', 'queue_length', 'in_flight', 'latency', 'tasks_processed', 'tasks_failed', '__proto__', 'constructor', 'prototype'])

/** The metrics an instance reported, those that are well-formed. It may say anything. */
export function familiesOf(reported: Json): ReadonlyMap<string, Family> {
  const found = new Map<string, Family>()
  if (reported === null || typeof reported !== 'object' || Array.isArray(reported)) return found
  for (const [name, value] of Object.entries(reported).slice(0, 512)) {
    const parsed = family.safeParse(value)
    if (parsed.success && NAME.test(name) && !TAKEN.has(name)) found.set(name, parsed.data)
  }
  return found
}

/** AIOS's metrics document of one instance. Times in seconds, `timestamp` in seconds since 1970. */
export function instanceMetrics(facts: InstanceFacts): JsonObject {
  const own = new Map<string, JsonObject>()
  const families = familiesOf(facts.reported)
  for (const [name, metric] of families) own.set(name, fieldsOf(name, metric))
  const speeds = STEPS.flatMap(step => {
    const measured = families.get(`${step}_latency`)
    return measured?.type === 'rolling' ? Object.entries(stepFields(step, measured.series[0]?.value)) : []
  })
  const { latency } = facts
  const fixed: JsonObject = {
    instanceId: facts.instance, blockId: facts.block, nodeId: facts.host, timestamp: facts.at / 1_000, uptime: facts.uptimeMs / 1_000, state: facts.state,
    queue_length: facts.queued, in_flight: facts.inFlight, tasks_processed: facts.served, tasks_failed: facts.failed,
    latency: latency.mean, latency_p50: latency.p50, latency_p95: latency.p95, latency_p99: latency.p99, fps: latency.perSecond,
    hardware: { cpuUtilization: facts.cpuPercent, usedMem: facts.memoryMb, ...(facts.gpuPercent === undefined ? {} : { cudaUtilization: facts.gpuPercent }) },
    // A stage does not look at its host; AIOS's names for what the host sees.
    ...(families.has('llm_active_sessions') && !families.has('llm_cpu_utilization') ? { llm_cpu_utilization: facts.cpuPercent } : {}),
    ...(families.has('llm_active_sessions') && !families.has('llm_gpu_utilization') ? { llm_gpu_utilization: facts.gpuPercent ?? 0 } : {}),
  }
  const bySize = [...own].map(([name, fields]) => ({ name, fields, bytes: JSON.stringify(fields).length })).sort((a, b) => a.bytes - b.bytes || (a.name < b.name ? -1 : 1))
  let left = DOCUMENT_BYTES - JSON.stringify(fixed).length
  const told = bySize.filter(({ bytes }) => (left -= bytes) >= 0)
  return { ...merged(told.map(({ fields }) => fields)), ...Object.fromEntries(speeds), ...fixed, ...(told.length < bySize.length ? { left_out: bySize.length - told.length } : {}) }
}

/** Objects below `custom` and `labelled` are put together, all else is of one metric alone. */
function merged(parts: readonly JsonObject[]): JsonObject {
  const out: Record<string, Json> = {}
  for (const part of parts) for (const [key, value] of Object.entries(part)) out[key] = key === 'labelled' || key === 'custom' ? deepMerge(out[key], value) : value
  return out
}

function deepMerge(a: Json | undefined, b: Json): Json {
  if (!isJsonObject(a) || !isJsonObject(b)) return b
  const out: Record<string, Json> = { ...a }
  for (const [key, value] of Object.entries(b)) out[key] = deepMerge(out[key], value)
  return out
}

function stepFields(step: string, value: z.infer<typeof rolling> | undefined): JsonObject {
  if (value === undefined) return {}
  const { mean, p50, p95, p99, perSecond } = value['1m']
  return { [`${step}_latency`]: mean, [`${step}_latency_p50`]: p50, [`${step}_latency_p95`]: p95, [`${step}_latency_p99`]: p99, [`${step}_fps`]: perSecond }
}

/** One metric as fields of the document: over all its label sets, and below `labelled` each by itself. */
function fieldsOf(name: string, metric: Family): JsonObject {
  switch (metric.type) {
    case 'counter':
    case 'gauge': {
      const sum = metric.series.reduce((total, { value }) => total + value, 0)
      return { [name]: sum, ...(metric.type === 'counter' && !/_(?:total|count)$/.test(name) ? { [`${name}_total`]: sum } : {}), ...labelled(name, metric.series, value => value) }
    }
    case 'histogram': {
      const all = metric.series.map(({ value }) => value)
      const [first] = all
      if (first === undefined) return {}
      const whole = all.length === 1 ? first : { count: total(all, ({ count }) => count), sum: total(all, ({ sum }) => sum), buckets: addBuckets(all.map(({ buckets }) => buckets)) }
      return { [name]: summary(whole), [`${name}_count`]: whole.count, [`${name}_sum`]: whole.sum, ...labelled(name, metric.series, summary) }
    }
    case 'rolling': {
      const plain = metric.series.filter(({ labels }) => !(CATEGORY in labels))
      const custom: Record<string, Record<string, Json>> = {}
      for (const { labels: { [CATEGORY]: category }, value } of metric.series) if (category !== undefined && NAME.test(category)) custom[category] = { ...custom[category], [name]: averages(value) }
      return { ...(plain[0] === undefined ? {} : { [name]: averages(plain[0].value) }), ...(Object.keys(custom).length === 0 ? {} : { custom }), ...labelled(name, plain, averages) }
    }
  }
}

function labelled<V>(name: string, series: readonly { readonly labels: Readonly<Record<string, string>>; readonly value: V }[], show: (value: V) => Json): JsonObject {
  const shown = series.filter(({ labels }) => Object.keys(labels).length > 0)
  return shown.length === 0 ? {} : { labelled: { [name]: shown.slice(0, LABELLED).map(({ labels, value }) => ({ labels, value: show(value) })) } }
}

function averages(value: z.infer<typeof rolling>): JsonObject {
  const { p50, p95, p99 } = value['15m']
  return { current: value.current, average_1m: value['1m'].mean, average_5m: value['5m'].mean, average_15m: value['15m'].mean, p50, p95, p99, per_second: value['1m'].perSecond }
}

function summary({ count, sum, buckets }: z.infer<typeof histogram>): JsonObject {
  const at = (share: number): number => percentile(buckets, count, share)
  return { count, sum, mean: count === 0 ? 0 : sum / count, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}

/** Between the bounds of its bucket, as if what is in it were spread evenly. What is above the last bound counts as it. */
function percentile(buckets: readonly (readonly [bound: number, atMost: number])[], count: number, share: number): number {
  const wanted = share * count
  if (count === 0) return 0
  let [below, before] = [0, 0]
  for (const [bound, atMost] of buckets) {
    if (atMost >= wanted) return atMost === before ? bound : below + ((bound - below) * (wanted - before)) / (atMost - before)
    below = bound
    before = atMost
  }
  return below
}

function addBuckets(all: readonly (readonly (readonly [number, number])[])[]): [number, number][] {
  const [first] = all
  return (first ?? []).map(([bound], index) => [bound, total(all, buckets => buckets[index]?.[1] ?? 0)])
}

function total<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0)
}
