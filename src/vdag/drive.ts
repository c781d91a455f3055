import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, RunId } from '../../protocols/ids.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import { assert } from '../lib/assert.ts'
import { retry } from '../lib/backoff.ts'
import { failureText, traceSpan } from '../lib/trace-span.ts'
import type { Ports, TraceSpan } from '../ports.ts'
import type { Slots } from './slots.ts'
import { RunMirrors } from './mirror.ts'
import type { NodeCalls } from './node-call.ts'
import type { PlanIndex } from './plan.ts'
import type { RunBook } from './run-book.ts'
import { advanceRun, beginRun, type Run, type RunEffect } from './run.ts'

/** How a drive came to its end: the run has a result, somebody else has the run, or this peer cannot write. */
export type DriveEnd = { readonly how: 'ended' | 'fenced' | 'stalled'; readonly because: string }

export type DriveParts = {
  readonly ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'content' | 'journal' | 'telemetry'>
  readonly book: RunBook
  readonly calls: NodeCalls
  readonly slots: Slots
}

const BATCH = 128
/** Starts of nodes wait this long for an event that something depends on, to be written with it. */
const LAZY_MS: Millis = 20
const WRITES = { firstMs: 50, maxMs: 2_000, retries: 5 }

/**
 * Drives one run in one epoch. Each event is durable here and at a mirror before anything follows from it: a node is
 * called only when what it needs is on record, and a result counts only once it is.
 */
export class RunDrive {
  readonly run: RunId
  readonly epoch: number
  readonly #parts: DriveParts
  readonly #mirrors: RunMirrors
  /** All events of the run that are durable here. Mirrors read from it. */
  readonly #log: RunEvent[]
  readonly #index: PlanIndex
  readonly #queue: RunEvent[] = []
  readonly #stopping = new AbortController()
  readonly #done = Promise.withResolvers<DriveEnd>()
  readonly #begun = Promise.withResolvers<void>()
  /** This peer's part of the run: a successor's has the same parent. */
  readonly #span: TraceSpan
  #state: Run
  #flushing = false
  #cancelLazy: (() => void) | undefined
  #first = true

  /** `log` is the run so far, empty for a new one; `index` its plan. */
  constructor(parts: DriveParts, mirrors: RunMirrors, of: { readonly run: RunId; readonly epoch: number; readonly log: readonly RunEvent[]; readonly index: PlanIndex; readonly began: Extract<RunEvent, { type: 'began' }> }) {
    this.#parts = parts
    this.#mirrors = mirrors
    this.run = of.run
    this.epoch = of.epoch
    this.#log = [...of.log]
    this.#index = of.index
    this.#state = of.log.reduce<Run>((state, event) => advanceRun(state, event)[0], beginRun(of.index, of.began))
    this.#begun.promise.catch(() => undefined)
    const { telemetry } = parts.ports
    this.#span = traceSpan(telemetry, `run ${of.index.plan.vdag}`, 'internal', of.began.trace, { run: this.run, vdag: of.index.plan.vdag, epoch: this.epoch })
    void this.#done.promise.then(({ how, because }) => this.#span.end(how === 'ended' && because === 'completed' ? undefined : because))
  }

  get done(): Promise<DriveEnd> {
    return this.#done.promise
  }

  /** Resolves when the first events are durable here and at a mirror. Throws EPOCH_FENCED, STORAGE_FULL, STORAGE_FAILED. */
  start(events: readonly RunEvent[]): Promise<void> {
    this.#emit(...events)
    return this.#begun.promise
  }

  /** Ends the run from outside; no effect once it has ended. */
  abort(code: string, message: string): void {
    this.#emit({ type: 'aborted', code, message, at: this.#parts.ports.clock.unix() })
  }

  /** Lets go without another word: what is under way is cancelled, nothing more is written. */
  stop(end: DriveEnd): void {
    if (this.#stopping.signal.aborted) return
    this.#cancelLazy?.()
    this.#stopping.abort(new MeshError('CANCELLED', `${this.run}: ${end.because}`))
    this.#begun.reject(new MeshError(end.how === 'fenced' ? 'EPOCH_FENCED' : 'STORAGE_FAILED', end.because))
    this.#done.resolve(end)
  }

  #emit(...events: readonly RunEvent[]): void {
    if (this.#stopping.signal.aborted) return
    this.#queue.push(...events)
    this.#cancelLazy?.()
    this.#cancelLazy = undefined
    void this.#flush()
  }

  /** For events that nothing waits for. */
  #emitLazily(event: RunEvent): void {
    if (this.#stopping.signal.aborted) return
    this.#queue.push(event)
    this.#cancelLazy ??= this.#parts.ports.clock.after(LAZY_MS, () => {
      this.#cancelLazy = undefined
      void this.#flush()
    })
  }

  async #flush(): Promise<void> {
    if (this.#flushing) return
    this.#flushing = true
    try {
      while (this.#queue.length > 0 && !this.#stopping.signal.aborted) await this.#write(this.#queue.splice(0, BATCH))
    } catch (error) {
      const failure = asMeshError(error)
      this.stop({ how: failure.code === 'EPOCH_FENCED' ? 'fenced' : 'stalled', because: failure.message })
    } finally {
      this.#flushing = false
    }
  }

  async #write(events: readonly RunEvent[]): Promise<void> {
    const { ports, book } = this.#parts
    const from = this.#log.length
    const writer = { coordinator: ports.identity.peer, epoch: this.epoch }
    await retry(ports, WRITES, () => book.append(this.run, writer, from, events, { show: false }), { signal: this.#stopping.signal })
    this.#log.push(...events)
    // The first word goes to every mirror: a claim that somebody overtook must not begin.
    const mirrored = await this.#mirrors.push(this.#log, this.#first)
    this.#first = false
    if (this.#stopping.signal.aborted) return
    await book.show(this.run, from + events.length, !mirrored)
    this.#begun.resolve()
    for (const event of events) this.#apply(event)
  }

  #apply(event: RunEvent): void {
    const [state, effects] = advanceRun(this.#state, event)
    this.#state = state
    for (const effect of effects) this.#perform(effect)
    if (state.end === undefined || this.#stopping.signal.aborted) return
    this.#cancelLazy?.()
    this.#stopping.abort(new MeshError('CANCELLED', `${this.run} has ended`))
    this.#done.resolve({ how: 'ended', because: state.end.type })
    // Mirrors that were slow should hear the end as well; whoever missed it asks.
    this.#mirrors.push(this.#log, true).catch(() => undefined)
  }

  #perform(effect: RunEffect): void {
    const at = this.#parts.ports.clock.unix()
    switch (effect.type) {
      case 'invoke':
        void this.#invoke(effect)
        return
      case 'skip':
        this.#emit({ type: 'skipped', label: effect.label, because: effect.because, at })
        return
      case 'complete':
        this.#emit({ type: 'completed', outputs: { ...effect.outputs }, at })
        return
      case 'abort':
        this.#emit({ type: 'aborted', code: effect.code, message: effect.message, at })
    }
  }

  async #invoke(effect: Extract<RunEffect, { type: 'invoke' }>): Promise<void> {
    const { ports, calls, slots } = this.#parts
    const { clock, telemetry } = ports
    const { label, attempt, block } = effect
    const signal = this.#stopping.signal
    const vdag = this.#index.plan.vdag
    const node = traceSpan(telemetry, `node ${label}`, 'internal', this.#span.traceparent, { run: this.run, label, block, attempt })
    try {
      if (effect.delayMs > 0) await clock.sleep(effect.delayMs, signal)
      const result = await slots.within(signal, async () => {
        const began = clock.monotonic()
        const { output, host, route } = await calls.call(this.run, this.#index, effect, node.traceparent, signal, (instance, host) => this.#emitLazily({ type: 'started', label, attempt, block, instance, host, at: clock.unix() }))
        return { output, host, route, ms: clock.monotonic() - began }
      })
      const { output, host, ms, route } = result
      telemetry.observe('run_node_ms', ms, { vdag })
      this.#emit({ type: 'finished', label, attempt, output, host, ms, at: clock.unix(), ...(route === undefined ? {} : { route }) })
    } catch (error) {
      node.end(failureText(error))
      if (signal.aborted) return
      const { code, message, retryable } = asMeshError(error)
      telemetry.count('run_node_failures_total', { vdag, code })
      this.#emit({ type: 'failed', label, attempt, code, message: message.slice(0, 1_000), retryable, at: clock.unix() })
    } finally {
      node.end()
    }
  }

  /** For tests and checkers. */
  get state(): Run {
    assert(this.#state.id === this.run, 'a drive holds its own run')
    return this.#state
  }
}
