import { ComponentError } from './error.ts'

const WAITING = 1_024

/** A queue between a block and its reader: `push` resolves when the value was taken, so a slow reader slows the block. */
export class Outlet<Value> implements AsyncIterable<Value> {
  readonly #values: { readonly value: Value; readonly taken: () => void; readonly gone: (error: Error) => void }[] = []
  #wake: (() => void) | undefined
  #ended = false
  #failure: { readonly error: unknown } | undefined

  /** Rejects with ComponentError when the reader left, or when far more was pushed than anybody reads. */
  push(value: Value): Promise<void> {
    if (this.#ended) return Promise.reject(new ComponentError('the caller no longer listens'))
    if (this.#values.length >= WAITING) return Promise.reject(new ComponentError(`${WAITING} results wait to be read; await each stream() before the next`))
    return new Promise((resolve, reject) => {
      this.#values.push({ value, taken: resolve, gone: reject })
      this.#wake?.()
    })
  }

  end(): void {
    this.#ended = true
    this.#wake?.()
  }

  fail(error: unknown): void {
    this.#failure ??= { error }
    this.end()
  }

  /** The reader leaves: whoever waits in `push` is told. */
  close(): void {
    this.end()
    for (const { gone } of this.#values.splice(0)) gone(new ComponentError('the caller no longer listens'))
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Value, void, undefined> {
    for (;;) {
      const next = this.#values.shift()
      if (next !== undefined) {
        yield next.value
        next.taken()
        continue
      }
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.#ended) return
      await new Promise<void>(resolve => { this.#wake = resolve })
      this.#wake = undefined
    }
  }
}
