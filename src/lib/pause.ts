import type { Millis } from '../../protocols/ids.ts'
import type { Clock } from '../ports.ts'
import { abortable } from './abortable.ts'

/** Waits that news end early. */
export class Pause {
  readonly #waiting = new Set<() => void>()

  get idle(): boolean {
    return this.#waiting.size === 0
  }

  /** Until there is news, at most so long. Throws the signal's reason. */
  async wait(clock: Pick<Clock, 'after'>, mostMs: Millis, signal?: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#waiting.add(resolve)
    const cancel = clock.after(mostMs, resolve)
    try {
      await (signal === undefined ? promise : abortable(promise, signal))
    } finally {
      cancel()
      this.#waiting.delete(resolve)
    }
  }

  news(): void {
    for (const wake of this.#waiting) wake()
  }
}
