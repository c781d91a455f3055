import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import type { DaemonClient } from './daemon-client.ts'

const usage = z.object({ prompt_tokens: z.int(), completion_tokens: z.int() })
const chunk = z.looseObject({ id: z.string(), choices: z.array(z.looseObject({ delta: z.looseObject({ content: z.string().nullish() }), finish_reason: z.string().nullable() })), usage: usage.nullish() })
const failure = z.object({ error: z.looseObject({ message: z.string(), code: z.string().nullable() }) })

/** What a chat says, as it comes. `by`: the peer that tells it. */
export type ChatPart =
  | { readonly kind: 'text'; readonly id: string; readonly text: string; readonly by: DaemonClient }
  | { readonly kind: 'moved'; readonly because: string; readonly by: DaemonClient }
  | { readonly kind: 'end'; readonly finish: string; readonly promptTokens: number; readonly tokens: number }

/**
 * Streams one answer from the first of `peers`; where its connection breaks, the next one is asked for the rest of the same answer
 * by its id. Throws what the peer says when it refuses, PEER_UNREACHABLE when none is left.
 */
export async function * chat(peers: readonly DaemonClient[], request: Json): AsyncGenerator<ChatPart> {
  let id: string | undefined
  let mark = '0'
  let finish = ''
  for (const [at, by] of peers.entries()) {
    try {
      const response = id === undefined ? await by.fetch('POST', '/v1/chat/completions', request) : await by.fetch('GET', `/v1/chat/completions/${id}?after=${mark}`)
      for await (const event of serverEvents(response)) {
        const part = chunk.parse(event.data)
        id = part.id
        mark = event.id ?? mark
        const [choice] = part.choices
        const text = choice?.delta.content ?? ''
        if (text !== '') yield { kind: 'text', id, text, by }
        finish = choice?.finish_reason ?? finish
        if (part.usage !== undefined && part.usage !== null) {
          yield { kind: 'end', finish, promptTokens: part.usage.prompt_tokens, tokens: part.usage.completion_tokens }
          return
        }
      }
      throw new MeshError('PEER_UNREACHABLE', 'the answer broke off')
    } catch (error) {
      const next = peers[at + 1]
      const broken = error instanceof TypeError || (error instanceof MeshError && error.code === 'PEER_UNREACHABLE')
      if (!broken) throw error
      if (next === undefined) throw error instanceof MeshError ? error : new MeshError('PEER_UNREACHABLE', `the answer broke off: ${error.message}`, { cause: error })
      yield { kind: 'moved', because: error.message, by: next }
    }
  }
}

/** The events of a stream; a failure among them is thrown. */
async function * serverEvents(response: Response): AsyncGenerator<{ readonly id: string | undefined; readonly data: Json }> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const bytes of response.body ?? []) {
    rest += decoder.decode(bytes, { stream: true })
    const events = rest.split('\n\n')
    rest = events.pop() ?? ''
    for (const event of events) {
      const field = (name: string): string | undefined => event.split('\n').find(line => line.startsWith(`${name}: `))?.slice(name.length + 2)
      const text = field('data')
      if (text === undefined || text === '[DONE]') continue
      const data = json.parse(JSON.parse(text))
      const failed = failure.safeParse(data)
      if (failed.success) throw new MeshError('RUN_FAILED', failed.data.error.message)
      yield { id: field('id'), data }
    }
  }
}
