import type { Millis } from '../protocols/ids.ts'
import type { SeededRandom } from './random.ts'

export type Weather = {
  /** One way, between the nearest and the farthest pair of hosts. */
  readonly delayMs: readonly [least: Millis, most: Millis]
  /** Part of the messages that never arrive, 0..1. Streams arrive all the same, later. */
  readonly loss: number
  /** Part of the gossip that arrives twice, 0..1. */
  readonly duplicate: number
}

export const CALM: Weather = { delayMs: [1, 20], loss: 0, duplicate: 0 }

type Place = { readonly x: number; readonly y: number }

/** Says how long a message between two hosts takes, whether it arrives, and who is cut off from whom. */
export class Links {
  weather: Weather
  readonly #random: SeededRandom
  readonly #places: Place[] = []
  readonly #cuts = new Set<ReadonlyMap<number, number>>()

  constructor(random: SeededRandom, weather: Weather) {
    this.#random = random
    this.weather = weather
  }

  /** Gives a new host its place; returns its index. */
  add(): number {
    return this.#places.push({ x: this.#random.float(), y: this.#random.float() }) - 1
  }

  /** One-way delay with up to a quarter of jitter. */
  delay(from: number, to: number): Millis {
    const [least, most] = this.weather.delayMs
    const a = this.#places[from]
    const b = this.#places[to]
    const distance = a === undefined || b === undefined ? 0.5 : Math.min(1, Math.sqrt((a.x - b.x) ** 2 + (a.y - b.y) ** 2))
    return Math.max(1, Math.round((least + (most - least) * distance) * (0.875 + this.#random.float() * 0.25)))
  }

  lost(): boolean {
    return this.weather.loss > 0 && this.#random.float() < this.weather.loss
  }

  duplicated(): boolean {
    return this.weather.duplicate > 0 && this.#random.float() < this.weather.duplicate
  }

  /** Separates two sets of hosts until the returned function is called. */
  cut(one: readonly number[], other: readonly number[]): () => void {
    const sides = new Map<number, number>()
    for (const index of one) sides.set(index, 1)
    for (const index of other) sides.set(index, 2)
    this.#cuts.add(sides)
    return () => {
      this.#cuts.delete(sides)
    }
  }

  severed(a: number, b: number): boolean {
    for (const sides of this.#cuts) {
      if ((sides.get(a) ?? 0) + (sides.get(b) ?? 0) === 3) return true
    }
    return false
  }

  get whole(): boolean {
    return this.#cuts.size === 0
  }

  healAll(): void {
    this.#cuts.clear()
  }
}
