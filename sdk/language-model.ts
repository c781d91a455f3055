import { z } from 'zod'
import { MeshError, isErrorCode, type ErrorCode } from '../protocols/errors.ts'
import type { Json } from '../protocols/ids.ts'
import { LlmMetrics } from './llm-metrics.ts'
import { serverEvents } from './server-events.ts'

export type LanguageModelOptions = {
  /** Name of a served model, as `aios model list` shows it. */
  readonly model: string
  /** Door of any peer of the network, e.g. `http://127.0.0.1:8080`. */
  readonly url: string
  /** The token of that peer's daemon.json; not needed on its own host. */
  readonly token?: string
  readonly metrics?: LlmMetrics
}

/** OpenAI's parameters, by their own names (`temperature`, `max_tokens`, `stop`, `response_format`, `tools`…). */
export type GenerateOptions = Readonly<Record<string, Json>>
export type ChatTurn = { readonly role: string; readonly content: string }
export type Generated = { readonly id: string; readonly text: string; readonly finish: string; readonly promptTokens: number; readonly tokens: number; readonly toolCalls: readonly { readonly name: string; readonly arguments: string }[] }

const usage = z.object({ prompt_tokens: z.int(), completion_tokens: z.int() })
const toolCall = z.object({ function: z.object({ name: z.string(), arguments: z.string() }) })
const completed = z.object({ id: z.string(), choices: z.array(z.looseObject({ text: z.string().optional(), message: z.looseObject({ content: z.string().nullable(), tool_calls: z.array(toolCall).optional() }).optional(), finish_reason: z.string().nullable() })).min(1), usage })
const piece = z.object({ id: z.string(), choices: z.array(z.looseObject({ text: z.string().optional(), delta: z.looseObject({ content: z.string().nullish() }).optional() })) })
const failure = z.object({ error: z.looseObject({ message: z.string(), code: z.string().nullable() }) })
const host = z.object({ peer: z.string(), instance: z.string(), state: z.string() })
const modelInfo = z.looseObject({
  id: z.string(), max_model_len: z.int().optional(), chat: z.boolean().default(false), tokenizer: z.boolean().default(false), facts: z.record(z.string(), z.json()).default({}),
  stages: z.array(z.object({ block: z.string(), first: z.int(), end: z.int(), hosts: z.array(host) })).default([]),
})
export type LanguageModelInfo = z.infer<typeof modelInfo>

/** A language model of the mesh, for programs: AIOS's LLM calls over the door of any peer. Throws MeshError with the peer's own words. */
export class LanguageModel {
  readonly metrics: LlmMetrics
  readonly #options: LanguageModelOptions
  #seed: number | undefined

  constructor(options: LanguageModelOptions) {
    this.#options = options
    this.metrics = options.metrics ?? new LlmMetrics()
  }

  /** Every later answer is drawn with this seed, unless its options name another. */
  setSeed(seed: number | undefined): void {
    this.#seed = seed
  }

  generate(prompt: string, options: GenerateOptions = {}, signal?: AbortSignal): Promise<Generated> {
    return this.#whole('/v1/completions', { prompt, ...options }, signal)
  }

  chat(messages: readonly ChatTurn[], options: GenerateOptions = {}, signal?: AbortSignal): Promise<Generated> {
    return this.#whole('/v1/chat/completions', { messages: messages.map(turn => ({ ...turn })), ...options }, signal)
  }

  /** Text as it comes. Leaving the loop cancels the answer. */
  stream(prompt: string, options: GenerateOptions = {}, signal?: AbortSignal): AsyncGenerator<string> {
    return this.#pieces('/v1/completions', { prompt, ...options }, signal)
  }

  streamChat(messages: readonly ChatTurn[], options: GenerateOptions = {}, signal?: AbortSignal): AsyncGenerator<string> {
    return this.#pieces('/v1/chat/completions', { messages: messages.map(turn => ({ ...turn })), ...options }, signal)
  }

  /** Vectors of texts, where this is a model of embeddings. */
  async embed(texts: readonly string[], signal?: AbortSignal): Promise<readonly (readonly number[])[]> {
    const answer = z.object({ data: z.array(z.object({ embedding: z.array(z.number()) })) }).parse(await this.#post('/v1/embeddings', { input: [...texts], encoding_format: 'float' }, signal))
    return answer.data.map(({ embedding }) => embedding)
  }

  async tokenize(text: string, signal?: AbortSignal): Promise<readonly number[]> {
    return z.object({ tokens: z.array(z.int()) }).parse(await this.#post('/v1/tokenize', { prompt: text }, signal)).tokens
  }

  /** Tokens of a conversation as the model's chat template writes it. */
  async countChat(messages: readonly ChatTurn[], signal?: AbortSignal): Promise<number> {
    return z.object({ count: z.int() }).parse(await this.#post('/v1/tokenize', { messages: messages.map(turn => ({ ...turn })) }, signal)).count
  }

  async detokenize(tokens: readonly number[], signal?: AbortSignal): Promise<string> {
    return z.object({ prompt: z.string() }).parse(await this.#post('/v1/detokenize', { tokens: [...tokens] }, signal)).prompt
  }

  /** What the model is, and who computes which layers now. */
  async info(signal?: AbortSignal): Promise<LanguageModelInfo> {
    return modelInfo.parse(await (await this.#fetch('GET', `/v1/models/${encodeURIComponent(this.#options.model)}`, undefined, signal)).json())
  }

  async supportsChat(signal?: AbortSignal): Promise<boolean> {
    return (await this.info(signal)).chat
  }

  async #whole(path: string, asked: Readonly<Record<string, Json>>, signal: AbortSignal | undefined): Promise<Generated> {
    const done = this.metrics.began()
    try {
      const { id, choices: [choice], usage: { prompt_tokens: promptTokens, completion_tokens: tokens } } = completed.parse(await this.#post(path, this.#seeded(asked), signal))
      done.ended(promptTokens, tokens)
      return { id, text: choice?.text ?? choice?.message?.content ?? '', finish: choice?.finish_reason ?? 'stop', promptTokens, tokens, toolCalls: (choice?.message?.tool_calls ?? []).map(call => call.function) }
    } catch (error) {
      done.failed()
      throw error
    }
  }

  async * #pieces(path: string, asked: Readonly<Record<string, Json>>, signal: AbortSignal | undefined): AsyncGenerator<string> {
    const done = this.metrics.began()
    const left = new AbortController()
    let counted: z.infer<typeof usage> | undefined
    try {
      const response = await this.#fetch('POST', path, { ...this.#seeded(asked), model: this.#options.model, stream: true, stream_options: { include_usage: true } }, signal === undefined ? left.signal : AbortSignal.any([signal, left.signal]))
      if (response.body === null) return
      for await (const event of serverEvents(response.body)) {
        const failed = failure.safeParse(event)
        if (failed.success) throw refusal(failed.data, 500)
        counted = z.object({ usage }).safeParse(event).data?.usage ?? counted
        const [choice] = piece.parse(event).choices
        const text = choice?.text ?? choice?.delta?.content ?? ''
        if (text === '') continue
        done.first()
        yield text
      }
      done.ended(counted?.prompt_tokens ?? 0, counted?.completion_tokens ?? 0)
    } catch (error) {
      done.failed()
      throw error
    } finally {
      left.abort()
    }
  }

  #seeded(asked: Readonly<Record<string, Json>>): Readonly<Record<string, Json>> {
    return this.#seed === undefined ? asked : { seed: this.#seed, ...asked }
  }

  async #post(path: string, body: Readonly<Record<string, Json>>, signal: AbortSignal | undefined): Promise<unknown> {
    return (await this.#fetch('POST', path, { model: this.#options.model, ...body }, signal)).json()
  }

  async #fetch(method: string, path: string, body: Json | undefined, signal: AbortSignal | undefined): Promise<Response> {
    const { url, token } = this.#options
    let response: Response
    try {
      response = await fetch(`${url.replace(/\/+$/, '')}${path}`, {
        method, headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }), ...(signal === undefined ? {} : { signal }),
      })
    } catch (cause) {
      if (signal?.aborted === true) throw new MeshError('CANCELLED', 'stopped', { cause })
      throw new MeshError('PEER_UNREACHABLE', `the peer at ${url} does not answer`, { cause })
    }
    if (response.ok) return response
    const said = failure.safeParse(await response.json().catch(() => undefined))
    throw refusal(said.data, response.status)
  }
}

function refusal(said: z.infer<typeof failure> | undefined, status: number): MeshError {
  const known = said?.error.code?.toUpperCase() ?? ''
  const code: ErrorCode = isErrorCode(known) ? known : status === 404 ? 'NOT_FOUND' : status < 500 ? 'BAD_INPUT' : 'INTERNAL'
  return new MeshError(code, said?.error.message ?? `the peer answered ${status} without saying why`)
}
