import { HERE, type BlockClock } from './clock.ts'
import type { Json } from '../protocols/ids.ts'
import { Metrics } from './metrics.ts'

/** One answer under way. */
export type LlmTimer = { first(): void; ended(promptTokens: number, tokens: number): void; failed(): void }

const SECONDS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

/** AIOS's `llm_*` metrics of a model that a program or a block uses. In a block give it `context.metrics` and `context.clock`. */
export class LlmMetrics {
  readonly #metrics: Metrics
  readonly #clock: BlockClock

  /** AIOS gives the block's id second; metrics here know their block. */
  constructor(metrics?: Metrics, clock: BlockClock | string = HERE) {
    this.#clock = typeof clock === 'string' ? HERE : clock
    this.#metrics = metrics ?? new Metrics(this.#clock)
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

  // AIOS's own calls. `start_time`: seconds since 1970, as its authors take it before they ask the model.
  log_prompt(prompt_token_count: number): void {
    this.#metrics.counter('llm_prompts_total').increment()
    this.#metrics.counter('llm_prompt_tokens_total').increment(prompt_token_count)
  }
  log_response(generated_token_count: number): void { this.#metrics.counter('llm_tokens_generated_total').increment(generated_token_count) }
  observe_inference_time(start_time: number): void { this.#seconds('llm_inference_duration_seconds', this.#since(start_time)) }
  observe_time_to_first_token(start_time: number): void { this.#seconds('llm_time_to_first_token_seconds', this.#since(start_time)) }
  observe_time_per_output_token(start_time: number, token_count: number): void {
    if (token_count > 0) this.#seconds('llm_time_per_output_token_seconds', this.#since(start_time) / token_count)
  }
  update_tokens_per_second(tokens_generated: number, duration_seconds: number): void {
    if (duration_seconds > 0) this.#metrics.gauge('llm_tokens_per_second').set(tokens_generated / duration_seconds)
  }
  /** Percent and bytes; what is null or left out keeps its value. */
  update_resource_utilization(cpu_percent?: number | null, gpu_percent?: number | null, memory_bytes?: number | null): void {
    for (const [name, value] of [['llm_cpu_utilization', cpu_percent], ['llm_gpu_utilization', gpu_percent], ['llm_memory_usage_bytes', memory_bytes]] as const) if (typeof value === 'number') this.#metrics.gauge(name).set(value)
  }
  increment_inference_errors(): void { this.#metrics.counter('llm_inference_errors_total').increment() }
  increase_active_sessions(): void { this.#metrics.gauge('llm_active_sessions').add(1) }
  decrease_active_sessions(): void { this.#metrics.gauge('llm_active_sessions').add(-1) }

  #since(start: number): number {
    return Math.max(0, this.#clock.unix() / 1_000 - start)
  }

  #seconds(name: string, value: number): void {
    this.#metrics.histogram(name, {}, SECONDS).observe(value)
  }

  /** As `Metrics` gives them. */
  snapshot(): Readonly<Record<string, Json>> {
    return this.#metrics.snapshot()
  }
}
