import { Template } from '@huggingface/jinja'
import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'
import type { TextSetup } from './tokenizer-files.ts'

export type ChatMessage = JsonObject & { readonly role: string }
/** `more`: what else the template may ask for (`enable_thinking`, `documents`…). */
export type ChatPrompt = { readonly messages: readonly ChatMessage[]; readonly tools?: readonly Json[]; readonly continues?: boolean; readonly more?: JsonObject }

/** Writes a conversation as the model was trained to read it. */
export class ChatTemplate {
  readonly #sources: readonly { readonly name: string; readonly template: string }[]
  readonly #variables: Readonly<Record<string, Json>>
  readonly #parsed = new Map<string, Template>()

  constructor({ template, config }: Pick<TextSetup, 'template' | 'config'>) {
    this.#sources = template === undefined ? [] : typeof template === 'string' ? [{ name: 'default', template }] : template
    const tokens = Object.entries(config).filter(([name, value]) => name.endsWith('_token') && typeof value === 'string')
    this.#variables = Object.fromEntries(tokens.map(([name, value]) => [name, String(value)]))
  }

  get known(): boolean {
    return this.#sources.length > 0
  }

  /** True when the template, or the one for tools, says this anywhere: how a model writes its tool calls shows there. */
  says(text: string): boolean {
    return this.#sources.some(({ template }) => template.includes(text))
  }

  /** Throws BAD_INPUT when the model has none, or the template refuses the conversation. */
  render({ messages, tools, continues = false, more = {} }: ChatPrompt): string {
    const named = (name: string): string | undefined => this.#sources.find(source => source.name === name)?.template
    const source = (tools === undefined ? undefined : named('tool_use')) ?? named('default') ?? this.#sources[0]?.template
    if (source === undefined) throw new MeshError('BAD_INPUT', 'this model has no chat template: use completions with a prompt of your own')
    try {
      let template = this.#parsed.get(source)
      if (template === undefined) this.#parsed.set(source, (template = new Template(source)))
      return template.render({ ...this.#variables, ...more, messages: messages.map(plain), ...(tools === undefined ? {} : { tools }), add_generation_prompt: !continues })
    } catch (cause) {
      throw new MeshError('BAD_INPUT', `the model's chat template refuses this conversation: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
  }
}

/** As templates expect it: text parts joined, arguments of tool calls as objects. */
function plain(message: ChatMessage): JsonObject {
  const { content, tool_calls: calls, ...rest } = message
  return { ...rest, content: Array.isArray(content) ? content.map(text).join('') : content ?? '', ...(Array.isArray(calls) ? { tool_calls: calls.map(withArguments) } : {}) }
}

function text(part: Json): string {
  if (typeof part === 'string') return part
  if (isJsonObject(part) && typeof part['text'] === 'string') return part['text']
  throw new MeshError('BAD_INPUT', `a message has a part of type ${isJsonObject(part) ? JSON.stringify(part['type'] ?? null) : typeof part}; this model reads text only`)
}

function withArguments(call: Json): Json {
  const given = isJsonObject(call) ? call['function'] : undefined
  if (!isJsonObject(call) || !isJsonObject(given) || typeof given['arguments'] !== 'string') return call
  try {
    const parsed: Json = JSON.parse(given['arguments'])
    return { ...call, function: { ...given, arguments: parsed } }
  } catch {
    return call
  }
}
