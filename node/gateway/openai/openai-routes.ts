import { Hono, type Context } from 'hono'
import { MeshError } from '../../../protocols/errors.ts'
import { sessionId, type GenerationRequest } from '../../../protocols/generation.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { Clock, Random, Telemetry } from '../../../src/ports.ts'
import type { Generations } from '../../../src/roles.ts'
import { blockChat, type BlockChatParts } from './block-chat.ts'
import { chatChunks, chatCompletion, chatGenerations, type ChatShape } from './chat.ts'
import { Choices, type ChoiceEvent } from './choices.ts'
import { completion, completionChunks, completionGenerations, type CompletionShape } from './completions.ts'
import { embeddings, type EmbeddingParts } from './embeddings.ts'
import { eventStream, type ServerEvent } from './event-stream.ts'
import { openAiBody, refuseOpenAi } from './failure.ts'
import { chatRequest, completionRequest, embeddingRequest } from './requests.ts'
import { Meter } from './meter.ts'
import { addModelRoutes, type ModelParts } from './model-routes.ts'
import { traceOf } from '../trace-door.ts'
import { seedOf, speaker } from './served-model.ts'
import { callsOf } from './tool-choice.ts'

export type OpenAiParts = BlockChatParts & EmbeddingParts & ModelParts & { readonly generations: Generations; readonly random: Pick<Random, 'below'>; readonly clock: Clock; readonly telemetry: Telemetry }

type Written<Shape> = {
  readonly whole: (events: AsyncIterable<ChoiceEvent>, sessions: readonly string[], shape: Shape) => Promise<Json>
  readonly pieces: (events: AsyncIterable<ChoiceEvent>, sessions: readonly string[], shape: Shape) => AsyncIterable<ServerEvent>
}
const CHAT: Written<ChatShape> = { whole: chatCompletion, pieces: chatChunks }
const COMPLETION: Written<CompletionShape> = { whole: completion, pieces: completionChunks }

/** OpenAI's doors for text, on every peer: any of them may be asked, and any gives an answer again by its id. Errors in OpenAI's shape. */
export function openAiDoor(parts: OpenAiParts): Hono {
  const door = new Hono()
  door.onError((error, context) => refuseOpenAi(context, error))
  addAnswers(door, parts)
  addModelRoutes(door, parts)
  door.post('/embeddings', async context => {
    const trace = traceOf(context)
    return context.json(await embeddings(parts, await openAiBody(context, embeddingRequest), { signal: context.req.raw.signal, ...(trace === undefined ? {} : { trace }) }))
  })
  return door
}

function addAnswers(door: Hono, parts: OpenAiParts): void {
  const { models, texts, generations, random, clock, telemetry } = parts
  const meter = new Meter(telemetry, clock)
  const created = (): number => Math.floor(clock.unix() / 1_000)

  /** Starts, and answers whole or in pieces. A client that goes ends its answer, but for one that said it may come back. */
  const answer = async <Shape>(context: Context, asked: { readonly stream?: boolean | null | undefined; readonly resumable?: boolean | null | undefined }, requests: readonly GenerationRequest[], written: Written<Shape>, shape: (id: string) => Shape): Promise<Response> => {
    const signal = context.req.raw.signal
    const trace = traceOf(context)
    const choices = await Choices.start(generations, trace === undefined ? requests : requests.map(request => ({ ...request, trace })), { key: context.req.header('idempotency-key'), signal })
    const left = async (): Promise<void> => {
      if (asked.resumable !== true) await choices.cancel()
    }
    const events = meter.measured(choices.events(signal), requests[0]?.model ?? '')
    if (asked.stream === true) return eventStream(written.pieces(events, choices.sessions, shape(choices.id)), signal, left)
    try {
      return context.json(await written.whole(events, choices.sessions, shape(choices.id)))
    } catch (error) {
      if (signal.aborted) await left()
      throw error
    }
  }

  /** An answer again, or the rest of one, from whichever peer drives it now. */
  const again = async <Shape>(context: Context, written: Written<Shape>, shape: (id: string, after: readonly number[]) => Shape): Promise<Response> => {
    const sessions = sessionsOf(context)
    const signal = context.req.raw.signal
    const mark = context.req.query('after') ?? context.req.header('last-event-id')
    const after = (mark ?? '0').split('.').map(Number)
    if (after.some(count => !Number.isInteger(count) || count < 0)) throw new MeshError('BAD_INPUT', `after is a number of tokens (for several choices: numbers with dots between), not ${mark}`)
    const choices = new Choices(generations, sessions)
    const events = choices.events(signal)
    const streams = mark !== undefined || context.req.query('stream') === 'true' || (context.req.header('accept') ?? '').includes('text/event-stream')
    if (!streams) return context.json(await written.whole(events, sessions, shape(choices.id, [])))
    // Whether it exists shows with its first event; before that the answer may still be an error.
    const first = await events.next()
    async function * all(): AsyncGenerator<ChoiceEvent> {
      if (first.done !== true) yield first.value
      yield * events
    }
    return eventStream(written.pieces(all(), sessions, shape(choices.id, after)), signal, async () => undefined)
  }
  const textOf = async (context: Context): Promise<ChatShape['text']> => {
    const model = context.req.query('model')
    return model === undefined ? undefined : (await speaker(models, texts, model, clock, context.req.raw.signal)).text
  }
  const ended = (object: string) => async (context: Context): Promise<Response> => {
    await new Choices(generations, sessionsOf(context)).cancel()
    return context.json({ id: context.req.param('id'), object, deleted: true })
  }

  door.post('/chat/completions', async context => {
    const byBlock = await blockChat(context, parts)
    if (byBlock !== undefined) return byBlock
    const asked = await openAiBody(context, chatRequest)
    const by = await speaker(models, texts, asked.model, clock, context.req.raw.signal)
    const requests = chatGenerations(by, asked, seedOf(asked, random))
    const calls = callsOf(asked)
    return answer(context, asked, requests, CHAT, id => ({ id, model: asked.model, created: created(), text: by.text, calls, usage: asked.stream_options?.include_usage === true, after: [] }))
  })
  door.get('/chat/completions/:id', async context => {
    const text = await textOf(context)
    const calls = context.req.query('tools') === 'true' ? { known: (): boolean => true, most: Infinity } : undefined
    return again(context, CHAT, (id, after) => ({ id, model: context.req.query('model') ?? '', created: created(), text, calls, usage: true, after }))
  })
  door.delete('/chat/completions/:id', ended('chat.completion.deleted'))

  door.post('/completions', async context => {
    const byBlock = await blockChat(context, parts)
    if (byBlock !== undefined) return byBlock
    const asked = await openAiBody(context, completionRequest)
    const by = await speaker(models, texts, asked.model, clock, context.req.raw.signal)
    const { requests, echoes, prompts } = completionGenerations(by, asked, seedOf(asked, random))
    return answer(context, asked, requests, COMPLETION, id => ({ id, model: asked.model, created: created(), text: by.text, echoes, prompts, usage: asked.stream_options?.include_usage === true, after: [] }))
  })
  door.get('/completions/:id', async context => {
    const text = await textOf(context)
    return again(context, COMPLETION, (id, after) => ({ id, model: context.req.query('model') ?? '', created: created(), text, echoes: [], prompts: 1, usage: true, after }))
  })
  door.delete('/completions/:id', ended('text_completion.deleted'))

}

function sessionsOf(context: Context): readonly string[] {
  const id = context.req.param('id') ?? ''
  const parts = id.split('.')
  if (parts.length > 16 || parts.some(part => !sessionId.safeParse(part).success)) throw new MeshError('NOT_FOUND', `there is no answer ${id}`, { details: { param: 'id' } })
  return parts
}
