import type { Millis, PeerId } from '../protocols/ids.ts'
import type { Ports } from '../src/ports.ts'
import { type BackendWeather, ExecutionLog, STEADY } from './backend.ts'
import type { Checker, Inspection, Observed } from './checkers.ts'
import { ContentWorld } from './content.ts'
import { SimulatedHost, type Surroundings } from './host.ts'
import { KeyRing } from './identity.ts'
import { Kernel } from './kernel.ts'
import { CALM, type Weather } from './links.ts'
import { SimulatedNetwork } from './network.ts'
import { TelemetryRecorder } from './telemetry.ts'

/** What the world needs of a peer under test. */
export interface SimPeer {
  inspect(): Inspection
  /** A clean shutdown. */
  stop(): Promise<void>
}

/** Composes a peer over the ports of one life; called again after each restart of its host. */
export type PeerFactory<P extends SimPeer> = (ports: Ports, host: SimulatedHost) => Promise<P>

export type WorldOptions<P extends SimPeer> = {
  readonly seed: number
  readonly peers: number
  readonly factory: PeerFactory<P>
  readonly weather?: Weather
  readonly checkers?: readonly Checker[]
  /** Virtual time between two looks of the checkers; 0 looks after every instant. */
  readonly checkEveryMs?: Millis
  /** One in so many requests and answers is carried as real bytes; all of them in worlds of up to 50 peers and where somebody lies. */
  readonly realEvery?: number
  /** Wraps one host's ports to make it lie, stall or forge. */
  readonly corrupt?: (ports: Ports, host: SimulatedHost) => Ports
}

const SMALL_WORLD = 50
const REAL_EVERY = 32

/** A property did not hold, or code under test threw what nobody foresaw. */
export class Violation extends Error {
  readonly seed: number
  readonly at: Millis
  readonly checker: string

  constructor(seed: number, at: Millis, checker: string, because: string, cause?: unknown) {
    super(`seed ${seed}, ${at} ms: ${checker}: ${because}`, cause === undefined ? undefined : { cause })
    this.name = 'Violation'
    this.seed = seed
    this.at = at
    this.checker = checker
  }
}

/** Peers on hosts on a network, under faults, watched by checkers. Everything follows from the seed. */
export class World<P extends SimPeer> {
  readonly kernel: Kernel
  readonly network: SimulatedNetwork
  readonly content: ContentWorld
  readonly telemetry: TelemetryRecorder
  readonly executions = new ExecutionLog()
  readonly hosts: readonly SimulatedHost[]
  readonly peers = new Map<PeerId, P>()
  backendWeather: BackendWeather = STEADY
  /** What `settle` waited for last. */
  waitedFor: string | undefined
  readonly #options: WorldOptions<P>
  readonly #checkers: readonly Checker[]
  readonly #calm: Weather
  readonly #rejections: unknown[] = []
  #bug: Violation | undefined
  #lastCheck = -Infinity

  constructor(options: WorldOptions<P>) {
    this.#options = options
    this.#checkers = options.checkers ?? []
    this.kernel = new Kernel(options.seed)
    const weather = options.weather ?? CALM
    this.#calm = { ...weather, loss: 0, duplicate: 0 }
    this.network = new SimulatedNetwork(this.kernel, weather, (error, peer) => this.#report(error, peer), options.realEvery ?? (options.corrupt === undefined && options.peers > SMALL_WORLD ? REAL_EVERY : 1))
    this.content = new ContentWorld(this.kernel, this.network)
    this.telemetry = new TelemetryRecorder(() => this.kernel.now)
    const around: Surroundings = {
      kernel: this.kernel,
      network: this.network,
      content: this.content,
      ring: new KeyRing(),
      telemetry: this.telemetry,
      executions: this.executions,
      backendWeather: () => this.backendWeather,
    }
    this.hosts = Array.from({ length: options.peers }, (_, index) => new SimulatedHost(around, index))
  }

  get seed(): number {
    return this.kernel.seed
  }

  get now(): Millis {
    return this.kernel.now
  }

  /** Starts the peer of a host; resolves, in virtual time, when it is composed. */
  async start(host: SimulatedHost): Promise<P> {
    const ports = host.boot()
    const life = host.lives
    const peer = await this.#options.factory(this.#options.corrupt?.(ports, host) ?? ports, host)
    // It may have crashed while it was starting; then nobody must take it for the running one.
    if (host.running && host.lives === life) this.peers.set(host.peer, peer)
    return peer
  }

  /** Starts all hosts `gapMs` apart and runs until they are up. */
  async startAll(gapMs: Millis = 10): Promise<void> {
    const clock = this.kernel.clock()
    await this.drive(Promise.all(this.hosts.map(async host => {
      await clock.sleep(host.index * gapMs)
      await this.start(host)
    })))
  }

  /** Volatile memory is gone, journal and content stay. */
  crash(host: SimulatedHost, silent = false): void {
    // What it had promised by now it will be held to.
    this.#checkSafety()
    this.peers.delete(host.peer)
    host.crash(silent)
  }

  /** Boots a crashed host again; its peer is up some virtual time later. */
  restart(host: SimulatedHost): void {
    if (host.running) return
    this.start(host).catch(error => this.#report(error, host.peer))
  }

  partition(one: readonly SimulatedHost[], other: readonly SimulatedHost[]): () => void {
    return this.network.partition(one.map(host => host.peer), other.map(host => host.peer))
  }

  weather(weather: Weather): void {
    this.network.links.weather = weather
  }

  /** Runs until `until` of virtual time. Throws the first Violation. */
  run(until: Millis): Promise<void> {
    return this.#watched(() => this.kernel.run(until, () => this.#check()))
  }

  /** Runs until `work` settles. */
  drive<T>(work: Promise<T>, limit?: Millis): Promise<T> {
    return this.#watched(() => this.kernel.drive(work, limit, () => this.#check()))
  }

  /** Stops all faults and boots what is down, then runs until no checker misses anything. Throws a Violation after `limit`. */
  async settle(limit: Millis): Promise<Millis> {
    const from = this.now
    this.network.healAll()
    this.weather(this.#calm)
    this.backendWeather = { ...this.backendWeather, crash: 0 }
    for (const host of this.hosts) this.restart(host)
    const step = Math.max(1, Math.min(250, Math.round(limit / 40)))
    for (;;) {
      await this.run(this.now + step)
      const missing = this.#pending()
      if (missing === undefined) return this.now - from
      this.waitedFor = `${missing.checker}: ${missing.because}`
      if (this.now - from >= limit) throw new Violation(this.seed, this.now, missing.checker, `${limit} ms after faults stopped: ${missing.because}`)
    }
  }

  /** Hash of every delivered message with its time. */
  fingerprint(): string {
    return this.network.fingerprint()
  }

  observe(): Observed {
    const running = new Map<PeerId, Inspection>()
    for (const host of this.hosts) {
      const peer = this.peers.get(host.peer)
      if (peer !== undefined) running.set(host.peer, peer.inspect())
    }
    return { now: this.now, running, executions: this.executions.all() }
  }

  #pending(): { readonly checker: string; readonly because: string } | undefined {
    const observed = this.observe()
    for (const checker of this.#checkers) {
      const because = checker.pending(observed)
      if (because !== undefined) return { checker: checker.name, because }
    }
    return undefined
  }

  #check(): void {
    if (this.#bug !== undefined) throw this.#bug
    const [rejection] = this.#rejections
    if (rejection !== undefined) throw new Violation(this.seed, this.now, 'no unhandled rejection', rejection instanceof Error ? (rejection.stack ?? rejection.message) : String(rejection), rejection)
    if (this.#checkers.length === 0 || this.now - this.#lastCheck < (this.#options.checkEveryMs ?? 0)) return
    this.#checkSafety()
  }

  #checkSafety(): void {
    this.#lastCheck = this.now
    const observed = this.observe()
    for (const checker of this.#checkers) {
      const because = checker.safety(observed)
      if (because !== undefined) throw new Violation(this.seed, this.now, checker.name, because)
    }
  }

  /** An error nobody answers for is a failed run, not a line on the console. */
  async #watched<T>(run: () => Promise<T>): Promise<T> {
    const hear = (reason: unknown): void => {
      this.#rejections.push(reason)
    }
    process.on('unhandledRejection', hear)
    try {
      const result = await run()
      this.#check()
      return result
    } finally {
      process.off('unhandledRejection', hear)
    }
  }

  #report(error: unknown, peer: PeerId): void {
    const because = error instanceof Error ? (error.stack ?? error.message) : String(error)
    this.#bug ??= new Violation(this.seed, this.now, 'no unforeseen error', `${peer}: ${because}`, error)
  }
}
