import { MeshError } from '../../../protocols/errors.ts'
import { samplingParams, type AnswerForm, type GenerationRequest, type SamplingParams } from '../../../protocols/generation.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { ModelManifest, ServedModel } from '../../../protocols/model.ts'
import type { Clock, Random } from '../../../src/ports.ts'
import type { Models } from '../../../src/roles.ts'
import { lookedFor } from '../../../src/lib/looked-for.ts'
import type { ModelText } from '../../../src/llm/text/model-text.ts'
import type { ModelTexts } from '../../../src/llm/text/model-texts.ts'
import { wrong } from './failure.ts'
import { CHOICES, type SamplingFields } from './requests.ts'

/** A model that answers here, with all that turns a client's request into tokens. */
export type Speaker = { readonly served: ServedModel; readonly manifest: ModelManifest; readonly text: ModelText }

/** News of a name given on another peer a moment ago may be on its way for so long. */
const NEWS = { forMs: 1_000, everyMs: 20 }

/** Throws NOT_FOUND as OpenAI has it: who serves a model on one peer may ask another at once, so not before news had time to come. */
export async function speaker(models: Pick<Models, 'served' | 'modelByCid'>, texts: ModelTexts, name: string, clock: Pick<Clock, 'monotonic' | 'sleep'>, signal: AbortSignal): Promise<Speaker> {
  const served = await lookedFor(() => models.served(name), clock, NEWS, signal)
  if (served === undefined) throw noModel(name)
  const [manifest, text] = await Promise.all([models.modelByCid(served.model, signal), texts.of(served.model, signal)])
  return { served, manifest, text }
}

export function noModel(name: string): MeshError {
  return new MeshError('NOT_FOUND', `The model \`${name}\` does not exist: see /v1/models`, { details: { param: 'model', code: 'model_not_found' } })
}

/** The client's seed, or one of our own where it gave none; so far below what a number holds that choices may count on from it. */
export function seedOf(asked: SamplingFields, random: Pick<Random, 'below'>): number {
  return asked.seed === undefined || asked.seed === null ? random.below(2 ** 48) : Math.abs(asked.seed) % (Number.MAX_SAFE_INTEGER - CHOICES)
}

/** What the client says, else what the model's own generation_config.json says, else OpenAI's defaults. */
export function samplingOf(asked: SamplingFields, { generation }: Pick<ModelManifest, 'generation'>, seed: number): SamplingParams {
  const own = (name: string): number | undefined => (typeof generation[name] === 'number' ? generation[name] : undefined)
  return samplingParams.parse({
    temperature: asked.temperature ?? own('temperature') ?? 1, topP: asked.top_p ?? own('top_p') ?? 1, topK: Math.max(0, asked.top_k ?? own('top_k') ?? 0), minP: asked.min_p ?? own('min_p') ?? 0,
    repetitionPenalty: asked.repetition_penalty ?? own('repetition_penalty') ?? 1, presencePenalty: asked.presence_penalty ?? 0, frequencyPenalty: asked.frequency_penalty ?? 0, logitBias: asked.logit_bias ?? {}, seed,
  })
}

/** Throws BAD_INPUT when more than one form is asked for. */
export function guidedForm({ guided_json: schema, guided_regex: pattern, guided_choice: choices }: SamplingFields): AnswerForm | undefined {
  const forms: AnswerForm[] = []
  if (schema !== undefined && schema !== null) forms.push({ kind: 'schema', schema: typeof schema === 'string' ? parsed(schema) : schema })
  if (pattern !== undefined && pattern !== null) forms.push({ kind: 'regex', pattern })
  if (choices !== undefined && choices !== null) forms.push({ kind: 'choice', choices })
  if (forms.length > 1) throw wrong('guided_json', 'an answer can have one form only: choose one of guided_json, guided_regex and guided_choice')
  return forms[0]
}

/** The request to the mesh. Checks the form before anything is placed. Throws BAD_INPUT (context), SPEC_INVALID (form). */
export function generation({ served, text }: Speaker, prompt: readonly number[], asked: SamplingFields, more: { readonly sampling: SamplingParams; readonly maxTokens: number | undefined; readonly form: AnswerForm | undefined; readonly topLogprobs: number | undefined }): GenerationRequest {
  if (prompt.length >= served.contextTokens) throw wrong('messages', `This model's context is ${served.contextTokens} tokens, and the prompt has ${prompt.length}. Please shorten it.`, 'context_length_exceeded')
  if (more.form !== undefined) text.constraint(more.form)
  const stop = asked.stop ?? []
  return {
    model: served.service, prompt: [...prompt], maxTokens: Math.min(more.maxTokens ?? Infinity, served.contextTokens - prompt.length), sampling: more.sampling, stop: typeof stop === 'string' ? [stop] : stop,
    stopTokens: asked.stop_token_ids ?? [], ignoreEnd: asked.ignore_eos ?? false, ...(more.form === undefined ? {} : { form: more.form }), ...(more.topLogprobs === undefined ? {} : { topLogprobs: more.topLogprobs }),
  }
}

function parsed(text: string): Json {
  try {
    const value: Json = JSON.parse(text)
    return value
  } catch (cause) {
    throw new MeshError('BAD_INPUT', 'guided_json is not JSON', { cause, details: { param: 'guided_json' } })
  }
}
