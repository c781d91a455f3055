import type { Plan, StageCosts } from './problem.ts'

type Range = { readonly host: number; readonly first: number; readonly end: number }

/**
 * The ranges of least summed time for hosts in this order, each with at least one layer and none above `mostMs`. Exact:
 * a dynamic programme over (stage, end). Undefined when the layers do not fit.
 */
export function leastLatencyInOrder(costs: StageCosts, order: readonly number[], mostMs = Infinity): Plan | undefined {
  const { layers } = costs
  if (order.length > layers) return undefined
  const from: Int32Array[] = []
  let best = new Float64Array(layers + 1).fill(Infinity)
  best[0] = 0
  for (const [stage, host] of order.entries()) {
    const next = new Float64Array(layers + 1).fill(Infinity)
    const came = new Int32Array(layers + 1).fill(-1)
    const left = order.length - stage - 1
    for (let first = stage; first < layers - left; first += 1) {
      const before = best[first]!
      if (before === Infinity) continue
      const least = left === 0 ? layers : first + 1
      for (let end = least; end <= layers - left; end += 1) {
        // Longer is only dearer.
        if (!costs.may(host, first, end, mostMs)) break
        const total = before + costs.ms(host, first, end)
        if (total < next[end]!) {
          next[end] = total
          came[end] = first
        }
      }
    }
    from.push(came)
    best = next
  }
  if (best[layers] === Infinity) return undefined
  const ranges: Range[] = []
  let end = layers
  for (let stage = order.length - 1; stage >= 0; stage -= 1) {
    const first = from[stage]![end]!
    ranges.unshift({ host: order[stage]!, first, end })
    end = first
  }
  return costs.plan(ranges)
}

/** The ranges of least bottleneck for hosts in this order, each with at least one layer. Bisection over greedy fills; exact. */
export function leastBottleneckInOrder(costs: StageCosts, order: readonly number[]): Plan | undefined {
  return narrow(mostMs => fillInOrder(costs, order, mostMs))
}

/** Gives each host in turn as many layers as it can take within `mostMs`; undefined where that is not all, or leaves a host without. */
export function fillInOrder(costs: StageCosts, order: readonly number[], mostMs: number): Plan | undefined {
  const { layers } = costs
  if (order.length > layers) return undefined
  const ranges: Range[] = []
  let first = 0
  for (const [stage, host] of order.entries()) {
    const left = order.length - stage - 1
    const end = costs.reach(host, first, mostMs, layers - left)
    if (end <= first) return undefined
    ranges.push({ host, first, end })
    first = end
  }
  return first === layers ? costs.plan(ranges) : undefined
}

/** Relative precision to which a bottleneck is found: far below what any measurement has. */
const PRECISION = 1e-9

/**
 * The plan of least bottleneck that `probe` finds, where it finds one for a time if and only if there is one. Each plan's own
 * bottleneck is the next upper bound, so the search goes from one reachable time to the next and soon ends.
 */
export function narrow(probe: (mostMs: number) => Plan | undefined): Plan | undefined {
  let found = probe(Infinity)
  if (found === undefined) return undefined
  let low = 0
  while (found.bottleneckMs - low > found.bottleneckMs * PRECISION) {
    const middle: number = (low + found.bottleneckMs) / 2
    const better = probe(middle)
    if (better !== undefined && better.bottleneckMs < found.bottleneckMs) found = better
    else low = middle
  }
  return found
}
