import { asMeshError } from '../../../protocols/errors.ts'
import type { GenerationRequest } from '../../../protocols/generation.ts'
import type { ModelFacts, ServedModel } from '../../../protocols/model.ts'
import type { Answer, Answers } from '../answer.ts'
import { Sampler } from '../sampling/sampler.ts'
import type { ModelTexts } from './model-texts.ts'
import { TextAnswer } from './text-answer.ts'

/** Answers in the text of the model that was asked; in token ids alone where it came without a tokenizer. */
export class TextAnswers implements Answers {
  readonly #texts: Pick<ModelTexts, 'of'>

  constructor(texts: Pick<ModelTexts, 'of'>) {
    this.#texts = texts
  }

  /** Throws SPEC_INVALID for a form that cannot be kept, BAD_INPUT when text is asked of a model without, CONTENT_UNAVAILABLE. */
  async answer(served: ServedModel, facts: ModelFacts, request: GenerationRequest, signal: AbortSignal): Promise<Answer> {
    try {
      return new TextAnswer(await this.#texts.of(served.model, signal), request, facts.endTokens)
    } catch (failure) {
      const error = asMeshError(failure)
      if (error.code !== 'BAD_INPUT' || request.form !== undefined || request.stop.length > 0) throw error
      return inTokens(request)
    }
  }
}

function inTokens({ sampling, prompt, topLogprobs }: GenerationRequest): Answer {
  const sampler = new Sampler(sampling, prompt)
  return {
    greedy: Sampler.greedy(sampling) && topLogprobs === undefined,
    draw: (logits, position) => sampler.next(logits, position, undefined, topLogprobs),
    tell(token) {
      sampler.told(token)
      return { text: '', stopped: false }
    },
    rest: () => '',
  }
}
