import { MeshError } from '../../protocols/errors.ts'
import type { GenerationRequest } from '../../protocols/generation.ts'
import type { ModelFacts, ServedModel } from '../../protocols/model.ts'
import type { Answer, Answers } from './answer.ts'

/** Answers in token ids alone, greedily: for models without a tokenizer. */
export class TokenAnswers implements Answers {
  async answer(served: ServedModel, _facts: ModelFacts, { sampling, form, stop }: GenerationRequest): Promise<Answer> {
    if (sampling.temperature !== 0 || form !== undefined || stop.length > 0) throw new MeshError('BAD_INPUT', `${served.service} has no tokenizer here: it answers greedily, in token ids`)
    return { greedy: true, draw: logits => ({ token: greatest(logits) }), tell: () => ({ text: '', stopped: false }), rest: () => '' }
  }
}

/** Ties go to the lowest id. */
function greatest(logits: Float32Array): number {
  let best = 0
  for (let id = 1; id < logits.length; id += 1) if ((logits[id] ?? -Infinity) > (logits[best] ?? -Infinity)) best = id
  return best
}
