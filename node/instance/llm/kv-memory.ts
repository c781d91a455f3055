/** A buffer may be so many times larger than what is asked for. */
const SLACK = 2

/**
 * Memory of keys and values that is not needed any more, for those that come: new memory must be cleared and paged in, which
 * costs as much as filling it. Never more than the most that was in use at once: as much as is made anew is let go of first.
 */
export class KvMemory {
  readonly #limit: number
  /** Oldest first. */
  readonly #spare: ArrayBuffer[] = []
  #bytes = 0

  /** Holds `limit` bytes at most. */
  constructor(limit: number) {
    this.#limit = limit
  }

  /** Bytes that are held for nobody. */
  get bytes(): number {
    return this.#bytes
  }

  /** At least `length` bytes, with anything in them. Throws RangeError when there is no memory. */
  take(length: number): ArrayBuffer {
    let best: ArrayBuffer | undefined
    for (const buffer of this.#spare) {
      if (buffer.byteLength >= length && buffer.byteLength <= length * SLACK && buffer.byteLength < (best?.byteLength ?? Infinity)) best = buffer
    }
    if (best !== undefined) {
      this.#spare.splice(this.#spare.indexOf(best), 1)
      this.#bytes -= best.byteLength
      return best
    }
    this.#shrink(this.#bytes - length)
    return new ArrayBuffer(length)
  }

  /** Nobody reads or writes it any more. */
  give(buffer: ArrayBuffer): void {
    this.#spare.push(buffer)
    this.#bytes += buffer.byteLength
    this.#shrink(this.#limit)
  }

  #shrink(limit: number): void {
    while (this.#bytes > Math.max(0, limit)) {
      const oldest = this.#spare.shift()
      if (oldest === undefined) return
      this.#bytes -= oldest.byteLength
      // Buffers that wait for the collector would count against the instance's memory.
      oldest.transfer(0)
    }
  }
}
