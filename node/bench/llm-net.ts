import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { Devnet, type DevPeer } from '../devnet/devnet.ts'

const MAKER = fileURLToPath(new URL('../../test/fixtures/llm/make-model.ts', import.meta.url))
const instance = z.object({ host: z.string(), instance: z.string(), state: z.string() })
const service = z.object({ stages: z.array(z.object({ block: z.string(), first: z.int(), end: z.int(), instances: z.array(instance) })) }).loose()
const chunk = z.object({ id: z.string(), choices: z.array(z.object({ text: z.string(), finish_reason: z.string().nullable() }).loose()), usage: z.object({ completion_tokens: z.int() }).loose().nullish() }).loose()
export type Service = z.infer<typeof service>

export type ModelWish = { readonly preset: 'tiny' | 'small' | '125m'; readonly variant: string; readonly seed?: number }
export type ServeWish = { readonly shards: number; readonly standbys: number; readonly contextTokens?: number; readonly sessions?: number; /** Of each stage; by default as many as keep busy. */ readonly threads?: number }
export type Asked = { readonly prompt: readonly number[]; readonly maxTokens: number; readonly onToken?: (count: number, session: string) => void; readonly signal?: AbortSignal }
/** `arrivals`: when each chunk came, from `performance.now()`; `counts`: how many tokens, and the end, there were by then. A token without a text of its own comes with the next. */
export type Streamed = { readonly session: string; readonly text: string; /** The last event id: what to read on after. */ readonly told: string; readonly beganAt: number; readonly arrivals: readonly number[]; readonly counts: readonly number[] }

/** Real daemons on this machine that serve models of random weights. */
export class LlmNet implements AsyncDisposable {
  readonly net: Devnet
  readonly dir: string

  private constructor(dir: string, net: Devnet) {
    this.dir = dir
    this.net = net
  }

  static async start(peers: number): Promise<LlmNet> {
    const dir = await mkdtemp(join(tmpdir(), 'aios-llm-'))
    try {
      return new LlmNet(dir, await Devnet.start(join(dir, 'net'), peers))
    } catch (error) {
      await rm(dir, { recursive: true, force: true })
      throw error
    }
  }

  make(wish: ModelWish): Promise<string> {
    return makeModel(this.dir, wish)
  }

  /** Imports a folder at the first peer and serves it; resolves when each stage has all its instances. */
  async serve(folder: string, name: string, wish: ServeWish): Promise<void> {
    const { client } = this.net.peer(0)
    for await (const line of client.lines('POST', '/mesh/models', { path: folder, name: `${name}:1.0.0-stable` })) {
      const failed = z.object({ error: z.object({ message: z.string() }) }).safeParse(line)
      if (failed.success) throw new Error(failed.data.error.message)
    }
    await client.send('POST', '/mesh/services', { model: `${name}:1.0.0-stable`, service: name, aim: 'throughput', wait: true, ...wish })
    await this.settled(name, wish.standbys + 1)
  }

  /** Waits until every stage has `instances` that are ready. */
  async settled(name: string, instances: number, limitMs = 120_000): Promise<Service> {
    const ends = performance.now() + limitMs
    for (;;) {
      const now = service.parse(await this.net.running()[0]?.client.get(`/mesh/services/${name}`))
      if (now.stages.every(stage => stage.instances.filter(({ state }) => state === 'ready').length >= instances)) return now
      if (performance.now() > ends) throw new Error(`${name} did not come up: ${JSON.stringify(now.stages)}`)
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }

  /** Greedy, to the last token asked for, streamed from one peer. Reads on from another one after `after` tokens where a session is named. */
  async stream(peer: DevPeer, name: string, { prompt, maxTokens, onToken, signal }: Asked): Promise<Streamed> {
    const beganAt = performance.now()
    const response = await fetch(`${peer.http}/v1/completions`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, ...(signal === undefined ? {} : { signal }),
      body: JSON.stringify({ model: name, prompt, max_tokens: maxTokens, temperature: 0, stream: true, ignore_eos: true }),
    })
    return read(response, beganAt, onToken)
  }

  /** Reads on from any peer, after what was told already; asks until somebody has taken the session over. */
  async again(peer: DevPeer, session: string, told: string, limitMs = 30_000): Promise<Streamed> {
    const beganAt = performance.now()
    for (;;) {
      const response = await fetch(`${peer.http}/v1/completions/${session}?after=${told}`)
      if (response.ok || performance.now() - beganAt > limitMs) return read(response, beganAt)
      await response.text()
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.net[Symbol.asyncDispose]()
    await rm(this.dir, { recursive: true, force: true })
  }
}

/** What a stream that broke off had given. */
export class BrokenStream extends Error {
  readonly got: Streamed

  constructor(got: Streamed, cause: unknown) {
    super('the stream broke off', { cause })
    this.got = got
  }
}

/** Server-sent chunks as they come. Throws what the server says went wrong, and BrokenStream when it is gone. */
export async function read(response: Response, beganAt: number, onToken?: (count: number, session: string) => void): Promise<Streamed> {
  if (!response.ok || response.body === null) throw new Error(`${response.status}: ${await response.text()}`)
  const arrivals: number[] = []
  const counts: number[] = []
  let session = ''
  let text = ''
  let rest = ''
  let told = '0'
  let ended = false
  const decoder = new TextDecoder()
  const got = (): Streamed => ({ session, text, told, beganAt, arrivals, counts })
  const body = response.body.getReader()
  for (;;) {
    const { done, value: bytes } = await body.read().catch((cause: unknown) => {
      throw new BrokenStream(got(), cause)
    })
    if (done) break
    rest += decoder.decode(bytes, { stream: true })
    const events = rest.split('\n\n')
    rest = events.pop() ?? ''
    for (const event of events) {
      const data = /^data: (.*)$/m.exec(event)?.[1]
      if (data === '[DONE]') ended = true
      if (data === undefined || data === '[DONE]') continue
      const value: unknown = JSON.parse(data)
      const parsed = chunk.safeParse(value)
      if (!parsed.success) throw new Error(data)
      session = parsed.data.id
      told = /^id: (.*)$/m.exec(event)?.[1] ?? told
      arrivals.push(performance.now())
      counts.push(Number(told))
      text += parsed.data.choices.map(choice => choice.text).join('')
      onToken?.(arrivals.length, session)
    }
  }
  if (!ended) throw new BrokenStream(got(), 'it ended without an end')
  return got()
}

/** Makes a model of random weights below `dir`; answers its folder. The same seed gives the same weights in every variant, each rounded as it says. */
export async function makeModel(dir: string, { preset, variant, seed = 1 }: ModelWish): Promise<string> {
  const folder = join(dir, `${preset}-${variant}-${seed}`)
  const child = spawn(process.execPath, [MAKER, folder, '--preset', preset, '--variant', variant, '--seed', String(seed), '--external'], { stdio: ['ignore', 'ignore', 'inherit'] })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`making a ${preset} ${variant} model ended with ${String(code)}`)
  return folder
}

/** Times between tokens, in ms, from the second chunk on: the mean of those that came in one. */
export function gaps({ arrivals, counts }: Streamed): readonly number[] {
  return arrivals.slice(1).map((at, index) => (at - (arrivals[index] ?? at)) / Math.max(1, (counts[index + 1] ?? 0) - (counts[index] ?? 0)))
}

/** A prompt of token ids that is the same each time. */
export function promptOf(tokens: number, vocab: number, seed = 1): readonly number[] {
  return Array.from({ length: tokens }, (_, at) => (at * 7_919 + seed * 104_729) % Math.min(vocab, 1_000))
}
