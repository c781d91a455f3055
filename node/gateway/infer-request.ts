import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { dataFrom, type Target } from '../../src/inference/inference.ts'
import type { Peer } from '../../src/peer.ts'

const DEADLINE_MS = 60_000
const MAYBE: readonly string[] = ['model', 'block_id', 'blockId', 'vdag_uri', 'vdagURI', 'graph', 'selection_query', 'query_parameters', 'frame_ptr']
export const STREAM_PATH = '/v1/stream'

/**
 * AIOS's `/v1/infer`: one of `model` (a block id, the URI of a vDAG or the id of a vDAG controller; `block_id` and `vdag_uri` are
 * other names of it), `graph` and `selection_query` says who answers.
 */
export const inferRequest = z.preprocess(named, z.strictObject({
  model: z.string('name a block (`aios block list`) or the URI of a vDAG (`aios vdag list`)').min(1).max(300).optional(),
  graph: json.transform(parsedText).optional(),
  selection_query: json.transform(parsedText).optional(),
  session_id: z.union([z.string(), z.number()]).transform(String).default(''),
  seq_no: z.coerce.number().int().nonnegative().default(0),
  ts: z.coerce.number().optional(),
  data: json.transform(parsedText).default(null),
  key: z.string().min(1).max(200).optional(),
  deadline_ms: z.coerce.number().int().positive().max(3_600_000).default(DEADLINE_MS),
  // A field of AIOS's own requests that says nothing here: places of its reply queues.
  output_ptr: z.unknown().optional(),
  frame_ptr: json.transform(parsedText).optional(),
  stream: z.literal(false, `answers come whole here; ${STREAM_PATH} streams them over a WebSocket`).optional(),
}))
export type InferRequest = z.infer<typeof inferRequest>

function named(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  // AIOS's clients send all the ways to say who answers, and leave those empty that they do not use.
  const { block_id, blockId, vdag_uri, vdagURI, query_parameters, ...rest } = Object.fromEntries(Object.entries(value).filter(([name, said]) => !MAYBE.includes(name) || !isNothing(said)))
  const [model, search]: readonly unknown[] = [rest['model'] ?? block_id ?? blockId ?? vdag_uri ?? vdagURI, rest['selection_query'] ?? query_parameters]
  return { ...rest, ...(model === undefined ? {} : { model }), ...(search === undefined ? {} : { selection_query: search }) }
}

function isNothing(said: unknown): boolean {
  return said === null || said === '' || said === '{}' || (typeof said === 'object' && Object.keys(said).length === 0)
}

/** AIOS's packets carry their data as JSON text. Text that holds an object or a list is taken as that; any other text is a text. */
export function parsedText(value: Json): Json {
  return typeof value === 'string' && /^\s*[{[]/.test(value) ? dataFrom(value) : value
}

/** Asked of nobody in particular, a peer that is a controller of one vDAG answers for that. Throws BAD_INPUT when nothing, or more than one thing, is to answer. */
export async function targetOf({ model, graph, selection_query: search }: InferRequest, { catalogue, controllers }: Pick<Peer, 'catalogue' | 'controllers'>): Promise<Target> {
  // AIOS's graph form names its head as the model, too.
  if (graph !== undefined && search === undefined) return { graph }
  if (search !== undefined && graph === undefined && model === undefined) return { search }
  if (model !== undefined && search === undefined) {
    if (model.includes(':')) return { vdag: model }
    const controller = await catalogue.block(model).catch(() => undefined) === undefined ? await controllers.find(model) : undefined
    return controller === undefined ? { block: model } : { vdag: controller.vdag_uri }
  }
  const only = model === undefined && search === undefined ? await controllers.only() : undefined
  if (only !== undefined) return { vdag: only }
  throw new MeshError('BAD_INPUT', 'request: say who is to answer: `model` (a block id or the URI of a vDAG), or `graph`, or `selection_query`')
}
