import { Hono, type Context } from 'hono'
import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import { json, type Json } from '../../../protocols/ids.ts'
import { packet as packetSchema } from '../../../protocols/invoke.ts'
import { isJsonObject, mustBeShallow } from '../../../src/lib/json.ts'
import { traceOf } from '../trace-door.ts'
import { blockOf, modelView, versionOf, type ModelView, type OpenInferenceParts } from './model-view.ts'
import { dtypeOf, fromBinary, nestedInput, toBinary, unnest } from './tensors.ts'

const DEADLINE_MS = 60_000
const HEADER_LENGTH = 'inference-header-content-length'
const parameters = z.record(z.string(), json).default({})
const request = z.looseObject({
  id: z.string().max(200).optional(),
  parameters,
  inputs: z.array(z.looseObject({ name: z.string().min(1), shape: z.array(z.int().nonnegative()).max(16), datatype: z.string(), parameters, data: z.array(json).optional() })).min(1).max(256),
  outputs: z.array(z.looseObject({ name: z.string(), parameters })).max(256).optional(),
})
type Asked = z.infer<typeof request>

/** The Open Inference Protocol, version 2, over any block that is a model: ONNX or TensorFlow, JSON tensors or its binary extension. */
export function openInferenceDoor(parts: OpenInferenceParts, version: string): Hono {
  const door = new Hono()
  door.onError((failure, context) => {
    const error = asMeshError(failure)
    return new Response(`${JSON.stringify({ error: error.message, code: error.code })}\n`, { status: context.req.raw.signal.aborted ? 499 : error.httpStatus, headers: { 'content-type': 'application/json' } })
  })
  door.get('/', context => context.json({ name: 'aios-mesh', version, extensions: ['binary_tensor_data'] }))
  door.get('/health/live', context => context.json({ live: true }))
  door.get('/health/ready', context => context.json({ ready: true }))
  for (const path of ['/models/:name', '/models/:name/versions/:version']) {
    door.get(path, async context => {
      const view = await viewed(context)
      return context.json({ name: view.block.blockId, versions: [view.version], platform: view.platform, inputs: view.inputs, outputs: view.outputs.map(({ name, datatype, shape }) => ({ name, datatype, shape })) })
    })
    door.get(`${path}/ready`, async context => {
      const block = await blockOf(parts, context.req.param('name') ?? '', context.req.param('version'))
      const ready = parts.view.instancesOf(block.blockId).some(({ ad }) => ad.state === 'ready')
      return context.json({ name: block.blockId, version: versionOf(block), ready }, ready ? 200 : 503)
    })
    door.post(`${path}/infer`, async context => infer(context, await viewed(context)))
  }
  return door

  function viewed(context: Context): Promise<ModelView> {
    return modelView(parts, context.req.param('name') ?? '', context.req.param('version'), context.req.raw.signal)
  }

  async function infer(context: Context, view: ModelView): Promise<Response> {
    const { asked, rest } = await read(context)
    const data = inputsOf(asked, rest, view)
    const packet = packetSchema.parse({ sessionId: String(asked.parameters['sequence_id'] ?? ''), seqNo: 0, ts: 0, data })
    const answers: Json[] = []
    const trace = traceOf(context)
    for await (const output of parts.invoker.infer(view.block.blockId, packet, { deadlineMs: DEADLINE_MS, signal: context.req.raw.signal, whole: true, ...(trace === undefined ? {} : { trace }) })) answers.push(output.data)
    const [answer] = answers
    if (answers.length !== 1 || !isJsonObject(answer)) throw new MeshError('COMPONENT_ERROR', `${view.block.blockId} gave ${answers.length} answers; a model gives one`)
    return written(asked, view, answer)
  }
}

/** The JSON of a request, and what stands after it. Throws BAD_INPUT. */
async function read(context: Context): Promise<{ readonly asked: Asked; readonly rest: Uint8Array }> {
  const bytes = new Uint8Array(await context.req.arrayBuffer())
  const length = context.req.header(HEADER_LENGTH) === undefined ? bytes.byteLength : Number(context.req.header(HEADER_LENGTH))
  if (!Number.isInteger(length) || length < 0 || length > bytes.byteLength) throw new MeshError('BAD_INPUT', `${HEADER_LENGTH} is not the length of the JSON in this body of ${bytes.byteLength} bytes`)
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length)))
  } catch (cause) {
    throw new MeshError('BAD_INPUT', 'the request body is not JSON', { cause })
  }
  mustBeShallow(value, 'the request body')
  return { asked: check(request, value, 'request', 'BAD_INPUT'), rest: bytes.subarray(length) }
}

function inputsOf({ inputs }: Asked, rest: Uint8Array, view: ModelView): Json {
  let at = 0
  const fed = inputs.map(input => {
    const known = view.inputs.find(({ name }) => name === input.name)
    if (known === undefined) throw new MeshError('BAD_INPUT', `the model has no input "${input.name}"; it has ${view.inputs.map(({ name }) => name).join(', ')}`)
    if (known.datatype !== input.datatype) throw new MeshError('BAD_INPUT', `input "${input.name}" is ${known.datatype}, not ${input.datatype}`)
    const size = input.parameters['binary_data_size']
    if (typeof size !== 'number') {
      if (input.data === undefined) throw new MeshError('BAD_INPUT', `input "${input.name}" has no data`)
      return [input.name, nestedInput(input.name, input.shape, input.data)] as const
    }
    if (at + size > rest.byteLength) throw new MeshError('BAD_INPUT', `input "${input.name}" says it has ${size} bytes; ${rest.byteLength - at} are left`)
    const bytes = rest.subarray(at, at + size)
    at += size
    return [input.name, nestedInput(input.name, input.shape, fromBinary(input.name, input.datatype, bytes))] as const
  })
  if (at !== rest.byteLength) throw new MeshError('BAD_INPUT', `${rest.byteLength - at} bytes after the JSON belong to no input`)
  return Object.fromEntries(fed)
}

function written(asked: Asked, view: ModelView, answer: { readonly [name: string]: Json }): Response {
  const wanted = asked.outputs ?? view.outputs.map(({ name }) => ({ name, parameters: {} as Readonly<Record<string, Json>> }))
  const binary: Uint8Array[] = []
  const outputs = wanted.map(({ name, parameters: how }) => {
    const known = view.outputs.find(output => output.name === name)
    if (known === undefined) throw new MeshError('BAD_INPUT', `the model has no output "${name}"; it has ${view.outputs.map(output => output.name).join(', ')}`)
    const { shape, data } = unnest(answer[name] ?? null)
    const head = { name, datatype: known.datatype, shape }
    if ((how['binary_data'] ?? asked.parameters['binary_data_output']) !== true) return { ...head, data }
    const bytes = toBinary(dtypeOf(known.datatype) ?? known.dtype, data)
    binary.push(bytes)
    return { ...head, parameters: { binary_data_size: bytes.byteLength } }
  })
  const body = Buffer.from(JSON.stringify({ model_name: view.block.blockId, model_version: view.version, ...(asked.id === undefined ? {} : { id: asked.id }), outputs }))
  if (binary.length === 0) return new Response(body, { headers: { 'content-type': 'application/json' } })
  return new Response(Buffer.concat([body, ...binary]), { headers: { 'content-type': 'application/octet-stream', [HEADER_LENGTH]: String(body.byteLength) } })
}
