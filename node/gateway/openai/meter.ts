import { asMeshError } from '../../../protocols/errors.ts'
import type { Clock, Telemetry } from '../../../src/ports.ts'
import type { ChoiceEvent } from './choices.ts'

/** AIOS's `llm_*` metrics of the answers that this peer's doors give, by model. */
export class Meter {
  readonly #telemetry: Telemetry
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #active = new Map<string, number>()

  constructor(telemetry: Telemetry, clock: Pick<Clock, 'monotonic'>) {
    this.#telemetry = telemetry
    this.#clock = clock
  }

  /** The same events, counted as they pass. */
  async * measured(events: AsyncIterable<ChoiceEvent>, model: string): AsyncGenerator<ChoiceEvent> {
    const began = this.#clock.monotonic()
    const firsts = new Map<number, number>()
    this.#telemetry.count('llm_prompts_total', { model })
    this.#add(model, 1)
    try {
      for await (const choice of events) {
        const { index, event } = choice
        const now = this.#clock.monotonic()
        if (event.kind === 'token') {
          this.#telemetry.count('llm_tokens_generated_total', { model })
          if (!firsts.has(index)) this.#telemetry.observe('llm_time_to_first_token_seconds', (now - began) / 1_000, { model })
          firsts.set(index, firsts.get(index) ?? now)
        } else {
          const first = firsts.get(index) ?? now
          if (index === 0) this.#telemetry.count('llm_prompt_tokens_total', { model }, event.promptTokens)
          this.#telemetry.observe('llm_inference_duration_seconds', (now - began) / 1_000, { model })
          if (event.tokens > 1 && now > first) {
            this.#telemetry.observe('llm_time_per_output_token_seconds', (now - first) / 1_000 / (event.tokens - 1), { model })
            this.#telemetry.gauge('llm_tokens_per_second', ((event.tokens - 1) / (now - first)) * 1_000, { model })
          }
        }
        yield choice
      }
    } catch (error) {
      this.#telemetry.count('llm_inference_errors_total', { model, code: asMeshError(error).code })
      throw error
    } finally {
      this.#add(model, -1)
    }
  }

  #add(model: string, by: number): void {
    const active = (this.#active.get(model) ?? 0) + by
    this.#active.set(model, active)
    this.#telemetry.gauge('llm_active_sessions', active, { model })
  }
}
