import type { Context } from 'hono'
import { z } from 'zod'
import { json, type Json } from '../../../protocols/ids.ts'
import { packet as packetSchema } from '../../../protocols/invoke.ts'
import { givesEmbeddings } from '../../../src/llm/embedding-model.ts'
import { isJsonObject, mustBeShallow } from '../../../src/lib/json.ts'
import type { Clock } from '../../../src/ports.ts'
import type { Catalogue, Invoker, Models } from '../../../src/roles.ts'
import { traceOf } from '../trace-door.ts'
import { eventStream, type ServerEvent } from './event-stream.ts'
import { wrong } from './failure.ts'

export type BlockChatParts = { readonly models: Pick<Models, 'served'>; readonly catalogue: Pick<Catalogue, 'block'>; readonly invoker: Pick<Invoker, 'infer'>; readonly clock: Pick<Clock, 'unix'> }

const DEADLINE_MS = 600_000
const named = z.object({ model: z.string() })
const aios = z.looseObject({ messages: json.optional(), session_id: z.union([z.string().max(300), z.number()]).transform(String).catch(''), seq_no: z.coerce.number().int().nonnegative().catch(0) })

/**
 * AIOS's way: where `model` is a block that speaks OpenAI itself (a proxy of vLLM, an author's own), it gets the request as it came, and
 * its packets are the answer; `session_id` and `seq_no`, which AIOS's clients add, are those of the packet. Undefined when the model is
 * none of those, and is ours to answer with.
 */
export async function blockChat(context: Context, { models, catalogue, invoker, clock }: BlockChatParts): Promise<Response | undefined> {
  const body: unknown = await context.req.json().catch(() => undefined)
  const { model } = named.safeParse(body).data ?? {}
  if (model === undefined || await models.served(model) !== undefined) return undefined
  const block = await catalogue.block(model)
  mustBeShallow(body, 'The body')
  // Looked through only when it goes to a block as it is: a long prompt of ours is checked where it is read.
  const given = block === undefined ? undefined : json.safeParse(body).data
  if (block === undefined || given === undefined) return undefined
  if (givesEmbeddings(block)) throw wrong('model', `${model} is a model of embeddings: ask /v1/embeddings`)
  const signal = context.req.raw.signal
  const { messages, session_id, seq_no } = aios.parse(given)
  // AIOS's clients put what their block takes where OpenAI's have a list.
  const theirs = isJsonObject(messages) ? messages : undefined
  const packet = packetSchema.parse({ sessionId: session_id, seqNo: seq_no, ts: clock.unix() / 1_000, data: theirs ?? given })
  const streams = isJsonObject(given) && given['stream'] === true
  const trace = traceOf(context)
  const outputs = invoker.infer(block.blockId, packet, { deadlineMs: DEADLINE_MS, signal, ...(trace === undefined ? {} : { trace }), ...(streams ? {} : { whole: true }) })
  async function * events(): AsyncGenerator<ServerEvent> {
    for await (const { data } of outputs) yield { data }
  }
  if (streams) return eventStream(events(), signal, async () => undefined)
  const all: Json[] = []
  for await (const { data } of outputs) all.push(data)
  const answer: Json = all.length === 1 ? all[0] ?? null : all
  if (theirs === undefined || (isJsonObject(answer) && answer['choices'] !== undefined)) return context.json(answer)
  return context.json({ id: `chatcmpl-${session_id}-${seq_no}`, object: 'chat.completion', created: Math.floor(clock.unix() / 1_000), model, choices: [{ index: 0, message: { role: 'assistant', content: answer }, finish_reason: 'stop' }] })
}
