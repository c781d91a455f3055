import type { GenerationRequest } from '../../protocols/generation.ts'
import type { ModelFacts, ServedModel } from '../../protocols/model.ts'

/** A token drawn, and what the model thought of it. */
export type Drawn = { readonly token: number; readonly logprob?: number; readonly top?: readonly { readonly token: number; readonly logprob: number }[] }

/**
 * Turns logits into tokens and tokens into text, for one session. It depends on nothing but the request and the tokens it
 * was told, so that whoever takes a session over makes the same one.
 */
export interface Answer {
  /** The greatest logit decides whatever was said before: its id is all that need travel. */
  readonly greedy: boolean
  /** `position`: of the token drawn, in prompt and answer together. Undefined when nothing may follow. Draws again give the same. */
  draw(logits: Float32Array, position: number): Drawn | undefined
  /** The next token of the answer. `text`: what is certain now; `stopped`: a stop string ended the answer before this. */
  tell(token: number): { readonly text: string; readonly stopped: boolean }
  /** Text held back until the end was known. */
  rest(): string
}

export interface Answers {
  answer(served: ServedModel, facts: ModelFacts, request: GenerationRequest, signal: AbortSignal): Promise<Answer>
}
