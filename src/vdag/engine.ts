import { digest, encode, hex } from '../../protocols/codec.ts'
import { isErrorCode, MeshError } from '../../protocols/errors.ts'
import type { BlockId, Cid, Json, Millis, PeerId, RunId } from '../../protocols/ids.ts'
import { packet as packetSchema, type Packet } from '../../protocols/invoke.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import type { VdagSpec } from '../../protocols/specs.ts'
import { keyName } from '../lib/key-name.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, Invoker, MeshView, PolicyCalls } from '../roles.ts'
import { Acquisition, isEnd, type Acquired } from './acquire.ts'
import { Claims } from './claim.ts'
import { compilePlan } from './compile.ts'
import { compiledView } from './compiled-view.ts'
import { RunDrive, type DriveParts } from './drive.ts'
import type { Compatible } from './graph.ts'
import { RunMirrors } from './mirror.ts'
import { NodeCalls } from './node-call.ts'
import { NodePolicies } from './node-policies.ts'
import { indexPlan, plan as planSchema, type PlanIndex, type RunLimits } from './plan.ts'
import { getValue, putValue } from './records.ts'
import { Registrar } from './registrar.ts'
import { RunBook, type BookLimits } from './run-book.ts'
import type { Began } from './run.ts'
import { Slots } from './slots.ts'
import { Succession, type SuccessionTimes } from './succession.ts'
import { RunWatch } from './watch.ts'

export type RunConfig = SuccessionTimes & {
  readonly limits: RunLimits
  readonly book: BookLimits
  /** Runs this peer drives at once; one more is refused. */
  readonly activeRuns: number
  /** Node calls of all runs together that are under way at once. */
  readonly nodeCalls: number
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
  unbegunMs: 600_000,
}

export type Submission = {
  readonly vdagUri: string
  readonly input: Packet | Json
  /** The same key with the same vDAG is the same run, from any peer. */
  readonly key?: string
  readonly submitter: PeerId
  readonly trace?: string
}

export type RunState = 'running' | 'completed' | 'aborted'
export type RunRow = { readonly run: RunId; readonly vdag: string; readonly state: RunState; readonly coordinator: PeerId | null; /** Of the last change. */ readonly at: Millis; readonly began: Millis }
export type RunStatus = { readonly run: RunId; readonly state: RunState; readonly coordinator: PeerId | undefined; readonly events: readonly RunEvent[] }

const COMPILE_MS = 30_000
/** How long the first event of a run that somebody else is beginning is waited for. */
const COMPARE_MS = 2_000

/** Runs vDAGs: begins them, drives them, finishes those whose coordinator died, and answers for them from any peer. */
export class RunEngine {
  readonly #ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'content' | 'journal' | 'telemetry'>
  readonly #view: MeshView
  readonly #random: Random
  readonly #config: RunConfig
  readonly #book: RunBook
  readonly #registrar: Registrar
  readonly #acquisition: Acquisition
  readonly #succession: Succession
  readonly #watch: RunWatch
  readonly #parts: DriveParts
  readonly #settled: () => Promise<void>
  readonly #catalogue: Pick<Catalogue, 'vdag'>
  readonly #compile: (spec: VdagSpec, signal: AbortSignal) => ReturnType<typeof compilePlan>
  readonly #drives = new Map<RunId, RunDrive>()
  readonly #beginning = new Map<RunId, Promise<{ readonly run: RunId; readonly existing: boolean }>>()
  readonly #stopped = new AbortController()
  #onFailed: (run: RunId, vdag: string, because: string) => void = () => undefined

  constructor(
    ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'content' | 'journal' | 'telemetry'>,
    parts: { readonly view: MeshView; readonly invoker: Invoker; readonly policies: PolicyCalls; readonly catalogue: Catalogue; readonly compatible: Compatible; readonly settled?: () => Promise<void> },
    config: Partial<RunConfig> = {},
  ) {
    this.#ports = ports
    this.#view = parts.view
    this.#random = ports.random.fork('runs')
    this.#config = { ...RUN_DEFAULTS, ...config }
    this.#book = new RunBook(ports, this.#config.book)
    this.#registrar = new Registrar(ports, parts.view, this.#book, { drives: run => this.#drives.has(run), intends: run => this.#acquisition.intends(run) })
    this.#watch = new RunWatch(ports, this.#random, parts.view, this.#book)
    this.#acquisition = new Acquisition({ clock: ports.clock, random: this.#random }, parts.view.self, { book: this.#book, watch: this.#watch, claims: new Claims(ports, parts.view, this.#registrar) })
    this.#succession = new Succession({
      ports, view: parts.view, book: this.#book, watch: this.#watch, acquisition: this.#acquisition, stopped: this.#stopped.signal,
      busy: run => this.#drives.has(run) || this.#beginning.has(run),
      drive: async (run, won, began) => this.#drive(run, won, began, await this.#plan(began)),
    }, this.#config)
    this.#parts = { ports, book: this.#book, calls: new NodeCalls(ports, parts.invoker, new NodePolicies(parts.policies, parts.catalogue, ports.telemetry)), slots: new Slots(this.#config.nodeCalls) }
    const compiling = { catalogue: parts.catalogue, policies: parts.policies, view: parts.view, compatible: parts.compatible, limits: this.#config.limits }
    this.#catalogue = parts.catalogue
    this.#settled = parts.settled ?? (() => Promise.resolve())
    this.#compile = (spec, signal) => compilePlan(spec, compiling, signal)
  }

  /** Whoever is to hear of runs that failed here. One at most. */
  reportTo(onFailed: (run: RunId, vdag: string, because: string) => void): void {
    this.#onFailed = onFailed
  }

  /** Reads back what this peer holds, answers the others, and begins to watch over the runs it mirrors. */
  async start(): Promise<void> {
    await this.#book.load()
    this.#registrar.start()
    this.#succession.start()
  }

  /** Begins to take up the runs this peer coordinated when it last stopped, unless somebody has taken them over. */
  async resume(): Promise<void> {
    void this.#succession.resume()
  }

  /** Lets go of everything; others take over. */
  stop(): void {
    this.#stopped.abort(new MeshError('CANCELLED', 'the peer is stopping'))
    for (const drive of this.#drives.values()) drive.stop({ how: 'stalled', because: 'the peer is stopping' })
    this.#drives.clear()
  }

  /**
   * Begins a run, or finds the one this key began. The run is durable here and at a mirror when it resolves. Throws
   * NOT_FOUND, GRAPH_INVALID, PROTOCOL_MISMATCH, OVERLOADED, STORAGE_FULL, and CONFLICT where the key was used for another input.
   */
  submit(submission: Submission): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    const run = runIdOf(submission, this.#random)
    return this.#begun(run, submission).then(async answer => {
      if (answer.existing && submission.key !== undefined) await this.#refuseOtherInput(run, submission.key, fingerprint(this.#packet(run, submission.input)))
      return answer
    })
  }

  /** Which blocks the nodes of a vDAG would run on if it were submitted now, by label. Throws as `submit` does. */
  async assignment(spec: VdagSpec): Promise<Readonly<Record<string, readonly BlockId[]>>> {
    const { nodes } = await this.#compile(spec, this.#ports.clock.deadline(COMPILE_MS))
    return Object.fromEntries(nodes.map(({ label, players }) => [label, players.flatMap(({ blocks }) => blocks)]))
  }

  /** As AIOS's registry shows a vDAG compiled, with the blocks its nodes would run on now. Throws as `submit` does. */
  async compiled(spec: VdagSpec): Promise<ReturnType<typeof compiledView>> {
    return compiledView(spec, await this.#compile(spec, this.#ports.clock.deadline(COMPILE_MS)), this.#view.self)
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

  /** The runs this peer coordinates, mirrors or knows the end of, newest first. Of one that it only vouches for it knows nothing to tell. */
  async list(): Promise<readonly RunRow[]> {
    const rows = await Promise.all(this.#book.runs().map(async ([run, { vdag, end, coordinator, at, began }]): Promise<readonly RunRow[]> => {
      const [first] = vdag === '' && end === undefined ? await this.#book.events(run) : []
      if (vdag === '' && end === undefined && first?.type !== 'began') return []
      return [{ run, vdag: first?.type === 'began' ? first.vdag : vdag, state: end?.type ?? 'running', coordinator, at, began: began ?? (first?.type === 'began' ? first.at : at) }]
    }))
    return rows.flat().sort((a, b) => b.began - a.began || (a.run < b.run ? -1 : 1))
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

  #begun(run: RunId, submission: Submission): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    const beginning = this.#beginning.get(run)
    if (beginning !== undefined) return beginning.then(() => ({ run, existing: true }))
    const begun = this.#submit(run, submission).finally(() => this.#beginning.delete(run))
    this.#beginning.set(run, begun)
    return begun
  }

  /** A key names one piece of work. Where nobody is left who can say what it was for, the caller is believed. */
  async #refuseOtherInput(run: RunId, key: string, asked: string): Promise<void> {
    const waitMs = this.#book.head(run)?.end === undefined ? COMPARE_MS : 0
    const first = (await this.#watch.read(run, 0, waitMs, this.#ports.clock.deadline(2 * COMPARE_MS)))?.events[0]
    if (first?.type !== 'began' || first.asked === undefined || first.asked === asked) return
    throw new MeshError('CONFLICT', `the key ${JSON.stringify(key)} belongs to ${run}, which was begun with another input: use a new key for new input, or submit the same input again`, { details: { run } })
  }

  async #submit(run: RunId, { vdagUri, input, key, submitter, trace }: Submission): Promise<{ readonly run: RunId; readonly existing: boolean }> {
    const held = this.#book.head(run)
    if (held?.end !== undefined || this.#drives.has(run)) return { run, existing: true }
    if (this.#drives.size + this.#beginning.size >= this.#config.activeRuns) throw new MeshError('OVERLOADED', `this peer drives ${this.#drives.size} runs already: submit to another one, or later`)
    // Only a key brings another peer to the same run: where two do not see the same mesh, both would win it.
    if (key !== undefined) await this.#settled()
    const signal = this.#ports.clock.deadline(COMPILE_MS)
    const plan = await this.#compile((await this.#catalogue.vdag(vdagUri, signal)).spec, signal)
    const packet = this.#packet(run, input)
    const [planCid, inputCid] = await Promise.all([putValue(this.#ports.content, plan), putValue(this.#ports.content, packet)])
    const begin = async (): Promise<{ readonly run: RunId; readonly existing: boolean }> => {
      const fresh = await this.#acquisition.acquire(run, { also: [], patient: true, signal: this.#stopped.signal }, async ({ epoch, log }) => {
        const [first] = log
        if (first?.type === 'began') {
          // Somebody began it and died: this peer finishes what that one began.
          await this.#drive(run, { epoch, log }, first, await this.#plan(first))
          return false
        }
        const began: Began = { type: 'began', run, key: key ?? '', vdag: plan.vdag, plan: planCid, input: inputCid, submitter, at: this.#ports.clock.unix(), asked: fingerprint(packet), ...(trace === undefined ? {} : { trace }) }
        await this.#drive(run, { epoch, log: [] }, began, indexPlan(plan))
        return true
      })
      return { run, existing: fresh?.value !== true }
    }
    try {
      return await begin()
    } catch (error) {
      // Overtaken between the claim and the first word. Whoever did that has claimed it and perhaps not begun it: look again.
      if (error instanceof MeshError && error.code === 'EPOCH_FENCED') return begin()
      throw error
    }
  }

  #packet(run: RunId, input: Packet | Json): Packet {
    const given = packetSchema.safeParse(input)
    if (given.success) return given.data.sessionId === '' ? { ...given.data, sessionId: run } : given.data
    return packetSchema.parse({ sessionId: run, seqNo: 0, ts: this.#ports.clock.unix() / 1_000, data: input })
  }

  async #plan(began: Began): Promise<PlanIndex> {
    return indexPlan(await getValue(this.#ports.content, began.plan, planSchema, this.#ports.clock.deadline(COMPILE_MS)))
  }

  /** Resolves when the first events of this epoch are durable here and at a mirror. */
  async #drive(run: RunId, { epoch, log }: Acquired, began: Began, index: PlanIndex): Promise<void> {
    if (isEnd(log.at(-1))) {
      // It ended before its coordinator could tell anybody. Nothing is left but to tell.
      const told = await new RunMirrors(this.#ports, this.#view, run, epoch, 0).push(log, true)
      await this.#book.show(run, log.length, !told)
      return
    }
    const mirrors = new RunMirrors(this.#ports, this.#view, run, epoch, log.length)
    const drive = new RunDrive(this.#parts, mirrors, { run, epoch, log, index, began })
    this.#drives.set(run, drive)
    void drive.done.then(({ how, because }) => {
      if (this.#drives.get(run) === drive) this.#drives.delete(run)
      this.#ports.telemetry.count('runs_driven_total', { how })
      if (how !== 'ended' && !this.#stopped.signal.aborted) this.#ports.telemetry.event('warn', `run.${how}`, { run, epoch, because })
      if (how === 'ended' && because === 'aborted') void this.#book.events(run).then(events => this.#onFailed(run, began.vdag, whyAborted(events)))
      if (how === 'fenced') void this.#succession.catchUp(run).catch(() => undefined)
    })
    const at = this.#ports.clock.unix()
    await drive.start([...(log.length === 0 ? [began] : []), { type: 'coordinator', peer: this.#view.self, epoch, at }])
  }
}

function whyAborted(events: readonly RunEvent[]): string {
  const last = events.at(-1)
  return last?.type === 'aborted' ? `${last.code}: ${last.message}` : 'it failed'
}

/** What was asked for: the data and the files, not when and in which session. */
function fingerprint({ data, files }: Packet): string {
  return hex(digest(encode([data, files]))).slice(0, 64)
}

/** The same key on the same vDAG names the same run on every peer. */
function runIdOf({ vdagUri, key }: Submission, random: Random): RunId {
  if (key === undefined) return `run-${hex(random.bytes(16))}`
  if (key.length === 0 || key.length > 200) throw new MeshError('BAD_INPUT', 'an idempotency key has 1 to 200 characters')
  return `run-${keyName('run', vdagUri, key)}`
}
