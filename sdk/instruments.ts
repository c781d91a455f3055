import type { Json } from '../protocols/ids.ts'
import type { BlockClock } from './clock.ts'
import { Sketch } from './sketch.ts'

/** Of the last 1, 5 or 15 minutes. */
export type WindowSummary = { readonly count: number; readonly mean: number; readonly min: number; readonly max: number; readonly perSecond: number; readonly p50: number; readonly p95: number; readonly p99: number }

const DEFAULT_BUCKETS = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]
const SLOT_MS = 5_000
export const WINDOWS = { '1m': 60_000, '5m': 300_000, '15m': 900_000 } as const
const SLOTS = WINDOWS['15m'] / SLOT_MS
const NOTHING: WindowSummary = { count: 0, mean: 0, min: 0, max: 0, perSecond: 0, p50: 0, p95: 0, p99: 0 }

/** Counts that only rise. */
export class Counter {
  #value = 0
  increment(by = 1): void {
    if (by > 0) this.#value += by
  }
  get value(): number {
    return this.#value
  }
  read(): Json {
    return this.#value
  }
}

/** A value that goes up and down. */
export class Gauge {
  #value = 0
  set(value: number): void {
    this.#value = value
  }
  add(by: number): void {
    this.#value += by
  }
  read(): Json {
    return this.#value
  }
}

/** Counts of observations at or below each bound. */
export class Histogram {
  readonly #bounds: readonly number[]
  readonly #counts: number[]
  #count = 0
  #sum = 0

  constructor(bounds: readonly number[] = DEFAULT_BUCKETS) {
    this.#bounds = [...bounds].sort((a, b) => a - b)
    this.#counts = this.#bounds.map(() => 0)
  }

  observe(value: number): void {
    this.#count++
    this.#sum += value
    for (const [index, bound] of this.#bounds.entries()) if (value <= bound) this.#counts[index]!++
  }

  read(): Json {
    return { count: this.#count, sum: this.#sum, buckets: this.#bounds.map((bound, index) => [bound, this.#counts[index]!]) }
  }
}

type Slot = { at: number; count: number; sum: number; min: number; max: number; sketch: Sketch }

/** Observations of the last 15 minutes in slots of five seconds: memory does not grow with traffic. */
export class Rolling {
  readonly #clock: Pick<BlockClock, 'monotonic'>
  readonly #slots: Slot[] = []
  #current = 0

  constructor(clock: Pick<BlockClock, 'monotonic'>) {
    this.#clock = clock
  }

  observe(value: number): void {
    this.#current = value
    const at = Math.floor(this.#clock.monotonic() / SLOT_MS)
    const index = at % SLOTS
    let slot = this.#slots[index]
    if (slot === undefined || slot.at !== at) this.#slots[index] = slot = { at, count: 0, sum: 0, min: value, max: value, sketch: new Sketch() }
    slot.count++
    slot.sum += value
    slot.min = Math.min(slot.min, value)
    slot.max = Math.max(slot.max, value)
    slot.sketch.add(value)
  }

  /** The newest observation, whenever that was. */
  get current(): number {
    return this.#current
  }

  /** What was observed in the last `ms`, to the nearest slot. Percentiles to 2 %. */
  window(ms: number): WindowSummary {
    const now = Math.floor(this.#clock.monotonic() / SLOT_MS)
    const first = now - Math.ceil(ms / SLOT_MS) + 1
    const sketch = new Sketch()
    let sum = 0
    let min = Infinity
    let max = -Infinity
    let count = 0
    for (const slot of this.#slots) {
      if (slot === undefined || slot.at < first || slot.at > now) continue
      count += slot.count
      sum += slot.sum
      min = Math.min(min, slot.min)
      max = Math.max(max, slot.max)
      sketch.merge(slot.sketch)
    }
    if (count === 0) return NOTHING
    const [p50, p95, p99] = sketch.percentiles([0.5, 0.95, 0.99]).map(value => Math.min(max, Math.max(min, value)))
    return { count, mean: sum / count, min, max, perSecond: (count * 1_000) / ms, p50: p50 ?? 0, p95: p95 ?? 0, p99: p99 ?? 0 }
  }

  read(): Json {
    const out: Record<string, Json> = { current: this.#current }
    for (const [name, ms] of Object.entries(WINDOWS)) out[name] = { ...this.window(ms) }
    return out
  }
}
