import type { Millis } from '../../protocols/ids.ts'
import { assert } from '../lib/assert.ts'

export type BreakerPolicy = { readonly failures: number; readonly restMs: Millis; readonly maxRestMs: Millis }

/**
 * Stops asking what keeps failing: after `failures` in a row it rests, then lets one call through; success closes it, another failure
 * doubles the rest (the circuit breaker of M. Nygard, Release It!, 2007).
 */
export class Breaker {
  readonly #policy: BreakerPolicy
  #failures = 0
  #rests = 0
  #restUntil = 0
  #probing = false

  constructor(policy: BreakerPolicy) {
    assert(policy.failures > 0 && policy.restMs > 0 && policy.maxRestMs >= policy.restMs, 'a breaker trips after a failure or more and rests a while')
    this.#policy = policy
  }

  /** Milliseconds left to rest; 0 lets this call through, and while that call tries, nobody else. */
  enter(now: Millis): Millis {
    if (this.#failures < this.#policy.failures) return 0
    if (now < this.#restUntil) return this.#restUntil - now
    if (this.#probing) return this.#policy.restMs
    this.#probing = true
    return 0
  }

  succeeded(): void {
    this.#failures = 0
    this.#rests = 0
    this.#probing = false
  }

  /** `longer`: the rest doubles each time. */
  failed(now: Millis, longer = true): void {
    this.#failures += 1
    this.#probing = false
    if (this.#failures < this.#policy.failures) return
    this.#restUntil = now + Math.min(this.#policy.maxRestMs, this.#policy.restMs * 2 ** Math.min(20, this.#rests))
    if (longer) this.#rests += 1
  }
}
