import type { Millis } from '../../protocols/ids.ts'

const KEPT = 64
/** A step that takes longer than any of late, three times over, is not coming. */
const PATIENCE = 3
const LEAST_MS: Millis = 500
/** Before anything is known of a chain: a cold instance may have to read its weights. */
const FIRST_MS: Millis = 20_000
const MOST_MS: Millis = 60_000

/** How long the steps of a session take, and so how long to wait for one before something is wrong. */
export class StepTimes {
  readonly #decode: number[] = []
  /** Of the longest chunk, in all its positions. */
  #prefillMs: Millis | undefined
  #strikes = 0

  took(positions: number, ms: Millis): void {
    this.#strikes = 0
    if (positions > 1) {
      this.#prefillMs = Math.max(ms, (this.#prefillMs ?? 0) * 0.9)
      return
    }
    this.#decode.push(ms)
    if (this.#decode.length > KEPT) this.#decode.shift()
  }

  /** It took too long, and nothing was found to be wrong: the next time be more patient. */
  strike(): void {
    this.#strikes += 1
  }

  /** Milliseconds to wait for a step of so many positions. */
  patience(positions: number): Millis {
    const longest = this.#decode.length === 0 ? undefined : Math.max(...this.#decode)
    const usual = positions > 1 || longest === undefined
      ? this.#prefillMs === undefined ? FIRST_MS : Math.max(4 * LEAST_MS, PATIENCE * this.#prefillMs)
      : Math.max(LEAST_MS, PATIENCE * longest)
    return Math.min(MOST_MS, Math.round(usual * 2 ** Math.min(6, this.#strikes)))
  }
}
