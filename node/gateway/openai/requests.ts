import { z } from 'zod'
import { json } from '../../../protocols/ids.ts'

const fields = z.record(z.string(), json)
/** Answers to one request, at most. */
export const CHOICES = 16
const probability = z.number().min(0).max(1)

/** Accepted and without meaning here: what OpenAI's own service does with a request. */
const IGNORED = {
  user: z.unknown().optional(), store: z.unknown().optional(), metadata: z.unknown().optional(), service_tier: z.unknown().optional(), safety_identifier: z.unknown().optional(), prompt_cache_key: z.unknown().optional(), prompt_cache_retention: z.unknown().optional(),
  prediction: z.unknown().optional(), reasoning_effort: z.unknown().optional(), verbosity: z.unknown().optional(), modalities: z.array(z.literal('text', 'only text comes out here')).nullish(),
}

/** What decides how tokens are drawn, for chat and completions alike. Those after `seed` are not OpenAI's own; vLLM and others have them. */
const SAMPLING = {
  temperature: z.number().min(0).max(2).nullish(),
  top_p: probability.nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  logit_bias: z.record(z.string().regex(/^\d+$/, 'keys are token ids'), z.number().min(-100).max(100)).nullish(),
  seed: z.int().nullish(),
  stop: z.union([z.string().min(1).max(1_000), z.array(z.string().min(1).max(1_000)).max(16)]).nullish(),
  top_k: z.int().min(-1).max(1_000_000).nullish(),
  min_p: probability.nullish(),
  repetition_penalty: z.number().min(0.01).max(10).nullish(),
  ignore_eos: z.boolean().nullish(),
  stop_token_ids: z.array(z.int().nonnegative()).max(64).nullish(),
  guided_json: json.optional(),
  guided_regex: z.string().max(4_096).nullish(),
  guided_choice: z.array(z.string().min(1).max(1_000)).min(1).max(1_000).nullish(),
}

const SHARED = {
  ...IGNORED, ...SAMPLING,
  model: z.string().min(1).max(300),
  n: z.int().min(1).max(CHOICES).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: z.int().min(1).max(1_048_576).nullish(),
  /** Ours: a broken connection does not cancel the answer, so that its client may come back for it, here or at another peer. */
  resumable: z.boolean().nullish(),
}

const sampling = z.object(SAMPLING)
export type SamplingFields = z.infer<typeof sampling>

const toolCall = z.looseObject({ id: z.string(), type: z.literal('function'), function: z.looseObject({ name: z.string(), arguments: z.string() }) })
const message = z.looseObject({ role: z.string().min(1).max(40), content: z.union([z.string(), z.array(json)]).nullish(), tool_calls: z.array(toolCall).nullish() })

const responseFormat = z.discriminatedUnion('type', [
  z.object({ type: z.literal('text') }),
  z.object({ type: z.literal('json_object') }),
  z.object({ type: z.literal('json_schema'), json_schema: z.looseObject({ name: z.string().optional(), schema: json.optional(), strict: z.boolean().nullish() }) }),
])

const tool = z.looseObject({ type: z.literal('function'), function: z.looseObject({ name: z.string().min(1).max(64), description: z.string().nullish(), parameters: fields.nullish(), strict: z.boolean().nullish() }) })
const namedTool = z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) })
const allowedTools = z.object({ type: z.literal('allowed_tools'), allowed_tools: z.object({ mode: z.enum(['auto', 'required']), tools: z.array(namedTool).min(1).max(128) }) })
const toolChoice = z.union([z.enum(['none', 'auto', 'required']), namedTool, allowedTools])

export const chatRequest = z.strictObject({
  ...SHARED,
  messages: z.array(message).min(1).max(10_000),
  tools: z.array(tool).max(128).nullish(),
  tool_choice: toolChoice.nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  response_format: responseFormat.nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  max_completion_tokens: z.int().min(1).max(1_048_576).nullish(),
  /** Variables of the model's own template (`enable_thinking`…). */
  chat_template_kwargs: fields.nullish(),
})
export type ChatRequest = z.infer<typeof chatRequest>

const tokens = z.array(z.int().nonnegative()).min(1).max(1_048_576)
export const completionRequest = z.strictObject({
  ...SHARED,
  prompt: z.union([z.string(), tokens, z.array(z.string()).min(1).max(128), z.array(tokens).min(1).max(128)]).nullish(),
  logprobs: z.int().min(0).max(5).nullish(),
  echo: z.boolean().nullish(),
  suffix: z.literal('', 'text after the answer is not supported').nullish(),
  best_of: z.int().nullish(),
})
export type CompletionRequest = z.infer<typeof completionRequest>

export const embeddingRequest = z.strictObject({
  model: z.string().min(1).max(300),
  input: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(2_048), tokens, z.array(tokens).min(1).max(2_048)]),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  dimensions: z.int().min(1).max(65_536).nullish(),
  user: z.unknown().optional(),
})
