import { encode } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId, RunId } from '../../protocols/ids.ts'
import { runMirror, type RunEvent } from '../../protocols/runs.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { seal } from '../trust/seal.ts'
import { mirrorsOf } from './claim.ts'
import { named } from './registrar.ts'
import { epochAt } from './run-book.ts'

const BATCH_EVENTS = 256
/** Under the megabyte of the protocol, with room for the envelope. */
const BATCH_BYTES = 900_000
/** A record above this is fetched by the mirror instead of travelling in the message. */
const RECORD_BYTES = 262_144
/** How often a mirror may ask for an earlier event before it is left alone for a while. */
const REWINDS = 4
const PAUSE: readonly [Millis, Millis] = [500, 30_000]

/** Keeps the copies of one run at its mirrors up to date. */
export class RunMirrors {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>
  readonly #view: Pick<MeshView, 'self' | 'live'>
  readonly #run: RunId
  readonly #epoch: number
  readonly #basis: number
  readonly #links = new Map<PeerId, MirrorLink>()

  /** `basis`: how many events the run had when this epoch began; mirrors probably have those. */
  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>, view: Pick<MeshView, 'self' | 'live'>, run: RunId, epoch: number, basis: number) {
    this.#ports = ports
    this.#view = view
    this.#run = run
    this.#epoch = epoch
    this.#basis = basis
  }

  get peers(): readonly PeerId[] {
    return mirrorsOf(this.#run, this.#view.live(), this.#view.self)
  }

  /**
   * Resolves true when one mirror holds all `events` durably (`everyone`: when each has answered or failed), false when
   * none can be reached: then the coordinator goes on alone, counted. Throws EPOCH_FENCED when a mirror knows a newer coordinator.
   */
  async push(events: readonly RunEvent[], everyone: boolean): Promise<boolean> {
    const links = this.peers.map(peer => this.#link(peer))
    const pushes = links.map(link => link.reach(events))
    const held = everyone ? (await Promise.all(pushes)).includes(true) : await firstTrue(pushes)
    if (!held && links.length > 0) this.#ports.telemetry.count('run_events_unmirrored_total')
    return held
  }

  #link(peer: PeerId): MirrorLink {
    const known = this.#links.get(peer)
    if (known !== undefined) return known
    const link = new MirrorLink(this.#ports, { run: this.#run, epoch: this.#epoch, peer, have: this.#basis })
    this.#links.set(peer, link)
    return link
  }
}

/** One mirror of one run. */
class MirrorLink {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>
  readonly #of: { readonly run: RunId; readonly epoch: number; readonly peer: PeerId }
  #have: number
  #pauseMs: Millis = PAUSE[0]
  #pausedUntil: Millis = 0
  #turn: Promise<unknown> = Promise.resolve()

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'content' | 'telemetry'>, of: { readonly run: RunId; readonly epoch: number; readonly peer: PeerId; readonly have: number }) {
    this.#ports = ports
    this.#of = of
    this.#have = of.have
  }

  /** True once the mirror holds all of `events`; false when it cannot be had now. Throws EPOCH_FENCED. */
  reach(events: readonly RunEvent[]): Promise<boolean> {
    const turn = this.#turn.then(() => this.#advance(events), () => this.#advance(events))
    this.#turn = turn
    return turn
  }

  async #advance(events: readonly RunEvent[]): Promise<boolean> {
    if (this.#ports.clock.monotonic() < this.#pausedUntil) return false
    let rewinds = 0
    this.#have = Math.min(this.#have, events.length)
    while (this.#have < events.length) {
      try {
        const from = this.#have
        const { accepted, have } = await this.#send(events, from)
        if (!accepted && (rewinds += 1) > REWINDS) throw new MeshError('STALE', `${this.#of.peer} asks for other events each time`)
        this.#have = accepted ? Math.max(from, Math.min(have, events.length)) : Math.min(have, from)
        this.#pauseMs = PAUSE[0]
      } catch (error) {
        const failure = asMeshError(error)
        if (failure.code === 'EPOCH_FENCED') throw failure
        this.#pausedUntil = this.#ports.clock.monotonic() + this.#pauseMs
        this.#pauseMs = Math.min(PAUSE[1], this.#pauseMs * 2)
        this.#ports.telemetry.event('debug', 'run.mirror_lost', { run: this.#of.run, mirror: this.#of.peer, because: failure.message })
        return false
      }
    }
    return true
  }

  async #send(events: readonly RunEvent[], from: number): Promise<{ readonly accepted: boolean; readonly have: number }> {
    const { run, epoch, peer } = this.#of
    const batch: RunEvent[] = []
    const records: Uint8Array[] = []
    let size = 0
    for (const event of events.slice(from, from + BATCH_EVENTS)) {
      const carried = await this.#records(event)
      const bytes = encode(event).byteLength + carried.reduce((sum, record) => sum + record.byteLength, 0)
      if (batch.length > 0 && size + bytes > BATCH_BYTES) break
      size += bytes
      batch.push(event)
      records.push(...carried)
    }
    const previous = from === 0 ? {} : { previous: epochAt(events, from - 1) }
    const body = { run, epoch, from, events: batch, issuedAt: this.#ports.clock.unix(), ...previous, records }
    return this.#ports.network.request(peer, runMirror, seal(this.#ports.identity, 'run-mirror', body))
  }

  async #records(event: RunEvent): Promise<readonly Uint8Array[]> {
    const carried = await Promise.all(named(event).map(cid => this.#small(cid)))
    return carried.filter(bytes => bytes !== undefined)
  }

  async #small(cid: Cid): Promise<Uint8Array | undefined> {
    const { content, clock } = this.#ports
    if (!await content.has(cid)) return undefined
    const bytes = encode(await content.getRecord<unknown>(cid, { parse: value => value }, clock.deadline(1_000)))
    return bytes.byteLength <= RECORD_BYTES ? bytes : undefined
  }
}

/** Resolves true with the first that does, false when none does; rejects with the first that rejects before that. */
function firstTrue(work: readonly Promise<boolean>[]): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>()
  let left = work.length
  if (left === 0) resolve(false)
  for (const one of work) {
    one.then(held => {
      left -= 1
      if (held) resolve(true)
      else if (left === 0) resolve(false)
    }, reject)
  }
  return promise
}
