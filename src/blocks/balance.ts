import { refused, granted, type Verdict } from '../../protocols/errors.ts'
import type { InstanceAd } from '../../protocols/capacity.ts'
import type { InstanceId, PeerId } from '../../protocols/ids.ts'

export type Candidate = { readonly host: PeerId; readonly ad: InstanceAd; /** Calls of our own that it has not answered. */ readonly ours: number }

/**
 * Least loaded of two drawn at random (Mitzenmacher 2001): near-even load without asking everybody, and no herd towards
 * the one that looked idle in the last ad. `rolls` are two draws in [0, 1).
 */
export function pickInstance(candidates: readonly Candidate[], rolls: readonly [number, number]): Verdict<Candidate> {
  const first = candidates[Math.floor(rolls[0] * candidates.length)]
  if (first === undefined) return refused('no instance of the block is ready', true)
  const others = candidates.filter(candidate => candidate !== first)
  const second = others[Math.floor(rolls[1] * others.length)]
  if (second === undefined) return granted(first)
  return granted(expectedWait(second) < expectedWait(first) ? second : first)
}

/** The instance a policy named, if it is one of those on offer. */
export function namedInstance(candidates: readonly Candidate[], instance: InstanceId): Verdict<Candidate> {
  const found = candidates.find(candidate => candidate.ad.instance === instance)
  return found === undefined ? refused(`${instance} is not a ready instance of the block`) : granted(found)
}

function expectedWait({ ad, ours }: Candidate): number {
  return (Math.max(ad.inFlight + ad.queued, ours) + 1) * Math.max(ad.latencyMs, 1)
}
