import type { BlockClock } from './clock.ts'

export type StateLimits = {
  /** Keys held; the least recently used goes first. */
  readonly entries: number
  /** A key not touched for this long is forgotten; 0 keeps it. */
  readonly idleMs: number
}

/** A dictionary that cannot grow without end: least recently used keys go first, idle keys expire. */
export class StateDict<Value = unknown> {
  readonly #clock: Pick<BlockClock, 'monotonic'>
  readonly #limits: StateLimits
  /** In order of last use, oldest first. */
  readonly #entries = new Map<string, { value: Value; at: number }>()

  constructor(clock: Pick<BlockClock, 'monotonic'>, limits: Partial<StateLimits> = {}) {
    this.#clock = clock
    this.#limits = { entries: limits.entries ?? 10_000, idleMs: limits.idleMs ?? 0 }
  }

  get size(): number {
    this.#expire()
    return this.#entries.size
  }

  get(key: string): Value | undefined {
    this.#expire()
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    this.#touch(key, entry.value)
    return entry.value
  }

  has(key: string): boolean {
    this.#expire()
    return this.#entries.has(key)
  }

  set(key: string, value: Value): void {
    this.#expire()
    this.#touch(key, value)
    if (this.#entries.size > this.#limits.entries) {
      const oldest = this.#entries.keys().next()
      if (oldest.done !== true) this.#entries.delete(oldest.value)
    }
  }

  delete(key: string): boolean {
    return this.#entries.delete(key)
  }

  clear(): void {
    this.#entries.clear()
  }

  keys(): readonly string[] {
    this.#expire()
    return [...this.#entries.keys()]
  }

  #touch(key: string, value: Value): void {
    this.#entries.delete(key)
    this.#entries.set(key, { value, at: this.#clock.monotonic() })
  }

  #expire(): void {
    if (this.#limits.idleMs === 0) return
    const before = this.#clock.monotonic() - this.#limits.idleMs
    for (const [key, entry] of this.#entries) {
      if (entry.at > before) break
      this.#entries.delete(key)
    }
  }
}
