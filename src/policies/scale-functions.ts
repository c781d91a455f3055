import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { PolicyFunction } from '../../protocols/policy.ts'

/** Left alone within a tenth of the target, and taken down only after the load was low for a while (Kubernetes' horizontal pod autoscaler). */
const TOLERANCE = 0.1
export const LOW_FOR_MS: Millis = 30_000

export type FunctionFacts = {
  /** Live hosts that may take a copy, the best first. */
  readonly hosts: readonly PeerId[]
  /** Everybody who is alive: a copy elsewhere is gone. */
  readonly live: ReadonlySet<PeerId>
  /** How busy each copy was, where its host said. */
  readonly busy: ReadonlyMap<string, number>
  /** Since when fewer copies would have done. */
  readonly lowSince: Millis | undefined
  readonly now: Millis
  readonly newName: () => string
}
export type FunctionPlan = { readonly replicas: PolicyFunction['replicas']; readonly lowSince: Millis | undefined; readonly because: string }

/** Where a function's copies should live now: those on live hosts stay where they are; those of dead ones move, with their state, an epoch later. */
export function planFunction(fn: PolicyFunction, { hosts, live, busy, lowSince, now, newName }: FunctionFacts): FunctionPlan {
  const alive = fn.replicas.filter(({ host }) => live.has(host))
  const lost = fn.replicas.length - alive.length
  const wish = wanted(fn, alive, busy)
  const low = wish < alive.length ? lowSince ?? now : undefined
  const count = low !== undefined && now - low < LOW_FOR_MS ? Math.min(alive.length, fn.maxReplicas) : wish
  const replicas = [...alive]
  while (replicas.length > count) replicas.splice(idlest(replicas, busy), 1)
  const orphans = fn.replicas.filter(({ host }) => !live.has(host))
  while (replicas.length < count && hosts.length > 0) {
    const crowd = (peer: PeerId): number => replicas.filter(({ host }) => host === peer).length
    // The least crowded; of those the best. Copies of an executor that was asked for stay together there.
    const host = hosts.reduce((best, peer) => (crowd(peer) < crowd(best) ? peer : best))
    const orphan = orphans.shift()
    replicas.push(orphan === undefined ? { replica: newName(), host } : { replica: orphan.replica, host, epoch: (orphan.epoch ?? 1) + 1 })
  }
  // Nobody can take them now: they wait for a host.
  replicas.push(...orphans.splice(0, Math.max(0, count - replicas.length)))
  const because = lost > 0 ? `${lost} of its hosts went away` : replicas.length > alive.length ? `its ${alive.length} copies were too busy or too few` : replicas.length < alive.length ? 'fewer copies will do' : ''
  return { replicas, lowSince: replicas.length < alive.length ? undefined : low, because }
}

function wanted({ minReplicas, maxReplicas, targetUtilisation }: PolicyFunction, alive: PolicyFunction['replicas'], busy: ReadonlyMap<string, number>): number {
  const known = alive.flatMap(({ replica }) => busy.get(replica) ?? [])
  if (targetUtilisation === undefined || alive.length === 0 || known.length === 0) return Math.max(minReplicas, Math.min(maxReplicas, alive.length))
  const ratio = known.reduce((sum, one) => sum + one, 0) / known.length / targetUtilisation
  const count = Math.abs(ratio - 1) <= TOLERANCE ? alive.length : Math.ceil(alive.length * ratio)
  return Math.max(minReplicas, Math.min(maxReplicas, count))
}

function idlest(replicas: PolicyFunction['replicas'], busy: ReadonlyMap<string, number>): number {
  let found = replicas.length - 1
  for (const [at, { replica }] of replicas.entries()) if ((busy.get(replica) ?? 0) < (busy.get(replicas[found]?.replica ?? '') ?? 0)) found = at
  return found
}
