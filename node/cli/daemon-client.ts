import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { MeshError, isErrorCode, type ErrorCode } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'

/** What a running daemon leaves in its folder for the CLI: where its door is and the key to it. */
export const daemonFile = z.object({ http: z.string(), grpc: z.string().optional(), oci: z.string().optional(), token: z.string(), pid: z.int(), peer: z.string() })
export type DaemonFile = z.infer<typeof daemonFile>

/** Throws PEER_UNREACHABLE where no daemon has left one. */
export async function readDaemonFile(dataDir: string): Promise<DaemonFile> {
  try {
    return daemonFile.parse(JSON.parse(await readFile(join(dataDir, 'daemon.json'), 'utf8')))
  } catch (cause) {
    throw new MeshError('PEER_UNREACHABLE', `no peer runs on ${dataDir}: start one with \`aios up --data ${dataDir}\``, { cause })
  }
}

const failure = z.object({ error: z.object({ code: z.string(), message: z.string() }) })

/** Speaks HTTP to the daemon of one folder. */
export class DaemonClient {
  readonly #daemon: DaemonFile
  readonly #signal: AbortSignal

  constructor(daemon: DaemonFile, signal: AbortSignal) {
    this.#daemon = daemon
    this.#signal = signal
  }

  static async find(dataDir: string, signal: AbortSignal): Promise<DaemonClient> {
    return new DaemonClient(await readDaemonFile(dataDir), signal)
  }

  get peer(): string {
    return this.#daemon.peer
  }

  async get(path: string): Promise<Json> {
    return this.#json(await this.fetch('GET', path))
  }

  async send(method: 'POST' | 'DELETE' | 'PUT', path: string, body: Json = {}): Promise<Json> {
    return this.#json(await this.fetch(method, path, body))
  }

  /** The lines of an NDJSON answer as they come. An `{ error }` line is thrown. */
  async * lines(method: 'GET' | 'POST', path: string, body?: Json): AsyncGenerator<Json> {
    const response = await this.fetch(method, path, body)
    if (response.body === null) return
    let rest = ''
    const decoder = new TextDecoder()
    for await (const chunk of this.#heard(response.body)) {
      rest += decoder.decode(chunk, { stream: true })
      const parts = rest.split('\n')
      rest = parts.pop() ?? ''
      for (const part of parts) if (part !== '') yield thrownIfError(json.parse(JSON.parse(part)))
    }
    if (rest !== '') yield thrownIfError(json.parse(JSON.parse(rest)))
  }

  async fetch(method: string, path: string, body?: Json): Promise<Response> {
    let response: Response
    try {
      response = await fetch(`${this.#daemon.http}${path}`, {
        method,
        signal: this.#signal,
        headers: { authorization: `Bearer ${this.#daemon.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
    } catch (cause) {
      if (this.#signal.aborted) throw new MeshError('CANCELLED', 'stopped', { cause })
      throw new MeshError('PEER_UNREACHABLE', `the peer at ${this.#daemon.http} does not answer: is it still running?`, { cause })
    }
    if (!response.ok) {
      const answer = failure.safeParse(await response.json().catch(() => ({})))
      if (!answer.success) throw new MeshError('INTERNAL', `the peer answered ${response.status} without saying why`)
      const { code, message } = answer.data.error
      throw new MeshError(codeOf(code, response.status), message)
    }
    return response
  }

  async #json(response: Response): Promise<Json> {
    const text = await response.text().catch((cause: unknown) => Promise.reject(this.#lost(cause)))
    return json.parse(JSON.parse(text))
  }

  async * #heard(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
    try {
      yield * body
    } catch (cause) {
      throw this.#lost(cause)
    }
  }

  /** The connection ended in the middle of an answer. */
  #lost(cause: unknown): MeshError {
    if (this.#signal.aborted) return new MeshError('CANCELLED', 'stopped', { cause })
    return new MeshError('PEER_UNREACHABLE', `the peer at ${this.#daemon.http} went away while it answered: what it had begun may go on without it, so ask any other peer`, { cause })
  }
}

function thrownIfError(line: Json): Json {
  const parsed = failure.safeParse(line)
  if (!parsed.success) return line
  const { code, message } = parsed.data.error
  throw new MeshError(isErrorCode(code) ? code : 'INTERNAL', message)
}

/** OpenAI's doors write codes in lower case, and have some of their own. */
function codeOf(code: string, status: number): ErrorCode {
  const known = code.toUpperCase()
  if (isErrorCode(known)) return known
  if (status === 404) return 'NOT_FOUND'
  return status < 500 ? 'BAD_INPUT' : 'INTERNAL'
}
