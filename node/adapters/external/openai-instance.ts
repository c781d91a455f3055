import { z } from 'zod'
import { MeshError } from '../../../protocols/errors.ts'
import { json, type Json } from '../../../protocols/ids.ts'
import type { Packet } from '../../../protocols/invoke.ts'
import type { Health } from '../../../src/ports.ts'
import { asked, believed, bounded, linesOf, parsed } from '../http-instance.ts'

const models = z.looseObject({ data: z.array(z.looseObject({ id: z.string() })) })
const request = z.record(z.string(), json)
const failure = z.looseObject({ error: z.union([z.string(), z.looseObject({ message: z.string() }).transform(({ message }) => message)]) })

/**
 * A server that speaks OpenAI's HTTP (vLLM, TGI, llama.cpp, Ollama, another peer) as an instance. What a packet asks decides
 * the route: `messages` chat, `prompt` completions, `input` embeddings, a bare text chat. Streams where `stream` is true: each
 * chunk is an answer. Healthy while its models route answers.
 */
export class OpenAiInstance {
  readonly #base: string
  readonly #headers: Readonly<Record<string, string>>
  #model: string | undefined

  /** `base`: with or without `/v1`. `model`: what the server calls it; else the first it names. */
  constructor(base: string, options: { readonly model?: string | undefined; readonly key?: string | undefined } = {}) {
    this.#base = base.replace(/\/+$/, '').replace(/\/v1$/, '')
    this.#headers = options.key === undefined ? {} : { authorization: `Bearer ${options.key}` }
    this.#model = options.model
  }

  async *infer(packet: Packet, signal: AbortSignal): AsyncGenerator<Packet> {
    const { path, body } = route(packet.data)
    const model = this.#model ??= (await this.#models(signal))[0]
    if (model === undefined) throw new MeshError('INSTANCE_FAILED', 'the server names no model: say which in blockInitData.model')
    const response = await asked(`${this.#base}/v1/${path}`, { method: 'POST', headers: { 'content-type': 'application/json', ...this.#headers }, body: JSON.stringify({ ...body, model }) }, signal)
    if (body['stream'] !== true) return yield { ...packet, data: believed(json, parsed(await bounded(response, signal)), 'the answer'), files: [] }
    for await (const line of linesOf(response, signal)) {
      if (!line.startsWith('data:')) continue
      const text = line.slice(5).trim()
      if (text === '[DONE]') return undefined
      const chunk = believed(json, parsed(text), 'a piece of the answer')
      // Servers that fail in the middle of a stream say so in it.
      const failed = failure.safeParse(chunk)
      if (failed.success) throw new MeshError('COMPONENT_ERROR', `the server gave up: ${failed.data.error}`.slice(0, 600))
      yield { ...packet, data: chunk, files: [] }
    }
    throw new MeshError('INSTANCE_FAILED', 'the server broke off in the middle of its answer')
  }

  async health(signal: AbortSignal): Promise<Health> {
    const names = await this.#models(signal)
    return { healthy: this.#model === undefined ? names.length > 0 : names.includes(this.#model), detail: { models: names.slice(0, 100) } }
  }

  async management(action: string, _: Json, signal: AbortSignal): Promise<Json> {
    if (action === 'models') return this.#models(signal)
    throw new MeshError('COMPONENT_ERROR', `an external server knows the command models, not ${action}`)
  }

  /** `{ model }` changes which of the server's models answers. */
  async update(parameters: Json): Promise<Json> {
    const read = z.looseObject({ model: z.string().min(1).optional() }).safeParse(parameters)
    if (!read.success) throw new MeshError('BAD_INPUT', 'parameters of an external server are { "model": "…" }')
    this.#model = read.data.model ?? this.#model
    return parameters
  }

  async #models(signal: AbortSignal): Promise<readonly string[]> {
    const response = await asked(`${this.#base}/v1/models`, { headers: { ...this.#headers } }, signal)
    return believed(models, parsed(await bounded(response, signal)), 'the list of models').data.map(({ id }) => id)
  }
}

function route(data: Json): { readonly path: string; readonly body: Readonly<Record<string, Json>> } {
  if (typeof data === 'string') return { path: 'chat/completions', body: { messages: [{ role: 'user', content: data }] } }
  const body = request.safeParse(data)
  const path = !body.success ? undefined : 'messages' in body.data ? 'chat/completions' : 'prompt' in body.data ? 'completions' : 'input' in body.data ? 'embeddings' : undefined
  if (!body.success || path === undefined) throw new MeshError('BAD_INPUT', 'send what OpenAI’s routes take: { "messages": […] }, { "prompt": … }, { "input": … }, or a text')
  return { path, body: body.data }
}
