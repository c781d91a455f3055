import type { InstanceAd } from '../../protocols/capacity.ts'
import type { ContractId, InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Ask } from '../../protocols/placement.ts'

/** An instance of the block as its steward knows it. */
export type Observed = {
  readonly contract: ContractId
  readonly instance: InstanceId
  readonly host: PeerId
  readonly epoch: number
  /** `awarded`: promised, and not advertised yet. */
  readonly state: 'awarded' | InstanceAd['state']
  readonly inFlight: number
  /** When this steward last renewed it, in local monotonic time. */
  readonly renewedAt: Millis | undefined
  /** What it was started with; undefined where its host does not say. */
  readonly terms: string | undefined
  /** Somebody wants it gone: at once, or as soon as another has come in its place. */
  readonly leaving?: { readonly how: 'released' | 'replaced'; readonly because: string } | undefined
}

export type Situation = {
  /** What instances are started with now; undefined for a block that was removed. */
  readonly terms: string | undefined
  /** Instances there should be; 0 for a block that was removed. */
  readonly want: number
  readonly observed: readonly Observed[]
  /** Placements under way. */
  readonly placing: number
  /** Awarded instances that were lost, and that nothing replaces yet. */
  readonly lost: number
  /** Has this block ever had an instance, as far as this steward knows? */
  readonly placedBefore: boolean
  readonly epoch: number
  readonly now: Millis
  readonly renewEveryMs: Millis
  /** Since when there have been too many ready; undefined while there are not. */
  readonly surplusSince: Millis | undefined
  readonly surplusMs: Millis
  /** No new placement before this time, after one failed. */
  readonly retryAt: Millis
}

export type Step =
  | { readonly do: 'place'; readonly count: number; readonly action: Ask['action']; readonly because: string }
  | { readonly do: 'renew'; readonly target: Observed }
  | { readonly do: 'release'; readonly target: Observed; readonly because: string }
  | { readonly do: 'wait'; readonly because: string; readonly untilMs: Millis }

/** Does it count towards what is wanted? */
export function counts({ state }: Pick<Observed, 'state'>): boolean {
  return state === 'awarded' || state === 'starting' || state === 'ready'
}

/** Those that others are to replace: of an earlier record of the block, unhealthy, or sent elsewhere. */
export function outdated({ want, terms, observed }: Pick<Situation, 'want' | 'terms' | 'observed'>): readonly Observed[] {
  return want === 0 || terms === undefined ? [] : observed.filter(one => counts(one) && (one.leaving?.how === 'replaced' || (one.terms !== undefined && one.terms !== terms)))
}

function staying(observed: readonly Observed[]): readonly Observed[] {
  return observed.filter(({ leaving }) => leaving?.how !== 'released')
}

/** More ready than wanted? While instances are being replaced there are more on purpose. */
export function surplus(situation: Pick<Situation, 'want' | 'terms' | 'observed'>): number {
  const { want } = situation
  const observed = staying(situation.observed)
  const ready = observed.filter(({ state }) => state === 'ready').length
  return ready < want || outdated(situation).length > 0 ? 0 : observed.filter(counts).length - want
}

/**
 * What to do next to have as many instances as wanted, started with what the block says now: desired against observed,
 * and nothing else. A changed block is rolled out one instance at a time: one more than wanted is placed, and when it is
 * ready an outdated one is released, so that never fewer than wanted are ready.
 */
export function reconcile(situation: Situation): readonly Step[] {
  const { want, observed, placing, epoch, now, renewEveryMs, surplusSince, surplusMs, retryAt } = situation
  const counted = staying(observed).filter(counts)
  const steps: Step[] = observed.filter(one => counts(one) && one.leaving?.how === 'released').map(target => ({ do: 'release', target, because: target.leaving?.because ?? '' }))
  const extra = surplus(situation)
  const old = outdated(situation)
  // A host wrongly given up comes back a moment later: only a surplus that lasts is drained. A removed block waits for nothing.
  const drains = extra > 0 && (want === 0 || (surplusSince !== undefined && now - surplusSince >= surplusMs))
  const released = new Set(drains ? mostDispensable(counted).slice(0, extra) : replaced(want, counted, old))
  for (const target of released) steps.push({ do: 'release', target, because: old.length > 0 ? target.leaving?.because ?? 'its block was changed' : want === 0 ? 'the block is not wanted any more' : `${counted.length} instances are there and ${want} are wanted` })
  if (extra > 0 && !drains) steps.push({ do: 'wait', because: `${extra} more instances than wanted: a moment to see whether it lasts`, untilMs: (surplusSince ?? now) + surplusMs })
  for (const target of counted) {
    if (released.has(target)) continue
    if (target.epoch < epoch || target.renewedAt === undefined || now - target.renewedAt >= renewEveryMs) steps.push({ do: 'renew', target })
  }
  const kept = counted.filter(target => !released.has(target))
  const unproven = placing + kept.filter(target => !old.includes(target) && target.state !== 'ready').length
  const rolls = unproven === 0 && kept.length === want && kept.some(target => old.includes(target))
  const missing = rolls ? 1 : want - kept.length - placing
  if (missing > 0 && now < retryAt) steps.push({ do: 'wait', because: 'the last placement failed', untilMs: retryAt })
  else if (missing > 0) {
    const because = rolls ? 'one more, before one that is to be replaced goes' : `${kept.length} instances are there, ${placing} on their way, ${want} wanted`
    // Whatever comes in the place of an instance that was awarded is a reassignment, whoever notices; what comes besides is more, or the first.
    const again = rolls ? 1 : Math.min(situation.lost, missing)
    if (again > 0) steps.push({ do: 'place', count: again, action: 'reassignment', because })
    if (missing > again) steps.push({ do: 'place', count: missing - again, action: situation.placedBefore || situation.lost > 0 ? 'scale' : 'allocation', because })
  }
  return steps
}

/**
 * Outdated ones that can go now. Of those seen ready, as many as are ready beyond what is wanted, whether new ones came in their
 * place or there were too many before. An ad may be late, so what was not seen ready may answer all the same: it goes when
 * enough others are seen ready, else no sooner than a successor has come.
 */
function replaced(want: number, counted: readonly Observed[], old: readonly Observed[]): readonly Observed[] {
  const ready = (some: readonly Observed[]): number => some.filter(({ state }) => state === 'ready').length
  const most = Math.max(0, counted.length - want)
  const seen = ready(counted)
  const dispensable = mostDispensable(old)
  const idle = dispensable.filter(({ state }) => state !== 'ready').slice(0, seen >= want ? most : seen - ready(old))
  const spare = dispensable.filter(({ state }) => state === 'ready').slice(0, Math.max(0, seen - want))
  return [...idle, ...spare].slice(0, most)
}

/** Those not ready first, then of older epochs, then on hosts with several, then the least busy. */
function mostDispensable(counted: readonly Observed[]): readonly Observed[] {
  const onHost = new Map<PeerId, number>()
  for (const { host } of counted) onHost.set(host, (onHost.get(host) ?? 0) + 1)
  const ready = ({ state }: Observed): number => (state === 'ready' ? 1 : 0)
  return [...counted].sort((a, b) => ready(a) - ready(b) || a.epoch - b.epoch || onHost.get(b.host)! - onHost.get(a.host)! || a.inFlight - b.inFlight || (a.instance < b.instance ? -1 : 1))
}
