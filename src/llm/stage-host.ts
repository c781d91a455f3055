import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import { stageOpen, type StageFrame, type StageOpen } from '../../protocols/stage.ts'
import { Lru } from '../lib/lru.ts'
import { traceSpan } from '../lib/trace-span.ts'
import type { Ports, StageRunner } from '../ports.ts'
import type { ContractBook } from '../roles.ts'
import { LogBudget } from './boundary-log.ts'
import { chunkAt, unpackTokens } from './prompt-chunks.ts'
import type { StageLinks } from './stage-links.ts'
import { Seat, type Surroundings } from './stage-seat.ts'

const FENCES_BOUND = 16_384

export type StageHostConfig = {
  /** A session that nobody touched for so long is over: its origin is gone and nobody took it up. */
  readonly leaseMs: Millis
  readonly sweepMs: Millis
  /** Bytes of boundary logs on this host. */
  readonly logBytes: number
  /** Sessions of all stages here. */
  readonly seats: number
}

export const STAGE_HOST: StageHostConfig = { leaseMs: 30_000, sweepMs: 5_000, logBytes: 268_435_456, seats: 4_096 }

/** The instances of this host as far as stages need them. */
export interface StageInstances {
  /** Throws NO_INSTANCE. `entering`: a new session; one that drains takes none. */
  stage(instance: InstanceId, entering: boolean): StageRunner
  onExit(hear: (instance: InstanceId, because: string, crashed: boolean) => void): () => void
}

export type StageHostParts = {
  readonly links: StageLinks
  readonly instances: StageInstances
  readonly book: Pick<ContractBook, 'fence'>
  readonly may: (peer: PeerId) => Verdict<true>
}

/** Serves the stages of this host: gives sessions a seat, runs their steps in order, obeys the highest epoch it has seen of each. */
export class StageHost {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly #parts: StageHostParts
  readonly #config: StageHostConfig
  readonly #around: Surroundings
  readonly #seats = new Map<string, Seat>()
  /** The newest epoch of sessions that had a seat here: a stale origin does not get one again. */
  readonly #fences = new Lru<string, { readonly epoch: number; readonly origin: PeerId }>(FENCES_BOUND)
  readonly #opening = new Map<string, Promise<unknown>>()
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>, parts: StageHostParts, config: StageHostConfig = STAGE_HOST) {
    this.#ports = ports
    this.#parts = parts
    this.#config = config
    this.#around = {
      self: ports.network.self,
      send: (to, frame) => parts.links.send(to, frame),
      after: (duration, run) => ports.clock.after(duration, run),
      budget: new LogBudget(config.logBytes),
    }
  }

  start(): void {
    const { network } = this.#ports
    network.handle(stageOpen, (request, from) => this.open(request, from))
    this.#parts.links.listen((frame, from) => this.#hear(frame, from))
    this.#parts.links.onLost((peer, because) => {
      for (const seat of this.#seats.values()) {
        const { next } = seat
        // An origin that is lost itself hears nothing.
        if (next?.host === peer && seat.origin !== peer) seat.accuse(seat.terms.stage + 1, because)
      }
    })
    this.#parts.instances.onExit((instance, because) => {
      for (const [key, seat] of this.#seats) {
        if (seat.terms.instance !== instance) continue
        seat.accuse(seat.terms.stage, new MeshError('INSTANCE_FAILED', `${instance} is gone: ${because}`))
        this.#leave(key, seat, false)
      }
    })
    this.#sweep()
  }

  stop(): void {
    this.#stopped = true
    for (const [key, seat] of this.#seats) this.#leave(key, seat, false)
  }

  /** Gives a session its place, or the next epoch to the one it has. Throws EPOCH_FENCED, NO_INSTANCE, NO_CAPACITY, OVERLOADED. */
  async open(request: StageOpen, from: PeerId): Promise<{ readonly have: number; readonly logFrom: number }> {
    const allowed = this.#parts.may(from)
    if (!allowed.ok) throw new MeshError(allowed.retryable ? 'UNAUTHENTICATED' : 'FORBIDDEN', allowed.because)
    const key = keyOf(request.session, request.stage)
    // One at a time a session: the second sees what the first has done.
    const turn = (this.#opening.get(key) ?? Promise.resolve()).then(() => this.#open(key, request, from), () => this.#open(key, request, from))
    this.#opening.set(key, turn)
    try {
      return await turn
    } finally {
      if (this.#opening.get(key) === turn) this.#opening.delete(key)
    }
  }

  async #open(key: string, request: StageOpen, from: PeerId): Promise<{ readonly have: number; readonly logFrom: number }> {
    const { session, epoch, stage, role, instance, contractEpoch, reserve, known, prefix, trace, prompt } = request
    const fence = this.#fences.get(key)
    if (fence !== undefined && (epoch < fence.epoch || (epoch === fence.epoch && from !== fence.origin))) {
      throw new MeshError('EPOCH_FENCED', `${session} is under epoch ${fence.epoch} of ${fence.origin}`, { details: { ...fence } })
    }
    const seated = this.#seats.get(key)
    const contract = this.#parts.book.fence(instance, contractEpoch)
    if (!contract.ok) throw new MeshError('NO_INSTANCE', contract.because, { retryable: true })
    if (contract.value.block !== request.block) throw new MeshError('NO_INSTANCE', `${instance} is an instance of ${contract.value.block}, not of ${request.block}`)
    const now = this.#ports.clock.monotonic()
    this.#fences.set(key, { epoch, origin: from })
    if (seated !== undefined) {
      await seated.fence(epoch, from)
      seated.touchedAt = now
      const held = seated.terms.instance === instance ? heldBy(this.#parts.instances.stage(instance, false), seated) : undefined
      if (held !== undefined) return seated.settle(role, held, known)
      this.#leave(key, seated, false)
    }
    if (this.#seats.size >= this.#config.seats) throw new MeshError('NO_CAPACITY', `${this.#seats.size} sessions are served here already`)
    const runner = this.#parts.instances.stage(instance, true)
    const { have } = await runner.open(session, reserve, prefix)
    if (this.#stopped) {
      runner.close(session, false)
      throw new MeshError('NO_INSTANCE', 'the host is stopping')
    }
    const span = traceSpan(this.#ports.telemetry, `stage ${stage}`, 'server', trace, { session, stage, role, block: request.block, instance })
    const seat = new Seat(this.#around, { session, stage, instance, runner, span }, from, epoch, now)
    this.#seats.set(key, seat)
    const holding = seat.settle(role, have, known)
    if (prompt !== undefined) {
      const { position, count } = chunkAt(prompt.byteLength / 4, holding.have)
      if (position === holding.have && 4 * position < prompt.byteLength) seat.begin(position, unpackTokens(prompt, position, count))
    }
    return holding
  }

  #hear(frame: StageFrame, from: PeerId): void {
    if (frame.kind === 'output' || frame.kind === 'log' || frame.kind === 'logged') return
    const seat = this.#seats.get(keyOf(frame.session, frame.stage))
    if (frame.kind === 'held') {
      // To the primary of the stage, and from it to the stage before.
      const before = this.#seats.get(keyOf(frame.session, frame.stage - 1))
      if (seat?.epoch === frame.epoch) seat.held(from, frame.position)
      if (before?.epoch === frame.epoch && before.next?.host === from) before.log.trim(frame.position)
      return
    }
    if (frame.kind === 'failed') {
      // The next stage told us, since it does not know whose session it is. What the origin tells itself it has heard.
      const before = this.#seats.get(keyOf(frame.session, frame.stage - 1))
      if (before?.epoch === frame.epoch && before.next?.host === from && (before.origin !== from || from !== this.#around.self)) before.accuse(frame.blame, new MeshError('INSTANCE_FAILED', frame.message))
      return
    }
    if (frame.kind === 'close') {
      // A newer origin may end what an older one began; an older one may not end what is a newer one's.
      if (seat !== undefined && (frame.epoch > seat.epoch || (frame.epoch === seat.epoch && from === seat.origin))) this.#leave(keyOf(frame.session, frame.stage), seat, frame.keep)
      return
    }
    if (seat === undefined || frame.epoch !== seat.epoch) {
      const newer = seat !== undefined && seat.epoch > frame.epoch
      const matters = frame.kind === 'step' || frame.kind === 'resume'
      if (matters && !newer) this.#parts.links.send(from, { kind: 'failed', session: frame.session, epoch: frame.epoch, stage: frame.stage, blame: frame.stage, code: 'NOT_FOUND', message: `this host has no seat for stage ${frame.stage}` })
      return
    }
    seat.touchedAt = this.#ports.clock.monotonic()
    switch (frame.kind) {
      case 'step':
        if (seat.follows(from)) seat.step(frame)
        return
      case 'resume':
        if (from === seat.origin || frame.hops[frame.stage - 1]?.host === from) seat.resume(frame.known, frame.hops)
        return
      case 'kv':
        seat.keep(from, frame.position, frame.count, frame.rows)
        return
      case 'guard':
        if (from === seat.origin) seat.guard(frame.host, frame.position)
        return
      case 'hurry':
        if (from === seat.origin) seat.hurry()
        return
      case 'touch':
    }
  }

  #leave(key: string, seat: Seat, keep: boolean): void {
    if (this.#seats.get(key) === seat) this.#seats.delete(key)
    seat.terms.span.end(undefined, { positions: seat.have, role: seat.role })
    try {
      seat.close(keep)
    } catch (error) {
      // The instance is gone, and the session with it.
      if (asMeshError(error).code === 'INTERNAL') throw error
    }
  }

  #sweep(): void {
    this.#ports.clock.after(this.#config.sweepMs, () => {
      if (this.#stopped) return
      const now = this.#ports.clock.monotonic()
      for (const [key, seat] of this.#seats) {
        if (now - seat.touchedAt < this.#config.leaseMs) continue
        this.#ports.telemetry.count('llm_seats_expired_total')
        this.#leave(key, seat, false)
      }
      this.#sweep()
    })
  }

  /** For checkers and people: what is served here, and what it costs. */
  inspect(): { readonly seats: readonly { readonly session: string; readonly stage: number; readonly role: string; readonly epoch: number; readonly have: number; readonly waiting: number }[]; readonly logBytes: number; readonly logLimit: number } {
    const seats = [...this.#seats.values()].map(({ terms: { session, stage }, role, epoch, have, waiting }) => ({ session, stage, role, epoch, have, waiting }))
    return { seats, logBytes: this.#around.budget.used, logLimit: this.#around.budget.limit }
  }

  /** Sessions at one instance: it is not stopped while there are any and it has time. */
  sessionsOf(instance: InstanceId): number {
    return [...this.#seats.values()].filter(seat => seat.terms.instance === instance).length
  }
}

function keyOf(session: string, stage: number): string {
  return `${session}/${stage}`
}

/** What an instance still has of a seat; undefined when it has forgotten it. */
function heldBy(runner: StageRunner, seat: Seat): number | undefined {
  if (runner !== seat.terms.runner) return undefined
  try {
    return Math.min(runner.position(seat.terms.session), seat.certain)
  } catch (error) {
    if (asMeshError(error).code === 'NOT_FOUND') return undefined
    throw error
  }
}
