import { MeshError } from '../../../protocols/errors.ts'
import type { GenerationRequest } from '../../../protocols/generation.ts'
import type { Answer } from '../answer.ts'
import type { State } from '../grammar/automaton.ts'
import type { Constraint } from '../grammar/constraint.ts'
import { Sampler, type Drawn } from '../sampling/sampler.ts'
import type { ModelText } from './model-text.ts'
import { TextTail, type Piece } from './text-tail.ts'

const EMPTY = new Uint8Array(0)

/**
 * Chooses the tokens of one session and turns them into text. All it holds follows from the request and the tokens it was told,
 * so that whoever takes a session over tells those again and goes on the same.
 */
export class TextAnswer implements Answer {
  readonly #request: GenerationRequest
  readonly #text: ModelText
  readonly #sampler: Sampler
  readonly #tail: TextTail
  readonly #ends: readonly number[]
  readonly #constraint: Constraint | undefined
  #state: State | undefined

  /** `ends`: ids by which the model ends an answer. Throws SPEC_INVALID when the form asked for cannot be kept. */
  constructor(text: ModelText, request: GenerationRequest, ends: readonly number[] = text.ends) {
    this.#request = request
    this.#text = text
    this.#sampler = new Sampler(request.sampling, request.prompt)
    this.#tail = new TextTail(token => text.bytes(token), request.stop)
    this.#ends = [...(request.ignoreEnd ? [] : ends), ...request.stopTokens]
    this.#constraint = request.form === undefined ? undefined : text.constraint(request.form)
    this.#state = this.#constraint?.start
  }

  /** True when the id of the greatest logit is all that is needed of a stage, whatever was said: then the logits need not travel. */
  get greedy(): boolean {
    return Sampler.greedy(this.#request.sampling) && this.#constraint === undefined && this.#request.topLogprobs === undefined
  }

  /**
   * `position`: of the token drawn, in prompt and answer together. Draws again give the same. Undefined when the form is complete
   * and nothing may follow. Throws BAD_INPUT when the vocabulary has no token that fits the form.
   */
  draw(logits: Float32Array, position: number): Drawn | undefined {
    if (this.#constraint !== undefined && this.#state?.done === true && this.#state.threads.length === 0) return undefined
    const drawn = this.#sampler.next(logits, position, this.#mask(), this.#request.topLogprobs)
    if (drawn === undefined) throw new MeshError('BAD_INPUT', this.#constraint === undefined ? 'the model gave no number for any token' : 'the model has no token that fits the form of the answer here')
    return drawn
  }

  /** The next token of the answer, but for those that end it. `text`: what is certain now; `stopped`: a stop string came, and this is the last text. */
  tell(token: number): Piece {
    this.#sampler.told(token)
    if (this.#constraint !== undefined && this.#state !== undefined) this.#state = this.#constraint.advance(this.#state, this.#text.bytes(token) ?? EMPTY)
    return this.#tail.push(token)
  }

  /** Text that was held back until the end was known. */
  rest(): string {
    return this.#tail.end()
  }

  #mask(): Uint32Array | undefined {
    if (this.#constraint === undefined || this.#state === undefined) return undefined
    const mask = this.#constraint.mask(this.#state)
    if (!this.#state.done) return mask
    // Only a whole answer may end.
    const open = mask.slice()
    for (const id of this.#ends) if (id >> 5 < open.length) open[id >> 5]! |= 1 << (id & 31)
    return open
  }
}
