/** Two neighbouring bounds differ by this factor: a percentile is off by at most 2 % of its value. */
const GAMMA = 1.04
const LOG_GAMMA = Math.log(GAMMA)
/** What is closer to nothing counts as nothing. */
const LEAST = 1e-9
/** Different bounds of one sketch; beyond them an observation counts at the nearest that is there. */
const BUCKETS = 256

/**
 * Counts observations by their order of magnitude, finely, so that percentiles of any number of sketches together can be told
 * without keeping the observations. After DDSketch (Masson, Rim, Lee 2019).
 */
export class Sketch {
  /** Bound → how many. Positive bounds are above 0, mirrored for what is below nothing. */
  readonly #counts = new Map<number, number>()
  #count = 0

  get count(): number {
    return this.#count
  }

  add(value: number): void {
    if (!Number.isFinite(value)) return
    let key = keyOf(value)
    if (!this.#counts.has(key) && this.#counts.size >= BUCKETS) key = this.#nearest(key)
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
    this.#count++
  }

  /** Adds what another has seen. */
  merge(other: Sketch): void {
    for (const [key, count] of other.#counts) this.#counts.set(key, (this.#counts.get(key) ?? 0) + count)
    this.#count += other.#count
  }

  /** The values below which these shares (0 to 1) of the observations lie; 0 where there is none. */
  percentiles(shares: readonly number[]): readonly number[] {
    const bounds = [...this.#counts].sort(([a], [b]) => a - b)
    return shares.map(share => {
      let left = Math.max(1, Math.ceil(share * this.#count))
      for (const [key, count] of bounds) {
        left -= count
        if (left <= 0) return valueOf(key)
      }
      return 0
    })
  }

  #nearest(key: number): number {
    let best = key
    let distance = Infinity
    for (const known of this.#counts.keys()) if (Math.abs(known - key) < distance) [best, distance] = [known, Math.abs(known - key)]
    return best
  }
}

/** Far enough from 0 that the sign of a key is the sign of its value. */
const MIDDLE = 1_000

function keyOf(value: number): number {
  const size = Math.abs(value)
  if (size < LEAST) return 0
  const key = MIDDLE + Math.ceil(Math.log(size) / LOG_GAMMA)
  return value > 0 ? key : -key
}

function valueOf(key: number): number {
  if (key === 0) return 0
  const size = (2 * GAMMA ** (Math.abs(key) - MIDDLE)) / (1 + GAMMA)
  return key > 0 ? size : -size
}
