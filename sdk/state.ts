import { HERE, type BlockClock } from './clock.ts'

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

  /** AIOS gives a namespace, which its instances share; here each instance has its own. */
  constructor(clock: Pick<BlockClock, 'monotonic'> | string = HERE, limits: Partial<StateLimits> = {}) {
    this.#clock = typeof clock === 'string' ? HERE : clock
    this.#limits = { entries: limits.entries ?? 10_000, idleMs: limits.idleMs ?? 0 }
  }

  get size(): number {
    this.#expire()
    return this.#entries.size
  }

  get(key: string): Value | undefined
  get(key: string, fallback: Value): Value
  get(key: string, fallback?: Value): Value | undefined {
    this.#expire()
    const entry = this.#entries.get(key)
    if (entry === undefined) return fallback
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

  values(): readonly Value[] {
    this.#expire()
    return [...this.#entries.values()].map(({ value }) => value)
  }

  items(): readonly (readonly [string, Value])[] {
    this.#expire()
    return [...this.#entries].map(([key, { value }]) => [key, value])
  }

  [Symbol.iterator](): Iterator<string> {
    return this.keys()[Symbol.iterator]()
  }

  /** Takes a key out. Throws RangeError where there is neither the key nor a fallback. */
  pop(key: string, fallback?: Value): Value {
    const value = this.get(key) ?? fallback
    if (value === undefined) throw new RangeError(`there is no ${key}`)
    this.delete(key)
    return value
  }

  /** Takes the least recently used key out. Throws RangeError on an empty dictionary. */
  popitem(): readonly [string, Value] {
    const [first] = this.items()
    if (first === undefined) throw new RangeError('the dictionary is empty')
    this.delete(first[0])
    return first
  }

  update(others: Readonly<Record<string, Value>>): void {
    for (const [key, value] of Object.entries(others)) this.set(key, value)
  }

  setdefault(key: string, value: Value): Value {
    const known = this.get(key)
    if (known !== undefined) return known
    this.set(key, value)
    return value
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

/** AIOS's second dictionary, which keeps what it is given as it was then: a later change of the object is no change of the state. */
export class StateDictV2<Value = unknown> extends StateDict<Value> {
  override set(key: string, value: Value): void {
    super.set(key, structuredClone(value))
  }
}
