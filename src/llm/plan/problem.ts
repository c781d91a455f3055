import type { PeerId } from '../../../protocols/ids.ts'

/** A host as a planner sees it, for one model. Times are milliseconds a token. */
export type PlanHost = {
  readonly peer: PeerId
  /** What a stage there may take: weights, KV and overhead. */
  readonly memoryBytes: number
  readonly layerMs: readonly number[]
  /** Beside the first layer, and beside the last. */
  readonly embeddingMs: number
  readonly headMs: number
  /** One way between this host and whoever starts the session. */
  readonly legMs: number
}

/** Which hosts shall compute which consecutive layers? */
export type PlanProblem = {
  readonly hosts: readonly PlanHost[]
  /** What each layer takes of a host's memory: weights and the KV that was promised. */
  readonly layerBytes: readonly number[]
  readonly embeddingBytes: number
  readonly headBytes: number
  /** What any stage takes, however short. */
  readonly stageBytes: number
  /** One way between two hosts, by their index in `hosts`. */
  readonly hop: (from: number, to: number) => number
}

/** Layers [first, end) on `hosts[host]`. */
export type PlannedStage = { readonly host: number; readonly first: number; readonly end: number; readonly ms: number; readonly bytes: number }

export type Plan = {
  readonly stages: readonly PlannedStage[]
  /** The slowest stage: a pipeline kept full gives a token every so many milliseconds. */
  readonly bottleneckMs: number
  /** One token of one stream: every stage, every hop and both legs. */
  readonly latencyMs: number
}

/** What stages cost, by sums taken once. Every comparison of times goes through `ms`, so that equal stages cost exactly the same. */
export class StageCosts {
  readonly problem: PlanProblem
  readonly layers: number
  readonly #bytes: Float64Array
  readonly #ms: readonly Float64Array[]

  constructor(problem: PlanProblem) {
    this.problem = problem
    this.layers = problem.layerBytes.length
    this.#bytes = sums(problem.layerBytes)
    this.#ms = problem.hosts.map(({ layerMs }) => sums(layerMs))
  }

  ms(host: number, first: number, end: number): number {
    const { embeddingMs, headMs } = this.problem.hosts[host]!
    const sum = this.#ms[host]!
    return sum[end]! - sum[first]! + (first === 0 ? embeddingMs : 0) + (end === this.layers ? headMs : 0)
  }

  bytes(first: number, end: number): number {
    const { stageBytes, embeddingBytes, headBytes } = this.problem
    return stageBytes + this.#bytes[end]! - this.#bytes[first]! + (first === 0 ? embeddingBytes : 0) + (end === this.layers ? headBytes : 0)
  }

  may(host: number, first: number, end: number, mostMs: number): boolean {
    return this.bytes(first, end) <= this.problem.hosts[host]!.memoryBytes && this.ms(host, first, end) <= mostMs
  }

  /** The furthest end of a stage from `first` on this host within memory and time; `first` when not even one layer is. */
  reach(host: number, first: number, mostMs: number, limit = this.layers): number {
    if (limit === this.layers && this.may(host, first, limit, mostMs)) return limit
    let low = first
    // The head may be what does not fit: short of the last layer, cost only grows with the end.
    let high = Math.min(limit, this.layers - 1)
    while (low < high) {
      const middle = Math.ceil((low + high) / 2)
      if (this.may(host, first, middle, mostMs)) low = middle
      else high = middle - 1
    }
    return low
  }

  /** Throws nothing: `stages` must cover the layers in order. */
  plan(stages: readonly { readonly host: number; readonly first: number; readonly end: number }[]): Plan {
    const { hosts, hop } = this.problem
    const planned = stages.map(({ host, first, end }) => ({ host, first, end, ms: this.ms(host, first, end), bytes: this.bytes(first, end) }))
    let latencyMs = 0
    for (const [at, { host, ms }] of planned.entries()) {
      const next = planned[at + 1]
      latencyMs += ms + (at === 0 ? hosts[host]!.legMs : 0) + (next === undefined ? hosts[host]!.legMs : hop(host, next.host))
    }
    return { stages: planned, bottleneckMs: Math.max(...planned.map(({ ms }) => ms)), latencyMs }
  }
}

function sums(values: readonly number[]): Float64Array {
  const out = new Float64Array(values.length + 1)
  for (const [at, value] of values.entries()) out[at + 1] = out[at]! + value
  return out
}
