import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
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

/** `silentMs`: how long an answer may be in coming before the peer is asked whether it is there at all; `thereMs`: how long it may take to say so. */
export type Patience = { readonly silentMs: number; readonly thereMs: number }
const PATIENCE: Patience = { silentMs: 5_000, thereMs: 5_000 }

/**
 * Speaks HTTP to the daemon of one folder. One that is stopped or hangs is told by its silence at `/healthz`: before a long request is
 * sent, which then takes as long as it takes, and while a short one has no answer. Work that takes its time is not cut.
 */
export class DaemonClient {
  readonly #daemon: DaemonFile
  readonly #signal: AbortSignal
  readonly #patience: Patience

  constructor(daemon: DaemonFile, signal: AbortSignal, patience = PATIENCE) {
    this.#daemon = daemon
    this.#signal = signal
    this.#patience = patience
  }

  static async find(dataDir: string, signal: AbortSignal): Promise<DaemonClient> {
    return new DaemonClient(await readDaemonFile(dataDir), signal)
  }

  get peer(): string {
    return this.#daemon.peer
  }

  async get(path: string): Promise<Json> {
    return this.#json(await this.#ask('GET', path, undefined, true))
  }

  async send(method: 'POST' | 'DELETE' | 'PUT', path: string, body: Json = {}): Promise<Json> {
    return this.#json(await this.#ask(method, path, body, true))
  }

  /** As `send`, of work that may keep the peer too busy to say that it is there. */
  async sendLong(method: 'POST', path: string, body: Json): Promise<Json> {
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

  /** A long request. */
  async fetch(method: string, path: string, body?: Json): Promise<Response> {
    await this.#there(this.#signal)
    return this.#ask(method, path, body, false)
  }

  async #ask(method: string, path: string, body: Json | undefined, short: boolean): Promise<Response> {
    let response: Response
    const giveUp = new AbortController()
    try {
      const asked = fetch(`${this.#daemon.http}${path}`, {
        method,
        signal: AbortSignal.any([this.#signal, giveUp.signal]),
        headers: { authorization: `Bearer ${this.#daemon.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
      response = await (short ? this.#watched(asked) : asked)
    } catch (cause) {
      giveUp.abort()
      throw cause instanceof MeshError ? cause : this.#unreachable(cause)
    }
    if (!response.ok) {
      const answer = failure.safeParse(await response.json().catch(() => ({})))
      if (!answer.success) throw new MeshError('INTERNAL', `the peer answered ${response.status} without saying why`)
      const { code, message } = answer.data.error
      throw new MeshError(codeOf(code, response.status), message)
    }
    return response
  }

  /** What `answer` is, unless the peer is not there any more before that. */
  async #watched<T>(answer: Promise<T>): Promise<T> {
    const over = new AbortController()
    const watch = async (): Promise<never> => {
      for (;;) {
        await sleep(this.#patience.silentMs, undefined, { signal: over.signal })
        await this.#there(over.signal)
      }
    }
    try {
      return await Promise.race([answer, watch()])
    } finally {
      over.abort()
    }
  }

  async #there(signal: AbortSignal): Promise<void> {
    const late = AbortSignal.timeout(this.#patience.thereMs)
    try {
      // Whatever it says: it is there.
      await (await fetch(`${this.#daemon.http}/healthz`, { signal: AbortSignal.any([this.#signal, signal, late]) })).arrayBuffer()
    } catch (cause) {
      const { http, pid } = this.#daemon
      if (this.#signal.aborted || !late.aborted) throw this.#unreachable(cause)
      throw new MeshError('PEER_UNREACHABLE', `the peer at ${http} is there and says nothing: it was stopped, or hangs${pid === 0 ? '' : `. Let it go on with \`kill -CONT ${pid}\`, or end it with \`kill -9 ${pid}\` and start it again with \`aios up\``}`, { cause })
    }
  }

  #unreachable(cause: unknown): MeshError {
    if (this.#signal.aborted) return new MeshError('CANCELLED', 'stopped', { cause })
    return new MeshError('PEER_UNREACHABLE', `the peer at ${this.#daemon.http} does not answer: is it still running?`, { cause })
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
