import type { Millis } from '../protocols/ids.ts'

type Window = { start: Millis; count: number }

/** Counts events a kind, peer and second; the same allowance, a burst of one second's worth, as the real adapter gives. */
export class RateLimit {
  readonly #now: () => Millis
  readonly #windows = new Map<string, Map<string, Window>>()

  constructor(now: () => Millis) {
    this.#now = now
  }

  allow(kind: string, peer: string, perSecond: number): boolean {
    const now = this.#now()
    let peers = this.#windows.get(kind)
    if (peers === undefined) this.#windows.set(kind, peers = new Map<string, Window>())
    const window = peers.get(peer)
    if (window === undefined) {
      peers.set(peer, { start: now, count: 1 })
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
