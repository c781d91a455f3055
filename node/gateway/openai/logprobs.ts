import type { GenerationEvent } from '../../../protocols/generation.ts'
import type { ModelText } from '../../../src/llm/text/model-text.ts'

type TokenEvent = Extract<GenerationEvent, { kind: 'token' }>
type Told = { readonly token: string; readonly logprob: number; readonly bytes: readonly number[] | null }
export type ChatLogprob = Told & { readonly top_logprobs: readonly Told[] }
export type CompletionLogprobs = { readonly tokens: readonly string[]; readonly token_logprobs: readonly number[]; readonly top_logprobs: readonly Readonly<Record<string, number>>[]; readonly text_offset: readonly number[] }

/** OpenAI's number for what cannot be. */
const NEVER = -9_999

/** As chat completions report a token. Undefined where none was asked for. */
export function chatLogprob(text: ModelText, { token, logprob, top }: TokenEvent): ChatLogprob | undefined {
  const told = (id: number, value: number): Told => {
    const bytes = text.bytes(id)
    return { token: shown(text, id), logprob: Math.max(NEVER, value), bytes: bytes === undefined ? null : [...bytes] }
  }
  return logprob === undefined ? undefined : { ...told(token, logprob), top_logprobs: (top ?? []).map(other => told(other.token, other.logprob)) }
}

/** As completions report tokens; `offset`: characters before the first. Undefined where none was asked for. */
export function completionLogprobs(text: ModelText, events: readonly TokenEvent[], offset: number): CompletionLogprobs | undefined {
  const asked = events.filter(({ logprob }) => logprob !== undefined)
  if (asked.length === 0) return undefined
  let at = offset
  const offsets = asked.map(({ token }) => {
    const here = at
    at += shown(text, token).length
    return here
  })
  return {
    tokens: asked.map(({ token }) => shown(text, token)), token_logprobs: asked.map(({ logprob }) => Math.max(NEVER, logprob ?? NEVER)),
    top_logprobs: asked.map(({ top }) => Object.fromEntries((top ?? []).map(({ token, logprob }) => [shown(text, token), Math.max(NEVER, logprob)]))), text_offset: offsets,
  }
}

function shown(text: ModelText, id: number): string {
  return text.decode([id]) || (text.token(id) ?? '')
}
