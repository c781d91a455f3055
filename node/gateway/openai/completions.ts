import type { GenerationEvent, GenerationRequest } from '../../../protocols/generation.ts'
import { json, type Json } from '../../../protocols/ids.ts'
import type { ModelText } from '../../../src/llm/text/model-text.ts'
import { ChoiceReader, usageOf, type Added } from './choice-reader.ts'
import type { ChoiceEvent } from './choices.ts'
import type { ServerEvent } from './event-stream.ts'
import { wrong } from './failure.ts'
import { completionLogprobs } from './logprobs.ts'
import type { CompletionRequest } from './requests.ts'
import { generation, guidedForm, samplingOf, type Speaker } from './served-model.ts'

const COMPLETION_TOKENS = 16

/** How the completion of one or more prompts is written out. `echoes`: what stands before each choice. */
export type CompletionShape = { readonly id: string; readonly model: string; readonly created: number; readonly text: ModelText | undefined; readonly echoes: readonly string[]; readonly prompts: number; readonly usage: boolean; readonly after: readonly number[] }
export type Completion = { readonly requests: readonly GenerationRequest[]; readonly echoes: readonly string[]; readonly prompts: number }

/** A request for each choice of each prompt, those of one prompt after each other. Throws BAD_INPUT naming the parameter. */
export function completionGenerations(by: Speaker, asked: CompletionRequest, seed: number): Completion {
  const count = asked.n ?? 1
  if (asked.best_of !== undefined && asked.best_of !== null && asked.best_of !== count) throw wrong('best_of', 'best_of is not supported: ask for n answers and choose')
  if (asked.echo === true && asked.logprobs !== undefined && asked.logprobs !== null) throw wrong('logprobs', 'logprobs of an echoed prompt are not supported')
  const form = guidedForm(asked)
  const prompts = promptsOf(asked.prompt ?? '').map(prompt => {
    const tokens = typeof prompt === 'string' ? by.text.encode(prompt, true) : prompt
    const first = by.manifest.facts.beginToken ?? by.manifest.facts.endTokens[0]
    if (tokens.length === 0 && first === undefined) throw wrong('prompt', 'this model cannot begin with nothing: give a prompt')
    const unknown = typeof prompt === 'string' ? undefined : tokens.find(token => token >= by.manifest.facts.vocab)
    if (unknown !== undefined) throw wrong('prompt', `the model has no token ${unknown}; its vocabulary has ${by.manifest.facts.vocab}`)
    return { tokens: tokens.length === 0 && first !== undefined ? [first] : tokens, text: asked.echo !== true ? '' : typeof prompt === 'string' ? prompt : by.text.decode(prompt) }
  })
  const all = prompts.flatMap(prompt => Array.from({ length: count }, (_, choice) => ({ ...prompt, choice })))
  return {
    requests: all.map(({ tokens, choice }) => generation(by, tokens, asked, { sampling: samplingOf(asked, by.manifest, seed + choice), maxTokens: asked.max_tokens ?? COMPLETION_TOKENS, form, topLogprobs: asked.logprobs ?? undefined })),
    echoes: all.map(({ text }) => text), prompts: prompts.length,
  }
}

/** The whole answer. */
export async function completion(events: AsyncIterable<ChoiceEvent>, sessions: readonly string[], shape: CompletionShape): Promise<Json> {
  const choices = sessions.map(session => ({ reader: new ChoiceReader(session, undefined), added: [] as Added[] }))
  for await (const { index, event } of events) {
    const choice = choices[index]
    choice?.added.push(choice.reader.take(event))
  }
  const written = choices.map(({ added }, index) => {
    const echo = shape.echoes[index] ?? ''
    return { index, text: echo + added.map(part => part.content).join(''), logprobs: logprobsOf(shape, added.flatMap(({ token }) => token ?? []), echo.length), finish_reason: added.at(-1)?.finish ?? 'stop' }
  })
  return json.parse({ id: shape.id, object: 'text_completion', created: shape.created, model: shape.model, choices: written, usage: usageOf(choices.map(({ added }) => added.at(-1)?.end), shape.prompts), system_fingerprint: null })
}

/** The answer in pieces as they come. Pieces before `shape.after` (tokens of each choice) are read but not written. */
export async function * completionChunks(events: AsyncIterable<ChoiceEvent>, sessions: readonly string[], shape: CompletionShape): AsyncGenerator<ServerEvent> {
  const readers = sessions.map(session => new ChoiceReader(session, undefined))
  const told = sessions.map(() => 0)
  const characters = sessions.map((_, index) => shape.echoes[index]?.length ?? 0)
  const ends: (Added['end'])[] = sessions.map(() => undefined)
  const chunk = (choices: readonly unknown[], usage?: unknown): ServerEvent => ({ id: told.join('.'), data: { id: shape.id, object: 'text_completion', created: shape.created, model: shape.model, system_fingerprint: null, choices, ...(shape.usage ? { usage: usage ?? null } : {}) } })
  for (const index of sessions.keys()) if ((shape.after[index] ?? 0) === 0 && shape.echoes[index] !== undefined && shape.echoes[index] !== '') yield chunk([{ index, text: shape.echoes[index], logprobs: null, finish_reason: null }])
  for await (const { index, event } of events) {
    const { content, token, end, finish } = readers[index]!.take(event)
    const logprobs = token === undefined ? null : logprobsOf(shape, [token], characters[index] ?? 0)
    characters[index] = (characters[index] ?? 0) + content.length
    if (token !== undefined) told[index] = token.index + 1
    if (token !== undefined && told[index]! <= (shape.after[index] ?? 0)) continue
    if (content !== '' || logprobs !== null || finish !== undefined) yield chunk([{ index, text: content, logprobs, finish_reason: finish ?? null }])
    if (finish !== undefined) ends[index] = end
  }
  if (shape.usage) yield chunk([], usageOf(ends, shape.prompts))
}

function promptsOf(prompt: NonNullable<CompletionRequest['prompt']>): readonly (string | readonly number[])[] {
  if (typeof prompt === 'string') return [prompt]
  const numbers = prompt.filter(item => typeof item === 'number')
  return numbers.length > 0 ? [numbers] : prompt.filter(item => typeof item !== 'number')
}

function logprobsOf({ text }: CompletionShape, tokens: readonly Extract<GenerationEvent, { kind: 'token' }>[], offset: number): unknown {
  return text === undefined ? null : completionLogprobs(text, tokens, offset) ?? null
}
