import { LayerCounts, type Place } from './capacity.ts'
import { fillInOrder, leastBottleneckInOrder, narrow } from './in-order.ts'
import { EXACT_HOSTS, leastLatency } from './latency.ts'
import { StageCosts, type Plan, type PlanProblem } from './problem.ts'

export type BottleneckOptions = {
  /** Exactly so many stages. */
  readonly stages?: number
}

/** In a large mesh only chains up to this length are worth the search for a shorter one. */
const SHORT = 8

/**
 * The chain whose slowest stage is fastest; among those, one of little latency. Binary search over the times that stages can have
 * with a fill for each. Where layers cost alike it counts how many each host can take, which is exact for any number of hosts;
 * where they do not, all sets of up to 12 hosts are looked at, exact too, and of more the best ranges for an order that the counts choose. Embedding and head are counted where they
 * stand. Undefined when the model does not fit.
 */
export function leastBottleneck(problem: PlanProblem, { stages }: BottleneckOptions = {}): Plan | undefined {
  const costs = new StageCosts(problem)
  if (costs.layers === 0 || problem.hosts.length === 0 || (stages ?? 1) > Math.min(costs.layers, problem.hosts.length)) return undefined
  const small = problem.hosts.length <= EXACT_HOSTS
  const alike = isAlike(problem)
  const counts = new LayerCounts(costs)
  const plan = narrow(mostMs => (small && !alike ? overSets(costs, mostMs, stages) : byCounts(counts, mostMs, stages)))
  if (plan === undefined || (!small && plan.stages.length > SHORT)) return plan
  // Of those with this bottleneck, the one a single stream finds shortest.
  const swift = leastLatency(problem, { mostMs: plan.bottleneckMs * (1 + 1e-9), ...(stages === undefined ? {} : { stages }) })
  return swift !== undefined && swift.bottleneckMs <= plan.bottleneckMs * (1 + 1e-9) && swift.latencyMs < plan.latencyMs ? swift : plan
}

/** Nearly every decoder's layers do. */
function isAlike({ hosts, layerBytes }: PlanProblem): boolean {
  const same = (values: readonly number[]): boolean => values.every(value => value === values[0])
  return same(layerBytes) && hosts.every(({ layerMs }) => same(layerMs))
}

/** The furthest layer that each set of hosts reaches within `mostMs`: further is never worse, so one number a set is enough. */
function overSets(costs: StageCosts, mostMs: number, stages: number | undefined): Plan | undefined {
  const n = costs.problem.hosts.length
  const { layers } = costs
  const size = 1 << n
  const far = new Int16Array(size).fill(-1)
  const last = new Int8Array(size).fill(-1)
  far[0] = 0
  for (let set = 0; set < size; set += 1) {
    const at = far[set]!
    if (at < 0 || at === layers) continue
    const members = bits(set)
    if (members === (stages ?? n)) continue
    // Where the count is given, each host still to come must find a layer.
    const limit = stages === undefined ? layers : layers - (stages - members - 1)
    for (let host = 0; host < n; host += 1) {
      const next = set | (1 << host)
      if (next === set) continue
      const end = costs.reach(host, at, mostMs, limit)
      if (end <= at || end <= far[next]!) continue
      far[next] = end
      last[next] = host
      if (end === layers && (stages === undefined || members + 1 === stages)) return trace(costs, far, last, next)
    }
  }
  return undefined
}

function trace(costs: StageCosts, far: Int16Array, last: Int8Array, whole: number): Plan {
  const ranges: { host: number; first: number; end: number }[] = []
  for (let set = whole; set !== 0;) {
    const host = last[set]!
    const rest = set & ~(1 << host)
    ranges.unshift({ host, first: far[rest]!, end: far[set]! })
    set = rest
  }
  return costs.plan(ranges)
}

type Ends = { readonly first: number; readonly last: number; readonly total: number }

/** Enough room in all? Which two hosts stand at the ends is chosen so that least room is lost to embedding and head. */
function byCounts(counts: LayerCounts, mostMs: number, stages: number | undefined): Plan | undefined {
  const { costs, layers } = counts
  const { hosts } = costs.problem
  const most = (place: Place): readonly number[] => hosts.map((_, host) => counts.most(host, place, mostMs))
  if ((stages ?? 1) === 1) {
    const alone = most('only').findIndex(room => room >= layers)
    if (alone >= 0) return leastBottleneckInOrder(costs, [alone])
    if (stages === 1) return undefined
  }
  const rooms = { first: most('first'), middle: most('middle'), last: most('last') }
  const byRoom = hosts.map((_, host) => host).filter(host => rooms.middle[host]! > 0).sort((a, b) => rooms.middle[b]! - rooms.middle[a]! || counts.meanMs[a]! - counts.meanMs[b]!)
  const between = Math.min(stages ?? Infinity, hosts.length, layers) - 2
  const ends = chooseEnds(rooms, byRoom, between)
  if (ends === undefined || ends.total < layers) return undefined
  // As few as are enough, those with most room first: fewer hops.
  const chosen: number[] = []
  let room = rooms.first[ends.first]! + rooms.last[ends.last]!
  for (const host of byRoom) {
    if (chosen.length >= between || (stages === undefined && room >= layers)) break
    if (host === ends.first || host === ends.last) continue
    chosen.push(host)
    room += rooms.middle[host]!
  }
  if (stages !== undefined && chosen.length < between) return undefined
  const order = [ends.first, ...nearest(costs, ends.first, chosen), ends.last]
  // Where layers differ, the mean one may promise what they do not keep.
  return fillInOrder(costs, order, mostMs * (1 + 1e-9)) ?? leastBottleneckInOrder(costs, order)
}

function chooseEnds(rooms: Readonly<Record<'first' | 'middle' | 'last', readonly number[]>>, byRoom: readonly number[], between: number): Ends | undefined {
  if (between < 0) return undefined
  const top = byRoom.slice(0, between + 2)
  const places: number[] = []
  let sum = 0
  for (const host of top) places.push(sum += rooms.middle[host]!)
  const rank = new Map(top.map((host, at) => [host, at]))
  /** The most room of `between` hosts that are neither of the two. */
  const middle = (first: number, last: number): number => {
    const skipped = [rank.get(first), rank.get(last)].filter(at => at !== undefined).sort((a, b) => a - b)
    let taken = Math.min(between, top.length)
    for (const at of skipped) if (at < taken) taken = Math.min(top.length, taken + 1)
    let room = taken === 0 ? 0 : places[taken - 1]!
    for (const at of skipped) if (at < taken) room -= rooms.middle[top[at]!]!
    return room
  }
  // One that is not among those with most room takes an end only for being best there, or for losing least by it.
  const candidates = (place: 'first' | 'last'): readonly number[] => {
    const able = rooms.middle.map((_, host) => host).filter(host => rooms[place][host]! > 0)
    const best = [...able].sort((a, b) => rooms[place][b]! - rooms[place][a]! || a - b).slice(0, 3)
    const cheap = [...able].sort((a, b) => loss(a, place) - loss(b, place) || a - b).slice(0, 3)
    return [...new Set([...best, ...cheap, ...top.slice(-2).filter(host => rooms[place][host]! > 0), ...(top.length <= 64 ? top.filter(host => rooms[place][host]! > 0) : [])])]
  }
  const loss = (host: number, place: 'first' | 'last'): number => rooms.middle[host]! - rooms[place][host]!
  let best: Ends | undefined
  for (const first of candidates('first')) for (const last of candidates('last')) {
    if (first === last) continue
    const total = rooms.first[first]! + rooms.last[last]! + middle(first, last)
    if (best === undefined || total > best.total) best = { first, last, total }
  }
  return best
}

/** Each next the nearest of those left. */
function nearest(costs: StageCosts, start: number, hosts: readonly number[]): readonly number[] {
  const left = [...hosts]
  const order: number[] = []
  for (let at = start; left.length > 0;) {
    let pick = 0
    for (let one = 1; one < left.length; one += 1) if (costs.problem.hop(at, left[one]!) < costs.problem.hop(at, left[pick]!)) pick = one
    at = left.splice(pick, 1)[0]!
    order.push(at)
  }
  return order
}

function bits(set: number): number {
  let count = 0
  for (let left = set; left !== 0; left &= left - 1) count += 1
  return count
}
