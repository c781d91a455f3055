import type { Json } from '../protocols/ids.ts'
import type { BlockClock } from './clock.ts'

export type Labels = Readonly<Record<string, string>>
/** Counts and sums of the last 1, 5 and 15 minutes. */
export type WindowSummary = { readonly count: number; readonly mean: number; readonly min: number; readonly max: number; readonly perSecond: number }

const METRICS = 256
const SERIES = 128
const DEFAULT_BUCKETS = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]
const SLOT_MS = 5_000
const WINDOWS = { '1m': 60_000, '5m': 300_000, '15m': 900_000 } as const
const SLOTS = WINDOWS['15m'] / SLOT_MS

/** Counts that only rise. */
export class Counter {
  #value = 0
  increment(by = 1): void {
    if (by > 0) this.#value += by
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

type Slot = { at: number; count: number; sum: number; min: number; max: number }

/** Observations of the last 15 minutes in slots of five seconds: memory does not grow with traffic. */
export class Rolling {
  readonly #clock: Pick<BlockClock, 'monotonic'>
  readonly #slots: Slot[] = []

  constructor(clock: Pick<BlockClock, 'monotonic'>) {
    this.#clock = clock
  }

  observe(value: number): void {
    const at = Math.floor(this.#clock.monotonic() / SLOT_MS)
    const index = at % SLOTS
    const slot = this.#slots[index]
    if (slot === undefined || slot.at !== at) this.#slots[index] = { at, count: 1, sum: value, min: value, max: value }
    else {
      slot.count++
      slot.sum += value
      slot.min = Math.min(slot.min, value)
      slot.max = Math.max(slot.max, value)
    }
  }

  /** What was observed in the last `ms`, to the nearest slot. */
  window(ms: number): WindowSummary {
    const now = Math.floor(this.#clock.monotonic() / SLOT_MS)
    const first = now - Math.ceil(ms / SLOT_MS) + 1
    let count = 0
    let sum = 0
    let min = Infinity
    let max = -Infinity
    for (const slot of this.#slots) {
      if (slot === undefined || slot.at < first || slot.at > now) continue
      count += slot.count
      sum += slot.sum
      min = Math.min(min, slot.min)
      max = Math.max(max, slot.max)
    }
    return count === 0 ? { count: 0, mean: 0, min: 0, max: 0, perSecond: 0 } : { count, mean: sum / count, min, max, perSecond: (count * 1_000) / ms }
  }

  read(): Json {
    const out: Record<string, Json> = {}
    for (const [name, ms] of Object.entries(WINDOWS)) out[name] = { ...this.window(ms) }
    return out
  }
}

type Series = Counter | Gauge | Histogram | Rolling
type Family = { readonly type: 'counter' | 'gauge' | 'histogram' | 'rolling'; readonly make: () => Series; readonly series: Map<string, { readonly labels: Labels; readonly of: Series }> }

/** A block's own metrics. At most 256 names of 128 label sets each; what comes beyond is measured but not reported. */
export class Metrics {
  readonly #clock: Pick<BlockClock, 'monotonic'>
  readonly #families = new Map<string, Family>()

  constructor(clock: Pick<BlockClock, 'monotonic'>) {
    this.#clock = clock
  }

  counter(name: string, labels: Labels = {}): Counter {
    const series = this.#series(name, 'counter', labels, () => new Counter())
    return series instanceof Counter ? series : new Counter()
  }

  gauge(name: string, labels: Labels = {}): Gauge {
    const series = this.#series(name, 'gauge', labels, () => new Gauge())
    return series instanceof Gauge ? series : new Gauge()
  }

  histogram(name: string, labels: Labels = {}, buckets?: readonly number[]): Histogram {
    const series = this.#series(name, 'histogram', labels, () => new Histogram(buckets))
    return series instanceof Histogram ? series : new Histogram(buckets)
  }

  /** Means, extremes and rates over 1, 5 and 15 minutes. */
  rolling(name: string, labels: Labels = {}): Rolling {
    const series = this.#series(name, 'rolling', labels, () => new Rolling(this.#clock))
    return series instanceof Rolling ? series : new Rolling(this.#clock)
  }

  /** `{ name: { type, series: [{ labels, value }] } }`. */
  snapshot(): Readonly<Record<string, Json>> {
    const out: Record<string, Json> = {}
    for (const [name, family] of this.#families) {
      out[name] = { type: family.type, series: [...family.series.values()].map(({ labels, of }) => ({ labels: { ...labels }, value: of.read() })) }
    }
    return out
  }

  // AIOS's names for the same.
  register_counter(name: string): void { this.counter(name) }
  register_gauge(name: string): void { this.gauge(name) }
  register_histogram(name: string, _help?: string, buckets?: readonly number[]): void { this.histogram(name, {}, buckets) }
  increment_counter(name: string, by = 1): void { this.counter(name).increment(by) }
  set_gauge(name: string, value: number): void { this.gauge(name).set(value) }
  observe_histogram(name: string, value: number): void { this.histogram(name).observe(value) }
  observe_rolling(name: string, value: number): void { this.rolling(name).observe(value) }
  observe_custom_rolling(name: string, value: number): void { this.rolling(name).observe(value) }

  #series(name: string, type: Family['type'], labels: Labels, make: () => Series): Series {
    let family = this.#families.get(name)
    if (family === undefined) {
      if (this.#families.size >= METRICS) return make()
      family = { type, make, series: new Map() }
      this.#families.set(name, family)
    }
    const key = JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)))
    const known = family.series.get(key)
    if (known !== undefined) return known.of
    // The first registration of a name fixes its buckets for every label set.
    const series = family.type === type ? family.make() : make()
    if (family.type === type && family.series.size < SERIES) family.series.set(key, { labels, of: series })
    return series
  }
}
