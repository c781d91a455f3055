import type { Millis } from '../../protocols/ids.ts'
import { Rolling, type WindowSummary } from '../../sdk/instruments.ts'
import type { Clock } from '../ports.ts'

/** Holds what a host saw of the calls of one instance: how many, how long each took from the door on, and what the processor did. */
export class CallRecord {
  readonly startedAt: Millis
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #latency: Rolling
  #served = 0
  #failed = 0
  #cpu: { readonly at: Millis; readonly cpuMs: number; readonly percent: number }

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock
    this.#latency = new Rolling({ monotonic: () => clock.monotonic() })
    this.startedAt = clock.monotonic()
    this.#cpu = { at: this.startedAt, cpuMs: 0, percent: 0 }
  }

  /** A call that began at `since` has its whole answer. */
  served(since: Millis): void {
    this.#served += 1
    this.#latency.observe((this.#clock.monotonic() - since) / 1_000)
  }

  failed(): void {
    this.#failed += 1
  }

  /** Of the last minute, in seconds. */
  read(): { readonly served: number; readonly failed: number; readonly latency: WindowSummary; readonly uptimeMs: Millis } {
    return { served: this.#served, failed: this.#failed, latency: this.#latency.window(60_000), uptimeMs: this.#clock.monotonic() - this.startedAt }
  }

  /** 100: one core, whole, since it was asked at least a second ago. */
  cpuPercent(cpuMs: number): number {
    const at = this.#clock.monotonic()
    if (at - this.#cpu.at >= 1_000) this.#cpu = { at, cpuMs, percent: Math.max(0, (100 * (cpuMs - this.#cpu.cpuMs)) / (at - this.#cpu.at)) }
    return this.#cpu.percent
  }
}
