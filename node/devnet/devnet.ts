import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { DaemonClient, daemonFile } from '../cli/daemon-client.ts'

const CLI = fileURLToPath(new URL('../cli/main.ts', import.meta.url))
const READY_MS = 30_000
const STOP_MS = 15_000
const MET_MS = 20_000
const LOOK_MS = 50
/** Where a peer keeps what it measured. It says for which hardware and versions, so it can do no harm elsewhere. */
const MACHINE = 'machine.json'
let measured: string | undefined

const readyLine = z.object({ ready: z.literal(true), peer: z.string(), http: z.string(), grpc: z.string(), oci: z.string(), addresses: z.array(z.string()), readyMs: z.number(), network: z.string() })

const known = z.array(z.object({ state: z.string(), ad: z.unknown() }))

/** One real daemon process of a devnet. */
export type DevPeer = {
  readonly index: number
  readonly dataDir: string
  readonly peer: string
  readonly http: string
  readonly grpc: string
  readonly oci: string
  readonly readyMs: number
  readonly pid: number
  readonly client: DaemonClient
  readonly process: ChildProcess
}

export type UpOptions = { readonly join?: string; readonly labels?: Readonly<Record<string, string>>; readonly listen?: string; readonly http?: string; readonly extra?: readonly string[] }

/** Several real daemons on this machine, on loopback only: what the demo, the benches and the end-to-end tests stand on. */
export class Devnet implements AsyncDisposable {
  readonly #dir: string
  readonly #peers: (DevPeer | undefined)[] = []
  readonly #interrupt = new AbortController()

  constructor(dir: string) {
    this.#dir = dir
  }

  /** A mesh of `count` peers: the first makes the network, the others enter by its invite, at the same time. Each knows all when it is there. */
  static async start(dir: string, count: number, labels: (index: number) => Readonly<Record<string, string>> = () => ({})): Promise<Devnet> {
    const net = new Devnet(dir)
    try {
      const first = await net.up(0, { labels: labels(0) })
      const invite = await net.invite(first)
      const others = Array.from({ length: count - 1 }, (_, at) => at + 1)
      // All settled, so that none is still starting when the devnet is taken down.
      const failed = (await Promise.allSettled(others.map(index => net.up(index, { join: invite, labels: labels(index) })))).find(({ status }) => status === 'rejected')
      if (failed?.status === 'rejected') throw failed.reason
      await net.met()
      return net
    } catch (error) {
      await net[Symbol.asyncDispose]()
      throw error
    }
  }

  peer(index: number): DevPeer {
    const peer = this.#peers[index]
    if (peer === undefined) throw new MeshError('PEER_UNREACHABLE', `peer ${index} of the devnet is not running`)
    return peer
  }

  running(): readonly DevPeer[] {
    return this.#peers.filter(peer => peer !== undefined)
  }

  async invite(peer: DevPeer): Promise<string> {
    return z.object({ invite: z.string() }).loose().parse(await peer.client.send('POST', '/mesh/invite', {})).invite
  }

  /** Resolves when each that runs knows all that run, and what they have. Throws DEADLINE. */
  async met(): Promise<void> {
    const running = this.running()
    const ends = performance.now() + MET_MS
    for (const peer of running) {
      while (known.parse(await peer.client.get('/mesh/peers')).filter(({ state, ad }) => state === 'alive' && ad !== null).length < running.length) {
        if (performance.now() > ends) throw new MeshError('DEADLINE', `peer ${peer.index} did not meet the others within ${MET_MS} ms`)
        await sleep(LOOK_MS)
      }
    }
  }

  /** Starts (or restarts, on the same folder) one daemon and waits until it says it is ready. Throws with its last words. */
  async up(index: number, options: UpOptions = {}): Promise<DevPeer> {
    const dataDir = join(this.#dir, `peer-${index}`)
    await mkdir(dataDir, { recursive: true })
    await this.#shareMeasured(dataDir)
    const labels = Object.entries(options.labels ?? {}).flatMap(([key, value]) => ['--label', `${key}=${value}`])
    const child = spawn(process.execPath, [
      CLI, 'up', '--json', '--data', dataDir, '--listen', options.listen ?? '/ip4/127.0.0.1/tcp/0', '--http', options.http ?? '127.0.0.1:0', '--no-mdns',
      ...(options.join === undefined ? [] : ['--join', options.join]), ...labels, ...(options.extra ?? []),
    ], { stdio: ['ignore', 'pipe', 'pipe'], env: process.env })
    const words: string[] = []
    const log = createWriteStream(join(dataDir, 'output.log'), { flags: 'a' })
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', line => {
      words.push(line)
      if (words.length > 50) words.shift()
      log.write(`${line}\n`)
    })
    const ready = await new Promise<z.infer<typeof readyLine>>((resolve, reject) => {
      const timer = setTimeout(() => reject(new MeshError('DEADLINE', `peer ${index} was not ready after ${READY_MS} ms: ${words.join(' | ')}`)), READY_MS)
      createInterface({ input: child.stdout }).on('line', line => {
        const parsed = line.startsWith('{') ? readyLine.safeParse(JSON.parse(line)) : undefined
        if (parsed?.success !== true) return
        clearTimeout(timer)
        resolve(parsed.data)
      })
      child.once('exit', code => {
        clearTimeout(timer)
        log.end()
        // Its last lines may still be in the pipe.
        setTimeout(() => reject(new MeshError('INTERNAL', `peer ${index} exited with ${code}: ${words.join(' | ')}`)), 50)
      })
    }).catch(error => {
      child.kill('SIGKILL')
      throw error
    })
    const file = daemonFile.parse(JSON.parse(await readFile(join(dataDir, 'daemon.json'), 'utf8')))
    const peer: DevPeer = { index, dataDir, peer: ready.peer, http: ready.http, grpc: ready.grpc, oci: ready.oci, readyMs: ready.readyMs, pid: file.pid, client: new DaemonClient(file, this.#interrupt.signal), process: child }
    this.#peers[index] = peer
    return peer
  }

  /** All are on this host, so what one has measured of it holds for those that start later: they need not take its cores for that again. */
  async #shareMeasured(dataDir: string): Promise<void> {
    for (const { dataDir: other } of this.running()) measured ??= await readFile(join(other, MACHINE), 'utf8').catch(() => undefined)
    // One that was here before has its own.
    if (measured !== undefined) await writeFile(join(dataDir, MACHINE), measured, { flag: 'wx' }).catch(() => undefined)
  }

  /** Pulls the plug: SIGKILL, no goodbye. */
  async kill(index: number): Promise<void> {
    await this.#end(index, 'SIGKILL')
  }

  /** Asks it to stop and waits until it has. */
  async stop(index: number): Promise<void> {
    await this.#end(index, 'SIGTERM')
  }

  async #end(index: number, signal: NodeJS.Signals): Promise<void> {
    const peer = this.#peers[index]
    if (peer === undefined) return
    this.#peers[index] = undefined
    if (peer.process.exitCode !== null || peer.process.signalCode !== null) return
    const gone = once(peer.process, 'exit')
    peer.process.kill(signal)
    const timer = setTimeout(() => peer.process.kill('SIGKILL'), STOP_MS)
    await gone
    clearTimeout(timer)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#peers.map((_, index) => this.stop(index)))
    this.#interrupt.abort(new MeshError('CANCELLED', 'the devnet was taken down'))
  }
}
