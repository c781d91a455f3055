/** The only time SDK code reads. Given by whoever runs the block: the instance process, or a tester that moves it by hand. */
export interface BlockClock {
  /** Milliseconds that never go backwards. */
  monotonic(): number
  /** Milliseconds since 1970; may jump. */
  unix(): number
  /** Runs `run` once after `ms`; the returned function cancels it. */
  after(ms: number, run: () => void): () => void
}

/** The clock of a program that is no block. */
export const HERE: BlockClock = {
  monotonic: () => performance.now(),
  unix: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
}

/** A clock that stands still until `advance`: tests of batching, windows and expiry need no waiting. */
export class ManualClock implements BlockClock {
  #now: number
  #next = 0
  readonly #due = new Map<number, { readonly at: number; readonly run: () => void }>()

  constructor(start = 0) {
    this.#now = start
  }

  monotonic(): number {
    return this.#now
  }

  unix(): number {
    return this.#now
  }

  after(ms: number, run: () => void): () => void {
    const id = this.#next++
    this.#due.set(id, { at: this.#now + ms, run })
    return () => void this.#due.delete(id)
  }

  /** Moves time forward, running what falls due in order. */
  advance(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      const next = [...this.#due].filter(([, due]) => due.at <= end).sort(([a, x], [b, y]) => x.at - y.at || a - b)[0]
      if (next === undefined) break
      this.#due.delete(next[0])
      this.#now = next[1].at
      next[1].run()
    }
    this.#now = end
  }
}
