import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { Metadata, Server, ServerCredentials, type sendUnaryData, type ServerUnaryCall, type ServiceDefinition, type UntypedServiceImplementation } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { asMeshError, ERRORS, MeshError } from '../../protocols/errors.ts'
import { bytes } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import type { Peer } from '../../src/peer.ts'
import { dataFrom, packetFrom, type Target } from '../../src/inference/inference.ts'
import { sameToken } from './guard.ts'
import { checked } from './trace-door.ts'

const PROTO = fileURLToPath(new URL('../../protocols/proto/inference.proto', import.meta.url))
/** As the HTTP door; gRPC's own limit of 4 MiB is too little for pictures. */
const MESSAGE_BYTES = 64 * 1_048_576
/** For a client that sets no deadline. AIOS would wait for ever. */
const DEADLINE_MS = 60_000

const file = z.object({ metadata: z.string().default(''), file_data: bytes })
const packetFields = { session_id: z.string().max(300), seq_no: z.coerce.number().int().nonnegative(), frame_ptr: bytes, data: z.string(), ts: z.number(), files: z.array(file).max(64) }
const blockPacket = z.object({ ...packetFields, block_id: z.string(), query_parameters: z.string(), output_ptr: z.string() })
const vdagPacket = z.object(packetFields)
const aiosPacket = z.object({ ...packetFields, output_ptr: z.string() })
const wrapped = z.object({ rpc_data: bytes })
type Fields = z.infer<typeof vdagPacket>

/** Serves the connections it is given. */
export type GrpcServices = { serve(socket: Socket): void; close(): void }
export type GrpcOptions = {
  readonly peer: Peer
  /** What each call must show; undefined on loopback. */
  readonly token: string | undefined
}

/** AIOS's gRPC services. */
export function grpcServices({ peer, token }: GrpcOptions): GrpcServices {
  const definitions = loadSync(PROTO, { keepCase: true, longs: String, defaults: true })
  const server = new Server({ 'grpc.max_receive_message_length': MESSAGE_BYTES, 'grpc.max_send_message_length': MESSAGE_BYTES })
  const decodeAios = aiosPacketReader(definitions)

  const add = (service: string, answer: (request: unknown, metadata: Metadata, life: Life) => Promise<object>): void => {
    const implementation: UntypedServiceImplementation = {
      infer: (call: ServerUnaryCall<unknown, object>, reply: sendUnaryData<object>) => {
        const life = { ...lifeOf(call), trace: checked(call.metadata.get('traceparent').map(String)[0]) }
        Promise.resolve().then(() => {
          if (token !== undefined) admit(call.metadata, token)
          return answer(call.request, call.metadata, life)
        }).then(answered => reply(null, answered), (error: unknown) => reply(statusOf(error)))
      },
    }
    server.addService(serviceOf(definitions, service), implementation)
  }

  add('BlockInferenceService', async (request, _, life) => {
    const asked = check(blockPacket, request, 'BlockInferencePacket', 'BAD_INPUT')
    const { packets } = await peer.inference.infer(blockTarget(asked), packetOf(asked), life)
    return answerOf(asked, packets)
  })
  add('vDAGInferenceService', async (request, metadata, life) => {
    const asked = check(vdagPacket, request, 'vDAGInferencePacket', 'BAD_INPUT')
    const { packets } = await peer.inference.infer({ vdag: vdagOf(metadata, asked) ?? await onlyOne(peer) }, packetOf(asked), life)
    return answerOf(asked, packets)
  })
  // A block's ingress takes the packet and says so; where the answer goes is not the caller's to wait for.
  add('InferenceProxy', async (request, metadata, life) => {
    const [block] = metadata.get('x-service-name').map(String)
    if (block === undefined) throw new MeshError('BAD_INPUT', 'the header x-service-name names the block')
    const asked = check(aiosPacket, decodeAios(check(wrapped, request, 'InferenceMessage', 'BAD_INPUT').rpc_data), 'AIOSPacket', 'BAD_INPUT')
    await peer.inference.infer({ block }, packetOf(asked), life)
    return { message: true }
  })

  const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
  return {
    serve: socket => injector.injectConnection(socket),
    close() {
      injector.destroy()
      server.forceShutdown()
    },
  }
}

type Life = { readonly deadlineMs: number; readonly signal: AbortSignal; readonly trace: string | undefined }

/** A call lives until its client's deadline or until the client leaves. */
function lifeOf(call: ServerUnaryCall<unknown, object>): Omit<Life, 'trace'> {
  const controller = new AbortController()
  call.on('cancelled', () => controller.abort(new MeshError('CANCELLED', 'the caller left')))
  const deadline = call.getDeadline()
  const left = (deadline instanceof Date ? deadline.getTime() : deadline) - Date.now()
  return { signal: controller.signal, deadlineMs: Number.isFinite(left) ? Math.max(1, Math.min(left, 3_600_000)) : DEADLINE_MS }
}

function admit(metadata: Metadata, token: string): void {
  const given = metadata.get('authorization').map(String)[0]?.replace(/^Bearer /i, '')
  if (given === undefined || !sameToken(given, token)) throw new MeshError('UNAUTHENTICATED', 'this door asks for the token: send the metadata `authorization: Bearer …` with the token of daemon.json')
}

function blockTarget({ block_id: block, query_parameters: query, output_ptr: graph }: z.infer<typeof blockPacket>): Target {
  if (graph.trim() !== '') return { graph: dataFrom(graph) }
  if (block !== '') return { block }
  if (query.trim() !== '') return { search: dataFrom(query) }
  throw new MeshError('BAD_INPUT', 'BlockInferencePacket: give block_id, or query_parameters with a search, or output_ptr with a graph')
}

/** AIOS has a server for each vDAG; here the header `x-vdag-uri` or the session (`vdag::URI::session`) names it. */
function vdagOf(metadata: Metadata, { session_id: session }: Fields): string | undefined {
  return metadata.get('x-vdag-uri').map(String)[0] ?? /^vdag::(.+?)::/.exec(session)?.[1]
}

async function onlyOne({ controllers }: Peer): Promise<string> {
  const vdag = await controllers.only()
  if (vdag === undefined) throw new MeshError('BAD_INPUT', 'name the vDAG: the metadata x-vdag-uri, or a session_id of the form vdag::URI::session, or make this peer a controller of it alone')
  return vdag
}

/** AIOS's `frame_ptr` names a large file elsewhere; it travels as a file whose metadata says so. */
function packetOf({ session_id, seq_no, data, ts, files, frame_ptr }: Fields): Packet {
  const frame = frame_ptr.byteLength === 0 ? [] : [{ metadata: { frame_ptr: dataFrom(new TextDecoder().decode(frame_ptr)) } }]
  return packetFrom({ sessionId: session_id, seqNo: seq_no, ts, data: dataFrom(data), files: [...files.map(({ metadata, file_data }) => ({ metadata: metadata === '' ? null : dataFrom(metadata), bytes: file_data })), ...frame] })
}

/** One answer: the last packet's data, or all of them as a list where there are several. */
function answerOf(asked: Fields, packets: readonly Packet[]): object {
  const [first] = packets
  const data = packets.length <= 1 ? first?.data ?? null : packets.map(packet => packet.data)
  return {
    session_id: asked.session_id, seq_no: String(asked.seq_no), ts: packets.at(-1)?.ts ?? asked.ts, data: typeof data === 'string' ? data : JSON.stringify(data), output_ptr: '', frame_ptr: new Uint8Array(0),
    files: packets.flatMap(packet => packet.files).map(({ metadata, bytes: held, cid }) => ({ metadata: JSON.stringify(cid === undefined ? metadata : { metadata, cid }), file_data: held ?? new Uint8Array(0) })),
  }
}

function statusOf(error: unknown): { readonly code: number; readonly details: string; readonly metadata: Metadata } {
  const { code, message } = asMeshError(error)
  const metadata = new Metadata()
  metadata.set('aios-code', code)
  return { code: ERRORS[code].grpc, details: `${code}: ${message}`, metadata }
}

type Definitions = ReturnType<typeof loadSync>

function serviceOf(definitions: Definitions, name: string): ServiceDefinition {
  const found = definitions[name]
  // What the loader gives for a service is its methods by name; anything else has a `format`.
  if (found === undefined || 'format' in found) throw new MeshError('INTERNAL', `the protocol file has no service ${name}`)
  return found
}

/** Reads an AIOSPacket that travels as bytes inside another message: what `BlockInferenceService` answers with, read back. */
function aiosPacketReader(definitions: Definitions): (bytes: Uint8Array) => object {
  const method = serviceOf(definitions, 'BlockInferenceService')['infer']
  if (method === undefined) throw new MeshError('INTERNAL', 'the protocol file has no BlockInferenceService.infer')
  return given => {
    try {
      return method.responseDeserialize(Buffer.from(given))
    } catch (cause) {
      throw new MeshError('BAD_INPUT', 'rpc_data is not an AIOSPacket', { cause })
    }
  }
}
