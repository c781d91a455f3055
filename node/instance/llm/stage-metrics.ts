import type { Counter, Gauge, Histogram, Rolling } from '../../../sdk/instruments.ts'
import type { Metrics } from '../../../sdk/metrics.ts'
import type { StepOrder } from './stage-frames.ts'

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
const ROWS = [1, 2, 3, 4, 6, 8, 12, 16]

type State = { readonly sessions: number; readonly reserved: number; readonly cached: number; readonly memoryBytes: number }

/** Counts what a stage computes, under AIOS's `llm_*` names where it has them. */
export class StageMetrics {
  readonly #prompts: Counter
  readonly #promptTokens: Counter
  readonly #cachedTokens: Counter
  readonly #generated: Counter
  readonly #errors: Counter
  readonly #sessions: Gauge
  readonly #memory: Gauge
  readonly #reserved: Gauge
  readonly #cached: Gauge
  readonly #usage: Gauge
  readonly #duration: Histogram
  readonly #first: Histogram
  readonly #each: Histogram
  readonly #rows: Histogram
  readonly #speed: Gauge
  readonly #speeds: Rolling
  readonly #kvTokens: number

  constructor(metrics: Metrics, kvTokens: number) {
    this.#kvTokens = kvTokens
    this.#prompts = metrics.counter('llm_prompts_total')
    this.#promptTokens = metrics.counter('llm_prompt_tokens_total')
    this.#cachedTokens = metrics.counter('llm_prompt_tokens_cached_total')
    this.#generated = metrics.counter('llm_tokens_generated_total')
    this.#errors = metrics.counter('llm_inference_errors_total')
    this.#sessions = metrics.gauge('llm_active_sessions')
    this.#memory = metrics.gauge('llm_memory_usage_bytes')
    this.#reserved = metrics.gauge('llm_kv_tokens_reserved')
    this.#cached = metrics.gauge('llm_kv_tokens_cached')
    this.#usage = metrics.gauge('llm_kv_usage_ratio')
    this.#duration = metrics.histogram('llm_inference_duration_seconds', {}, SECONDS)
    this.#first = metrics.histogram('llm_time_to_first_token_seconds', {}, SECONDS)
    this.#each = metrics.histogram('llm_time_per_output_token_seconds', {}, SECONDS)
    this.#rows = metrics.histogram('llm_batch_size', {}, ROWS)
    this.#speed = metrics.gauge('llm_tokens_per_second')
    this.#speeds = metrics.rolling('llm_step_tokens_per_second')
  }

  opened(state: State, cached: number): void {
    this.#prompts.increment()
    this.#cachedTokens.increment(cached)
    this.#room(state)
  }

  closed(state: State): void {
    this.#room(state)
  }

  failed(): void {
    this.#errors.increment()
  }

  /** A run of `rows` sessions with `count` new positions each. */
  ran(computeMs: number, rows: number, count: number): void {
    this.#duration.observe(computeMs / 1_000)
    if (count === 1) this.#generated.increment(rows)
    else this.#promptTokens.increment(rows * count)
    if (count === 1) this.#rows.observe(rows)
    if (computeMs <= 0) return
    const speed = (rows * count * 1_000) / computeMs
    this.#speed.set(speed)
    this.#speeds.observe(speed)
  }

  /** A step's outcome left, `now` as `performance.now()` has it. */
  answered({ want }: StepOrder, session: { readonly openedAt: number; readonly answeredAt: number | undefined }, now: number): void {
    if (want === 'none') return
    if (session.answeredAt === undefined) this.#first.observe((now - session.openedAt) / 1_000)
    else this.#each.observe((now - session.answeredAt) / 1_000)
  }

  #room({ sessions, reserved, cached, memoryBytes }: State): void {
    this.#sessions.set(sessions)
    this.#reserved.set(reserved)
    this.#cached.set(cached)
    this.#memory.set(memoryBytes)
    this.#usage.set((reserved + cached) / this.#kvTokens)
  }
}
