import { assert } from './assert.ts'

/** A map with a bound: the entry that was used longest ago leaves when one too many comes in. */
export class Lru<K, V> implements Iterable<readonly [K, V]> {
  readonly #limit: number
  readonly #entries = new Map<K, V>()
  readonly #evicted: ((key: K, value: V) => void) | undefined

  constructor(limit: number, evicted?: (key: K, value: V) => void) {
    assert(Number.isInteger(limit) && limit > 0, `a bounded map holds at least one entry, not ${limit}`)
    this.#limit = limit
    this.#evicted = evicted
  }

  get size(): number {
    return this.#entries.size
  }

  has(key: K): boolean {
    return this.#entries.has(key)
  }

  /** Counts as a use. */
  get(key: K): V | undefined {
    const value = this.#entries.get(key)
    if (value === undefined) return undefined
    this.#entries.delete(key)
    this.#entries.set(key, value)
    return value
  }

  /** Reads without counting as a use. */
  peek(key: K): V | undefined {
    return this.#entries.get(key)
  }

  set(key: K, value: V): void {
    this.#entries.delete(key)
    this.#entries.set(key, value)
    if (this.#entries.size <= this.#limit) return
    for (const [oldest, left] of this.#entries) {
      this.#entries.delete(oldest)
      this.#evicted?.(oldest, left)
      return
    }
  }

  delete(key: K): boolean {
    return this.#entries.delete(key)
  }

  clear(): void {
    this.#entries.clear()
  }

  /** Least recently used first. */
  values(): IterableIterator<V> {
    return this.#entries.values()
  }

  /** Least recently used first. */
  [Symbol.iterator](): IterableIterator<[K, V]> {
    return this.#entries[Symbol.iterator]()
  }
}
