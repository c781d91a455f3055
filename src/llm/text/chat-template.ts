import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'
import { PromptTemplate } from '../jinja/prompt-template.ts'
import { TemplateFault } from '../jinja/values.ts'
import type { TextSetup } from './tokenizer-files.ts'

export type ChatMessage = JsonObject & { readonly role: string }
/** `more`: what else the template may ask for (`enable_thinking`, `documents`…). */
export type ChatPrompt = { readonly messages: readonly ChatMessage[]; readonly tools?: readonly Json[]; readonly continues?: boolean; readonly more?: JsonObject }

type Source = { readonly name: string; readonly template: string }
type Read = { readonly template: PromptTemplate; readonly shape: Shape }
type Shape = { readonly parts: boolean; readonly nothing: boolean }

/** Templates that go through the parts of a message, and those that ask whether it has any content. */
const READS_PARTS = /\bfor\s+\w+\s+in\s+[\w.[\]'"]*\bcontent\b(?!['"\]]*\s*[.(|])/
const ASKS_FOR_NONE = /\bcontent(?:['"]\s*\])?\s*(?:is\s+(?:not\s+)?none|[!=]=\s*none)\b/i

/** Writes a conversation as the model was trained to read it, and as Hugging Face's transformers writes it. */
export class ChatTemplate {
  readonly #sources: readonly Source[]
  readonly #variables: JsonObject
  readonly #now: () => number
  readonly #read = new Map<string, Read>()

  /** `now`: milliseconds since 1970, for templates that write the date (in UTC, so that any peer writes the same). */
  constructor({ template, config }: Pick<TextSetup, 'template' | 'config'>, now: () => number = noClock) {
    this.#sources = template === undefined ? [] : typeof template === 'string' ? [{ name: 'default', template }] : template
    this.#variables = specialTokens(config)
    this.#now = now
  }

  get known(): boolean {
    return this.#sources.length > 0
  }

  /** True when the template, or the one for tools, says this anywhere: how a model writes its tool calls shows there. */
  says(text: string): boolean {
    return this.#sources.some(({ template }) => template.includes(text))
  }

  /** Throws SPEC_INVALID naming the construct and its line, where a template has one that cannot be rendered here. */
  mustBeReadable(): void {
    for (const source of this.#sources) this.#template(source)
  }

  /** Throws BAD_INPUT when the model has none, or the template refuses the conversation; SPEC_INVALID as `mustBeReadable`. */
  render({ messages, tools, continues = false, more = {} }: ChatPrompt): string {
    const named = (name: string): Source | undefined => this.#sources.find(source => source.name === name)
    const source = (tools === undefined ? undefined : named('tool_use')) ?? named('default') ?? this.#sources[0]
    if (source === undefined) throw new MeshError('BAD_INPUT', 'this model has no chat template: use completions with a prompt of your own')
    const { template, shape } = this.#template(source)
    const write = (messages: readonly JsonObject[]): string => template.render({ tools: tools ?? null, documents: null, ...this.#variables, ...more, messages, add_generation_prompt: !continues }, this.#now)
    const given = messages.map(message => plain(message, shape))
    const parsed = given.map(withArguments)
    try {
      return write(parsed)
    } catch (cause) {
      // Some templates set the arguments of a call as the text that they are in OpenAI's format.
      if (parsed.some((message, at) => message !== given[at])) {
        try {
          return write(given)
        } catch {
          // The first says what is wrong.
        }
      }
      throw new MeshError('BAD_INPUT', `the model's chat template refuses this conversation: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
  }

  #template({ name, template: source }: Source): Read {
    const known = this.#read.get(source)
    if (known !== undefined) return known
    try {
      const read = { template: new PromptTemplate(source), shape: { parts: READS_PARTS.test(source), nothing: ASKS_FOR_NONE.test(source) } }
      this.#read.set(source, read)
      return read
    } catch (cause) {
      throw new MeshError('SPEC_INVALID', `the model's chat template${name === 'default' ? '' : ` "${name}"`} cannot be rendered here: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
  }
}

function noClock(): never {
  throw new TemplateFault('the template asks for the date, and there is no clock here')
}

/** `bos_token`, `eos_token` and what else the tokenizer names, as transformers hands them to templates. */
function specialTokens(config: TextSetup['config']): JsonObject {
  const content = (value: unknown): string | undefined => {
    const inner: unknown = typeof value === 'object' && value !== null && 'content' in value ? value.content : value
    return typeof inner === 'string' ? inner : undefined
  }
  const tokens = Object.entries(config).flatMap(([name, value]): [string, string][] => {
    const token = name.endsWith('_token') ? content(value) : undefined
    return token === undefined ? [] : [[name, token]]
  })
  const { additional_special_tokens: additional } = config
  return { ...Object.fromEntries(tokens), ...(Array.isArray(additional) ? { additional_special_tokens: additional.map(content).filter(token => token !== undefined) } : {}) }
}

/**
 * As the template expects it: text parts joined where it does not go through them. No content is None where the template asks for
 * that, and empty where it would print "None".
 */
function plain(message: ChatMessage, { parts, nothing }: Shape): JsonObject {
  const { content = null } = message
  // OpenAI's clients send the fields of an answer back, null where it had none; templates ask whether there are any.
  const said = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null))
  if (content === null) return { ...said, content: nothing ? null : '' }
  if (!Array.isArray(content)) return said
  const texts = content.map(text)
  return { ...said, content: parts ? texts.map(text => ({ type: 'text', text })) : texts.join('') }
}

function text(part: Json): string {
  if (typeof part === 'string') return part
  if (isJsonObject(part) && typeof part['text'] === 'string') return part['text']
  throw new MeshError('BAD_INPUT', `a message has a part of type ${isJsonObject(part) ? JSON.stringify(part['type'] ?? null) : typeof part}; this model reads text only`)
}

/** Arguments of calls as objects, where they came as text. */
function withArguments(message: JsonObject): JsonObject {
  const { tool_calls: calls } = message
  return Array.isArray(calls) && calls.some(call => objectOf(call) !== undefined) ? { ...message, tool_calls: calls.map(call => objectOf(call) ?? call) } : message
}

function objectOf(call: Json): Json | undefined {
  const given = isJsonObject(call) ? call['function'] : undefined
  if (!isJsonObject(call) || !isJsonObject(given) || typeof given['arguments'] !== 'string') return undefined
  try {
    const parsed: Json = JSON.parse(given['arguments'])
    return { ...call, function: { ...given, arguments: parsed } }
  } catch {
    return undefined
  }
}
