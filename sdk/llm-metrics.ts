import type { BlockClock } from './clock.ts'
import type { Json } from '../protocols/ids.ts'
import { Metrics } from './metrics.ts'

/** One answer under way. */
export type LlmTimer = { first(): void; ended(promptTokens: number, tokens: number): void; failed(): void }

/** The clock of a program that is no block. */
const HERE: BlockClock = {
  monotonic: () => performance.now(),
  unix: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms)
    return () => clearTimeout(timer)
  },
}

const SECONDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

/** AIOS's `llm_*` metrics of a model that a program or a block uses. In a block give it `context.metrics` and `context.clock`. */
export class LlmMetrics {
  readonly #metrics: Metrics
  readonly #clock: BlockClock

  constructor(metrics?: Metrics, clock: BlockClock = HERE) {
    this.#clock = clock
    this.#metrics = metrics ?? new Metrics(clock)
  }

  /** A prompt was sent. */
  began(): LlmTimer {
    const metrics = this.#metrics
    const clock = this.#clock
    const began = clock.monotonic()
    let firstAt: number | undefined
    let open = true
    metrics.counter('llm_prompts_total').increment()
    metrics.gauge('llm_active_sessions').add(1)
    const close = (): boolean => {
      if (!open) return false
      open = false
      metrics.gauge('llm_active_sessions').add(-1)
      return true
    }
    return {
      first() {
        if (firstAt !== undefined) return
        const now = clock.monotonic()
        firstAt = now
        metrics.histogram('llm_time_to_first_token_seconds', {}, SECONDS).observe((now - began) / 1_000)
      },
      ended(promptTokens, tokens) {
        if (!close()) return
        const seconds = (clock.monotonic() - (firstAt ?? began)) / 1_000
        metrics.counter('llm_prompt_tokens_total').increment(promptTokens)
        metrics.counter('llm_tokens_generated_total').increment(tokens)
        metrics.histogram('llm_inference_duration_seconds', {}, SECONDS).observe((clock.monotonic() - began) / 1_000)
        if (tokens > 0 && seconds > 0) {
          metrics.histogram('llm_time_per_output_token_seconds', {}, SECONDS).observe(seconds / tokens)
          metrics.gauge('llm_tokens_per_second').set(tokens / seconds)
        }
      },
      failed() {
        if (close()) metrics.counter('llm_inference_errors_total').increment()
      },
    }
  }

  /** As `Metrics` gives them. */
  snapshot(): Readonly<Record<string, Json>> {
    return this.#metrics.snapshot()
  }
}
