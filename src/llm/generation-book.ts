import { z } from 'zod'
import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { decodeEvents, encodeEvents } from '../../protocols/generation-log.ts'
import { generationRequest, sessionId, type GenerationEvent, type GenerationRequest, type SessionId, type StagePlan } from '../../protocols/generation.ts'
import { bytes, epoch as epochSchema, peerId, type Millis, type PeerId } from '../../protocols/ids.ts'
import { keptPlan } from '../../protocols/stage.ts'
import { background } from '../lib/background.ts'
import type { Ports } from '../ports.ts'
import { TokenLog } from './token-log.ts'

export type GenerationBookLimits = {
  /** Sessions that have ended and can still be read. */
  readonly ended: number
  readonly endedMs: Millis
  /** Sessions under way whose log this peer keeps, its own and others'. */
  readonly open: number
  /** Between two writes of what was logged: a crash of this process alone costs at most the tokens of that time, which are generated again. */
  readonly flushMs: Millis
}

/** One session as this peer knows it: its own, or a copy of somebody else's. */
export type Entry = {
  readonly session: SessionId
  readonly request: GenerationRequest
  readonly log: TokenLog
  origin: PeerId
  epoch: number
  plan: readonly StagePlan[]
  /** Local monotonic time. */
  endsAt: Millis
  heardAt: Millis
  endedAt: Millis | undefined
  /** Events on disk. */
  saved: number
  headDirty: boolean
}

const HEADS = 'llm-head/'
const REQUESTS = 'llm-request/'
const LOGS = 'llm-log/'
const HEAD_BYTES = 1_048_576
const REQUEST_BYTES = 8_388_608
const head = z.object({ origin: peerId, epoch: epochSchema, endsAtUnix: z.int(), plan: keptPlan })
const written = z.object({ from: z.int().nonnegative(), events: bytes })

/** Holds the token logs of this peer, in memory and, a moment later, on disk. */
export class GenerationBook {
  readonly #ports: Pick<Ports, 'clock' | 'journal' | 'telemetry'>
  readonly #limits: GenerationBookLimits
  readonly #entries = new Map<SessionId, Entry>()
  readonly #dirty = new Set<Entry>()
  #flushing = false
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'journal' | 'telemetry'>, limits: GenerationBookLimits) {
    this.#ports = ports
    this.#limits = limits
  }

  /** Reads back what was under way, and what had ended, when this peer last stopped. */
  async load(): Promise<void> {
    const { journal, clock } = this.#ports
    for (const key of await journal.keys(HEADS)) {
      const id = sessionId.safeParse(key.slice(HEADS.length))
      const [headBytes, requestBytes] = await Promise.all([journal.get(key), journal.get(`${REQUESTS}${key.slice(HEADS.length)}`)])
      if (!id.success || headBytes === undefined || requestBytes === undefined) continue
      const { origin, epoch, endsAtUnix, plan } = decode(head, headBytes, HEAD_BYTES, `the head of ${id.data}`)
      const request = decode(generationRequest, requestBytes, REQUEST_BYTES, `the request of ${id.data}`)
      const log = new TokenLog()
      for (const entry of await journal.read(`${LOGS}${id.data}`)) {
        const { from, events } = decode(written, entry, REQUEST_BYTES, `the log of ${id.data}`)
        // A newer origin may have written over what an older one had; a gap ends what can be believed.
        if (!log.replace(from, decodeEvents(events, from))) break
      }
      log.release(log.length)
      const now = clock.monotonic()
      this.#entries.set(id.data, { session: id.data, request, log, origin, epoch, plan, endsAt: now + Math.max(0, endsAtUnix - clock.unix()), heardAt: now, endedAt: log.ended ? now : undefined, saved: log.length, headDirty: false })
    }
  }

  get(session: SessionId): Entry | undefined {
    return this.#entries.get(session)
  }

  all(): Iterable<Entry> {
    return this.#entries.values()
  }

  /** Sessions that have not ended. */
  open(): readonly Entry[] {
    return [...this.#entries.values()].filter(entry => entry.endedAt === undefined)
  }

  /** Throws OVERLOADED when this peer keeps as many as it may. */
  add(entry: Pick<Entry, 'session' | 'request' | 'log' | 'origin' | 'epoch' | 'plan' | 'endsAt'>): Entry {
    if (this.open().length >= this.#limits.open) throw new MeshError('OVERLOADED', `this peer keeps the logs of ${this.#limits.open} sessions already`)
    const added: Entry = { ...entry, heardAt: this.#ports.clock.monotonic(), endedAt: undefined, saved: 0, headDirty: true }
    this.#entries.set(entry.session, added)
    this.touch(added)
    return added
  }

  /** A session that goes on here, with a log of its own. */
  replace(entry: Entry, log: TokenLog, origin: PeerId): Entry {
    const next: Entry = { ...entry, log, origin, headDirty: true, heardAt: this.#ports.clock.monotonic() }
    this.#entries.set(entry.session, next)
    this.touch(next)
    return next
  }

  /** It has grown, or belongs to somebody else: written soon. */
  touch(entry: Entry): void {
    if (entry.endedAt === undefined && entry.log.ended) {
      entry.endedAt = this.#ports.clock.monotonic()
      this.#prune()
    }
    this.#dirty.add(entry)
    if (this.#flushing || this.#stopped) return
    this.#flushing = true
    this.#ports.clock.after(this.#limits.flushMs, () => {
      this.#flushing = false
      if (!this.#stopped) background(this.#ports.telemetry, 'llm.log_not_written', this.flush(), 'warn')
    })
  }

  /** Writes what is not on disk yet. */
  async flush(): Promise<void> {
    const dirty = [...this.#dirty]
    this.#dirty.clear()
    await Promise.all(dirty.map(entry => this.save(entry)))
  }

  /** Durable when it resolves. */
  async save(entry: Entry): Promise<void> {
    const { journal, clock } = this.#ports
    const { session, log, origin, epoch, plan } = entry
    if (this.#entries.get(session) !== entry) return
    const work: Promise<void>[] = []
    if (entry.headDirty) {
      entry.headDirty = false
      if (entry.saved === 0) work.push(journal.set(`${REQUESTS}${session}`, encode(entry.request)))
      const endsAtUnix = clock.unix() + Math.max(0, Math.round(entry.endsAt - clock.monotonic()))
      work.push(journal.set(`${HEADS}${session}`, encode({ origin, epoch, endsAtUnix, plan: [...plan] })))
    }
    const from = Math.min(entry.saved, log.length)
    const fresh: readonly GenerationEvent[] = log.slice(from)
    if (fresh.length > 0) {
      entry.saved = log.length
      work.push(journal.append(`${LOGS}${session}`, [encode({ from, events: encodeEvents(fresh) })]))
    }
    await Promise.all(work)
  }

  async forget(session: SessionId): Promise<void> {
    const { journal } = this.#ports
    this.#entries.delete(session)
    await Promise.all([journal.set(`${HEADS}${session}`, undefined), journal.set(`${REQUESTS}${session}`, undefined), journal.drop(`${LOGS}${session}`)])
  }

  stop(): Promise<void> {
    this.#stopped = true
    return this.flush()
  }

  /** Ended sessions that are old, and the oldest of those that are too many. */
  #prune(): void {
    const now = this.#ports.clock.monotonic()
    const ended = [...this.#entries.values()].filter(entry => entry.endedAt !== undefined).sort((a, b) => (a.endedAt ?? 0) - (b.endedAt ?? 0))
    const surplus = ended.length - this.#limits.ended
    for (const [at, entry] of ended.entries()) {
      if (at >= surplus && now - (entry.endedAt ?? now) < this.#limits.endedMs) break
      background(this.#ports.telemetry, 'llm.log_not_dropped', this.forget(entry.session), 'warn')
    }
  }
}
