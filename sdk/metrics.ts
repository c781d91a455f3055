import type { Json } from '../protocols/ids.ts'
import { HERE, type BlockClock } from './clock.ts'
import { Counter, Gauge, Histogram, Rolling, WINDOWS } from './instruments.ts'

export type { WindowSummary } from './instruments.ts'
export type Labels = Readonly<Record<string, string>>

const METRICS = 256
const SERIES = 128
/** AIOS's buckets, in seconds. */
const AIOS_BUCKETS = [0.1, 0.2, 0.5, 1, 2, 5, 10]
/** The label under which a category of AIOS's `observe_custom_rolling` is kept. */
export const CATEGORY = 'category'

type Series = Counter | Gauge | Histogram | Rolling
type Family = { readonly type: 'counter' | 'gauge' | 'histogram' | 'rolling'; readonly make: () => Series; readonly series: Map<string, { readonly labels: Labels; readonly of: Series }> }

/** A block's own metrics. At most 256 names of 128 label sets each; what comes beyond is measured but not reported. */
export class Metrics {
  readonly #clock: Pick<BlockClock, 'monotonic'>
  readonly #families = new Map<string, Family>()

  /** AIOS gives the block's id; a clock is for those who hold time themselves. */
  constructor(clock: Pick<BlockClock, 'monotonic'> | string = HERE) {
    this.#clock = typeof clock === 'string' ? HERE : clock
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
  register_counter(name: string, _documentation?: string, _labelnames?: readonly string[]): void { this.counter(name) }
  register_gauge(name: string, _documentation?: string, _labelnames?: readonly string[]): void { this.gauge(name) }
  register_histogram(name: string, _documentation?: string, _labelnames?: readonly string[] | null, buckets: readonly number[] = AIOS_BUCKETS): void { this.histogram(name, {}, buckets) }
  /** `by`: how many, or the labels of which there is one more. */
  increment_counter(name: string, by: number | Labels = 1): void {
    if (typeof by === 'number') this.counter(name).increment(by)
    else this.counter(name, by).increment()
  }
  set_gauge(name: string, value: number, labels: Labels = {}): void { this.gauge(name, labels).set(value) }
  observe_histogram(name: string, value: number, labels: Labels = {}): void { this.histogram(name, labels).observe(value) }
  observe_rolling(name: string, value: number): void { this.rolling(name).observe(value) }
  /** AIOS's `(category, name, value)`; `(name, value)` is `observe_rolling`. */
  observe_custom_rolling(category: string, name: string | number, value?: number): void {
    if (typeof name === 'number') this.rolling(category).observe(name)
    else this.rolling(name, { [CATEGORY]: category }).observe(value ?? 0)
  }
  /** What was observed with `observe_rolling`, in AIOS's shape. */
  get_extended_metrics(): Readonly<Record<string, Json>> {
    const out: Record<string, Json> = {}
    for (const [name, family] of this.#families) {
      for (const { labels, of } of family.series.values()) if (of instanceof Rolling && !(CATEGORY in labels)) out[name] = extended(of)
    }
    return out
  }

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

function extended(rolling: Rolling): Json {
  const mean = (ms: number): number => rolling.window(ms).mean
  return { current: rolling.current, average_1m: mean(WINDOWS['1m']), average_5m: mean(WINDOWS['5m']), average_15m: mean(WINDOWS['15m']) }
}
