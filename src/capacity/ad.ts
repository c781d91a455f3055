import type { CapacityAd, CapacityDelta, InstanceAd } from '../../protocols/capacity.ts'
import { encode } from '../../protocols/codec.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import type { Resources } from '../../protocols/resources.ts'
import type { MachineReport, MachineUsage } from '../ports.ts'

/** What an ad says beyond who says it and when. */
export type AdBody = Omit<CapacityAd, 'peer' | 'incarnation' | 'sequence' | 'issuedAt'>

export type AdFacts = {
  readonly cluster: string
  readonly labels: Readonly<Record<string, string>>
  readonly protocolMajor: number
  readonly ttlMs: Millis
  readonly http: string | undefined
  readonly stewards: boolean
  readonly report: MachineReport
  readonly usage: MachineUsage
  /** By the ledger: what is not promised to anybody. */
  readonly free: Resources
  readonly instances: readonly InstanceAd[]
  readonly holds: readonly Cid[]
}

/** Builds the body of a peer's own ad. GPU memory is the lesser of what is unpromised and what the device reports free. */
export function describeSelf({ report, usage, free, instances, holds, ...facts }: AdFacts): AdBody {
  const measured = new Map(usage.gpus.map(({ id, freeMb }) => [id, freeMb]))
  return {
    cluster: facts.cluster,
    ttlMs: facts.ttlMs,
    protocolMajor: facts.protocolMajor,
    labels: { ...facts.labels },
    total: report.total,
    free: within(report.total, { ...free, gpus: free.gpus.map(gpu => ({ ...gpu, freeMb: Math.min(gpu.freeMb, measured.get(gpu.id) ?? gpu.freeMb) })) }),
    runtimes: report.runtimes.slice(0, 16),
    memoryGBs: report.memoryGBs,
    // Two digits: a load that wavers is no news.
    cpuLoad: Math.round(usage.cpuLoad * 100) / 100,
    instances: instances.slice(0, 512).map(instance => ({ ...instance, latencyMs: Math.round(instance.latencyMs * 10) / 10 })),
    holds: holds.slice(0, 64),
    stewards: facts.stewards,
    ...(facts.http === undefined ? {} : { http: facts.http }),
  }
}

/** The ledger was opened with another look at the machine, whose disk others fill and empty: nobody believes in more free than there is. */
function within(total: Resources, free: Resources): Resources {
  const gpus = new Map(total.gpus.map(({ id, memoryMb }) => [id, memoryMb]))
  return {
    cpuMilli: Math.min(free.cpuMilli, total.cpuMilli),
    memoryMb: Math.min(free.memoryMb, total.memoryMb),
    diskMb: Math.min(free.diskMb, total.diskMb),
    gpus: free.gpus.map(gpu => ({ ...gpu, freeMb: Math.min(gpu.freeMb, gpus.get(gpu.id) ?? 0) })),
  }
}

/** The fields of `now` that differ from `base`; undefined when none does. */
export function difference(base: AdBody, now: AdBody): CapacityDelta['changed'] | undefined {
  const changed: CapacityDelta['changed'] = {}
  let any = false
  const put = <K extends keyof AdBody>(field: K): void => {
    if (same(base[field], now[field])) return
    any = true
    changed[field] = now[field]
  }
  const fields: readonly (keyof AdBody)[] = ['cluster', 'ttlMs', 'protocolMajor', 'labels', 'total', 'free', 'runtimes', 'memoryGBs', 'cpuLoad', 'instances', 'holds', 'stewards']
  for (const field of fields) put(field)
  if (now.http !== undefined) put('http')
  return any ? changed : undefined
}

/** Is the change worth telling before the next whole ad? Load that doubled is, load and latency that drift are not. */
export function isNews(before: AdBody, now: AdBody): boolean {
  // Every peer asks itself this each second, and almost always nothing has changed: nothing is made to find that out.
  return before.cluster !== now.cluster || before.stewards !== now.stewards || before.http !== now.http
    || before.free.cpuMilli !== now.free.cpuMilli || before.free.memoryMb !== now.free.memoryMb || before.free.diskMb !== now.free.diskMb || before.free.gpus.length !== now.free.gpus.length
    || !sameLabels(before.labels, now.labels) || !sameEach(before.runtimes, now.runtimes, same) || !sameEach(before.holds, now.holds, same) || !sameEach(before.instances, now.instances, sameInstance)
}

function sameInstance(one: InstanceAd, other: InstanceAd): boolean {
  const load = ({ inFlight, queued }: InstanceAd): number => Math.ceil(Math.log2(1 + inFlight + queued))
  return one.instance === other.instance && one.contract === other.contract && one.epoch === other.epoch && one.steward === other.steward && one.state === other.state
    && load(one) === load(other) && (one.unhealthy ?? false) === (other.unhealthy ?? false) && (one.crashes ?? 0) === (other.crashes ?? 0)
}

function sameLabels(one: AdBody['labels'], other: AdBody['labels']): boolean {
  const names = Object.keys(one)
  return names.length === Object.keys(other).length && names.every(name => one[name] === other[name])
}

function sameEach<T>(one: readonly T[], other: readonly T[], same: (a: T, b: T) => boolean): boolean {
  return one.length === other.length && one.every((item, at) => same(item, other[at]!))
}

export type AdLimits = { readonly skewMs: Millis; readonly ttlMs: readonly [least: Millis, most: Millis] }

/** An ad counts only when its own peer signed it, it is fresh, and it promises no more than it has. */
export function checkAd(ad: CapacityAd, signer: PeerId, unix: Millis, limits: AdLimits): Verdict<true> {
  if (ad.peer !== signer) return refused(`an ad of ${ad.peer} was signed by ${signer}`)
  const [least, most] = limits.ttlMs
  if (ad.ttlMs < least || ad.ttlMs > most) return refused(`its TTL of ${ad.ttlMs} ms is outside ${least} to ${most}`)
  const fresh = checkFresh(ad.issuedAt, unix, limits.skewMs, ad.ttlMs)
  if (!fresh.ok) return fresh
  return checkBody(ad, ad.total)
}

/** As `checkAd`. `total` is what the peer is known to have, for a delta that does not repeat it. */
export function checkDelta(delta: CapacityDelta, signer: PeerId, unix: Millis, limits: AdLimits, total?: Resources): Verdict<true> {
  if (delta.peer !== signer) return refused(`a delta of ${delta.peer} was signed by ${signer}`)
  if (delta.base >= delta.sequence) return refused('it is not newer than its base')
  const ttl = delta.changed.ttlMs
  const [least, most] = limits.ttlMs
  if (ttl !== undefined && (ttl < least || ttl > most)) return refused(`its TTL of ${ttl} ms is outside ${least} to ${most}`)
  const fresh = checkFresh(delta.issuedAt, unix, limits.skewMs, 0)
  if (!fresh.ok) return fresh
  return checkBody(delta.changed, delta.changed.total ?? total)
}

function checkFresh(issuedAt: Millis, unix: Millis, skewMs: Millis, ageMs: Millis): Verdict<true> {
  if (issuedAt > unix + skewMs) return refused(`it was issued ${issuedAt - unix} ms in the future`)
  if (issuedAt < unix - skewMs - ageMs) return refused(`it is ${unix - issuedAt} ms old`)
  return granted(true)
}

const LABELS_BOUND = 64

function checkBody(body: Partial<AdBody>, total: Resources | undefined): Verdict<true> {
  const { free, instances, labels } = body
  if (labels !== undefined && Object.keys(labels).length > LABELS_BOUND) return refused(`it has more than ${LABELS_BOUND} labels`)
  if (instances !== undefined && instances.length > 1 && new Set(instances.map(({ instance }) => instance)).size !== instances.length) return refused('it names an instance twice')
  if (free === undefined || total === undefined) return granted(true)
  if (free.cpuMilli > total.cpuMilli || free.memoryMb > total.memoryMb || free.diskMb > total.diskMb) return refused('it has more free than in total')
  for (const gpu of free.gpus) if (gpu.freeMb > (total.gpus.find(({ id }) => id === gpu.id)?.memoryMb ?? -1)) return refused(`it has more free on GPU ${gpu.id} than in total`)
  return granted(true)
}

function same(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (a === undefined || b === undefined) return false
  const [x, y] = [encode(a), encode(b)]
  return x.byteLength === y.byteLength && x.every((byte, at) => byte === y[at])
}
