import { z } from 'zod'
import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { packet as packetSchema } from '../../../protocols/invoke.ts'
import type { BlockRecord } from '../../../protocols/specs.ts'
import { givesEmbeddings } from '../../../src/llm/embedding-model.ts'
import { isJsonObject, toJson } from '../../../src/lib/json.ts'
import type { Catalogue, Invoker, Models } from '../../../src/roles.ts'
import { wrong } from './failure.ts'
import type { embeddingRequest } from './requests.ts'
import { noModel } from './served-model.ts'

export type EmbeddingParts = { readonly catalogue: Pick<Catalogue, 'block' | 'blocks'>; readonly invoker: Pick<Invoker, 'infer'>; readonly models: Pick<Models, 'served'> }

/** Until the caller leaves, in the caller's trace. */
type Life = { readonly signal: AbortSignal; readonly trace?: string }

const DEADLINE_MS = 120_000
/** Texts of one call: several calls go to several instances. */
const TEXTS = 64
const CALLS = 8
const answer = z.object({ embeddings: z.array(z.array(z.number())), tokens: z.array(z.int()) })

/** Throws NOT_FOUND, BAD_INPUT naming the parameter, and what the block throws. */
export async function embeddings({ catalogue, invoker, models }: EmbeddingParts, asked: z.infer<typeof embeddingRequest>, life: Life): Promise<Json> {
  const block = await catalogue.block(asked.model)
  if (block === undefined) throw await models.served(asked.model) === undefined ? noModel(asked.model) : wrong('model', `${asked.model} writes text: it is no model of embeddings`)
  if (block.runtime.name === 'external') return whole(invoker, block.blockId, toJson(asked), life)
  if (!givesEmbeddings(block)) throw wrong('model', `${asked.model} is no model of embeddings: its component is of another type, and its initData declares none`)
  const inputs = listed(asked.input)
  const groups = Array.from({ length: Math.ceil(inputs.length / TEXTS) }, (_, at) => inputs.slice(at * TEXTS, (at + 1) * TEXTS))
  const answers: z.infer<typeof answer>[] = []
  const call = async (from: number): Promise<void> => {
    for (let at = from; at < groups.length; at += CALLS) answers[at] = await one(invoker, block.blockId, [...groups[at]!], life)
  }
  await Promise.all(Array.from({ length: Math.min(CALLS, groups.length) }, (_, from) => call(from)))
  const vectors = answers.flatMap(group => group.embeddings).map(vector => shortened(vector, asked.dimensions ?? undefined, block))
  const tokens = answers.flatMap(group => group.tokens).reduce((sum, count) => sum + count, 0)
  return {
    object: 'list', model: asked.model, usage: { prompt_tokens: tokens, total_tokens: tokens },
    data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: asked.encoding_format === 'base64' ? base64(vector) : vector })),
  }
}

async function one(invoker: Pick<Invoker, 'infer'>, block: string, input: Json, life: Life): Promise<z.infer<typeof answer>> {
  return answer.parse(await whole(invoker, block, { input }, life))
}

/** A server of somebody else's speaks OpenAI itself: it gets the request as it came. */
async function whole(invoker: Pick<Invoker, 'infer'>, block: string, request: Json, life: Life): Promise<Json> {
  const packet = packetSchema.parse({ sessionId: '', seqNo: 0, ts: 0, data: request })
  for await (const { data } of invoker.infer(block, packet, { deadlineMs: DEADLINE_MS, ...life, whole: true })) return data
  throw new MeshError('COMPONENT_ERROR', `${block} answered nothing`)
}

function listed(input: z.infer<typeof embeddingRequest>['input']): readonly (string | number[])[] {
  if (typeof input === 'string') return [input]
  const numbers = input.filter(item => typeof item === 'number')
  return numbers.length > 0 ? [numbers] : input.filter(item => typeof item !== 'number')
}

function shortened(vector: readonly number[], dimensions: number | undefined, { blockId, initData }: BlockRecord): number[] {
  if (dimensions === undefined || dimensions === vector.length) return [...vector]
  const declared = initData['embeddings'] ?? null
  if (!isJsonObject(declared) || declared['shortens'] !== true) throw wrong('dimensions', `${blockId} gives vectors of ${vector.length} numbers, and was not declared to make sense with fewer`)
  if (dimensions > vector.length) throw wrong('dimensions', `${blockId} gives vectors of ${vector.length} numbers, not ${dimensions}`)
  const kept = vector.slice(0, dimensions)
  const length = Math.hypot(...kept)
  return length === 0 ? kept : kept.map(value => value / length)
}

/** As OpenAI packs vectors: float32, little-endian. */
function base64(vector: readonly number[]): string {
  const bytes = Buffer.alloc(vector.length * 4)
  vector.forEach((value, at) => bytes.writeFloatLE(value, at * 4))
  return bytes.toString('base64')
}
