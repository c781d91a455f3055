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
}

export type Situation = {
  /** Instances there should be; 0 for a block that was removed. */
  readonly want: number
  readonly observed: readonly Observed[]
  /** Placements under way. */
  readonly placing: number
  /** Was an instance lost since the last placement? */
  readonly lost: boolean
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

/** More ready than wanted? */
export function surplus(want: number, observed: readonly Observed[]): number {
  const ready = observed.filter(({ state }) => state === 'ready').length
  return ready < want ? 0 : observed.filter(counts).length - want
}

/** What to do next to have as many instances as wanted: desired against observed, and nothing else. */
export function reconcile(situation: Situation): readonly Step[] {
  const { want, observed, placing, epoch, now, renewEveryMs, surplusSince, surplusMs, retryAt } = situation
  const counted = observed.filter(counts)
  const steps: Step[] = []
  const extra = surplus(want, observed)
  // A host wrongly given up comes back a moment later: only a surplus that lasts is drained. A removed block waits for nothing.
  const drains = extra > 0 && (want === 0 || (surplusSince !== undefined && now - surplusSince >= surplusMs))
  const released = new Set(drains ? mostDispensable(counted).slice(0, extra) : [])
  for (const target of released) steps.push({ do: 'release', target, because: want === 0 ? 'the block is not wanted any more' : `${counted.length} instances are there and ${want} are wanted` })
  if (extra > 0 && !drains) steps.push({ do: 'wait', because: `${extra} more instances than wanted: a moment to see whether it lasts`, untilMs: (surplusSince ?? now) + surplusMs })
  for (const target of counted) {
    if (released.has(target)) continue
    if (target.epoch < epoch || target.renewedAt === undefined || now - target.renewedAt >= renewEveryMs) steps.push({ do: 'renew', target })
  }
  const missing = want - counted.length - placing
  if (missing > 0 && now < retryAt) steps.push({ do: 'wait', because: 'the last placement failed', untilMs: retryAt })
  else if (missing > 0) steps.push({ do: 'place', count: missing, action: action(situation), because: `${counted.length} instances are there, ${placing} on their way, ${want} wanted` })
  return steps
}

function action({ lost, placedBefore }: Situation): Ask['action'] {
  if (lost) return 'reassignment'
  return placedBefore ? 'scale' : 'allocation'
}

/** Those not ready first, then of older epochs, then on hosts with several, then the least busy. */
function mostDispensable(counted: readonly Observed[]): readonly Observed[] {
  const onHost = new Map<PeerId, number>()
  for (const { host } of counted) onHost.set(host, (onHost.get(host) ?? 0) + 1)
  const ready = ({ state }: Observed): number => (state === 'ready' ? 1 : 0)
  return [...counted].sort((a, b) => ready(a) - ready(b) || a.epoch - b.epoch || onHost.get(b.host)! - onHost.get(a.host)! || a.inFlight - b.inFlight || (a.instance < b.instance ? -1 : 1))
}
