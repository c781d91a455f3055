import { digest, hex, utf8 } from '../../protocols/codec.ts'
import { asMeshError, isErrorCode, MeshError } from '../../protocols/errors.ts'
import type { Cid, Json, Millis, PeerId, RunId } from '../../protocols/ids.ts'
import { packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import { Backoff } from '../lib/backoff.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, Invoker, MeshView, PolicyCalls } from '../roles.ts'
import { Claims, type Copy } from './claim.ts'
import { compilePlan } from './compile.ts'
import { RunDrive, type DriveParts } from './drive.ts'
import type { Compatible } from './graph.ts'
import { RunMirrors } from './mirror.ts'
import { NodeCalls } from './node-call.ts'
import { NodePolicies } from './node-policies.ts'
import { indexPlan, plan as planSchema, type PlanIndex, type RunLimits } from './plan.ts'
import { getValue, putValue } from './records.ts'
import { Registrar } from './registrar.ts'
import { epochAt, RunBook, type BookLimits } from './run-book.ts'
import type { Began, Ended } from './run.ts'
import { Slots } from './slots.ts'
import { RunWatch } from './watch.ts'

export type RunConfig = {
  readonly limits: RunLimits
  readonly book: BookLimits
  /** Runs this peer drives at once; one more is refused. */
  readonly activeRuns: number
  /** Node calls of all runs together that are under way at once. */
  readonly nodeCalls: number
  /** Between two looks for runs whose coordinator fell silent. */
  readonly sweepMs: Millis
  /** A copy that has not grown for this long is compared with its coordinator's. */
  readonly idleMs: Millis
  /** How long each mirror further down the order leaves those before it to take a run over. */
  readonly turnMs: Millis
  /** How long a restarted peer looks for the mirrors of its runs before it goes on without them. */
  readonly graceMs: Millis
}

export const RUN_DEFAULTS: RunConfig = {
  limits: { attempts: 3, retries: 10, firstMs: 100, maxMs: 5_000, deadlineMs: 120_000 },
  book: { endedRuns: 2_000, endedMs: 24 * 3_600_000, keys: 20_000, keysMs: 7 * 24 * 3_600_000, eventsPerRun: 100_000 },
  activeRuns: 1_000,
  nodeCalls: 256,
  sweepMs: 5_000,
  idleMs: 10_000,
  turnMs: 1_000,
  graceMs: 5_000,
}

export type Submission = {
  readonly vdagUri: string
  readonly input: Packet | Json
  /** The same key with the same vDAG is the same run, from any peer. */
  readonly key?: string
  readonly submitter: PeerId
}

export type RunState = 'running' | 'completed' | 'aborted'
export type RunRow = { readonly run: RunId; readonly vdag: string; readonly state: RunState; readonly coordinator: PeerId | null; readonly at: Millis }
export type RunStatus = { readonly run: RunId; readonly state: RunState; readonly coordinator: PeerId | undefined; readonly events: readonly RunEvent[] }

const COMPILE_MS = 30_000
/** How long a claim that lost waits for the winner's first events. */
const WINNER_MS = 1_500
const CLAIMS = { firstMs: 50, maxMs: 1_000, retries: 8 }
const TAKEOVERS_PER_SWEEP = 32

/** Runs vDAGs: begins them, drives them, finishes those whose coordinator died, and answers for them from any peer. */
export class RunEngine {
  readonly #ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'content' | 'journal' | 'telemetry'>
  readonly #view: MeshView
  readonly #random: Random
  readonly #config: RunConfig
  readonly #book: RunBook
  readonly #registrar: Registrar
  readonly #claims: Claims
  readonly #watch: RunWatch
  readonly #parts: DriveParts
  readonly #compile: (uri: string, signal: AbortSignal) => ReturnType<typeof compilePlan>
  readonly #drives = new Map<RunId, RunDrive>()
  readonly #claiming = new Set<RunId>()
  readonly #beginning = new Map<RunId, Promise<{ readonly run: RunId; readonly existing: boolean }>>()
  readonly #takingOver = new Set<RunId>()
  readonly #stopped = new AbortController()

  constructor(
    ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'content' | 'journal' | 'telemetry'>,
    parts: { readonly view: MeshView; readonly invoker: Invoker; readonly policies: PolicyCalls; readonly catalogue: Catalogue; readonly compatible: Compatible },
    config: Partial<RunConfig> = {},
  ) {
    this.#ports = ports
    this.#view = parts.view
    this.#random = ports.random.fork('runs')
    this.#config = { ...RUN_DEFAULTS, ...config }
    this.#book = new RunBook(ports, this.#config.book)
    this.#registrar = new Registrar(ports, this.#book, { drives: run => this.#drives.has(run), intends: run => this.#claiming.has(run) })
    this.#claims = new Claims(ports, parts.view, this.#registrar)
    this.#watch = new RunWatch(ports, this.#random, parts.view, this.#book)
    this.#parts = { ports, book: this.#book, calls: new NodeCalls(ports, parts.invoker, new NodePolicies(parts.policies, parts.catalogue, ports.telemetry)), slots: new Slots(this.#config.nodeCalls) }
    const compiling = { catalogue: parts.catalogue, policies: parts.policies, view: parts.view, compatible: parts.compatible, limits: this.#config.limits }
    this.#compile = (uri, signal) => compilePlan(uri, compiling, signal)
  }

  /** Reads back what this peer holds, answers the others, and begins to watch over the runs it mirrors. */
  async start(): Promise<void> {
    await this.#book.load()
    this.#registrar.start()
    this.#view.onChange((peer, what) => {
      if (what === 'dead' || what === 'left') this.#inherit(peer)
    })
    this.#ports.clock.after(this.#config.sweepMs, () => this.#sweep())
  }

  /** Takes up the runs this peer coordinated when it last stopped, unless somebody has taken them over. Returns at once. */
  async resume(): Promise<void> {
    const mine = this.#book.unended().filter(([, { coordinator }]) => coordinator === this.#view.self)
    for (const [run, { mirrors }] of mine) void this.#contact(mirrors).then(() => this.#takeOver(run))
  }

  /** Lets go of everything; others take over. */
  stop(): void {
    this.#stopped.abort(new MeshError('CANCELLED', 'the peer is stopping'))
    for (const drive of this.#drives.values()) drive.stop({ how: 'stalled', because: 'the peer is stopping' })
    this.#drives.clear()
  }

  /**
   * Begins a run, or finds the one this key began. The run is durable here and at a mirror when it resolves. Throws
   * NOT_FOUND, GRAPH_INVALID, PROTOCOL_MISMATCH, OVERLOADED, STORAGE_FULL, CONFLICT.
   */
  submit(submission: Submission): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    const run = runIdOf(submission, this.#random)
    const beginning = this.#beginning.get(run)
    if (beginning !== undefined) return beginning.then(({ run }) => ({ run, existing: true }))
    const begun = this.#submit(run, submission).finally(() => this.#beginning.delete(run))
    this.#beginning.set(run, begun)
    return begun
  }

  /** The data of each output of a run, by label; waits for its end. Throws what ended the run, NOT_FOUND, or the signal's reason. */
  async result(run: RunId, signal: AbortSignal): Promise<Readonly<Record<string, Json>>> {
    return Object.fromEntries(Object.entries(await this.packets(run, signal)).map(([label, packet]) => [label, packet.data]))
  }

  /** As `result`, whole packets. */
  async packets(run: RunId, signal: AbortSignal): Promise<Readonly<Record<string, Packet>>> {
    for await (const event of this.follow(run, 0, signal)) {
      if (event.type === 'aborted') throw new MeshError(isErrorCode(event.code) ? event.code : 'RUN_FAILED', event.message, { details: { run }, retryable: false })
      if (event.type === 'completed') return this.outputs(event, signal)
    }
    throw new MeshError('NOT_FOUND', `${run} ended without a word`)
  }

  /** The packets a `completed` event names. */
  async outputs(event: Extract<RunEvent, { type: 'completed' }>, signal: AbortSignal): Promise<Readonly<Record<string, Packet>>> {
    return Object.fromEntries(await Promise.all(Object.entries(event.outputs).map(async ([label, cid]) => [label, await getValue(this.#ports.content, cid, packetSchema, signal)] as const)))
  }

  /** The events of a run from number `from` on, as they happen, from whichever peer has them. Throws NOT_FOUND. */
  follow(run: RunId, from: number, signal: AbortSignal): AsyncIterable<RunEvent> {
    return this.#watch.follow(run, from, AbortSignal.any([signal, this.#stopped.signal]))
  }

  /** What is known of a run now; undefined when no live peer knows it. */
  async status(run: RunId, signal: AbortSignal): Promise<RunStatus | undefined> {
    const copy = await this.#watch.read(run, 0, 0, signal)
    if (copy === undefined) return undefined
    const last = copy.events.at(-1)
    return { run, state: isEnd(last) ? last.type : 'running', coordinator: copy.coordinator, events: copy.events }
  }

  /** The runs this peer coordinates, mirrors or vouches for, newest first. */
  async list(): Promise<readonly RunRow[]> {
    const rows = this.#book.runs().map(([run, { vdag, end, coordinator, at }]) => ({ run, vdag, state: end?.type ?? 'running' as const, coordinator, at }))
    return rows.sort((a, b) => b.at - a.at || (a.run < b.run ? -1 : 1))
  }

  /** For checkers: the runs this peer drives or knows the end of. The run id stands for its key. */
  inspect(): readonly { readonly run: RunId; readonly key: string; readonly state: RunState; readonly outputs?: Readonly<Record<string, Cid>> }[] {
    return this.#book.runs().filter(([run, { end }]) => end !== undefined || this.#drives.has(run)).map(([run, { end }]) => ({ run, key: run, state: end?.type ?? 'running', ...(end?.type === 'completed' ? { outputs: end.outputs } : {}) }))
  }

  /** Ends a run that this peer drives. */
  cancel(run: RunId, because: string): boolean {
    const drive = this.#drives.get(run)
    drive?.abort('CANCELLED', because.slice(0, 1_000))
    return drive !== undefined
  }

  /** Runs this peer drives now. */
  driving(): readonly RunId[] {
    return [...this.#drives.keys()]
  }

  async #submit(run: RunId, { vdagUri, input, key, submitter }: Submission): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    const held = this.#book.head(run)
    if (held?.end !== undefined || this.#drives.has(run)) return { run, existing: true }
    if (this.#drives.size + this.#beginning.size > this.#config.activeRuns) throw new MeshError('OVERLOADED', `this peer drives ${this.#drives.size} runs already: submit to another one, or later`)
    const plan = await this.#compile(vdagUri, this.#ports.clock.deadline(COMPILE_MS))
    const [planCid, inputCid] = await Promise.all([putValue(this.#ports.content, plan), putValue(this.#ports.content, this.#packet(run, input))])
    const claim = await this.#claim(run, [], false)
    if (claim === undefined) return { run, existing: true }
    try {
      const { epoch, copies } = claim
      const known = await this.#bestCopy(run, copies)
      const [first] = known
      if (first?.type === 'began') {
        // Somebody began it and died: this peer finishes what that one began.
        await this.#drive(run, epoch, known, first, await this.#plan(first))
        return { run, existing: true }
      }
      const began: Began = { type: 'began', run, key: key ?? '', vdag: plan.vdag, plan: planCid, input: inputCid, submitter, at: this.#ports.clock.unix() }
      await this.#drive(run, epoch, [], began, indexPlan(plan))
      return { run, existing: false }
    } catch (error) {
      const failure = asMeshError(error)
      // Overtaken between the claim and the first word: whoever did that has begun it.
      if (failure.code === 'EPOCH_FENCED') return { run, existing: true }
      throw failure
    } finally {
      this.#claiming.delete(run)
    }
  }

  #packet(run: RunId, input: Packet | Json): Packet {
    const given = packetSchema.safeParse(input)
    if (given.success) return given.data.sessionId === '' ? { ...given.data, sessionId: run } : given.data
    return packetSchema.parse({ sessionId: run, seqNo: 0, ts: this.#ports.clock.unix() / 1_000, data: input })
  }

  /**
   * Claims a run; undefined when somebody else drives it or it has ended. On success the run stays in `#claiming`, for
   * the caller to take out once it drives it. `mayWait`: for a takeover nobody waits for the loser to follow.
   */
  async #claim(run: RunId, also: readonly PeerId[], takeover: boolean): Promise<{ readonly epoch: number; readonly copies: readonly Copy[] } | undefined> {
    const backoff = new Backoff(this.#random, CLAIMS)
    let heard = 0
    while (true) {
      const epoch = Math.max(heard, this.#book.head(run)?.epoch ?? 0) + 1
      this.#claiming.add(run)
      let result
      try {
        result = await this.#claims.claim(run, epoch, also)
      } catch (error) {
        this.#claiming.delete(run)
        throw error
      }
      if (result.won) return { epoch, copies: result.copies }
      this.#claiming.delete(run)
      heard = Math.max(heard, result.epoch)
      const other = result.coordinator
      if (result.finished || (other !== undefined && other !== this.#view.self && await this.#drivenBy(other, run, takeover))) {
        if (other !== undefined && other !== this.#view.self) await this.#defer(run, other, result.epoch)
        return undefined
      }
      const pauseMs = backoff.next()
      if (pauseMs === undefined) throw new MeshError('CONFLICT', `nobody could agree on who runs ${run}: try again`, { retryable: true })
      await this.#ports.clock.sleep(pauseMs, this.#stopped.signal)
    }
  }

  async #drivenBy(peer: PeerId, run: RunId, takeover: boolean): Promise<boolean> {
    const copy = await this.#watch.ask(peer, run, 0, takeover ? 0 : WINNER_MS)
    return copy?.coordinator === peer
  }

  /** Remembers who has a run, so that this peer's copy is theirs to write. */
  async #defer(run: RunId, coordinator: PeerId, epoch: number): Promise<void> {
    const held = this.#book.head(run)
    if (held !== undefined && held.end === undefined && coordinator !== held.coordinator && epoch >= held.epoch) await this.#book.promise(run, held, { coordinator, epoch })
  }

  async #plan(began: Began): Promise<PlanIndex> {
    return indexPlan(await getValue(this.#ports.content, began.plan, planSchema, this.#ports.clock.deadline(COMPILE_MS)))
  }

  /** Resolves when the first events of this epoch are durable here and at a mirror. */
  async #drive(run: RunId, epoch: number, log: readonly RunEvent[], began: Began, index: PlanIndex): Promise<void> {
    const mirrors = new RunMirrors(this.#ports, this.#view, run, epoch, log.length)
    const drive = new RunDrive(this.#parts, mirrors, { run, epoch, log, index, began })
    this.#drives.set(run, drive)
    void drive.done.then(({ how, because }) => {
      if (this.#drives.get(run) === drive) this.#drives.delete(run)
      this.#ports.telemetry.count('runs_driven_total', { how })
      if (how !== 'ended') this.#ports.telemetry.event('warn', `run.${how}`, { run, epoch, because })
      if (how === 'fenced') void this.#catchUp(run)
    })
    const at = this.#ports.clock.unix()
    await drive.start([...(log.length === 0 ? [began] : []), { type: 'coordinator', peer: this.#view.self, epoch, at }])
  }

  /** The longest copy in the newest epoch, written into this peer's own. */
  async #bestCopy(run: RunId, copies: readonly Copy[]): Promise<readonly RunEvent[]> {
    const own = await this.#book.events(run)
    const ranked = copies.filter(copy => copy.peer !== this.#view.self && newestFirst(copy, copyOf(own)) < 0).sort(newestFirst)
    for (const { peer, events } of ranked) {
      const copy = await this.#download(run, peer)
      if (copy.length >= events) return copy
    }
    return own
  }

  async #download(run: RunId, peer: PeerId): Promise<readonly RunEvent[]> {
    const events: RunEvent[] = []
    while (events.length < this.#config.book.eventsPerRun) {
      const page = await this.#watch.ask(peer, run, events.length, 0)
      if (page === undefined || page.events.length === 0) break
      events.push(...page.events)
    }
    return events[0]?.type === 'began' ? events : []
  }

  /** Claims a run whose coordinator is gone and finishes it. */
  async #takeOver(run: RunId): Promise<void> {
    if (this.#takingOver.has(run) || this.#drives.has(run) || this.#beginning.has(run) || this.#stopped.signal.aborted) return
    this.#takingOver.add(run)
    try {
      const claim = await this.#claim(run, this.#book.head(run)?.mirrors ?? [], true)
      if (claim === undefined) {
        await this.#catchUp(run)
        return
      }
      const log = await this.#bestCopy(run, claim.copies)
      const [began] = log
      if (began?.type !== 'began') {
        // Nothing was ever acknowledged.
        await this.#book.forget(run)
        return
      }
      const writer = { coordinator: this.#view.self, epoch: claim.epoch }
      await this.#book.append(run, writer, 0, log, { show: true })
      if (this.#book.head(run)?.end !== undefined) return
      this.#ports.telemetry.count('runs_taken_over_total')
      this.#ports.telemetry.event('info', 'run.taken_over', { run, epoch: claim.epoch, events: log.length })
      await this.#drive(run, claim.epoch, log, began, await this.#plan(began))
    } catch (error) {
      const failure = asMeshError(error)
      // The next sweep tries again.
      if (failure.code !== 'EPOCH_FENCED') this.#ports.telemetry.event('warn', 'run.takeover_failed', { run, code: failure.code, because: failure.message })
    } finally {
      this.#takingOver.delete(run)
      this.#claiming.delete(run)
    }
  }

  /** A peer is gone: the runs it drove, of which this one has a copy, go to the first mirror that is alive. */
  #inherit(gone: PeerId): void {
    for (const [run, { coordinator }] of this.#book.unended()) if (coordinator === gone) this.#takeTurn(run, gone)
  }

  #takeTurn(run: RunId, gone: PeerId): void {
    const order = rendezvous(run, this.#view.live().filter(peer => peer !== gone))
    const waitMs = Math.max(0, order.indexOf(this.#view.self)) * this.#config.turnMs
    const go = async (): Promise<void> => {
      const head = this.#book.head(run)
      if (head === undefined || head.end !== undefined || head.coordinator !== gone) return
      if ((await this.#book.events(run)).length > 0) await this.#takeOver(run)
    }
    if (waitMs === 0) void go()
    else this.#ports.clock.after(waitMs, () => void go())
  }

  #sweep(): void {
    if (this.#stopped.signal.aborted) return
    void this.#look().catch(error => this.#ports.telemetry.event('warn', 'run.sweep_failed', { because: asMeshError(error).message })).then(() => {
      if (!this.#stopped.signal.aborted) this.#ports.clock.after(this.#config.sweepMs, () => this.#sweep())
    })
  }

  async #look(): Promise<void> {
    await this.#book.prune()
    let looked = 0
    for (const [run, head] of this.#book.unended()) {
      if (this.#drives.has(run) || this.#takingOver.has(run) || this.#beginning.has(run)) continue
      if ((looked += 1) > TAKEOVERS_PER_SWEEP) return
      if (head.coordinator === this.#view.self) await this.#takeOver(run)
      else if (this.#view.state(head.coordinator) !== 'alive' && this.#view.state(head.coordinator) !== 'suspect') await this.#orphan(run, head.coordinator, head.at)
      else if (await this.#book.idleMs(run) >= this.#config.idleMs) await this.#catchUp(run)
    }
  }

  async #orphan(run: RunId, gone: PeerId, promisedAt: Millis): Promise<void> {
    if ((await this.#book.events(run)).length > 0) this.#takeTurn(run, gone)
    else if (this.#ports.clock.unix() - promisedAt > this.#config.book.endedMs) await this.#book.forget(run)
  }

  /** Compares this peer's copy with the one of whoever drives the run; takes it over when nobody does. */
  async #catchUp(run: RunId): Promise<void> {
    const head = this.#book.head(run)
    if (head === undefined || head.end !== undefined || this.#drives.has(run)) return
    const own = await this.#book.events(run)
    const copy = await this.#watch.read(run, 0, 0, this.#ports.clock.deadline(COMPILE_MS, this.#stopped.signal))
    if (copy === undefined || copy.peer === this.#view.self) {
      if (own.length > 0) this.#takeTurn(run, head.coordinator)
      return
    }
    const log = await this.#download(run, copy.peer)
    const ended = isEnd(log.at(-1))
    const driver = copy.coordinator ?? (ended ? copy.peer : undefined)
    if (driver === undefined || driver === this.#view.self) {
      if (own.length > 0) this.#takeTurn(run, head.coordinator)
      return
    }
    if (own.length === 0 || log.length === 0 || (!ended && newestFirst(copyOf(log), copyOf(own)) > 0)) return
    const writer = { coordinator: driver, epoch: Math.max(copy.epoch ?? 0, head.epoch) }
    if (writer.coordinator !== head.coordinator || writer.epoch !== head.epoch) await this.#book.promise(run, head, writer)
    await this.#book.append(run, writer, 0, log, { show: true })
  }

  /** Waits until a peer that mirrored this one's runs is back in view, for a while. */
  async #contact(mirrors: readonly PeerId[]): Promise<void> {
    if (mirrors.length === 0) return
    const until = this.#ports.clock.deadline(this.#config.graceMs, this.#stopped.signal)
    while (!until.aborted && !this.#view.live().some(peer => mirrors.includes(peer))) await this.#ports.clock.sleep(100, until).catch(() => undefined)
  }
}

/** The same key on the same vDAG names the same run on every peer. */
function runIdOf({ vdagUri, key }: Submission, random: Random): RunId {
  if (key === undefined) return `run-${hex(random.bytes(16))}`
  if (key.length === 0 || key.length > 200) throw new MeshError('BAD_INPUT', 'an idempotency key has 1 to 200 characters')
  return `run-${hex(digest(utf8(`aios-run\0${vdagUri}\0${key}`))).slice(0, 32)}`
}

type Extent = Pick<Copy, 'events' | 'lastEpoch'>

function copyOf(log: readonly RunEvent[]): Extent {
  return { events: log.length, lastEpoch: log.length === 0 ? 0 : epochAt(log, log.length - 1) }
}

/** Raft's rule: of two copies the one whose last event is of the newer epoch, then the longer. */
function newestFirst(a: Extent, b: Extent): number {
  return b.lastEpoch - a.lastEpoch || b.events - a.events
}

function isEnd(event: RunEvent | undefined): event is Ended {
  return event?.type === 'completed' || event?.type === 'aborted'
}
