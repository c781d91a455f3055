import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { packetFrom, type InferOptions } from '../../src/inference/inference.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { parseBlockGraph } from '../../src/specs/block-graph.ts'
import type { GatewayParts } from './server.ts'
import { inferRequest, parsedText, targetOf, type InferRequest } from './infer-request.ts'
import { body } from './request-body.ts'
import { traceOf } from './trace-door.ts'

/** Inputs share who is to answer; their numbers follow `seq_no`. */
const batch = z.looseObject({ inputs: z.array(json.transform(parsedText)).min(1).max(1_000), at_once: z.int().min(1).max(64).default(8) })
const remark = z.record(z.string(), json)

/** AIOS's inference server over HTTP: JSON, multipart with files, its log and its discovery. */
export function addInferRoutes(app: Hono, { peer, url }: GatewayParts): void {
  const answer = async (context: Context, asked: InferRequest, files: Packet['files']): Promise<Response> => {
    const ts = asked.ts ?? peer.ports.clock.unix() / 1_000
    const options: InferOptions = { deadlineMs: asked.deadline_ms, signal: context.req.raw.signal, key: asked.key, trace: traceOf(context) }
    const target = await targetOf(asked, peer)
    const frame: Packet['files'] = asked.frame_ptr === undefined ? [] : [{ metadata: { frame_ptr: asked.frame_ptr } }]
    const { request, packets, run } = await peer.inference.infer(target, packetFrom({ sessionId: asked.session_id, seqNo: asked.seq_no, ts, data: asked.data, files: [...files, ...frame] }), options)
    const shared = { success: true, request_id: request, session_id: asked.session_id, seq_no: asked.seq_no, ts }
    if ('vdag' in target && run !== undefined) return context.json({ ...shared, run, data: await peer.runs.result(run, peer.ports.clock.deadline(asked.deadline_ms)) })
    const outputs = packets.map(packet => ({ sessionId: packet.sessionId, seqNo: packet.seqNo, ts: packet.ts, data: packet.data, ...(packet.files.length === 0 ? {} : { files: packet.files.map(written) }) }))
    return context.json({ ...shared, ...(run === undefined ? {} : { run }), data: outputs.length === 1 ? outputs[0]?.data ?? null : outputs.map(({ data }) => data), outputs })
  }

  app.post('/v1/infer', async context => answer(context, await body(context, inferRequest), []))
  // Where AIOS's gateway maps a vDAG controller; of a block its own ingress.
  app.post('/:model/v1/infer', async context => answer(context, { ...await body(context, inferRequest), model: context.req.param('model') }, []))

  // Fields as in the JSON form, each a text part; every part that is a file travels with the packet, and with what `{its name}_metadata` says of it.
  app.post('/v1/infer-multipart', async context => {
    const form = await context.req.formData().catch(cause => {
      throw new MeshError('BAD_INPUT', 'the request body is not multipart/form-data', { cause })
    })
    const fields: Record<string, unknown> = {}
    const files: Packet['files'] = []
    const uploads = new Set([...form].flatMap(([name, value]) => (typeof value === 'string' ? [] : [name])))
    for (const [name, value] of form) {
      const about = name.endsWith('_metadata') && uploads.has(name.slice(0, -'_metadata'.length))
      if (typeof value !== 'string') {
        const said = form.get(`${name}_metadata`)
        const metadata = typeof said === 'string' && said !== '' ? check(remark, parsedText(said), `${name}_metadata`, 'BAD_INPUT') : {}
        files.push({ metadata: { field: name, file_name: value.name, content_type: value.type, ...metadata }, bytes: new Uint8Array(await value.arrayBuffer()) })
      } else if (!about) fields[name] = value
    }
    return answer(context, check(inferRequest, fields, 'request', 'BAD_INPUT'), files)
  })

  // Several inputs at once, each answered for itself: what one breaks on is nothing to the others.
  app.post('/v1/infer-batch', async context => {
    const { inputs, at_once, ...shared } = await body(context, batch)
    const asked = check(inferRequest, shared, 'request', 'BAD_INPUT')
    const target = await targetOf(asked, peer)
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
  // Any peer answers for any block, so the address of one is this peer's. AIOS's clients post here.
  for (const method of ['get', 'post'] as const) app[method]('/discovery/get_url/:id', async context => {
    const id = context.req.param('id')
    if ((await peer.catalogue.block(id)) === undefined) throw new MeshError('NOT_FOUND', `no block is called ${id}: \`aios block list\` shows those there are`)
    const hosts = peer.view.instancesOf(id).map(({ host, ad }) => ({ nodeId: host, instanceId: ad.instance, state: ad.state }))
    return context.json({ success: true, queue_url: url(), port: Number(new URL(url()).port), data: { block_id: id, url: url(), rpc_url: `${url()}/v1/infer`, instances: hosts } })
  })
  // What the block's executor would say: how long, and whether at all.
  for (const action of ['estimate', 'check_execute'] as const) {
    app.post(`/discovery/${action}`, async context => {
      const asked = await body(context, z.looseObject({ block_id: z.string().min(1).nullish(), blockId: z.string().min(1).optional(), search_query: json.optional(), query_params: json.optional(), inputs: json.optional(), data: json.optional() }))
      const search = isJsonObject(asked.search_query) && Object.keys(asked.search_query).length > 0 ? asked.search_query : undefined
      const block = search === undefined ? asked.block_id ?? asked.blockId : await peer.inference.discover(search)
      if (block === undefined) throw new MeshError('BAD_INPUT', 'name the block, or how to find it: { "block_id": …, "inputs": … } or { "search_query": …, "query_params": … }')
      return context.json({ success: true, data: await peer.blocks.command({ block, service: 'executor', action, data: asked.inputs ?? asked.query_params ?? asked.data ?? null }, context.req.raw.signal) })
    })
  }
  app.post('/discovery/resolve_graph', async context => {
    const given = await body(context, json)
    const spec = parseBlockGraph(given)
    const { compiled_graph_data } = await peer.runs.compiled(spec)
    const tails = new Set(spec.outputs)
    const resolved = isJsonObject(compiled_graph_data['t3_graph']) ? compiled_graph_data['t3_graph'] : {}
    return context.json({ success: true, graph: resolved, data: { is_graph: true, head: compiled_graph_data['head'], graph: { ...resolved, final: { outputs: [...tails].map(block_id => ({ host: peer.view.self, port: 0, queue_name: 'reply', block_id })) } } } })
  })
  app.post('/discovery/filter', async context => context.json({ success: true, data: await peer.inventory.filter(await body(context, json)) }))
}

function written({ metadata, bytes, cid }: Packet['files'][number]): { readonly metadata: unknown; readonly file_data?: string; readonly cid?: string } {
  return { metadata, ...(bytes === undefined ? {} : { file_data: Buffer.from(bytes).toString('base64') }), ...(cid === undefined ? {} : { cid }) }
}
