/** What a token adds to the text that is certain, and whether a stop string came. */
export type Piece = { readonly text: string; readonly stopped: boolean }

/**
 * The text of an answer as its tokens come. Gives out only what no later token can change: a character whose bytes are not all
 * there waits, and so does an end that may become a stop string. Of the stop string itself nothing is given out.
 */
export class TextTail {
  readonly #bytes: (token: number) => Uint8Array | undefined
  readonly #stop: readonly string[]
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  #held = ''
  #stopped = false

  constructor(bytes: (token: number) => Uint8Array | undefined, stop: readonly string[]) {
    this.#bytes = bytes
    this.#stop = stop
  }

  push(token: number): Piece {
    const bytes = this.#bytes(token)
    return bytes === undefined || this.#stopped ? { text: '', stopped: this.#stopped } : this.#take(this.#decoder.decode(bytes, { stream: true }))
  }

  /** What was held back, now that nothing more comes. A character that never became whole is U+FFFD. */
  end(): string {
    if (this.#stopped) return ''
    const { text } = this.#take(this.#decoder.decode())
    const rest = this.#held
    this.#held = ''
    return text + rest
  }

  #take(more: string): Piece {
    const all = this.#held + more
    const at = firstStop(all, this.#stop)
    if (at !== undefined) {
      this.#stopped = true
      this.#held = ''
      return { text: all.slice(0, at), stopped: true }
    }
    const keep = Math.max(0, ...this.#stop.map(stop => overlap(all, stop)))
    this.#held = all.slice(all.length - keep)
    return { text: all.slice(0, all.length - keep), stopped: false }
  }
}

/**
 * Where the stop string begins that is whole first; of those that become whole together, the longest. Going by the end makes the answer
 * the same wherever token borders fall: a longer stop string that began earlier may never be finished.
 */
function firstStop(text: string, stops: readonly string[]): number | undefined {
  let found: { readonly from: number; readonly end: number } | undefined
  for (const stop of stops) {
    const from = text.indexOf(stop)
    const end = from + stop.length
    if (from >= 0 && (found === undefined || end < found.end || (end === found.end && from < found.from))) found = { from, end }
  }
  return found?.from
}

/** How much of the end of `text` may be the beginning of `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(stop.length - 1, text.length); length > 0; length -= 1) if (text.endsWith(stop.slice(0, length))) return length
  return 0
}
