import { z } from 'zod'
import type { AnswerForm } from '../../../protocols/generation.ts'
import type { Json } from '../../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../../lib/json.ts'

/** A call that a model asks for. `arguments`: JSON text, as OpenAI has it. */
export type ToolCall = { readonly name: string; readonly arguments: string }
export type Tool = { readonly name: string; readonly parameters?: JsonObject }
export type Heard = { readonly content: string; readonly calls: readonly ToolCall[] }

const OPEN = '<tool_call>'
const CLOSE = '</tool_call>'
/** What a call may be written as: Hermes and Qwen say `arguments`, Llama 3 `parameters`, Mistral and others put them in a list or inside `function`. */
const written = z.looseObject({ name: z.string(), arguments: z.json().optional(), parameters: z.json().optional() })

/**
 * Finds tool calls in an answer as its text comes: between `<tool_call>` tags, or as an answer that is JSON from its first sign.
 * Text that may become a call is held back; what turns out to be none is given out as it was. `known`: says whether a name is one of the tools.
 */
export class ToolCallReader {
  readonly #known: (name: string) => boolean
  #mode: 'start' | 'text' | 'tag' | 'json' = 'start'
  #held = ''
  #called = false

  constructor(known: (name: string) => boolean) {
    this.#known = known
  }

  push(text: string): Heard {
    this.#held += text
    let content = ''
    const calls: ToolCall[] = []
    for (;;) {
      if (this.#mode === 'start') {
        const first = this.#held.trimStart()[0]
        if (first === undefined) return { content, calls }
        this.#mode = '{['.includes(first) ? 'json' : 'text'
      }
      if (this.#mode === 'json') return { content, calls }
      if (this.#mode === 'tag') {
        const end = this.#held.indexOf(CLOSE)
        if (end < 0) return { content, calls }
        const inner = this.#held.slice(0, end)
        const found = this.#read(inner)
        if (found === undefined) content += OPEN + inner + CLOSE
        else calls.push(...found)
        this.#called ||= found !== undefined
        this.#held = this.#held.slice(end + CLOSE.length)
        this.#mode = 'text'
        continue
      }
      const start = this.#held.indexOf(OPEN)
      if (start < 0) {
        const keep = tail(this.#held)
        content += this.#held.slice(0, this.#held.length - keep)
        this.#held = this.#held.slice(this.#held.length - keep)
        return { content, calls }
      }
      content += this.#held.slice(0, start).trimEnd()
      this.#held = this.#held.slice(start + OPEN.length)
      this.#mode = 'tag'
    }
  }

  /** The answer is over. */
  end(): Heard {
    const held = this.#held
    this.#held = ''
    if (this.#mode === 'tag') {
      const calls = this.#read(held)
      return calls === undefined ? { content: OPEN + held, calls: [] } : { content: '', calls }
    }
    const calls = this.#mode === 'json' ? this.#read(held) : undefined
    return calls === undefined ? { content: this.#called && held.trim() === '' ? '' : held, calls: [] } : { content: '', calls }
  }

  /** One call, a list of them, or several after one another with `;` or a line break between. Undefined when any part is none. */
  #read(text: string): readonly ToolCall[] | undefined {
    const whole = parsed(text)
    const values = whole === undefined ? text.split(/;\s*(?=\{)|\n\s*(?=\{)/).map(parsed) : Array.isArray(whole) ? whole : [whole]
    const calls = values.map(value => this.#call(value))
    return calls.length > 0 && calls.every(call => call !== undefined) ? calls : undefined
  }

  #call(value: Json | undefined): ToolCall | undefined {
    const inner = isJsonObject(value) && isJsonObject(value['function']) ? value['function'] : value
    const { success, data } = written.safeParse(inner)
    if (!success || !this.#known(data.name)) return undefined
    const given = data.arguments ?? data.parameters ?? {}
    return { name: data.name, arguments: typeof given === 'string' ? given : JSON.stringify(given) }
  }
}

/** The form of an answer that must be a call of one of `tools`. */
export function toolForm(tools: readonly Tool[]): AnswerForm {
  const branches = tools.map(({ name, parameters }, at): JsonObject => ({
    type: 'object', required: ['name', 'arguments'], additionalProperties: false,
    properties: { name: { const: name }, arguments: parameters === undefined || Object.keys(parameters).length === 0 ? { type: 'object' } : rebased(parameters, `#/anyOf/${at}/properties/arguments`) },
  }))
  return { kind: 'schema', schema: { anyOf: branches } }
}

/** References of a schema that has become part of another. */
function rebased(schema: JsonObject, root: string): JsonObject {
  const walk = (value: Json, key: string): Json => {
    if (key === '$ref' && typeof value === 'string' && value.startsWith('#')) return root + value.slice(1)
    if (Array.isArray(value)) return value.map(item => walk(item, ''))
    return isJsonObject(value) ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, walk(inner, name)])) : value
  }
  return Object.fromEntries(Object.entries(schema).map(([name, inner]) => [name, walk(inner, name)]))
}

function parsed(text: string): Json | undefined {
  try {
    const value: Json = JSON.parse(text)
    return value
  } catch {
    return undefined
  }
}

/** How much of the end may be the beginning of a tag, white space before it included: that belongs to the call, too. */
function tail(text: string): number {
  for (let length = Math.min(OPEN.length - 1, text.length); length > 0; length -= 1) if (text.endsWith(OPEN.slice(0, length))) return text.length - text.slice(0, text.length - length).trimEnd().length
  return text.length - text.trimEnd().length
}
