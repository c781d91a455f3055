import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { dataFrom, packetFrom, type InferOptions, type Target } from '../../src/inference/inference.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { parseBlockGraph } from '../../src/specs/block-graph.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'
import { traceOf } from './trace-door.ts'

const DEADLINE_MS = 60_000
export const STREAM_PATH = '/v1/stream'

/**
 * AIOS's `/v1/infer`: one of `model` (a block id or the URI of a vDAG; `block_id` and `vdag_uri` are other names of it), `graph`
 * and `selection_query` says who answers.
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
  // Fields of AIOS's own requests that say nothing here: places of its reply queues.
  output_ptr: z.unknown().optional(),
  frame_ptr: z.unknown().optional(),
  stream: z.literal(false, `answers come whole here; ${STREAM_PATH} streams them over a WebSocket`).optional(),
}))
/** Inputs share who is to answer; their numbers follow `seq_no`. */
const batch = z.looseObject({ inputs: z.array(json.transform(parsedText)).min(1).max(1_000), at_once: z.int().min(1).max(64).default(8) })
export type InferRequest = z.infer<typeof inferRequest>

function named(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const { block_id, blockId, vdag_uri, vdagURI, ...rest } = Object.fromEntries(Object.entries(value))
  const alias: unknown = block_id ?? blockId ?? vdag_uri ?? vdagURI
  return alias === undefined ? rest : { ...rest, model: rest['model'] ?? alias }
}

/** AIOS's packets carry their data as JSON text. Text that holds an object or a list is taken as that; any other text is a text. */
function parsedText(value: Json): Json {
  return typeof value === 'string' && /^\s*[{[]/.test(value) ? dataFrom(value) : value
}

/** Throws BAD_INPUT when nothing, or more than one thing, is to answer. */
export function targetOf({ model, graph, selection_query: search }: InferRequest): Target {
  // AIOS's graph form names its head as the model, too.
  if (graph !== undefined && search === undefined) return { graph }
  if (search !== undefined && graph === undefined && model === undefined) return { search }
  if (model !== undefined && graph === undefined && search === undefined) return model.includes(':') ? { vdag: model } : { block: model }
  throw new MeshError('BAD_INPUT', 'request: say who is to answer: `model` (a block id or the URI of a vDAG), or `graph`, or `selection_query`')
}

/** AIOS's inference server over HTTP: JSON, multipart with files, its log and its discovery. */
export function addInferRoutes(app: Hono, { peer, url }: GatewayParts): void {
  const answer = async (context: Context, asked: InferRequest, files: Packet['files']): Promise<Response> => {
    const ts = asked.ts ?? peer.ports.clock.unix() / 1_000
    const options: InferOptions = { deadlineMs: asked.deadline_ms, signal: context.req.raw.signal, key: asked.key, trace: traceOf(context) }
    const target = targetOf(asked)
    const { request, packets, run } = await peer.inference.infer(target, packetFrom({ sessionId: asked.session_id, seqNo: asked.seq_no, ts, data: asked.data, files }), options)
    const shared = { success: true, request_id: request, session_id: asked.session_id, seq_no: asked.seq_no, ts }
    if ('vdag' in target && run !== undefined) return context.json({ ...shared, run, data: await peer.runs.result(run, peer.ports.clock.deadline(asked.deadline_ms)) })
    const outputs = packets.map(packet => ({ sessionId: packet.sessionId, seqNo: packet.seqNo, ts: packet.ts, data: packet.data, ...(packet.files.length === 0 ? {} : { files: packet.files.map(written) }) }))
    return context.json({ ...shared, ...(run === undefined ? {} : { run }), data: outputs.length === 1 ? outputs[0]?.data ?? null : outputs.map(({ data }) => data), outputs })
  }

  app.post('/v1/infer', async context => answer(context, await body(context, inferRequest), []))

  // Fields as in the JSON form, each a text part; every part that is a file travels with the packet.
  app.post('/v1/infer-multipart', async context => {
    const form = await context.req.formData().catch(cause => {
      throw new MeshError('BAD_INPUT', 'the request body is not multipart/form-data', { cause })
    })
    const fields: Record<string, unknown> = {}
    const files: Packet['files'] = []
    for (const [name, value] of form) {
      if (typeof value !== 'string') files.push({ metadata: { field: name, file_name: value.name, content_type: value.type }, bytes: new Uint8Array(await value.arrayBuffer()) })
      else fields[name] = value
    }
    return answer(context, check(inferRequest, fields, 'request', 'BAD_INPUT'), files)
  })

  // Several inputs at once, each answered for itself: what one breaks on is nothing to the others.
  app.post('/v1/infer-batch', async context => {
    const { inputs, at_once, ...shared } = await body(context, batch)
    const asked = check(inferRequest, shared, 'request', 'BAD_INPUT')
    const target = targetOf(asked)
    const answers: unknown[] = Array.from({ length: inputs.length })
    const waiting = [...inputs.entries()]
    const lane = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const [position, data] = next
        const seq_no = asked.seq_no + position
        try {
          const options: InferOptions = { deadlineMs: asked.deadline_ms, signal: context.req.raw.signal, key: asked.key === undefined ? undefined : `${asked.key}/${position}` }
          const { packets, request } = await peer.inference.infer(target, packetFrom({ sessionId: asked.session_id, seqNo: seq_no, ts: asked.ts ?? peer.ports.clock.unix() / 1_000, data, files: [] }), options)
          answers[position] = { success: true, request_id: request, seq_no, data: packets.length === 1 ? packets[0]?.data ?? null : packets.map(packet => packet.data) }
        } catch (error) {
          const { code, message, retryable } = asMeshError(error)
          answers[position] = { success: false, seq_no, error: { code, message, retryable } }
        }
      }
    }
    await Promise.all(Array.from({ length: Math.min(at_once, inputs.length) }, lane))
    return context.json({ success: true, session_id: asked.session_id, outputs: answers })
  })

  app.get('/logs/session/:id', context => context.json({ success: true, data: peer.inference.log.find({ session: context.req.param('id') }) }))
  app.get('/logs/request/:id', context => context.json({ success: true, data: peer.inference.log.find({ request: context.req.param('id') }) }))
  app.get('/logs/block/:id', context => context.json({ success: true, data: peer.inference.log.find({ block: context.req.param('id') }) }))
  app.get('/logs/session_block', context => {
    const { session_id: session, block_id: block } = context.req.query()
    return context.json({ success: true, data: peer.inference.log.find({ ...(session === undefined ? {} : { session }), ...(block === undefined ? {} : { block }) }) })
  })

  app.post('/discovery/search', async context => context.json({ success: true, data: await peer.inference.discover(await body(context, json)) }))
  // Any peer answers for any block, so the address of one is this peer's.
  app.get('/discovery/get_url/:id', async context => {
    const id = context.req.param('id')
    if ((await peer.catalogue.block(id)) === undefined) throw new MeshError('NOT_FOUND', `no block is called ${id}: \`aios block list\` shows those there are`)
    const hosts = peer.view.instancesOf(id).map(({ host, ad }) => ({ nodeId: host, instanceId: ad.instance, state: ad.state }))
    return context.json({ success: true, data: { block_id: id, url: url(), rpc_url: `${url()}/v1/infer`, instances: hosts } })
  })
  // What the block's executor would say: how long, and whether at all.
  for (const action of ['estimate', 'check_execute'] as const) {
    app.post(`/discovery/${action}`, async context => {
      const asked = await body(context, z.looseObject({ block_id: z.string().min(1).optional(), blockId: z.string().min(1).optional(), inputs: json.optional(), data: json.optional() }))
      const block = asked.block_id ?? asked.blockId
      if (block === undefined) throw new MeshError('BAD_INPUT', 'name the block: { "block_id": …, "inputs": … }')
      return context.json({ success: true, data: await peer.blocks.command({ block, service: 'executor', action, data: asked.inputs ?? asked.data ?? null }, context.req.raw.signal) })
    })
  }
  app.post('/discovery/resolve_graph', async context => {
    const given = await body(context, json)
    const spec = parseBlockGraph(given)
    const { compiled_graph_data } = await peer.runs.compiled(spec)
    const tails = new Set(spec.outputs)
    const resolved = isJsonObject(compiled_graph_data['t3_graph']) ? compiled_graph_data['t3_graph'] : {}
    return context.json({ success: true, data: { is_graph: true, head: compiled_graph_data['head'], graph: { ...resolved, final: { outputs: [...tails].map(block_id => ({ host: peer.view.self, port: 0, queue_name: 'reply', block_id })) } } } })
  })
  app.post('/discovery/filter', async context => context.json({ success: true, data: await peer.inventory.filter(await body(context, json)) }))
}

function written({ metadata, bytes, cid }: Packet['files'][number]): { readonly metadata: unknown; readonly file_data?: string; readonly cid?: string } {
  return { metadata, ...(bytes === undefined ? {} : { file_data: Buffer.from(bytes).toString('base64') }), ...(cid === undefined ? {} : { cid }) }
}
