import type { Verdict } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { Resources } from '../../protocols/resources.ts'

/** The times and bounds a host keeps to. */
export type HostingConfig = {
  readonly leaseMs: readonly [least: Millis, most: Millis]
  readonly tickMs: Millis
  readonly drainMs: Millis
  /** An instance that has not become ready by then has failed. */
  readonly startMs: Millis
  /** A crashed instance is started again here so many times within `restartWindowMs`; then its steward places it anew. */
  readonly restarts: number
  readonly restartWindowMs: Millis
  /** How long a failure stays in the ad, so that the steward hears of it. */
  readonly mournMs: Millis
  /** Kept back from what the machine has, for the host itself. */
  readonly reserve: Pick<Resources, 'cpuMilli' | 'memoryMb' | 'diskMb'>
}

export const HOSTING: HostingConfig = {
  leaseMs: [5_000, 300_000], tickMs: 1_000, drainMs: 10_000, startMs: 120_000, restarts: 3, restartWindowMs: 60_000, mournMs: 20_000,
  reserve: { cpuMilli: 0, memoryMb: 0, diskMb: 0 },
}

/** The times and bounds a steward keeps to. */
export type StewardConfig = {
  readonly leaseMs: Millis
  readonly renewEveryMs: Millis
  readonly leaseDeadlineMs: Millis
  /** Every stewardship is looked at this often; changes are looked at at once. */
  readonly tickMs: Millis
  /** Changes that arrive together are looked at together. */
  readonly kickMs: Millis
  /** Peers come and go one after the other at a start and after a cut: between two looks at who comes first lies this much. */
  readonly surveyMs: Millis
  readonly surplusMs: Millis
  /** A contract that its host's ads do not show for this long is gone. */
  readonly graceMs: Millis
  /** A host where an instance failed is left alone for this long. */
  readonly avoidMs: Millis
  readonly retryMs: { readonly first: Millis; readonly most: Millis }
  /** After the second failed contract within `windowMs` the next is placed after `first`, doubling up to `most`; `budget` of them and the block counts as failing. */
  readonly crashes: { readonly windowMs: Millis; readonly first: Millis; readonly most: Millis; readonly budget: number }
  /** Instances of one block in one round of asking. */
  readonly placeAtOnce: number
  readonly mirrorMs: Millis
  /** How long a peer that could not write leaves stewardship to others. */
  readonly unfitMs: Millis
  readonly skewMs: Millis
  /** After two stewards outranked each other, wait this long, doubling, before trying again. */
  readonly yieldMs: { readonly first: Millis; readonly most: Millis; readonly calmMs: Millis }
  /** Is this peer one whose awards, leases and mirrors count? */
  readonly maySteward: (peer: PeerId) => Verdict<true>
}

export const STEWARD: Omit<StewardConfig, 'maySteward'> = {
  leaseMs: 20_000, renewEveryMs: 4_000, leaseDeadlineMs: 2_000, tickMs: 1_000, kickMs: 10, surveyMs: 250, surplusMs: 2_000, graceMs: 10_000, avoidMs: 30_000,
  retryMs: { first: 300, most: 8_000 }, crashes: { windowMs: 600_000, first: 500, most: 120_000, budget: 5 }, placeAtOnce: 8, mirrorMs: 250, unfitMs: 30_000, skewMs: 60_000, yieldMs: { first: 300, most: 8_000, calmMs: 30_000 },
}
