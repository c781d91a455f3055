import { z } from 'zod'
import { json, peerId } from './ids.ts'
import { traceparent } from './trace.ts'

/** One LLM generation. Random, so that whoever holds it may reconnect with it. */
export const sessionId = z.string().max(80).regex(/^gen-[a-z0-9]+$/)
export type SessionId = z.infer<typeof sessionId>

const probability = z.number().min(0).max(1)

/** How the next token is drawn from the logits. Applied in this order: bias, penalties, grammar, temperature, top-k, top-p, min-p. */
export const samplingParams = z.object({
  /** 0: greedy, ties to the lowest token id. */
  temperature: z.number().min(0).max(10).default(1),
  /** 0: no limit. */
  topK: z.int().min(0).max(1_000_000).default(0),
  topP: probability.default(1),
  minP: probability.default(0),
  /** Above 1 discourages tokens that are in prompt or answer (CTRL, Keskar et al. 2019). */
  repetitionPenalty: z.number().min(0.01).max(10).default(1),
  presencePenalty: z.number().min(-10).max(10).default(0),
  frequencyPenalty: z.number().min(-10).max(10).default(0),
  /** Token id → what is added to its logit. */
  logitBias: z.record(z.string().regex(/^\d+$/), z.number().min(-1_000).max(1_000)).default({}),
  /** The draw at a position is a function of seed and position alone: whoever takes a session over draws the same. */
  seed: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
})
export type SamplingParams = z.infer<typeof samplingParams>

/** What the answer must be. `json`: any JSON value; `schema`: JSON of this JSON schema; `regex` and `choice` as named. */
export const answerForm = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('json') }),
  z.object({ kind: z.literal('schema'), schema: json }),
  z.object({ kind: z.literal('regex'), pattern: z.string().max(4_096) }),
  z.object({ kind: z.literal('choice'), choices: z.array(z.string().min(1).max(1_000)).min(1).max(1_000) }),
])
export type AnswerForm = z.infer<typeof answerForm>

/** Everything that decides which tokens come: two peers given the same request give the same tokens. */
export const generationRequest = z.object({
  /** URI of the served model. */
  model: z.string().min(1).max(300),
  prompt: z.array(z.int().nonnegative()).min(1).max(1_048_576),
  maxTokens: z.int().min(1).max(1_048_576),
  sampling: samplingParams,
  /** The answer ends before the first of these; none of it is given out. */
  stop: z.array(z.string().min(1).max(1_000)).max(16).default([]),
  /** Also end at these ids, besides the model's own. */
  stopTokens: z.array(z.int().nonnegative()).max(64).default([]),
  /** Go on when the model says that it has finished. */
  ignoreEnd: z.boolean().default(false),
  form: answerForm.optional(),
  /** How many alternatives to report at each position. */
  topLogprobs: z.int().min(0).max(20).optional(),
  /** The trace it is part of. Decides nothing. */
  trace: traceparent.optional(),
})
export type GenerationRequest = z.infer<typeof generationRequest>

const logprob = z.object({ token: z.int().nonnegative(), logprob: z.number() })

/** The token at `index` (from 0) of the answer. `text`: what it adds to what is known for certain of the text; may be empty. */
export const tokenEvent = z.object({
  kind: z.literal('token'),
  index: z.int().nonnegative(),
  token: z.int().nonnegative(),
  text: z.string(),
  logprob: z.number().optional(),
  top: z.array(logprob).max(20).optional(),
})
export const endEvent = z.object({
  kind: z.literal('end'),
  /** `stop`: the model or a stop string ended it; `length`: maxTokens or the context. */
  reason: z.enum(['stop', 'length', 'cancelled', 'error']),
  /** Text that was held back until the end was known. */
  text: z.string(),
  promptTokens: z.int().nonnegative(),
  cachedTokens: z.int().nonnegative(),
  tokens: z.int().nonnegative(),
  failure: z.object({ code: z.string().max(40), message: z.string().max(2_000) }).optional(),
})
export const generationEvent = z.discriminatedUnion('kind', [tokenEvent, endEvent])
export type GenerationEvent = z.infer<typeof generationEvent>

/** One stage of the plan of a session: who computes these layers, and who stands by with the same KV. */
export const stagePlan = z.object({
  block: z.string().max(253),
  first: z.int().nonnegative(),
  end: z.int().positive(),
  host: peerId,
  instance: z.string().max(64),
  standby: z.object({ host: peerId, instance: z.string().max(64) }).optional(),
})
export type StagePlan = z.infer<typeof stagePlan>
