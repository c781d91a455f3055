import type { Millis } from '../protocols/ids.ts'

type Window = { start: Millis; count: number }

/** Counts events of one kind a peer and second; the same allowance, a burst of one second's worth, as the real adapter gives. */
export class Rate {
  readonly #now: () => Millis
  readonly #windows = new Map<string, Window>()

  constructor(now: () => Millis) {
    this.#now = now
  }

  allow(peer: string, perSecond: number): boolean {
    const now = this.#now()
    const window = this.#windows.get(peer)
    if (window === undefined) {
      this.#windows.set(peer, { start: now, count: 1 })
      return perSecond >= 1
    }
    if (now - window.start >= 1_000) {
      window.start = now
      window.count = 0
    }
    window.count += 1
    return window.count <= perSecond
  }
}

/** Those of all kinds. */
export class RateLimit {
  readonly #now: () => Millis
  readonly #rates = new Map<string, Rate>()

  constructor(now: () => Millis) {
    this.#now = now
  }

  of(kind: string): Rate {
    const known = this.#rates.get(kind)
    if (known !== undefined) return known
    const rate = new Rate(this.#now)
    this.#rates.set(kind, rate)
    return rate
  }

  allow(kind: string, peer: string, perSecond: number): boolean {
    return this.of(kind).allow(peer, perSecond)
  }
}
