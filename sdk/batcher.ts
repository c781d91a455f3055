import type { BlockClock } from './clock.ts'
import { ComponentError } from './error.ts'

/** Collects items and hands them out `size` at a time. Holds fewer than `size`. */
export class Batcher<Item> {
  readonly size: number
  #items: Item[] = []

  constructor(size: number) {
    if (!Number.isInteger(size) || size < 1) throw new RangeError(`a batch has a whole number of items, at least 1; got ${size}`)
    this.size = size
  }

  get pending(): number {
    return this.#items.length
  }

  /** The full batch that `item` completed, else undefined. */
  push(item: Item): readonly Item[] | undefined {
    this.#items.push(item)
    return this.#items.length === this.size ? this.flush() : undefined
  }

  /** Whatever has collected so far. */
  flush(): readonly Item[] {
    const items = this.#items
    this.#items = []
    return items
  }
}

type Waiting<Item, Out> = { readonly item: Item; readonly resolve: (out: Out) => void; readonly reject: (error: unknown) => void }

/**
 * Runs `run` over `size` items at once, or over what came within `waitMs` of the first. Each item's caller gets its own
 * result: the element of the returned list at its place.
 */
export class TimeBasedBatcher<Item, Out = unknown> {
  readonly #options: { readonly size: number; readonly waitMs: number; readonly pending: number }
  readonly #run: (items: readonly Item[]) => readonly Out[] | Promise<readonly Out[]>
  readonly #clock: Pick<BlockClock, 'after'>
  #waiting: Waiting<Item, Out>[] = []
  #held = 0
  #cancel: (() => void) | undefined

  constructor(
    options: { readonly size: number; readonly waitMs: number; readonly pending?: number },
    run: (items: readonly Item[]) => readonly Out[] | Promise<readonly Out[]>,
    clock: Pick<BlockClock, 'after'>,
  ) {
    if (!Number.isInteger(options.size) || options.size < 1) throw new RangeError(`a batch has a whole number of items, at least 1; got ${options.size}`)
    this.#options = { size: options.size, waitMs: options.waitMs, pending: options.pending ?? Math.max(1_024, options.size) }
    this.#run = run
    this.#clock = clock
  }

  /** Items waiting or being run. */
  get pending(): number {
    return this.#held
  }

  /** Resolves to this item's result. Rejects with what `run` threw, or ComponentError when too many items wait. */
  push(item: Item): Promise<Out> {
    if (this.#held >= this.#options.pending) return Promise.reject(new ComponentError(`${this.#held} items already wait for a batch; the limit is ${this.#options.pending}`))
    this.#held++
    return new Promise<Out>((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject })
      if (this.#waiting.length >= this.#options.size) this.flush()
      else this.#cancel ??= this.#clock.after(this.#options.waitMs, () => this.flush())
    })
  }

  /** Runs what waits now, full or not. */
  flush(): void {
    this.#cancel?.()
    this.#cancel = undefined
    const batch = this.#waiting
    if (batch.length === 0) return
    this.#waiting = []
    void this.#settle(batch)
  }

  async #settle(batch: readonly Waiting<Item, Out>[]): Promise<void> {
    try {
      const results = await this.#run(batch.map(waiting => waiting.item))
      if (results.length !== batch.length) throw new ComponentError(`the batch of ${batch.length} got ${results.length} results; return one for each item`)
      for (const [index, waiting] of batch.entries()) waiting.resolve(results[index]!)
    } catch (error) {
      for (const waiting of batch) waiting.reject(error)
    } finally {
      this.#held -= batch.length
    }
  }
}
