import type { StageCosts } from './problem.ts'

/** Where a host may stand in a chain decides what it carries besides layers. */
export type Place = 'first' | 'middle' | 'last' | 'only'

/** Rounding of summed times must not cost a layer. */
const SLACK = 1 + 1e-9

/**
 * How many layers each host can take, as if all layers were the mean one. The solvers choose hosts and their order by these
 * counts; the ranges are then found exactly for that order, with every layer's own cost.
 */
export class LayerCounts {
  readonly costs: StageCosts
  readonly layers: number
  readonly meanMs: readonly number[]
  readonly #meanBytes: number

  constructor(costs: StageCosts) {
    this.costs = costs
    this.layers = costs.layers
    this.meanMs = costs.problem.hosts.map(({ layerMs }) => mean(layerMs))
    this.#meanBytes = mean(costs.problem.layerBytes)
  }

  /** What it carries besides layers, in milliseconds. */
  extraMs(host: number, place: Place): number {
    const { embeddingMs, headMs } = this.costs.problem.hosts[host]!
    return (place === 'first' || place === 'only' ? embeddingMs : 0) + (place === 'last' || place === 'only' ? headMs : 0)
  }

  most(host: number, place: Place, mostMs: number): number {
    const { hosts, stageBytes, embeddingBytes, headBytes } = this.costs.problem
    const extraBytes = (place === 'first' || place === 'only' ? embeddingBytes : 0) + (place === 'last' || place === 'only' ? headBytes : 0)
    const byMemory = (hosts[host]!.memoryBytes - stageBytes - extraBytes) / this.#meanBytes
    const byTime = mostMs === Infinity ? Infinity : (mostMs * SLACK - this.extraMs(host, place)) / this.meanMs[host]!
    return Math.max(0, Math.floor(Math.min(byMemory * SLACK, byTime, this.layers)))
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
}
