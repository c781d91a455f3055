import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { refusalOf } from '../../protocols/refusal.ts'
import type { Health } from '../../src/ports.ts'

const ANSWER_BYTES = 67_108_864

const file = z.object({ metadata: json.default(null), file_data: z.string().default('') })
const output = z.looseObject({ data: json.default(null), files: z.array(file).default([]) })
const answer = z.looseObject({ success: z.boolean().optional(), data: json.default(null), message: z.string().optional() })
const healthy = z.looseObject({ status: z.string() })

/**
 * Speaks AIOS's HTTP of an instance: `GET /health`, `POST /setParameters`, `POST /mgmt`, and `POST /infer` with a packet
 * (`{ session_id, seq_no, ts, data, files: [{ metadata, file_data (base64) }] }`), answered by `{ data, files? }` or by one such object a line.
 */
export class HttpInstance {
  readonly #base: string

  constructor(base: string) {
    this.#base = base
  }

  /** Throws COMPONENT_ERROR for 4xx, INSTANCE_FAILED for anything else that is no answer. */
  async *infer(packet: Packet, signal: AbortSignal): AsyncGenerator<Packet> {
    const files = packet.files.map(({ metadata, bytes }) => ({ metadata, ...(bytes === undefined ? {} : { file_data: Buffer.from(bytes).toString('base64') }) }))
    const response = await this.#ask('/infer', { session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data, files }, signal)
    const asPacket = (text: string): Packet => {
      const said = believed(output, parsed(text), 'the answer of the server')
      return { ...packet, data: said.data, files: said.files.map(({ metadata, file_data }) => ({ metadata, bytes: new Uint8Array(Buffer.from(file_data, 'base64')) })) }
    }
    if (!(response.headers.get('content-type') ?? '').includes('ndjson')) return yield asPacket(await bounded(response, signal))
    for await (const line of linesOf(response, signal)) yield asPacket(line)
  }

  async health(signal: AbortSignal): Promise<Health> {
    const said = answer.safeParse(parsed(await bounded(await this.#ask('/health', undefined, signal), signal)))
    const inner = healthy.safeParse(said.success && said.data.data !== null ? said.data.data : said.data)
    return { healthy: inner.success && inner.data.status === 'healthy', detail: said.success ? said.data.data : null }
  }

  management(action: string, data: Json, signal: AbortSignal): Promise<Json> {
    return this.#one('/mgmt', { mgmt_action: action, mgmt_data: data }, signal)
  }

  update(parameters: Json, signal: AbortSignal): Promise<Json> {
    return this.#one('/setParameters', parameters, signal)
  }

  async #one(path: string, body: Json, signal: AbortSignal): Promise<Json> {
    const said = believed(answer, parsed(await bounded(await this.#ask(path, body, signal), signal)), `the answer to ${path}`)
    if (said.success === false) throw new MeshError('COMPONENT_ERROR', said.message ?? `${path} refused`)
    return said.data
  }

  async #ask(path: string, body: unknown, signal: AbortSignal): Promise<Response> {
    return asked(`${this.#base}${path}`, { method: body === undefined ? 'GET' : 'POST', ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }) }, signal)
  }
}

/** One HTTP request in the errors of an instance: COMPONENT_ERROR for 4xx (OVERLOADED for 429), INSTANCE_FAILED for the rest, the signal's own reason when it aborts. */
export async function asked(url: string, init: RequestInit, signal: AbortSignal): Promise<Response> {
  let response: Response
  try {
    response = await fetch(url, { ...init, signal, redirect: 'error' })
  } catch (cause) {
    throw failed(cause, signal)
  }
  if (response.ok) return response
  const words = (await bounded(response, signal).catch(() => '')).slice(0, 1_000)
  const said = z.looseObject({ error: z.union([z.string(), z.looseObject({ message: z.string() }).transform(({ message }) => message)]) }).safeParse(parsed(words))
  const because = `the server answered ${response.status}: ${said.success ? said.data.error : words}`.slice(0, 600)
  if (response.status === 429) throw new MeshError('OVERLOADED', because)
  throw new MeshError(response.status < 500 ? 'COMPONENT_ERROR' : 'INSTANCE_FAILED', because)
}

/** The lines of a streamed answer; empty ones are left out. */
export async function * linesOf(response: Response, signal: AbortSignal): AsyncGenerator<string> {
  if (response.body === null) return
  const decoder = new TextDecoder()
  let rest = ''
  try {
    for await (const chunk of response.body) {
      rest += decoder.decode(chunk, { stream: true })
      if (rest.length > ANSWER_BYTES) throw new MeshError('INSTANCE_FAILED', `the server sent a line of more than ${ANSWER_BYTES} characters`)
      const parts = rest.split('\n')
      rest = parts.pop() ?? ''
      for (const part of parts) if (part.trim() !== '') yield part.replace(/\r$/, '')
    }
  } catch (cause) {
    throw failed(cause, signal)
  }
  if (rest.trim() !== '') yield rest
}

/** A whole answer as text. Throws INSTANCE_FAILED when it is longer than an instance may answer. */
export async function bounded(response: Response, signal: AbortSignal): Promise<string> {
  const pieces: Uint8Array[] = []
  let size = 0
  if (response.body === null) return ''
  try {
    for await (const piece of response.body) {
      size += piece.byteLength
      if (size > ANSWER_BYTES) throw new MeshError('INSTANCE_FAILED', `the server answered with more than ${ANSWER_BYTES} bytes`)
      pieces.push(piece)
    }
  } catch (cause) {
    throw failed(cause, signal)
  }
  return Buffer.concat(pieces).toString('utf8')
}

/** Throws INSTANCE_FAILED when something is not what it should be. */
export function believed<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const read = schema.safeParse(value)
  if (read.success) return read.data
  throw new MeshError('INSTANCE_FAILED', `${what} cannot be used: ${refusalOf(read.error, value)}`)
}

/** Text as JSON; undefined where it is none. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function failed(cause: unknown, signal: AbortSignal): MeshError {
  if (cause instanceof MeshError) return cause
  if (signal.aborted) return signal.reason instanceof MeshError ? signal.reason : new MeshError('CANCELLED', 'the caller gave up', { cause: signal.reason })
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : cause instanceof Error ? cause.message : String(cause)
  return new MeshError('INSTANCE_FAILED', `the server does not answer: ${inner}`, { cause })
}
