import { LayerCounts } from './capacity.ts'
import { leastLatencyInOrder } from './in-order.ts'
import { searchChains } from './chain-search.ts'
import { StageCosts, type Plan, type PlanProblem } from './problem.ts'

/** Up to so many hosts every set and every order is looked at. */
export const EXACT_HOSTS = 12
const SLACK = 1 + 1e-9

export type LatencyOptions = {
  /** No stage above this time. */
  readonly mostMs?: number
  /** Exactly so many stages. */
  readonly stages?: number
}

/**
 * The chain of least time for one token of one stream: which hosts, in which order, with which layers. Up to 12 hosts it is
 * exact where layers cost alike (Held and Karp 1962 over sets and last host, for each first host; layers go to the fastest
 * of a set); where they differ, sets and orders are compared by the mean layer and the ranges are exact for the order. Beyond 12 it
 * improves chains by local search. Undefined when the model does not fit.
 */
export function leastLatency(problem: PlanProblem, options: LatencyOptions = {}): Plan | undefined {
  const costs = new StageCosts(problem)
  if (costs.layers === 0) return undefined
  if (problem.hosts.length > EXACT_HOSTS) return searchChains(costs, options)
  return exactChains(costs, options)
}

/** Costs of chains, the cheapest of each set, first and last host; then their ranges. */
function exactChains(costs: StageCosts, { mostMs = Infinity, stages }: LatencyOptions): Plan | undefined {
  const { hosts, hop } = costs.problem
  const counts = new LayerCounts(costs)
  const { layers } = costs
  const n = hosts.length
  const fastest = hosts.map((_, at) => at).sort((a, b) => counts.meanMs[a]! - counts.meanMs[b]!)
  const middle = hosts.map((_, at) => counts.most(at, 'middle', mostMs))
  const hops = hosts.map((_, from) => Float64Array.from(hosts, (_, to) => hop(from, to)))
  const size = 1 << n
  const path = new Float64Array(size * n)
  const before = new Int8Array(size * n)
  let best: { readonly ms: number; readonly order: readonly number[] } | undefined
  for (const [first, host] of hosts.entries()) {
    if ((stages ?? 1) === 1 && counts.most(first, 'only', mostMs) >= layers) {
      const ms = 2 * host.legMs + counts.extraMs(first, 'only') + layers * counts.meanMs[first]!
      if (best === undefined || ms < best.ms) best = { ms, order: [first] }
    }
    const firstMost = counts.most(first, 'first', mostMs)
    if (firstMost === 0) continue
    path.fill(Infinity)
    path[(1 << first) * n + first] = host.legMs
    for (let set = 1 << first; set < size; set += 1) {
      if ((set & (1 << first)) === 0) continue
      const members = bits(set)
      if (members > layers || members > (stages ?? n)) continue
      for (let last = 0; last < n; last += 1) {
        const so = path[set * n + last]!
        if (so === Infinity) continue
        if (last !== first && (stages === undefined || members === stages)) {
          const bound = so + hosts[last]!.legMs + counts.extraMs(first, 'first') + counts.extraMs(last, 'last')
          if (best === undefined || bound < best.ms) {
            const lastMost = counts.most(last, 'last', mostMs)
            const filled = fill(set, members, layers, fastest, counts.meanMs, host => (host === first ? firstMost : host === last ? lastMost : middle[host]!))
            if (best === undefined || bound + filled < best.ms) best = { ms: bound + filled, order: trace(before, set, last, n) }
          }
        }
        // Whoever comes after this one is in the middle, or last.
        if (last !== first && middle[last] === 0) continue
        for (let next = 0; next < n; next += 1) {
          if ((set & (1 << next)) !== 0) continue
          const at = (set | (1 << next)) * n + next
          const ms = so + hops[last]![next]!
          if (ms < path[at]!) {
            path[at] = ms
            before[at] = last
          }
        }
      }
    }
  }
  return best === undefined ? undefined : leastLatencyInOrder(costs, best.order, mostMs * SLACK)
}

/** Time of the layers when each member has one and the fastest take the rest; Infinity where they do not fit. */
export function fill(set: number, members: number, layers: number, fastest: readonly number[], meanMs: readonly number[], most: (host: number) => number): number {
  let rest = layers - members
  let ms = 0
  for (const host of fastest) {
    if ((set & (1 << host)) === 0) continue
    const room = most(host)
    if (room < 1) return Infinity
    const more = Math.min(rest, room - 1)
    ms += (1 + more) * meanMs[host]!
    rest -= more
  }
  return rest > 0 ? Infinity : ms
}

function trace(before: Int8Array, set: number, last: number, n: number): readonly number[] {
  const order = [last]
  for (let left = set, at = last; bits(left) > 1;) {
    const previous: number = before[left * n + at]!
    left &= ~(1 << at)
    at = previous
    order.unshift(at)
  }
  return order
}

function bits(set: number): number {
  let count = 0
  for (let left = set; left !== 0; left &= left - 1) count += 1
  return count
}
