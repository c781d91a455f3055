import type { InstanceAd } from '../../protocols/capacity.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'

export type Lapsed = {
  readonly overdueMs: Millis
  readonly leaseMs: Millis
  /** What our contract stands under. */
  readonly epoch: number
  /** Instances the block wants; undefined when this peer's registry knows no such block. */
  readonly least: number | undefined
  /** Instances of the block on other live hosts, as they advertise them. */
  readonly elsewhere: readonly Pick<InstanceAd, 'epoch' | 'state'>[]
}

/**
 * May an instance whose lease nobody renewed serve on? Yes while its steward may simply be dead or cut off: an instance must
 * not die of its steward. It ends, a whole lease later, only where it is known to be unwanted: the block is withdrawn, or a
 * later epoch has as many instances ready elsewhere as the block wants and has not claimed this one in all that time.
 */
export function lapse({ overdueMs, leaseMs, epoch, least, elsewhere }: Lapsed): Verdict<true> {
  if (overdueMs < leaseMs) return granted(true)
  if (least === undefined) return refused('its lease is over and no such block is registered')
  const later = elsewhere.filter(ad => ad.epoch > epoch && ad.state === 'ready').length
  if (later > 0 && later >= least) return refused(`its lease is over and ${later} instances run elsewhere under a later epoch`)
  return granted(true)
}
