import type { GenerationEvent, SessionId } from '../../../protocols/generation.ts'
import { ToolCallReader, type ToolCall } from '../../../src/llm/text/tool-calls.ts'

/** What a client calls a reason to end. */
export type Finish = 'stop' | 'length' | 'tool_calls'
export type NumberedCall = ToolCall & { readonly index: number; readonly id: string }
/** What one event adds to a choice. */
export type Added = { readonly content: string; readonly calls: readonly NumberedCall[]; readonly token?: Extract<GenerationEvent, { kind: 'token' }>; readonly end?: Extract<GenerationEvent, { kind: 'end' }>; readonly finish?: Finish }

/** Reads the events of one choice: text, tool calls where there are tools, and how it ended. */
export class ChoiceReader {
  readonly #session: SessionId
  readonly #tools: ToolCallReader | undefined
  readonly #most: number
  #calls = 0

  /** `calls`: which names are calls of tools, and after how many no more are given out; absent where there are no tools. */
  constructor(session: SessionId, calls: { readonly known: (name: string) => boolean; readonly most: number } | undefined) {
    this.#session = session
    this.#tools = calls === undefined ? undefined : new ToolCallReader(calls.known)
    this.#most = calls?.most ?? 0
  }

  take(event: GenerationEvent): Added {
    const heard = this.#tools?.push(event.text) ?? { content: event.text, calls: [] }
    if (event.kind === 'token') return { content: heard.content, calls: this.#numbered(heard.calls), token: event }
    const rest = this.#tools?.end() ?? { content: '', calls: [] }
    const calls = this.#numbered([...heard.calls, ...rest.calls])
    return { content: heard.content + rest.content, calls, end: event, finish: this.#calls > 0 ? 'tool_calls' : event.reason === 'length' ? 'length' : 'stop' }
  }

  /** The same ids for whoever reads the same answer again. */
  #numbered(calls: readonly ToolCall[]): readonly NumberedCall[] {
    const taken = calls.slice(0, Math.max(0, this.#most - this.#calls)).map((call, at) => ({ ...call, index: this.#calls + at, id: `call_${this.#session.slice(4)}${this.#calls + at}` }))
    this.#calls += taken.length
    return taken
  }
}

/** Tokens of the whole request, as OpenAI counts them. */
export type Usage = { readonly prompt_tokens: number; readonly completion_tokens: number; readonly total_tokens: number; readonly prompt_tokens_details: { readonly cached_tokens: number } }

/** `prompts`: how many different prompts the choices answer; the choices of one prompt come after each other and count it once. */
export function usageOf(ends: readonly (Extract<GenerationEvent, { kind: 'end' }> | undefined)[], prompts: number): Usage {
  const each = Math.max(1, ends.length / prompts)
  const firsts = ends.filter((_, at) => at % each === 0)
  const prompt = firsts.reduce((sum, end) => sum + (end?.promptTokens ?? 0), 0)
  const completion = ends.reduce((sum, end) => sum + (end?.tokens ?? 0), 0)
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion, prompt_tokens_details: { cached_tokens: firsts.reduce((sum, end) => sum + (end?.cachedTokens ?? 0), 0) } }
}
