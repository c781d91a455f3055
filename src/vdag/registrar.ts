import { decode, recordCid } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId, RunId } from '../../protocols/ids.ts'
import { runClaim, runClaimBody, runMirror, runMirrorBody, runRead, type RunEvent } from '../../protocols/runs.ts'
import type { Signed } from '../../protocols/signed.ts'
import { abortable } from '../lib/abortable.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { unseal } from '../trust/seal.ts'
import { bodyOf } from './records.ts'
import { epochAt, type Head, type RunBook } from './run-book.ts'

export type ClaimAnswer = { readonly granted: boolean; readonly coordinator: PeerId; readonly epoch: number; readonly finished: boolean; readonly events: number; readonly lastEpoch?: number }
type MirrorAnswer = { readonly accepted: boolean; readonly have: number; readonly epoch: number }
type ReadAnswer = { readonly found: boolean; readonly coordinator?: PeerId; readonly epoch?: number; readonly events: RunEvent[] }

/** What this peer itself is doing with a run. */
export interface Driving {
  drives(run: RunId): boolean
  /** It is claiming or about to begin it. */
  intends(run: RunId): boolean
}

const READ_EVENTS = 1_024
/** How long an incumbent may take to say that it still drives a run. */
const INCUMBENT_MS = 700
/** A mirror answers within its protocol's deadline; what it could not fetch by then it goes on fetching. */
const FETCH_MS = 2_000
const FETCHES = 16
const RECORD_BYTES = 1_048_576

/** Vouches for runs: promises each to one coordinator at a time, keeps copies of their events, and lets anybody read them. */
export class Registrar {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>
  readonly #view: Pick<MeshView, 'state'>
  readonly #book: RunBook
  readonly #driving: Driving
  readonly #fetching = new Map<Cid, Promise<void>>()

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>, view: Pick<MeshView, 'state'>, book: RunBook, driving: Driving) {
    this.#ports = ports
    this.#view = view
    this.#book = book
    this.#driving = driving
  }

  start(): void {
    const { network } = this.#ports
    network.handle(runClaim, (request, from) => this.#claimed(request, from))
    network.handle(runMirror, (request, from, signal) => this.#mirrored(request, from, signal))
    network.handle(runRead, ({ run, from, waitMs }, _, signal) => this.#read(run, from, waitMs, signal))
  }

  /**
   * Promises `run` to `coordinator` when nobody has it, when it has it already, or when it comes with a higher epoch and
   * the one who had it is not driving it any more. Durable when it resolves.
   */
  async grant(run: RunId, coordinator: PeerId, epoch: number, mirrors: readonly PeerId[] = []): Promise<ClaimAnswer> {
    const held = this.#book.head(run)
    const again = held?.coordinator === coordinator && held.epoch === epoch
    if (held !== undefined && !again && (held.end !== undefined || epoch <= held.epoch)) return this.#answer(run, false)
    if (held?.end !== undefined) return this.#answer(run, false)
    if (held !== undefined && held.coordinator !== coordinator && await this.#stillDriven(run, held)) {
      this.#ports.telemetry.count('run_claims_refused_total')
      return this.#answer(run, false)
    }
    const promised = again || await this.#book.promise(run, held, { coordinator, epoch, mirrors })
    return this.#answer(run, promised)
  }

  async #claimed(request: Signed, from: PeerId): Promise<ClaimAnswer> {
    const { value, signer } = unseal(this.#ports.identity, 'run-claim', runClaimBody, request, runClaim.limits.requestBytes)
    mustBeOwn(signer, from)
    mustBeOwn(value.coordinator, from)
    return this.grant(value.run, value.coordinator, value.epoch)
  }

  async #answer(run: RunId, granted: boolean): Promise<ClaimAnswer> {
    const events = await this.#book.events(run)
    const head = this.#book.head(run)
    return { granted, coordinator: head?.coordinator ?? this.#ports.identity.peer, epoch: head?.epoch ?? 0, finished: head?.end !== undefined, events: events.length, ...(events.length === 0 ? {} : { lastEpoch: epochAt(events, events.length - 1) }) }
  }

  /** Asks the one who holds a run. Who is gone, does not answer, or says it does not drive it, has lost it. */
  async #stillDriven(run: RunId, { coordinator }: Head): Promise<boolean> {
    if (coordinator === this.#ports.identity.peer) return this.#driving.drives(run) || this.#driving.intends(run)
    const state = this.#view.state(coordinator)
    if (state === 'dead' || state === 'left') return false
    try {
      const answer = await this.#ports.network.request(coordinator, runRead, { run, from: 0, waitMs: 0 }, INCUMBENT_MS)
      return answer.coordinator === coordinator
    } catch {
      return false
    }
  }

  async #mirrored(request: Signed, from: PeerId, signal: AbortSignal): Promise<MirrorAnswer> {
    const { value, signer } = unseal(this.#ports.identity, 'run-mirror', runMirrorBody, request, runMirror.limits.requestBytes)
    mustBeOwn(signer, from)
    const { run, epoch, events } = value
    const held = this.#book.head(run)
    if (held?.coordinator !== signer || held.epoch !== epoch) await this.#adopt(run, signer, epoch)
    const copy = await this.#book.events(run)
    if (value.from > copy.length) return { accepted: false, have: copy.length, epoch }
    if (value.from > 0 && epochAt(copy, value.from - 1) !== value.previous) return { accepted: false, have: 0, epoch }
    const [first] = events
    if (value.from === 0 && first !== undefined && (first.type !== 'began' || first.run !== run)) throw new MeshError('MESSAGE_INVALID', `the events of ${run} do not begin with its beginning`)
    await this.#hold(value.records ?? [], events, signer, signal)
    const have = await this.#book.append(run, { coordinator: signer, epoch }, value.from, events, { show: true })
    return { accepted: true, have, epoch }
  }

  /** A coordinator that this peer has not promised the run to: it may have claimed it while this peer was away. */
  async #adopt(run: RunId, signer: PeerId, epoch: number): Promise<void> {
    const answer = await this.grant(run, signer, epoch)
    if (answer.granted) return
    const why = answer.finished ? 'has ended' : `belongs to ${answer.coordinator} in epoch ${answer.epoch}`
    throw new MeshError('EPOCH_FENCED', `${run} ${why}: epoch ${epoch} of ${signer} changes nothing here`, { details: { coordinator: answer.coordinator, epoch: answer.epoch } })
  }

  /** Makes local what the events name, so that whoever finishes the run has it. */
  async #hold(records: readonly Uint8Array[], events: readonly RunEvent[], from: PeerId, signal: AbortSignal): Promise<void> {
    const wanted = new Set(events.flatMap(named))
    for (const bytes of records) {
      const cid = recordCid(bytes)
      if (!wanted.has(cid)) throw new MeshError('CONTENT_CORRUPT', `a mirrored record is ${cid}, which no event names`)
      await this.#ports.content.putRecord(decode<unknown>({ parse: value => value }, bytes, RECORD_BYTES, 'a mirrored record'))
    }
    const until = this.#ports.clock.deadline(FETCH_MS, signal)
    await Promise.all([...wanted].map(cid => this.#bring(cid, from, until)))
  }

  async #bring(cid: Cid, from: PeerId, until: AbortSignal): Promise<void> {
    const { content, clock } = this.#ports
    if (!await content.has(cid)) await this.#fetch(cid, from, until)
    const body = bodyOf(await content.getRecord<unknown>(cid, { parse: value => value }, clock.deadline(FETCH_MS)))
    if (body !== undefined && !await content.has(body)) await this.#fetch(body, from, until)
  }

  /** Goes on after `until`, so that a large output arrives over several tries of its coordinator. */
  #fetch(cid: Cid, from: PeerId, until: AbortSignal): Promise<void> {
    let fetching = this.#fetching.get(cid)
    if (fetching === undefined) {
      if (this.#fetching.size >= FETCHES) throw new MeshError('OVERLOADED', `this peer fetches ${FETCHES} outputs of runs already`)
      fetching = this.#ports.content.fetch(cid, { from: [from], signal: this.#ports.clock.deadline(60_000) }).finally(() => this.#fetching.delete(cid))
      this.#fetching.set(cid, fetching)
    }
    return abortable(fetching, until)
  }

  async #read(run: RunId, from: number, waitMs: Millis, signal: AbortSignal): Promise<ReadAnswer> {
    const self = this.#ports.identity.peer
    const ours = this.#driving.drives(run) || this.#driving.intends(run)
    const known = ours || (await this.#book.events(run)).length > 0
    // Nothing will come to a peer that only vouched for the run: it names the one it vouched for, at once.
    const events = await this.#book.read(run, from, known ? waitMs : 0, signal)
    const head = this.#book.head(run)
    const driven = head !== undefined && (head.end !== undefined || head.coordinator !== self || this.#driving.drives(run) || this.#driving.intends(run))
    return { found: head !== undefined, ...(driven ? { coordinator: head.coordinator, epoch: head.epoch } : {}), events: events.slice(0, READ_EVENTS) }
  }
}

/** The records an event names. */
export function named(event: RunEvent): readonly Cid[] {
  if (event.type === 'began') return [event.plan, event.input]
  return event.type === 'finished' ? [event.output] : []
}

function mustBeOwn(claimed: PeerId, from: PeerId): void {
  if (claimed !== from) throw new MeshError('FORBIDDEN', `${from} speaks for ${claimed}`)
}
