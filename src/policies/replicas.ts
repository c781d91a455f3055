import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import { FUNCTION_STATE_BYTES, type PolicyFunction } from '../../protocols/policy.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import type { Clock, Sandbox, SandboxedRule, Telemetry } from '../ports.ts'
import type { Catalogue } from '../roles.ts'
import { command, evaluate, taken } from './calls.ts'
import type { FunctionStates } from './function-states.ts'
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

type Running = { readonly published: PolicyRule; readonly parameters: Members; readonly rule: SandboxedRule; readonly restored: Restored | undefined }
type Restored = { readonly epoch: number; readonly version: number; readonly state: Uint8Array }
type Copy = {
  readonly record: PolicyFunction
  readonly fn: string
  readonly replica: string
  readonly epoch: number
  /** Of the state that was kept last, here or where the copy was before. */
  version: number
  kept: Uint8Array | undefined
  /** Why its state is not kept, where its rule cannot be saved. */
  unkept: string | undefined
  keeping: Promise<void> | undefined
  nextKeeping: Promise<void> | undefined
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

/**
 * The copies of policy functions that live on this host, each with its state. A call is answered when the state it left is kept elsewhere,
 * too: calls that end while one state is on its way share the next.
 */
export class Replicas {
  readonly #clock: Pick<Clock, 'monotonic' | 'unix' | 'deadline'>
  readonly #sandbox: Sandbox
  readonly #telemetry: Telemetry
  readonly #catalogue: Pick<Catalogue, 'policy'>
  readonly #states: FunctionStates
  readonly #copies = new Map<string, Copy>()

  constructor(ports: { readonly clock: Pick<Clock, 'monotonic' | 'unix' | 'deadline'>; readonly sandbox: Sandbox; readonly telemetry: Telemetry }, catalogue: Pick<Catalogue, 'policy'>, states: FunctionStates) {
    this.#clock = ports.clock
    this.#sandbox = ports.sandbox
    this.#telemetry = ports.telemetry
    this.#catalogue = catalogue
    this.#states = states
  }

  get size(): number {
    return this.#copies.size
  }

  /** Opens the copies that should be here and closes the others: all there are to this host of this function. */
  obey(fn: PolicyFunction, mine: PolicyFunction['replicas']): void {
    const named = (copy: Copy): boolean => mine.some(({ replica, epoch = 1 }) => replica === copy.replica && epoch === copy.epoch)
    for (const copy of this.#copies.values()) if (copy.fn === fn.functionId && !named(copy)) this.#close(copy)
    for (const { replica, epoch = 1 } of mine) {
      const known = this.#copies.get(replica)
      if (known !== undefined && (known.failedAt === undefined || this.#clock.monotonic() - known.failedAt < AGAIN_MS)) continue
      if (known === undefined && this.#copies.size >= HELD) continue
      this.#open(fn, replica, epoch, known?.lines ?? [])
    }
  }

  /** The function is gone. */
  forget(fn: string): void {
    for (const copy of this.#copies.values()) if (copy.fn === fn) this.#close(copy)
  }

  closeAll(): void {
    for (const copy of this.#copies.values()) this.#close(copy)
  }

  /** Throws NO_INSTANCE where the copy is not here (any more), OVERLOADED, BAD_INPUT, POLICY_FAILED, PEER_UNREACHABLE where its state did not reach its mirrors. */
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
      const answer = await run(running)
      await this.#keep(copy, running.rule.life())
      return answer
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

  /** Resolves when what the copy held at this moment is kept. */
  async #keep(copy: Copy, life: number): Promise<void> {
    if (copy.record.stateless === true || copy.unkept !== undefined) return
    copy.nextKeeping ??= (copy.keeping ?? Promise.resolve()).catch(() => undefined).then(() => {
      copy.keeping = copy.nextKeeping
      copy.nextKeeping = undefined
      return this.#save(copy)
    })
    await copy.nextKeeping
    const { rule } = await copy.running
    // A rule that lost what it ran in went on from an older state: what this call did is gone with it.
    if (copy.unkept === undefined && rule.life() !== life) throw new MeshError('NO_INSTANCE', `copy ${copy.replica} of function ${copy.fn} lost what it ran in before its state was kept`)
  }

  async #save(copy: Copy): Promise<void> {
    const { rule } = await copy.running
    const saved = await rule.save()
    if (!saved.ok && saved.error === 'invalid') {
      copy.unkept = saved.message
      this.#note(copy, `its state is not kept: ${saved.message}`)
      return
    }
    if (!saved.ok) throw new MeshError('NO_INSTANCE', `copy ${copy.replica} of function ${copy.fn}: ${saved.message}`)
    const { state } = saved
    if (state.byteLength > FUNCTION_STATE_BYTES) {
      this.#close(copy)
      this.#open(copy.record, copy.replica, copy.epoch, copy.lines)
      throw new MeshError('POLICY_FAILED', `function ${copy.fn} holds ${state.byteLength} bytes; a function may hold ${FUNCTION_STATE_BYTES}: it goes on from its state before this call`)
    }
    if (copy.kept !== undefined && same(copy.kept, state)) return
    copy.version += 1
    try {
      await this.#states.keep({ function: copy.fn, replica: copy.replica, epoch: copy.epoch, version: copy.version, state })
      copy.kept = state
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code !== 'STALE') throw failure
      this.#close(copy)
      throw new MeshError('NO_INSTANCE', failure.message)
    }
  }

  #open(fn: PolicyFunction, replica: string, epoch: number, lines: string[]): void {
    const copy: Copy = { record: fn, fn: fn.functionId, replica, epoch, version: 0, kept: undefined, unkept: undefined, keeping: undefined, nextKeeping: undefined, running: this.#construct(fn, replica), failedAt: undefined, waiting: 0, calls: 0, failures: 0, busyMs: 0, since: this.#clock.monotonic(), lines }
    this.#copies.set(replica, copy)
    background(this.#telemetry, 'policy.function-not-opened', copy.running.then(({ restored }) => this.#started(copy, restored), error => {
      copy.failedAt = this.#clock.monotonic()
      this.#note(copy, `did not start: ${asMeshError(error).message}`)
      throw asMeshError(error)
    }), 'warn')
  }

  #started(copy: Copy, restored: Restored | undefined): void {
    copy.version = restored?.version ?? 0
    this.#note(copy, restored === undefined ? 'started' : `started from state ${restored.version} of epoch ${restored.epoch}`)
    if (restored === undefined || this.#copies.get(copy.replica) !== copy) return
    copy.kept = restored.state
    // Its mirrors are others than those of the host before.
    background(this.#telemetry, 'policy.function-state-not-mirrored', this.#states.keep({ function: copy.fn, replica: copy.replica, epoch: copy.epoch, version: restored.version, state: restored.state }), 'warn')
  }

  async #construct(fn: PolicyFunction, replica: string): Promise<Running> {
    const { rule: published, source } = await this.#catalogue.policy(fn.policyRuleURI, this.#clock.deadline(FETCH_MS))
    const { parameters, settings } = startsWith(published, fn)
    const restored = fn.stateless === true ? undefined : await this.#states.restore(fn.functionId, replica)
    const opened = await this.#sandbox.open(source, { ruleId: published.policyRuleURI, settings, parameters, purpose: 'function', state: restored?.state })
    if (!opened.ok) throw new MeshError('POLICY_FAILED', `${published.policyRuleURI} does not open: ${opened.message}`, { details: { reason: opened.error } })
    return { published, parameters, rule: opened.rule, restored }
  }

  #close(copy: Copy): void {
    this.#copies.delete(copy.replica)
    this.#states.release(copy.fn, copy.replica)
    copy.running.then(({ rule }) => rule.close(), () => undefined)
  }

  #note(copy: Copy, line: string): void {
    copy.lines.push(`${this.#clock.unix()} ${copy.replica} ${line}`.slice(0, LINE_CHARS))
    if (copy.lines.length > LINES) copy.lines.shift()
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, at) => byte === b[at])
}
