import type { Random } from '../src/ports.ts'

/**
 * Seeded randomness: xoshiro128** 1.1 (D. Blackman, S. Vigna, Scrambled Linear Pseudorandom Number Generators, 2018;
 * public domain), its state filled by the finaliser of MurmurHash3 (A. Appleby) walked over the path of fork labels.
 * Not for secrets.
 */
export class SeededRandom implements Random {
  readonly #path: string
  #forks: Map<string, number> | undefined
  #a: number
  #b: number
  #c: number
  #d: number

  constructor(path: string) {
    this.#path = path
    this.#a = hash32(path, 0x9e3779b9)
    this.#b = hash32(path, 0x243f6a88)
    this.#c = hash32(path, 0xb7e15162)
    // One odd word: the all-zero state is the only one the generator never leaves.
    this.#d = hash32(path, 0xdeadbeef) | 1
  }

  /** 32 random bits as an unsigned integer. */
  bits(): number {
    const scaled = Math.imul(this.#b, 5)
    const result = Math.imul((scaled << 7) | (scaled >>> 25), 9)
    const shifted = this.#b << 9
    this.#c ^= this.#a
    this.#d ^= this.#b
    this.#b ^= this.#c
    this.#a ^= this.#d
    this.#c ^= shifted
    this.#d = (this.#d << 11) | (this.#d >>> 21)
    return result >>> 0
  }

  float(): number {
    return this.bits() / 4_294_967_296
  }

  below(limit: number): number {
    return Math.floor(this.float() * limit)
  }

  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length)
    for (let at = 0; at < length; at += 1) out[at] = this.bits() >>> 24
    return out
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('nothing to pick from')
    return items[this.below(items.length)] as T
  }

  /** The n-th fork of a label is always the same stream, whatever was drawn or forked otherwise. */
  fork(label: string): SeededRandom {
    this.#forks ??= new Map<string, number>()
    const count = this.#forks.get(label) ?? 0
    this.#forks.set(label, count + 1)
    return new SeededRandom(`${this.#path}/${label}${count === 0 ? '' : `#${count}`}`)
  }
}

/** A 32-bit hash of a string (MurmurHash3 mixing, one UTF-16 unit a step). */
export function hash32(text: string, seed: number): number {
  let state = seed | 0
  for (let at = 0; at < text.length; at += 1) {
    let unit = Math.imul(text.charCodeAt(at), 0xcc9e2d51)
    unit = (unit << 15) | (unit >>> 17)
    state ^= Math.imul(unit, 0x1b873593)
    state = (state << 13) | (state >>> 19)
    state = (Math.imul(state, 5) + 0xe6546b64) | 0
  }
  state ^= text.length
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
  return (state ^ (state >>> 16)) >>> 0
}
