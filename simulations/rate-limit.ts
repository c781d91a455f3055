import type { Millis } from '../protocols/ids.ts'

/** Counts events a key and second; the same allowance, a burst of one second's worth, as the real adapter gives. */
export class RateLimit {
  readonly #now: () => Millis
  readonly #windows = new Map<string, { start: Millis; count: number }>()

  constructor(now: () => Millis) {
    this.#now = now
  }

  allow(key: string, perSecond: number): boolean {
    const now = this.#now()
    const window = this.#windows.get(key)
    if (window === undefined || now - window.start >= 1_000) {
      this.#windows.set(key, { start: now, count: 1 })
      return perSecond >= 1
    }
    window.count += 1
    return window.count <= perSecond
  }
}
