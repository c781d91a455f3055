import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Clock, Random } from '../ports.ts'
import { assert } from './assert.ts'

export type BackoffPolicy = {
  readonly firstMs: Millis
  readonly maxMs: Millis
  /** Waits granted before giving up; the work runs at most `retries + 1` times. */
  readonly retries: number
}

/**
 * How long to wait before the next attempt: doubling, half of it fixed and half drawn ("equal jitter", M. Brooker,
 * Exponential Backoff And Jitter, 2015), so that a crowd that failed together does not come back together.
 */
export class Backoff {
  readonly #random: Pick<Random, 'float'>
  readonly #policy: BackoffPolicy
  #spent = 0

  constructor(random: Pick<Random, 'float'>, policy: BackoffPolicy) {
    assert(policy.firstMs > 0 && policy.maxMs >= policy.firstMs && policy.retries >= 0, 'a backoff waits at least 1 ms, grows, and counts its retries')
    this.#random = random
    this.#policy = policy
  }

  /** Integer milliseconds, or undefined when the retries are spent. */
  next(): Millis | undefined {
    if (this.#spent >= this.#policy.retries) return undefined
    // 2^30 ms is twelve days: enough, and the product stays exact.
    const ceiling = Math.min(this.#policy.maxMs, this.#policy.firstMs * 2 ** Math.min(30, this.#spent))
    this.#spent += 1
    return Math.max(1, Math.round(ceiling / 2 + this.#random.float() * (ceiling / 2)))
  }

  /** After a success: the next failure starts from the first wait again. */
  reset(): void {
    this.#spent = 0
  }
}

/**
 * A purse that calls fill and retries empty, so that retries stay a fraction of the traffic when everything fails at
 * once (the "retry throttling" of gRPC A6, Finagle's retry budget). One purse a destination, shared by its callers.
 */
export class RetryBudget {
  readonly #share: number
  readonly #reserve: number
  #tokens: number

  /** `share` retries are earned by a call; at most `reserve` are kept, and that many are there to begin with. */
  constructor(share = 0.2, reserve = 10) {
    assert(share >= 0 && reserve >= 1, 'a retry budget has a share of zero or more and keeps at least one retry')
    this.#share = share
    this.#reserve = reserve
    this.#tokens = reserve
  }

  /** Counts a first attempt. */
  called(): void {
    this.#tokens = Math.min(this.#reserve, this.#tokens + this.#share)
  }

  /** May one more retry be made? Takes it when yes. */
  take(): boolean {
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }
}

/**
 * Runs `attempt` until it succeeds, fails with an error that is not retryable, or the policy (or the shared budget) is
 * spent; then throws the last error. Throws the signal's reason when aborted between attempts.
 */
export async function retry<T>(
  ports: { readonly clock: Pick<Clock, 'sleep'>; readonly random: Pick<Random, 'float'> },
  policy: BackoffPolicy,
  attempt: (number: number) => Promise<T>,
  options: { readonly signal?: AbortSignal; readonly budget?: RetryBudget } = {},
): Promise<T> {
  const backoff = new Backoff(ports.random, policy)
  options.budget?.called()
  for (let number = 1; ; number += 1) {
    options.signal?.throwIfAborted()
    try {
      return await attempt(number)
    } catch (error) {
      const failure: MeshError = asMeshError(error)
      if (!failure.retryable) throw failure
      const waitMs = backoff.next()
      if (waitMs === undefined || options.budget?.take() === false) throw failure
      await ports.clock.sleep(waitMs, options.signal)
    }
  }
}
