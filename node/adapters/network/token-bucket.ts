import { Lru } from '../../../src/lib/lru.ts'

const KEYS_BOUND = 4_096

/** Allows `perSecond` events a second on each key, and a burst of one second's worth. */
export class TokenBuckets {
  readonly #now: () => number
  readonly #buckets = new Lru<string, { tokens: number; at: number }>(KEYS_BOUND)

  constructor(now: () => number) {
    this.#now = now
  }

  take(key: string, perSecond: number): boolean {
    const now = this.#now()
    const bucket = this.#buckets.get(key)
    if (bucket === undefined) {
      this.#buckets.set(key, { tokens: perSecond - 1, at: now })
      return perSecond >= 1
    }
    bucket.tokens = Math.min(perSecond, bucket.tokens + ((now - bucket.at) * perSecond) / 1_000)
    bucket.at = now
    if (bucket.tokens < 1) return false
    bucket.tokens -= 1
    return true
  }
}
