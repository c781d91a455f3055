import { HERE, type BlockClock } from './clock.ts'
import { ComponentError } from './error.ts'

/** Collects items and hands them out `size` at a time. Holds fewer than `size`. */
export class Batcher<Item> {
  readonly size: number
  #items: Item[] = []

  /** `size`: a number, or AIOS's `{ N }`. */
  constructor(given: number | { readonly N: number }) {
    const size = typeof given === 'number' ? given : given.N
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

  /** AIOS's name for `push`. */
  add_to_batch(item: Item): readonly Item[] | undefined {
    return this.push(item)
  }

  /** Whatever has collected so far. */
  flush(): readonly Item[] {
    const items = this.#items
    this.#items = []
    return items
  }
}

type Run<Item, Out> = (items: readonly Item[]) => readonly Out[] | Promise<readonly Out[]>
type BatchOptions = { readonly size: number; readonly waitMs: number; readonly pending?: number }
type Waiting<Item, Out> = { readonly item: Item; readonly resolve: (out: Out) => void; readonly reject: (error: unknown) => void }

/**
 * Runs `run` over `size` items at once, or over what came within `waitMs` of the first. Each item's caller gets its own
 * result: the element of the returned list at its place.
 */
export class TimeBasedBatcher<Item, Out = unknown> {
  readonly #options: { readonly size: number; readonly waitMs: number; readonly pending: number }
  readonly #run: Run<Item, Out>
  readonly #clock: Pick<BlockClock, 'after'>
  #waiting: Waiting<Item, Out>[] = []
  #held = 0
  #cancel: (() => void) | undefined

  /** AIOS's form is `(N, T, callback)`, T in seconds. */
  constructor(size: number, seconds: number, run: Run<Item, Out>, clock?: Pick<BlockClock, 'after'>)
  constructor(options: BatchOptions, run: Run<Item, Out>, clock?: Pick<BlockClock, 'after'>)
  constructor(given: BatchOptions | number, second: Run<Item, Out> | number, third?: Run<Item, Out> | Pick<BlockClock, 'after'>, fourth?: Pick<BlockClock, 'after'>) {
    const options = typeof given === 'number' ? { size: given, waitMs: Number(second) * 1_000 } : given
    const run = typeof second === 'function' ? second : third
    const clock = (typeof third === 'object' ? third : fourth) ?? HERE
    if (typeof run !== 'function') throw new TypeError('a batcher needs a function that runs a batch')
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

  /** AIOS's name for `push`. */
  add_to_batch(item: Item): Promise<Out> {
    return this.push(item)
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
