import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import type { PolicyFunction } from '../../protocols/policy.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import type { Clock, Sandbox, SandboxedRule, Telemetry } from '../ports.ts'
import type { Catalogue } from '../roles.ts'
import { command, evaluate, taken } from './calls.ts'
import { startsWith, type Members } from './precedence.ts'

/** Copies of functions one host keeps: each holds a VM that is never put aside. */
const HELD = 64
/** Calls that may wait at one copy. */
const WAITING = 256
const LINES = 500
const LINE_CHARS = 500
const FETCH_MS: Millis = 10_000
/** A copy that did not open is tried again so much later. */
const AGAIN_MS: Millis = 5_000

type Running = { readonly published: PolicyRule; readonly parameters: Members; readonly rule: SandboxedRule }
type Copy = {
  readonly fn: string
  readonly replica: string
  running: Promise<Running>
  failedAt: Millis | undefined
  waiting: number
  calls: number
  failures: number
  busyMs: number
  since: Millis
  readonly lines: string[]
}
export type CopyLoad = { readonly replica: string; readonly calls: number; readonly failures: number; readonly busy: number }

/** The copies of policy functions that live on this host, each with its state. */
export class Replicas {
  readonly #clock: Pick<Clock, 'monotonic' | 'unix' | 'deadline'>
  readonly #sandbox: Sandbox
  readonly #telemetry: Telemetry
  readonly #catalogue: Pick<Catalogue, 'policy'>
  readonly #copies = new Map<string, Copy>()

  constructor(ports: { readonly clock: Pick<Clock, 'monotonic' | 'unix' | 'deadline'>; readonly sandbox: Sandbox; readonly telemetry: Telemetry }, catalogue: Pick<Catalogue, 'policy'>) {
    this.#clock = ports.clock
    this.#sandbox = ports.sandbox
    this.#telemetry = ports.telemetry
    this.#catalogue = catalogue
  }

  get size(): number {
    return this.#copies.size
  }

  /** Opens the copies that should be here and closes the others: all there are to this host of this function. */
  obey(fn: PolicyFunction, mine: readonly string[]): void {
    for (const copy of this.#copies.values()) if (copy.fn === fn.functionId && !mine.includes(copy.replica)) this.#close(copy)
    for (const replica of mine) {
      const known = this.#copies.get(replica)
      if (known !== undefined && (known.failedAt === undefined || this.#clock.monotonic() - known.failedAt < AGAIN_MS)) continue
      if (known === undefined && this.#copies.size >= HELD) continue
      this.#open(fn, replica, known?.lines ?? [])
    }
  }

  /** The function is gone. */
  forget(fn: string): void {
    for (const copy of this.#copies.values()) if (copy.fn === fn) this.#close(copy)
  }

  closeAll(): void {
    for (const copy of this.#copies.values()) this.#close(copy)
  }

  /** Throws NO_INSTANCE where the copy is not here, OVERLOADED, BAD_INPUT, POLICY_FAILED. */
  call(fn: string, replica: string, input: Json): Promise<Json> {
    return this.#use(fn, replica, async running => taken(running.published, await evaluate(running, { input })).value)
  }

  /** As `call`, for a management command. */
  manage(fn: string, replica: string, action: string, data: Json): Promise<Json> {
    return this.#use(fn, replica, ({ published, rule }) => command(published, rule, action, data))
  }

  /** Each copy's load since it was asked for last. */
  load(fn: string): readonly CopyLoad[] {
    const now = this.#clock.monotonic()
    return [...this.#copies.values()].filter(copy => copy.fn === fn).map(copy => {
      const load = { replica: copy.replica, calls: copy.calls, failures: copy.failures, busy: copy.busyMs / Math.max(1, now - copy.since) }
      copy.busyMs = 0
      copy.since = now
      return load
    })
  }

  /** The newest last. */
  logs(fn: string, tail: number): readonly string[] {
    return [...this.#copies.values()].filter(copy => copy.fn === fn).flatMap(({ lines }) => lines).sort().slice(-tail)
  }

  async #use(fn: string, replica: string, run: (running: Running) => Promise<Json>): Promise<Json> {
    const copy = this.#copies.get(replica)
    if (copy === undefined || copy.fn !== fn) throw new MeshError('NO_INSTANCE', `copy ${replica} of function ${fn} is not here`)
    if (copy.waiting >= WAITING) throw new MeshError('OVERLOADED', `${WAITING} calls wait at copy ${replica} of function ${fn}`)
    copy.waiting += 1
    const began = this.#clock.monotonic()
    try {
      const running = await copy.running
      copy.calls += 1
      return await run(running)
    } catch (error) {
      const failure = asMeshError(error)
      copy.failures += 1
      this.#note(copy, `${failure.code}: ${failure.message}`)
      throw failure
    } finally {
      copy.waiting -= 1
      copy.busyMs += this.#clock.monotonic() - began
    }
  }

  #open(fn: PolicyFunction, replica: string, lines: string[]): void {
    const copy: Copy = { fn: fn.functionId, replica, running: this.#construct(fn), failedAt: undefined, waiting: 0, calls: 0, failures: 0, busyMs: 0, since: this.#clock.monotonic(), lines }
    this.#copies.set(replica, copy)
    background(this.#telemetry, 'policy.function-not-opened', copy.running.then(() => this.#note(copy, 'started'), error => {
      copy.failedAt = this.#clock.monotonic()
      this.#note(copy, `did not start: ${asMeshError(error).message}`)
      throw asMeshError(error)
    }), 'warn')
  }

  async #construct(fn: PolicyFunction): Promise<Running> {
    const { rule: published, source } = await this.#catalogue.policy(fn.policyRuleURI, this.#clock.deadline(FETCH_MS))
    const { parameters, settings } = startsWith(published, fn)
    const opened = await this.#sandbox.open(source, { ruleId: published.policyRuleURI, settings, parameters, purpose: 'function' })
    if (!opened.ok) throw new MeshError('POLICY_FAILED', `${published.policyRuleURI} does not open: ${opened.message}`, { details: { reason: opened.error } })
    return { published, parameters, rule: opened.rule }
  }

  #close(copy: Copy): void {
    this.#copies.delete(copy.replica)
    copy.running.then(({ rule }) => rule.close(), () => undefined)
  }

  #note(copy: Copy, line: string): void {
    copy.lines.push(`${this.#clock.unix()} ${copy.replica} ${line}`.slice(0, LINE_CHARS))
    if (copy.lines.length > LINES) copy.lines.shift()
  }
}
