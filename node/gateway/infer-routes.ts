import type { Hono } from 'hono'
import { z } from 'zod'
import { json } from '../../protocols/ids.ts'
import { packet as packetSchema } from '../../protocols/invoke.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const request = z.object({
  /** A block id, or the URI of a vDAG. */
  model: z.string().min(1).max(300),
  session_id: z.union([z.string(), z.number()]).transform(String).default(''),
  seq_no: z.coerce.number().int().nonnegative().default(0),
  data: json,
  key: z.string().min(1).max(200).optional(),
  deadline_ms: z.int().positive().max(3_600_000).default(60_000),
})

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
