import { spawn, type ChildProcess } from 'node:child_process'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { Packet } from '../../../protocols/invoke.ts'
import type { Clock, Health, RunningInstance } from '../../../src/ports.ts'
import { HttpInstance } from '../http-instance.ts'
import { abortError } from '../supervisor-call.ts'
import { LogRing } from '../supervisor-log.ts'

const LOOK_MS = 100
const ASK_MS = 2_000

export type HttpLaunch = {
  readonly command: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  kill(): void
  /** Where its port lies on this host, once it runs. */
  address(): Promise<string>
}

/** A container that speaks AIOS's HTTP of an instance; ready when it says that it is healthy. */
export class HttpContainer implements RunningInstance {
  readonly exited: Promise<{ readonly because: string; readonly crashed: boolean }>
  readonly #child: ChildProcess
  readonly #launch: HttpLaunch
  readonly #log = new LogRing()
  #http: HttpInstance | undefined
  #stopping = false
  #gone: string | undefined

  private constructor(launch: HttpLaunch) {
    this.#launch = launch
    this.#child = spawn(launch.command, launch.args, { cwd: launch.cwd, env: { ...launch.env }, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream?.on('data', (chunk: Uint8Array) => this.#log.push(chunk))
    this.exited = new Promise(resolve => {
      const left = (because: string): void => {
        this.#gone = because
        resolve({ because, crashed: !this.#stopping })
      }
      this.#child.once('error', error => left(`it could not be started: ${error.message}`))
      this.#child.once('close', code => left(this.#stopping ? 'stopped' : code === 137 ? 'its engine killed it, most likely for its memory' : `it ended with code ${code}: ${this.#log.tail(1)[0] ?? ''}`))
    })
  }

  /** Throws INSTANCE_FAILED when it ends before it is healthy, and the signal's reason. */
  static async start(launch: HttpLaunch, clock: Clock, signal: AbortSignal): Promise<HttpContainer> {
    const container = new HttpContainer(launch)
    try {
      await container.#healthy(clock, signal)
      return container
    } catch (error) {
      await container[Symbol.asyncDispose]()
      throw error
    }
  }

  infer(packet: Packet, signal: AbortSignal): AsyncIterable<Packet> {
    return this.#here().infer(packet, signal)
  }

  health(signal: AbortSignal): Promise<Health> {
    return this.#here().health(signal)
  }

  management(action: string, data: Json, signal: AbortSignal): Promise<Json> {
    return this.#here().management(action, data, signal)
  }

  update(parameters: Json, signal: AbortSignal): Promise<Json> {
    return this.#here().update(parameters, signal)
  }

  logs(tail: number): readonly string[] {
    return this.#log.tail(tail)
  }

  usage(): { readonly memoryMb: number; readonly cpuMs: number } {
    return { memoryMb: 0, cpuMs: 0 }
  }

  metrics(): Json {
    return {}
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true
    if (this.#gone === undefined) this.#launch.kill()
    await this.exited
  }

  async #healthy(clock: Clock, signal: AbortSignal): Promise<void> {
    let last = 'it has not answered yet'
    for (;;) {
      if (this.#gone !== undefined) throw new MeshError('INSTANCE_FAILED', `the container is gone: ${this.#gone}`)
      if (signal.aborted) throw new MeshError(abortError(signal).code, `the container did not become healthy: ${last}`)
      try {
        this.#http ??= new HttpInstance(`http://${await this.#launch.address()}`)
        if ((await this.#http.health(clock.deadline(ASK_MS, signal))).healthy) return
        last = 'it says that it is not healthy'
      } catch (error) {
        last = asMeshError(error).message
      }
      await clock.sleep(LOOK_MS, signal).catch(() => undefined)
    }
  }

  #here(): HttpInstance {
    if (this.#gone !== undefined || this.#http === undefined) throw new MeshError('INSTANCE_FAILED', `the container is gone: ${this.#gone ?? 'it was never healthy'}`)
    return this.#http
  }
}
