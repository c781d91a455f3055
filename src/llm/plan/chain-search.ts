import { LayerCounts, type Place } from './capacity.ts'
import { leastLatencyInOrder } from './in-order.ts'
import type { LatencyOptions } from './latency.ts'
import type { Plan, StageCosts } from './problem.ts'

/** Hosts that a step may bring in, the most promising first: more hardly ever helps and costs time. */
const CANDIDATES = 96
const ROUNDS = 200
const SLACK = 1 + 1e-9

/**
 * Chains for meshes too large to look at every one: grown from several beginnings, then improved by taking in, leaving out,
 * exchanging and turning round (2-opt, Croes 1958) until nothing helps. Deterministic.
 */
export function searchChains(costs: StageCosts, { mostMs = Infinity, stages }: LatencyOptions): Plan | undefined {
  const search = new Search(costs, mostMs, stages)
  let best: readonly number[] | undefined
  let bestMs = Infinity
  for (const start of search.beginnings()) {
    const order = search.improve(start)
    const ms = search.ms(order)
    if (ms < bestMs) {
      best = order
      bestMs = ms
    }
  }
  return best === undefined ? undefined : leastLatencyInOrder(costs, best, mostMs * SLACK)
}

class Search {
  readonly #costs: StageCosts
  readonly #counts: LayerCounts
  readonly #stages: number | undefined
  /** Hosts by how much a chain would gain of them alone: time for a fair share of layers, and the way there. */
  readonly #candidates: readonly number[]
  readonly #most: Readonly<Record<Place, Int32Array>>

  constructor(costs: StageCosts, mostMs: number, stages: number | undefined) {
    this.#costs = costs
    this.#counts = new LayerCounts(costs)
    this.#stages = stages
    const { hosts } = costs.problem
    const most = (place: Place): Int32Array => Int32Array.from(hosts, (_, host) => this.#counts.most(host, place, mostMs))
    this.#most = { first: most('first'), middle: most('middle'), last: most('last'), only: most('only') }
    const perLayer = (host: number): number => this.#counts.meanMs[host]! + (2 * hosts[host]!.legMs) / Math.max(1, this.#most.middle[host]!)
    this.#candidates = hosts.map((_, host) => host).filter(host => this.#most.middle[host]! + this.#most.first[host]! + this.#most.last[host]! > 0).sort((a, b) => perLayer(a) - perLayer(b) || a - b).slice(0, CANDIDATES)
  }

  /** Single hosts; then chains grown greedily from each of the most promising hosts. */
  * beginnings(): Generator<readonly number[]> {
    const { layers } = this.#costs
    if (this.#stages === undefined || this.#stages === 1) {
      const alone = this.#candidates.filter(host => this.#most.only[host]! >= layers)
      const fastest = alone.reduce<number | undefined>((best, host) => (best === undefined || this.ms([host]) < this.ms([best]) ? host : best), undefined)
      if (fastest !== undefined) yield [fastest]
    }
    for (const seed of this.#candidates.slice(0, 24)) {
      const grown = this.#grow(seed)
      if (grown !== undefined) yield grown
    }
    // Few large hosts, however slow: fewest hops.
    const large = [...this.#candidates].sort((a, b) => this.#most.middle[b]! - this.#most.middle[a]! || a - b)
    for (const seed of large.slice(0, 4)) {
      const grown = this.#grow(seed, large)
      if (grown !== undefined) yield grown
    }
  }

  /** From one host on: whoever adds room at the least time a layer, until all layers have a place. */
  #grow(seed: number, preferred?: readonly number[]): readonly number[] | undefined {
    const { problem, layers } = this.#costs
    const order = [seed]
    const goal = this.#stages ?? Math.min(layers, problem.hosts.length)
    while (order.length < goal && (this.ms(order) === Infinity || this.#stages !== undefined)) {
      const last = order.at(-1)!
      let pick: number | undefined
      let pickMs = Infinity
      for (const host of preferred ?? this.#candidates) {
        if (order.includes(host)) continue
        const ms = preferred === undefined ? this.#counts.meanMs[host]! + problem.hop(last, host) / Math.max(1, Math.min(layers, this.#most.middle[host]!)) : 0
        if (ms < pickMs) {
          pick = host
          pickMs = ms
          if (preferred !== undefined) break
        }
      }
      if (pick === undefined) return undefined
      order.push(pick)
    }
    return this.ms(order) === Infinity ? undefined : order
  }

  improve(start: readonly number[]): readonly number[] {
    let order = start
    let now = this.ms(order)
    for (let round = 0; round < ROUNDS; round += 1) {
      let best: readonly number[] | undefined
      for (const candidate of this.#neighbours(order)) {
        const ms = this.ms(candidate)
        if (ms < now * (1 - 1e-12)) {
          best = candidate
          now = ms
        }
      }
      if (best === undefined) return order
      order = best
    }
    return order
  }

  * #neighbours(order: readonly number[]): Generator<readonly number[]> {
    const outside = this.#candidates.filter(host => !order.includes(host))
    const free = this.#stages === undefined
    for (let at = 0; at <= order.length; at += 1) {
      if (free && order.length > 1 && at < order.length) yield order.toSpliced(at, 1)
      for (const host of outside) {
        if (at < order.length) yield order.toSpliced(at, 1, host)
        if (free && order.length < this.#costs.layers) yield order.toSpliced(at, 0, host)
      }
    }
    for (let from = 0; from < order.length; from += 1) {
      for (let to = from + 1; to < order.length; to += 1) {
        yield [...order.slice(0, from), ...order.slice(from, to + 1).reverse(), ...order.slice(to + 1)]
        const moved = order.toSpliced(from, 1)
        yield moved.toSpliced(to, 0, order[from]!)
        yield order.toSpliced(from, 1, order[to]!).toSpliced(to, 1, order[from]!)
      }
    }
  }

  /** One token through hosts in this order, the fastest taking what they can; Infinity where the layers do not fit. */
  ms(order: readonly number[]): number {
    const { problem, layers } = this.#costs
    const { hosts, hop } = problem
    const { meanMs } = this.#counts
    if (order.length > layers) return Infinity
    const first = order[0]!
    const last = order.at(-1)!
    const alone = order.length === 1
    let ms = hosts[first]!.legMs + hosts[last]!.legMs + this.#counts.extraMs(first, alone ? 'only' : 'first') + (alone ? 0 : this.#counts.extraMs(last, 'last'))
    const rooms = order.map((host, at) => ({ host, room: this.#most[alone ? 'only' : at === 0 ? 'first' : at === order.length - 1 ? 'last' : 'middle'][host]! }))
    let rest = layers - order.length
    for (const [at, { host, room }] of rooms.entries()) {
      if (room < 1) return Infinity
      ms += meanMs[host]! + (at + 1 < order.length ? hop(host, order[at + 1]!) : 0)
    }
    for (const { host, room } of rooms.sort((a, b) => meanMs[a.host]! - meanMs[b.host]!)) {
      const more = Math.min(rest, room - 1)
      ms += more * meanMs[host]!
      rest -= more
    }
    return rest > 0 ? Infinity : ms
  }
}
