import type { SamplingParams } from '../../../protocols/generation.ts'
import { drawAt } from './philox.ts'
import { greatest, greatestOf, logSumExp } from './ranking.ts'
import { TruncatedDraw } from './truncate.ts'

export type Logprob = { readonly token: number; readonly logprob: number }

/** The token drawn, and what the model itself thought of it: of its whole distribution, before bias, penalties, grammar or truncation. */
export type Drawn = { readonly token: number; readonly logprob?: number; readonly top?: readonly Logprob[] }

/** A bit an id: 1 is allowed. Ids beyond its end are not. */
export type TokenMask = Uint32Array

/**
 * Draws the tokens of one session. Bias, penalties, grammar, temperature, top-k, top-p, min-p, in this order. What it draws is
 * a function of the parameters, the tokens told so far, the logits and the position: nothing else is kept.
 */
export class Sampler {
  readonly #params: SamplingParams
  readonly #bias: readonly (readonly [id: number, by: number])[]
  readonly #seen: Set<number>
  readonly #counts = new Map<number, number>()
  readonly #draw = new TruncatedDraw()
  #scratch = new Float32Array(0)

  /** `prompt`: what the repetition penalty counts besides the answer. */
  constructor(params: SamplingParams, prompt: readonly number[]) {
    this.#params = params
    this.#bias = Object.entries(params.logitBias).map(([id, by]) => [Number(id), by] as const)
    this.#seen = new Set(params.repetitionPenalty === 1 ? [] : prompt)
  }

  /** True when the greatest logit is the answer whatever was said before: then whoever holds the logits may send its id alone. */
  static greedy(params: SamplingParams): boolean {
    return params.temperature === 0 && params.repetitionPenalty === 1 && params.presencePenalty === 0 && params.frequencyPenalty === 0 && Object.keys(params.logitBias).length === 0
  }

  /** A token of the answer, which later draws are penalised by. */
  told(token: number): void {
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = this.#params
    if (repetitionPenalty !== 1) this.#seen.add(token)
    if (presencePenalty !== 0 || frequencyPenalty !== 0) this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1)
  }

  /**
   * `position`: of the token drawn, in prompt and answer together. `logits` are not changed. `top`: how many alternatives
   * to report, undefined for no log-probabilities at all. Undefined when nothing is allowed.
   */
  next(logits: Float32Array, position: number, mask: TokenMask | undefined, top: number | undefined): Drawn | undefined {
    const adjusted = this.#adjust(logits, mask)
    const { temperature, seed } = this.#params
    const token = temperature === 0 ? greatest(adjusted) : this.#draw.draw(adjusted, this.#params, drawAt(seed, position))
    if (token < 0) return undefined
    if (top === undefined) return { token }
    const all = logSumExp(logits)
    const logprob = (id: number): Logprob => ({ token: id, logprob: logits[id]! - all })
    return { ...logprob(token), top: top === 0 ? [] : greatestOf(logits, top).map(logprob) }
  }

  #adjust(logits: Float32Array, mask: TokenMask | undefined): Float32Array {
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = this.#params
    if (mask === undefined && this.#bias.length === 0 && this.#seen.size === 0 && this.#counts.size === 0) return logits
    if (this.#scratch.length !== logits.length) this.#scratch = new Float32Array(logits.length)
    const adjusted = this.#scratch
    adjusted.set(logits)
    for (const [id, by] of this.#bias) if (id < adjusted.length) adjusted[id] = adjusted[id]! + by
    for (const id of this.#seen) {
      const value = adjusted[id]
      if (value !== undefined) adjusted[id] = value > 0 ? value / repetitionPenalty : value * repetitionPenalty
    }
    for (const [id, count] of this.#counts) if (id < adjusted.length) adjusted[id] = adjusted[id]! - presencePenalty - count * frequencyPenalty
    if (mask !== undefined) for (let id = 0; id < adjusted.length; id += 1) if (((mask[id >> 5] ?? 0) & (1 << (id & 31))) === 0) adjusted[id] = -Infinity
    return adjusted
  }
}
