import { z } from 'zod'
import type { AnswerForm, GenerationRequest } from '../../../protocols/generation.ts'
import { json, type Json } from '../../../protocols/ids.ts'
import type { ModelText } from '../../../src/llm/text/model-text.ts'
import type { ChatMessage } from '../../../src/llm/text/chat-template.ts'
import type { ChoiceEvent } from './choices.ts'
import { ChoiceReader, usageOf, type Added, type NumberedCall } from './choice-reader.ts'
import type { ServerEvent } from './event-stream.ts'
import { wrong } from './failure.ts'
import { chatLogprob } from './logprobs.ts'
import type { ChatRequest } from './requests.ts'
import { generation, guidedForm, samplingOf, type Speaker } from './served-model.ts'
import { forcedCall, offeredTools, type callsOf } from './tool-choice.ts'

/** How an answer to a conversation is written out. */
export type ChatShape = { readonly id: string; readonly model: string; readonly created: number; readonly text: ModelText | undefined; readonly calls: ReturnType<typeof callsOf>; readonly usage: boolean; readonly after: readonly number[] }

const messages = z.array(z.record(z.string(), json).and(z.object({ role: z.string() })))

/** One request a choice. Throws BAD_INPUT naming the parameter, SPEC_INVALID for a form that cannot be kept. */
export function chatGenerations(by: Speaker, asked: ChatRequest, seed: number): readonly GenerationRequest[] {
  const tools = offeredTools(asked)
  const forced = forcedCall(asked)
  const form = forced ?? responseForm(asked) ?? guidedForm(asked)
  // A developer's words are what the system's were; most templates know the older name only.
  const role = (said: string): string => (said === 'developer' && !by.text.chat.says('developer') ? 'system' : said)
  const conversation: readonly ChatMessage[] = messages.parse(asked.messages).map(message => ({ ...message, role: role(message.role) }))
  const rendered = by.text.chat.render({ messages: conversation, ...(tools.length === 0 ? {} : { tools: z.array(json).parse(tools) }), ...(asked.chat_template_kwargs === undefined || asked.chat_template_kwargs === null ? {} : { more: asked.chat_template_kwargs }) })
  // A model that was taught to tag its calls begins one as it was taught; what comes then is held to the form.
  const prompt = by.text.encode(forced !== undefined && by.text.chat.says('<tool_call>') ? `${rendered}<tool_call>\n` : rendered, false)
  if (asked.top_logprobs !== undefined && asked.top_logprobs !== null && asked.logprobs !== true) throw wrong('top_logprobs', 'top_logprobs wants logprobs to be true')
  const topLogprobs = asked.logprobs === true ? asked.top_logprobs ?? 0 : undefined
  return Array.from({ length: asked.n ?? 1 }, (_, index) => generation(by, prompt, asked, { sampling: samplingOf(asked, by.manifest, seed + index), maxTokens: asked.max_completion_tokens ?? asked.max_tokens ?? undefined, form, topLogprobs }))
}

/** The whole answer. */
export async function chatCompletion(events: AsyncIterable<ChoiceEvent>, sessions: readonly string[], shape: ChatShape): Promise<Json> {
  const choices = sessions.map(session => ({ reader: new ChoiceReader(session, shape.calls), added: [] as Added[] }))
  for await (const { index, event } of events) {
    const choice = choices[index]
    choice?.added.push(choice.reader.take(event))
  }
  const written = choices.map(({ added }, index) => {
    const content = added.map(part => part.content).join('')
    const calls = added.flatMap(part => part.calls)
    const logprobs = added.flatMap(({ token }) => (token === undefined || shape.text === undefined ? [] : chatLogprob(shape.text, token) ?? []))
    return {
      index, message: { role: 'assistant', content: content === '' && calls.length > 0 ? null : content, refusal: null, ...(calls.length === 0 ? {} : { tool_calls: calls.map(callOf) }) },
      logprobs: logprobs.length === 0 ? null : { content: logprobs, refusal: null }, finish_reason: added.at(-1)?.finish ?? 'stop',
    }
  })
  return json.parse({ id: shape.id, object: 'chat.completion', created: shape.created, model: shape.model, choices: written, usage: usageOf(choices.map(({ added }) => added.at(-1)?.end), 1), system_fingerprint: null, service_tier: null })
}

/** The answer in pieces as they come. Pieces before `shape.after` (tokens of each choice) are read but not written. */
export async function * chatChunks(events: AsyncIterable<ChoiceEvent>, sessions: readonly string[], shape: ChatShape): AsyncGenerator<ServerEvent> {
  const readers = sessions.map(session => new ChoiceReader(session, shape.calls))
  const told = sessions.map(() => 0)
  const ends: (Added['end'])[] = sessions.map(() => undefined)
  const chunk = (choices: readonly unknown[], usage?: unknown): ServerEvent => ({
    id: told.join('.'),
    data: { id: shape.id, object: 'chat.completion.chunk', created: shape.created, model: shape.model, system_fingerprint: null, choices, ...(shape.usage ? { usage: usage ?? null } : {}) },
  })
  const piece = (index: number, delta: unknown, finish: string | null, logprobs: unknown = null): ServerEvent => chunk([{ index, delta, logprobs, finish_reason: finish }])
  for (const index of sessions.keys()) if ((shape.after[index] ?? 0) === 0) yield piece(index, { role: 'assistant', content: '', refusal: null }, null)
  for await (const { index, event } of events) {
    const { content, calls, token, end, finish } = readers[index]!.take(event)
    if (token !== undefined) told[index] = token.index + 1
    if (token !== undefined && told[index]! <= (shape.after[index] ?? 0)) continue
    const logprob = token === undefined || shape.text === undefined ? undefined : chatLogprob(shape.text, token)
    if (content !== '' || logprob !== undefined) yield piece(index, { content }, null, logprob === undefined ? null : { content: [logprob], refusal: null })
    for (const call of calls) yield piece(index, { tool_calls: [{ index: call.index, ...callOf(call) }] }, null)
    if (finish !== undefined) {
      ends[index] = end
      yield piece(index, {}, finish)
    }
  }
  if (shape.usage) yield chunk([], usageOf(ends, 1))
}

function callOf({ id, name, arguments: given }: NumberedCall): { readonly id: string; readonly type: 'function'; readonly function: { readonly name: string; readonly arguments: string } } {
  return { id, type: 'function', function: { name, arguments: given } }
}

function responseForm({ response_format: format }: ChatRequest): AnswerForm | undefined {
  if (format === undefined || format === null || format.type === 'text') return undefined
  return { kind: 'schema', schema: format.type === 'json_object' ? { type: 'object' } : format.json_schema.schema ?? { type: 'object' } }
}
