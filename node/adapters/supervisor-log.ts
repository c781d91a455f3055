const LINES = 1_000
const LINE_CHARS = 2_000

/** The last lines an instance printed. Bounded in lines and in their length, whatever is poured in. */
export class LogRing {
  readonly #lines: string[] = []
  #open = ''
  #dropped = 0
  readonly #decoder = new TextDecoder()

  push(chunk: Uint8Array): void {
    const parts = (this.#open + this.#decoder.decode(chunk, { stream: true })).split('\n')
    this.#open = (parts.pop() ?? '').slice(0, LINE_CHARS)
    for (const part of parts) this.#lines.push(part.slice(0, LINE_CHARS))
    if (this.#lines.length <= LINES) return
    this.#dropped += this.#lines.length - LINES
    this.#lines.splice(0, this.#lines.length - LINES)
  }

  /** Whole lines from number `from` on, the first ever being 0, as far as they are kept; and the number of the next. */
  from(from: number): { readonly next: number; readonly lines: readonly string[] } {
    return { next: this.#dropped + this.#lines.length, lines: this.#lines.slice(Math.max(0, from - this.#dropped)) }
  }

  /** Newest last. */
  tail(count: number): readonly string[] {
    const lines = this.#open === '' ? this.#lines : [...this.#lines, this.#open]
    return lines.slice(-Math.max(0, Math.min(count, LINES)))
  }
}
