import type { Hono } from 'hono'
import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { packet as packetSchema } from '../../protocols/invoke.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

/** Fields of AIOS's own requests that say nothing here: times and places of its reply queues. */
const UNREAD = { ts: z.unknown().optional(), output_ptr: z.unknown().optional(), frame_ptr: z.unknown().optional(), stream: z.literal(false).optional() }

/** AIOS's clients say `block_id` for a block and `vdag_uri` for a vDAG; here both are the `model`. */
const request = z.preprocess(named, z.strictObject({
  /** A block id, or the URI of a vDAG. */
  model: z.string('name a block (`aios block list`) or the URI of a vDAG (`aios vdag list`)').min(1).max(300),
  session_id: z.union([z.string(), z.number()]).transform(String).default(''),
  seq_no: z.coerce.number().int().nonnegative().default(0),
  data: json.transform(parsedText),
  key: z.string().min(1).max(200).optional(),
  deadline_ms: z.int().positive().max(3_600_000).default(60_000),
  graph: z.undefined('graphs made up for one request are not taken: publish the graph (`aios vdag create`) and name its URI as model').optional(),
  selection_query: z.undefined('blocks are not chosen by search here: ask /api/filter which there are and name one as model').optional(),
  ...UNREAD,
}))

function named(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const { block_id, blockId, vdag_uri, vdagURI, ...rest } = Object.fromEntries(Object.entries(value))
  const alias: unknown = block_id ?? blockId ?? vdag_uri ?? vdagURI
  return alias === undefined ? rest : { ...rest, model: rest['model'] ?? alias }
}

/** AIOS's packets carry their data as JSON text. Text that holds an object or a list is taken as that; any other text is a text. */
function parsedText(value: Json): Json {
  if (typeof value !== 'string' || !/^\s*[{[]/.test(value)) return value
  try {
    return json.parse(JSON.parse(value))
  } catch {
    return value
  }
}

/** AIOS's inference server, on every peer: one packet to a block, or to a whole vDAG. */
export function addInferRoutes(app: Hono, { peer }: GatewayParts): void {
  app.post('/v1/infer', async context => {
    const asked = await body(context, request)
    const signal = context.req.raw.signal
    const ts = peer.ports.clock.unix() / 1_000
    if (asked.model.includes(':')) {
      const { run } = await peer.actions.submit(asked.model, asked.data, { key: asked.key, session: asked.session_id })
      const outputs = await peer.runs.result(run, peer.ports.clock.deadline(asked.deadline_ms, signal))
      return context.json({ success: true, run, session_id: asked.session_id, seq_no: asked.seq_no, ts, data: outputs })
    }
    const packet = packetSchema.parse({ sessionId: asked.session_id, seqNo: asked.seq_no, ts, data: asked.data })
    const outputs = []
    for await (const output of peer.invoker.infer(asked.model, packet, { deadlineMs: asked.deadline_ms, signal, whole: true, ...(asked.key === undefined ? {} : { key: asked.key }) })) {
      outputs.push({ sessionId: output.sessionId, seqNo: output.seqNo, ts: output.ts, data: output.data })
    }
    return context.json({ success: true, session_id: asked.session_id, seq_no: asked.seq_no, ts, data: outputs.length === 1 ? outputs[0]?.data ?? null : outputs.map(({ data }) => data), outputs })
  })
}
