import { z } from 'zod'
import type { Millis } from '../../protocols/ids.ts'
import type { Clock } from '../ports.ts'

/** What an instance has had to do, as its host counts it. The two integrals grow for ever: whoever looks twice knows the means between. */
export const instanceLoad = z.object({
  inFlight: z.int().nonnegative(),
  queued: z.int().nonnegative(),
  /** Calls at a time that it takes. */
  width: z.int().positive(),
  latencyMs: z.number().nonnegative(),
  served: z.int().nonnegative(),
  /** Turned away because the queue was full. */
  refused: z.int().nonnegative(),
  /** Since it last had a call. */
  idleMs: z.number().nonnegative(),
  /** Milliseconds times calls that ran, and that waited. */
  ranMs: z.number().nonnegative(),
  waitedMs: z.number().nonnegative(),
})
export type InstanceLoad = z.infer<typeof instanceLoad>

/** Counts the calls of one instance. */
export class LoadMeter {
  readonly #clock: Pick<Clock, 'monotonic'>
  #inFlight = 0
  #queued = 0
  #served = 0
  #refused = 0
  #ranMs = 0
  #waitedMs = 0
  #at: Millis
  #usedAt: Millis

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock
    this.#at = clock.monotonic()
    this.#usedAt = this.#at
  }

  /** A call waits for its turn. */
  waits(): void {
    this.#pass()
    this.#queued += 1
  }

  /** One that waited runs. */
  runs(): void {
    this.#pass()
    this.#queued -= 1
    this.#inFlight += 1
  }

  /** One that waited does so no more, and has not run. */
  leaves(turnedAway: boolean): void {
    this.#pass()
    this.#queued -= 1
    if (turnedAway) this.#refused += 1
  }

  /** One that ran is over. */
  ends(answered: boolean): void {
    this.#pass()
    this.#inFlight -= 1
    if (answered) this.#served += 1
  }

  /** `more`: what does not come by calls, such as a stage's sessions. */
  read(width: number, latencyMs: number, more: { readonly inFlight: number; readonly queued: number } = { inFlight: 0, queued: 0 }): InstanceLoad {
    const now = this.#pass()
    const inFlight = this.#inFlight + more.inFlight
    return {
      inFlight, queued: this.#queued + more.queued, width, latencyMs, served: this.#served, refused: this.#refused,
      idleMs: inFlight > 0 ? 0 : Math.max(0, now - this.#usedAt), ranMs: this.#ranMs, waitedMs: this.#waitedMs,
    }
  }

  #pass(): Millis {
    const now = this.#clock.monotonic()
    const passed = now - this.#at
    this.#ranMs += passed * this.#inFlight
    this.#waitedMs += passed * this.#queued
    if (this.#inFlight + this.#queued > 0) this.#usedAt = now
    this.#at = now
    return now
  }
}
