import { z } from 'zod'
import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { epoch as epochSchema, peerId, runId, type Millis, type PeerId, type RunId } from '../../protocols/ids.ts'
import { runEvent, type RunEvent } from '../../protocols/runs.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports } from '../ports.ts'
import type { Ended } from './run.ts'

const ended = z.custom<Ended>(value => {
  const event = runEvent.safeParse(value)
  return event.success && (event.data.type === 'completed' || event.data.type === 'aborted')
}, 'expected the event that ended a run')

/** Who coordinates a run, as far as this peer has promised or heard. Outlives the run's events: it answers for the key. */
const head = z.object({
  coordinator: peerId,
  epoch: epochSchema,
  vdag: z.string().max(300),
  /** Of the last change. */
  at: z.int(),
  /** When the run began, as far as its events came here. */
  began: z.int().optional(),
  /** Who else held a copy when this peer coordinated it. */
  mirrors: z.array(peerId).max(8),
  end: ended.optional(),
  /** It ended here while no mirror could be told. */
  alone: z.boolean().default(false),
})
export type Head = z.infer<typeof head>

/** Event number `at`; replaces whatever this copy had there and after. */
const entry = z.object({ at: z.int().nonnegative(), event: runEvent })

export type BookLimits = {
  /** Runs whose events are kept after they ended, and how long. */
  readonly endedRuns: number
  readonly endedMs: Millis
  /** Keys answered for after that. */
  readonly keys: number
  readonly keysMs: Millis
  readonly eventsPerRun: number
}

type Log = { readonly events: RunEvent[]; visible: number; changedAt: Millis }

const LOGS_IN_MEMORY = 4_096
const ENTRY_BYTES = 1_048_576
const HEADS = 'run-head/'
const LOGS = 'run/'

/** Holds this peer's copy of every run it coordinates, mirrors or vouches for: events and head, durable before it answers. */
export class RunBook {
  readonly #ports: Pick<Ports, 'clock' | 'journal' | 'telemetry'>
  readonly #limits: BookLimits
  readonly #heads = new Map<RunId, Head>()
  readonly #logs = new Lru<RunId, Promise<Log>>(LOGS_IN_MEMORY)
  readonly #turns = new Map<RunId, Promise<unknown>>()
  readonly #ears = new Map<RunId, Set<() => void>>()

  constructor(ports: Pick<Ports, 'clock' | 'journal' | 'telemetry'>, limits: BookLimits) {
    this.#ports = ports
    this.#limits = limits
  }

  /** Reads the heads back after a start. */
  async load(): Promise<void> {
    for (const key of await this.#ports.journal.keys(HEADS)) {
      const bytes = await this.#ports.journal.get(key)
      const run = runId.safeParse(key.slice(HEADS.length))
      if (bytes === undefined || !run.success) continue
      this.#heads.set(run.data, decode(head, bytes, ENTRY_BYTES, `the head of ${run.data}`))
    }
    for (const [run, { end }] of this.#heads) {
      if (end !== undefined) continue
      // Killed between the last event and the head that names it: perhaps before a mirror had it.
      const last = (await this.events(run)).at(-1)
      if (last?.type === 'completed' || last?.type === 'aborted') await this.#setHead(run, { end: last, alone: true })
    }
    await this.prune()
  }

  head(run: RunId): Head | undefined {
    return this.#heads.get(run)
  }

  runs(): readonly (readonly [RunId, Head])[] {
    return [...this.#heads]
  }

  /** Runs this peer has not seen the end of. */
  unended(): readonly (readonly [RunId, Head])[] {
    return [...this.#heads].filter(([, { end }]) => end === undefined)
  }

  /**
   * Promises a run to a coordinator, if the head is still `expected`. Durable when it resolves true. Throws OVERLOADED
   * when this peer answers for as many unfinished runs as it may.
   */
  promise(run: RunId, expected: Head | undefined, next: { readonly coordinator: PeerId; readonly epoch: number; readonly mirrors?: readonly PeerId[] }): Promise<boolean> {
    return this.#inTurn(run, async () => {
      const now = this.#heads.get(run)
      if (now?.epoch !== expected?.epoch || now?.coordinator !== expected?.coordinator || now?.end !== undefined) return false
      if (now === undefined && this.#heads.size >= this.#limits.keys) {
        await this.prune()
        if (this.#heads.size >= this.#limits.keys) throw new MeshError('OVERLOADED', `this peer answers for ${this.#heads.size} runs already; try again when some have ended`)
      }
      await this.#setHead(run, { ...next, mirrors: [...next.mirrors ?? []] })
      return true
    })
  }

  /** All events of this copy, visible or not; the end alone where the others were dropped with age. */
  async events(run: RunId): Promise<readonly RunEvent[]> {
    return [...(await this.#log(run)).events]
  }

  /**
   * Writes events `from`.. under an epoch. Equal events already there stay; from the first that differs on, the copy is
   * replaced. Durable when it resolves, readable by others once `show`n. Throws EPOCH_FENCED when the run was promised
   * to somebody else, STALE on a gap, STORAGE_FULL and STORAGE_FAILED.
   */
  append(run: RunId, writer: { readonly coordinator: PeerId; readonly epoch: number }, from: number, events: readonly RunEvent[], options: { readonly show: boolean }): Promise<number> {
    return this.#inTurn(run, async () => {
      const promised = this.#heads.get(run)
      if (promised === undefined || promised.epoch !== writer.epoch || promised.coordinator !== writer.coordinator) {
        throw new MeshError('EPOCH_FENCED', `${run} belongs to ${promised?.coordinator ?? 'nobody'} in epoch ${promised?.epoch ?? 0}, not to ${writer.coordinator} in epoch ${writer.epoch}`)
      }
      const log = await this.#log(run)
      if (from > log.events.length) throw new MeshError('STALE', `the copy of ${run} has ${log.events.length} events; event ${from} does not follow`)
      let same = 0
      while (same < events.length && from + same < log.events.length && equal(events[same]!, log.events[from + same]!)) same += 1
      const fresh = events.slice(same)
      const start = from + same
      if (start + fresh.length > this.#limits.eventsPerRun) throw new MeshError('OVERLOADED', `${run} has more than ${this.#limits.eventsPerRun} events`, { retryable: false })
      if (fresh.length > 0) {
        await this.#ports.journal.append(`${LOGS}${run}`, fresh.map((event, index) => encode({ at: start + index, event })))
        log.events.length = start
        log.events.push(...fresh)
        log.changedAt = this.#ports.clock.monotonic()
        log.visible = Math.min(log.visible, start)
        const [first] = log.events
        if (first?.type === 'began' && promised.vdag === '') this.#heads.set(run, { ...promised, vdag: first.vdag, began: first.at })
      }
      if (options.show) await this.#show(run, log, log.events.length, false)
      return log.events.length
    })
  }

  /** Lets readers see events before `count`; an end among them counts from now on. `alone`: no mirror holds it yet. */
  show(run: RunId, count: number, alone: boolean): Promise<void> {
    return this.#inTurn(run, async () => this.#show(run, await this.#log(run), count, alone))
  }

  /** Visible events from `from` on; waits for one up to `waitMs` when there is none and the run has not ended. */
  async read(run: RunId, from: number, waitMs: Millis, signal?: AbortSignal): Promise<readonly RunEvent[]> {
    const until = this.#ports.clock.deadline(waitMs, signal)
    while (true) {
      const log = await this.#log(run)
      const seen = log.events.slice(0, log.visible)
      const ended = this.#heads.get(run)?.end !== undefined && log.visible === log.events.length
      // The end alone, where the rest was dropped: whatever came before it is not to be had any more.
      if (ended && seen[0]?.type !== 'began') return seen
      if (seen.length > from || waitMs === 0 || until.aborted || ended) return seen.slice(from)
      await this.#change(run, until)
    }
  }

  /** Notes the end of a run that this peer vouched for and has no events of: from now on it answers for the key like everybody. */
  settle(run: RunId, expected: Head, events: readonly RunEvent[]): Promise<void> {
    return this.#inTurn(run, async () => {
      const [now, first, end] = [this.#heads.get(run), events[0], events.at(-1)]
      if (now?.epoch !== expected.epoch || now.coordinator !== expected.coordinator || now.end !== undefined || (await this.#log(run)).events.length > 0) return
      if (end?.type !== 'completed' && end?.type !== 'aborted') return
      const last = events.findLast(event => event.type === 'coordinator')
      this.#logs.delete(run)
      await this.#setHead(run, { end, ...(first?.type === 'began' ? { vdag: first.vdag, began: first.at } : {}), ...(last === undefined ? {} : { coordinator: last.peer, epoch: Math.max(now.epoch, last.epoch) }) })
    })
  }

  /** A mirror knows the end of a run as well. */
  confirm(run: RunId): Promise<void> {
    return this.#inTurn(run, async () => {
      if (this.#heads.get(run)?.end !== undefined) await this.#setHead(run, { alone: false })
    })
  }

  /** Puts a copy that ended on the other side of a partition in the place of one that ended here. */
  giveWay(run: RunId, to: { readonly coordinator: PeerId; readonly epoch: number }, events: readonly RunEvent[]): Promise<void> {
    return this.#inTurn(run, async () => {
      const last = events.at(-1)
      const held = this.#heads.get(run)
      if (held?.end === undefined || (last?.type !== 'completed' && last?.type !== 'aborted')) return
      await this.#ports.journal.append(`${LOGS}${run}`, events.map((event, at) => encode({ at, event })))
      this.#logs.delete(run)
      await this.#setHead(run, { coordinator: to.coordinator, epoch: Math.max(to.epoch, held.epoch), end: last, alone: false })
    })
  }

  /** How long ago this copy last grew. */
  async idleMs(run: RunId): Promise<Millis> {
    return this.#ports.clock.monotonic() - (await this.#log(run)).changedAt
  }

  /** Forgets a run that never began, or that nobody needs to know of. */
  forget(run: RunId): Promise<void> {
    return this.#inTurn(run, async () => {
      await this.#ports.journal.drop(`${LOGS}${run}`)
      await this.#ports.journal.set(`${HEADS}${run}`, undefined)
      this.#logs.delete(run)
      this.#heads.delete(run)
      this.#tell(run)
    })
  }

  /** Drops events, later also heads, of runs that ended long ago or too many runs ago. */
  async prune(): Promise<void> {
    const now = this.#ports.clock.unix()
    const over = [...this.#heads].filter(([, { end }]) => end !== undefined).sort((a, b) => b[1].at - a[1].at)
    for (const [index, [run, { at }]] of over.entries()) {
      const age = now - at
      if (index >= this.#limits.keys / 2 || age > this.#limits.keysMs) await this.forget(run)
      else if ((index >= this.#limits.endedRuns || age > this.#limits.endedMs) && (await this.#log(run)).events.length > 1) await this.#dropEvents(run)
    }
  }

  #dropEvents(run: RunId): Promise<void> {
    return this.#inTurn(run, async () => {
      await this.#ports.journal.drop(`${LOGS}${run}`)
      this.#logs.delete(run)
      this.#ports.telemetry.count('runs_dropped_with_age_total')
    })
  }

  #log(run: RunId): Promise<Log> {
    const known = this.#logs.get(run)
    if (known !== undefined) return known
    const loading = this.#read(run)
    this.#logs.set(run, loading)
    loading.catch(() => this.#logs.delete(run))
    return loading
  }

  async #read(run: RunId): Promise<Log> {
    const events: RunEvent[] = []
    for (const bytes of await this.#ports.journal.read(`${LOGS}${run}`)) {
      const { at, event } = decode(entry, bytes, ENTRY_BYTES, `an event of ${run}`)
      events.length = Math.min(events.length, at)
      events.push(event)
    }
    const end = this.#heads.get(run)?.end
    if (events.length === 0 && end !== undefined) events.push(end)
    return { events, visible: events.length, changedAt: this.#ports.clock.monotonic() }
  }

  async #setHead(run: RunId, change: Partial<Head>): Promise<void> {
    const known = this.#heads.get(run)
    const next: Head = { coordinator: '', epoch: 0, vdag: '', mirrors: [], alone: false, ...known, ...change, at: this.#ports.clock.unix() }
    await this.#ports.journal.set(`${HEADS}${run}`, encode(next))
    this.#heads.set(run, next)
    this.#tell(run)
  }

  async #show(run: RunId, log: Log, count: number, alone: boolean): Promise<void> {
    log.visible = Math.max(log.visible, Math.min(count, log.events.length))
    const last = log.events[log.visible - 1]
    if ((last?.type === 'completed' || last?.type === 'aborted') && this.#heads.get(run)?.end === undefined) await this.#setHead(run, { end: last, alone })
    this.#tell(run)
  }

  #tell(run: RunId): void {
    for (const hear of this.#ears.get(run) ?? []) hear()
  }

  /** Resolves at the next change of a run, or when `until` aborts. */
  #change(run: RunId, until: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const ears = this.#ears.get(run) ?? new Set()
    this.#ears.set(run, ears.add(resolve))
    until.addEventListener('abort', () => resolve(), { once: true })
    if (until.aborted) resolve()
    return promise.finally(() => {
      ears.delete(resolve)
      if (ears.size === 0 && this.#ears.get(run) === ears) this.#ears.delete(run)
    })
  }

  /** One change of a run at a time. */
  #inTurn<T>(run: RunId, change: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(run) ?? Promise.resolve()).then(change, change)
    this.#turns.set(run, turn)
    void turn.then(() => undefined, () => undefined).then(() => {
      if (this.#turns.get(run) === turn) this.#turns.delete(run)
    })
    return turn
  }
}

/** The epoch in which event `at` was written. The first event precedes the `coordinator` event of its epoch. */
export function epochAt(events: readonly RunEvent[], at: number): number {
  for (let index = at; index >= 0; index -= 1) {
    const event = events[index]
    if (event?.type === 'coordinator') return event.epoch
  }
  for (const event of events) if (event.type === 'coordinator') return event.epoch
  return 0
}

function equal(a: RunEvent, b: RunEvent): boolean {
  const [left, right] = [encode(a), encode(b)]
  return left.byteLength === right.byteLength && left.every((byte, index) => byte === right[index])
}
