import type { Millis } from '../../protocols/ids.ts'

/** How many guesses may go with a step. */
const WIDTHS = [1, 2, 3, 4, 6, 8] as const
/** Of the newest observation in a mean. */
const FRESH = 0.15
/** What guessing must promise to be worth its uncertainty. */
const WORTH = 1.05
/** Plain steps between two tries when it does not pay: doubling, so that tries cost next to nothing. */
const PAUSE: readonly [number, number] = [24, 1_024]
const PLAIN_FIRST = 4
const PLAIN_EVERY = 64

/**
 * Says how many guesses go with the next step: as many as make the most tokens a millisecond, given how often guesses were
 * right of late and what steps and guessing cost; none where plain steps are as fast.
 */
export class Speculation {
  /** Part of the guesses that were right, each given that those before it were. */
  #accepted = 0.6
  #plainMs: number | undefined
  /** What a guess more adds to a step, and to guessing. */
  #guessMs: number | undefined
  #draftMs = 0
  #plain = 0
  #pause: number = PAUSE[0]
  #pausedFor = 0
  #sincePlain = 0

  /** 0: a plain step. */
  width(): number {
    if (this.#plain < PLAIN_FIRST || this.#plainMs === undefined) return 0
    if (this.#pausedFor > 0) {
      this.#pausedFor -= 1
      return 0
    }
    // What a plain step costs now must be known to compare with.
    this.#sincePlain += 1
    if (this.#sincePlain > PLAIN_EVERY) {
      this.#sincePlain = 0
      return 0
    }
    let best = 0
    let most = WORTH / this.#plainMs
    for (const width of WIDTHS) {
      const rate = expected(this.#accepted, width) / (this.#plainMs + width * ((this.#guessMs ?? 0) + this.#draftMs))
      if (rate > most) {
        most = rate
        best = width
      }
    }
    if (best > 0) {
      this.#pause = PAUSE[0]
      return best
    }
    // Things change: one try with a single guess, ever more rarely.
    this.#pausedFor = this.#pause
    this.#pause = Math.min(PAUSE[1], this.#pause * 2)
    return 1
  }

  /** A plain step took so long. */
  stepped(ms: Millis): void {
    this.#plain += 1
    this.#plainMs = this.#plainMs === undefined ? ms : this.#plainMs + FRESH * (ms - this.#plainMs)
  }

  /** A step with `guessed` guesses, `right` of them right; making them took `draftMs`. */
  verified(guessed: number, right: number, ms: Millis, draftMs: Millis): void {
    for (let at = 0; at < Math.min(guessed, right + 1); at += 1) this.#accepted += FRESH * ((at < right ? 1 : 0) - this.#accepted)
    const more = Math.max(0, ms - (this.#plainMs ?? ms)) / guessed
    this.#guessMs = this.#guessMs === undefined ? more : this.#guessMs + FRESH * (more - this.#guessMs)
    this.#draftMs += FRESH * (draftMs / guessed - this.#draftMs)
  }
}

/** Tokens that a step with `width` guesses gives: those that are right, and the one after them. */
function expected(accepted: number, width: number): number {
  return accepted >= 1 ? width + 1 : (1 - accepted ** (width + 1)) / (1 - accepted)
}
