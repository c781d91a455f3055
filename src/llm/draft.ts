/** Guesses how an answer goes on, cheaply. A wrong guess costs time and nothing else. */
export interface Draft {
  /** At most `most` tokens that may follow `tokens`. */
  propose(tokens: readonly number[], most: number, signal: AbortSignal): Promise<readonly number[]>
  /** The session is over. */
  close(): void
}

const LONGEST = 4
const SHORTEST = 2

/**
 * Looks the last tokens up in what was said before and proposes what followed there (prompt lookup decoding, A. Saxena
 * 2023): code, lists and quotations repeat themselves. Costs microseconds; proposes nothing where nothing repeats.
 */
export class LookupDraft implements Draft {
  /** Where each run of tokens ended last, by length. */
  readonly #ends = new Map<string, number>()
  #seen = 0

  async propose(tokens: readonly number[], most: number): Promise<readonly number[]> {
    // The last token is what is looked up, not where it is found.
    for (; this.#seen < tokens.length - 1; this.#seen += 1) {
      for (let length = SHORTEST; length <= LONGEST && length <= this.#seen + 1; length += 1) this.#ends.set(keyOf(tokens, this.#seen + 1, length), this.#seen + 1)
    }
    for (let length = Math.min(LONGEST, tokens.length); length >= SHORTEST; length -= 1) {
      const end = this.#ends.get(keyOf(tokens, tokens.length, length))
      if (end !== undefined) return tokens.slice(end, end + most)
    }
    return []
  }

  close(): void {
    this.#ends.clear()
  }
}

function keyOf(tokens: readonly number[], end: number, length: number): string {
  return tokens.slice(end - length, end).join(' ')
}
