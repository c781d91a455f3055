import type { Millis } from '../../protocols/ids.ts'
import type { Clock } from '../ports.ts'

/**
 * Asks, and asks again each `againMs` while no answer has come, at most `times` in all: a lost question then costs little
 * time ("hedged requests", J. Dean and L. Barroso, The Tail at Scale, 2013). The first answer counts, and so does the first
 * failure; what bounds the wait is the deadline within `ask`.
 */
export function hedge<T>(clock: Pick<Clock, 'after'>, policy: { readonly againMs: Millis; readonly times: number }, ask: () => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    let left = policy.times
    let cancel = (): void => undefined
    const say = (): void => {
      left -= 1
      if (left > 0) cancel = clock.after(policy.againMs, say)
      ask().then(answer => {
        cancel()
        resolve(answer)
      }, error => {
        cancel()
        reject(error)
      })
    }
    say()
  })
}

/** The same within `windowMs`: each question is told how long it may still wait. */
export function hedgeWithin<T>(clock: Pick<Clock, 'after' | 'monotonic'>, policy: { readonly againMs: Millis; readonly times: number; readonly windowMs: Millis }, ask: (leftMs: Millis) => Promise<T>): Promise<T> {
  const until = clock.monotonic() + policy.windowMs
  return hedge(clock, policy, () => ask(Math.max(1, until - clock.monotonic())))
}
