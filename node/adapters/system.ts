import { createHash, randomBytes } from 'node:crypto'
import { MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Clock, Random } from '../../src/ports.ts'

/** Node fires a longer timer at once. */
const LONGEST_TIMER = 2_147_483_647

/** The host's time. Timers never keep the process alive. */
export class SystemClock implements Clock {
  readonly #origin = performance.now()

  monotonic(): Millis {
    return Math.floor(performance.now() - this.#origin)
  }

  unix(): Millis {
    return Date.now()
  }

  sleep(duration: Millis, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason)
        return
      }
      const abort = (): void => {
        cancel()
        reject(signal?.reason)
      }
      const cancel = this.after(duration, () => {
        signal?.removeEventListener('abort', abort)
        resolve()
      })
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  after(duration: Millis, run: () => void): () => void {
    if (duration <= 0) {
      // In the next turn: a timer of Node's waits a millisecond at least.
      const turn = setImmediate(run)
      return () => clearImmediate(turn)
    }
    let timer: NodeJS.Timeout
    const arm = (left: Millis): void => {
      const now = Math.min(left, LONGEST_TIMER)
      timer = setTimeout(left > now ? () => arm(left - now) : run, Math.max(0, now))
      timer.unref()
    }
    arm(duration)
    return () => clearTimeout(timer)
  }

  deadline(duration: Millis, parent?: AbortSignal): AbortSignal {
    const controller = new AbortController()
    if (parent?.aborted === true) {
      controller.abort(parent.reason)
      return controller.signal
    }
    const cancel = this.after(duration, () => {
      parent?.removeEventListener('abort', follow)
      controller.abort(new MeshError('DEADLINE', `not done within ${duration} ms`))
    })
    const follow = (): void => {
      cancel()
      controller.abort(parent?.reason)
    }
    parent?.addEventListener('abort', follow, { once: true })
    return controller.signal
  }
}

const SEED_BYTES = 16

/**
 * xoshiro128** (Blackman and Vigna, Scrambled Linear Pseudorandom Number Generators, 2018), seeded by the system. For
 * jitter and choices among equals, never for secrets: `bytes` asks the system instead, unless a seed was given.
 */
export class SystemRandom implements Random {
  readonly #state: Uint32Array
  readonly #seed: Uint8Array
  readonly #reproducible: boolean

  /** `seed`: 16 bytes; the same seed gives the same draws, `bytes` included. */
  constructor(seed?: Uint8Array) {
    this.#reproducible = seed !== undefined
    this.#seed = seed?.slice(0, SEED_BYTES) ?? new Uint8Array(randomBytes(SEED_BYTES))
    const view = new DataView(this.#seed.buffer, this.#seed.byteOffset, SEED_BYTES)
    this.#state = Uint32Array.from({ length: 4 }, (_, at) => view.getUint32(at * 4, true))
    // All zeros is the one state that it never leaves.
    if (this.#state.every(word => word === 0)) this.#state[0] = 1
  }

  float(): number {
    // 53 bits of two draws: every multiple of 2^-53 below one is as likely as any other.
    return ((this.#next() >>> 5) * 67_108_864 + (this.#next() >>> 6)) / 9_007_199_254_740_992
  }

  below(limit: number): number {
    if (!Number.isSafeInteger(limit) || limit < 1) throw new Error(`bug: below(${limit})`)
    return Math.floor(this.float() * limit)
  }

  bytes(length: number): Uint8Array {
    if (!this.#reproducible) return new Uint8Array(randomBytes(length))
    return Uint8Array.from({ length }, () => this.#next() >>> 24)
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new Error('bug: pick from nothing')
    return items[this.below(items.length)]!
  }

  fork(label: string): Random {
    // From the seed, not from the state: when a fork is taken does not change what it draws.
    const seed = createHash('sha256').update(this.#seed).update(label).digest().subarray(0, SEED_BYTES)
    const child = new Uint8Array(seed)
    return this.#reproducible ? new SystemRandom(child) : new SystemRandom()
  }

  #next(): number {
    const state = this.#state
    const [a, b, c, d] = [state[0]!, state[1]!, state[2]!, state[3]!]
    const scrambled = Math.imul(b, 5)
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9)
    state[2] = c ^ a
    state[3] = d ^ b
    state[1] = b ^ state[2]!
    state[0] = a ^ state[3]!
    state[2] = state[2]! ^ (b << 9)
    state[3] = (state[3]! << 11) | (state[3]! >>> 21)
    return result >>> 0
  }
}
