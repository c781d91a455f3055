import type { Random } from '../../ports.ts'
import { leastBottleneck } from './bottleneck.ts'
import { StageCosts, type PlanProblem } from './problem.ts'

/** Layers [first, end) that a host offers; undefined where it offers none. */
export type Span = { readonly first: number; readonly end: number } | undefined

export type Coverage = {
  readonly spans: readonly Span[]
  /** Tokens a millisecond that each layer can have from all who offer it. */
  readonly rates: readonly number[]
  /** The least of them: what the whole swarm can give. */
  readonly rate: number
  /** Hosts' speed spread evenly over all layers: no arrangement is better. */
  readonly fluid: number
  /** Layers that only one host offers: its death leaves a hole. */
  readonly single: readonly number[]
}

/** From "any layer counts" to "only the least counts": how steeply a layer's rate, as a part of the fluid rate, is weighed. */
const STEEPNESS = [4, 8, 12, 18, 26, 38, 56, 84, 126, 190, 280] as const
const TURNS = 6
/** Work for which another shuffled beginning is still worth it. */
const EFFORT = 12_000_000
const MOST_STARTS = 24

/**
 * Which span each host should offer, so that the layer with the fewest tokens a second has as many as can be: spans may
 * have any length and overlap. Each host in turn takes the span that lowers the potential Σ exp(−β·rate) most, given what the
 * others offer; β rises (deterministic annealing), so that it ends in a balance where nobody alone can lift the least
 * layer. One answer costs a host O(L · longest span) with the sums of rates alone, so a swarm can do the same by itself.
 */
export function coverLayers(problem: PlanProblem, random: Random, start?: readonly Span[]): Coverage {
  const swarm = new Swarm(problem)
  const work = problem.hosts.length * swarm.costs.layers ** 2 * STEEPNESS.length * TURNS
  const starts = start !== undefined ? 1 : Math.max(1, Math.min(MOST_STARTS, Math.floor(EFFORT / Math.max(1, work))))
  let best: Coverage | undefined
  for (let at = 0; at < starts; at += 1) {
    swarm.set(start ?? problem.hosts.map(() => undefined))
    swarm.anneal(random)
    const found = swarm.coverage()
    if (best === undefined || found.rate > best.rate) best = found
  }
  // Balance may leave a hole where room is so short that hosts must stand in one certain row: there the chain of least bottleneck is one.
  const row = best === undefined || best.rate > 0 ? undefined : leastBottleneck(problem)
  if (row !== undefined) {
    const spans: Span[] = problem.hosts.map(() => undefined)
    for (const { host, first, end } of row.stages) spans[host] = { first, end }
    swarm.set(spans)
    swarm.anneal(random)
    best = swarm.coverage()
  }
  return best ?? swarm.coverage()
}

/**
 * The span one host would move to when the layers have these rates in all, its own included, and by what part that raises
 * the least of them. For a swarm that arranges itself: `alone` is the problem of this host only. Move only for a gain above a
 * threshold, and only when a random lease says that it is one's turn.
 */
export function bestResponse(alone: PlanProblem, rates: readonly number[], span: Span, fluid: number): { readonly span: Span; readonly gain: number } {
  const swarm = new Swarm(alone, { rates, fluid })
  swarm.holds(span)
  const before = Math.min(...rates)
  const better = swarm.respond(0, STEEPNESS.at(-1)!)
  swarm.move(0, better)
  const after = swarm.coverage().rate
  return { span: better, gain: before <= 0 ? (after > 0 ? Infinity : 0) : after / before - 1 }
}

export function coverage(problem: PlanProblem, spans: readonly Span[]): Coverage {
  const swarm = new Swarm(problem)
  swarm.set(spans)
  return swarm.coverage()
}

class Swarm {
  readonly costs: StageCosts
  readonly #fluid: number
  readonly #rates: Float64Array
  readonly #weights: Float64Array
  #spans: Span[] = []

  constructor(problem: PlanProblem, around?: { readonly rates: readonly number[]; readonly fluid: number }) {
    this.costs = new StageCosts(problem)
    this.#rates = Float64Array.from(around?.rates ?? problem.layerBytes, rate => (around === undefined ? 0 : rate))
    this.#weights = new Float64Array(this.costs.layers + 1)
    // A host that had to carry all layers one after the other would give a token in their summed time.
    this.#fluid = around?.fluid ?? problem.hosts.reduce((sum, { layerMs }, host) => sum + (this.costs.reach(host, 0, Infinity) > 0 || layerMs.some((_, at) => this.costs.may(host, at, at + 1, Infinity)) ? 1 / layerMs.reduce((total, ms) => total + ms, 0) : 0), 0)
  }

  set(spans: readonly Span[]): void {
    this.#spans = spans.map(() => undefined)
    this.#rates.fill(0)
    for (const [host, span] of spans.entries()) this.move(host, span)
  }

  /** What host 0 offers is in the rates already. */
  holds(span: Span): void {
    this.#spans = [span]
  }

  move(host: number, span: Span): void {
    const old = this.#spans[host]
    if (old !== undefined) this.#add(host, old, -1)
    if (span !== undefined) this.#add(host, span, 1)
    this.#spans[host] = span
  }

  #add(host: number, { first, end }: { readonly first: number; readonly end: number }, sign: 1 | -1): void {
    const rate = sign / this.costs.ms(host, first, end)
    for (let layer = first; layer < end; layer += 1) this.#rates[layer]! += rate
  }

  anneal(random: Random): void {
    const order = this.#spans.map((_, host) => host)
    let best: { readonly rate: number; readonly spans: readonly Span[] } = { rate: this.#least(), spans: [...this.#spans] }
    for (const steepness of STEEPNESS) {
      for (let turn = 0; turn < TURNS; turn += 1) {
        shuffle(order, random)
        let moved = false
        for (const host of order) {
          const old = this.#spans[host]
          const span = this.respond(host, steepness)
          if (span?.first === old?.first && span?.end === old?.end) continue
          this.move(host, span)
          moved = true
        }
        const rate = this.#least()
        if (rate > best.rate) best = { rate, spans: [...this.#spans] }
        if (!moved) break
      }
    }
    this.set(best.spans)
  }

  /** The span of least potential for one host, what it offers now not counted. */
  respond(host: number, steepness: number): Span {
    const { layers } = this.costs
    const old = this.#spans[host]
    if (old !== undefined) this.#add(host, old, -1)
    const beta = steepness / this.#fluid
    // Against the least layer, so that no exponent overflows.
    const least = Math.min(...this.#rates)
    const weights = this.#weights
    for (let layer = 0; layer < layers; layer += 1) weights[layer + 1] = weights[layer]! + Math.exp(-beta * (this.#rates[layer]! - least))
    let pick: Span
    let most = 0
    for (let first = 0; first < layers; first += 1) {
      const far = this.costs.reach(host, first, Infinity)
      for (let end = first + 1; end <= far; end += 1) {
        const gain = (weights[end]! - weights[first]!) * -Math.expm1(-beta / this.costs.ms(host, first, end))
        if (gain > most * (1 + 1e-12)) {
          most = gain
          pick = { first, end }
        }
      }
    }
    if (old !== undefined) this.#add(host, old, 1)
    return pick
  }

  #least(): number {
    return Math.min(...this.#rates)
  }

  coverage(): Coverage {
    const holders = new Int32Array(this.costs.layers)
    for (const span of this.#spans) if (span !== undefined) for (let layer = span.first; layer < span.end; layer += 1) holders[layer]! += 1
    return { spans: [...this.#spans], rates: [...this.#rates], rate: Math.max(0, this.#least()), fluid: this.#fluid, single: [...holders.keys()].filter(layer => holders[layer] === 1) }
  }
}

function shuffle(items: number[], random: Random): void {
  for (let at = items.length - 1; at > 0; at -= 1) {
    const other = random.below(at + 1)
    const one = items[at]!
    items[at] = items[other]!
    items[other] = one
  }
}
