import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { decodeEvents, generationKeep, type GenerationKeep } from '../../protocols/generation-log.ts'
import type { SessionId } from '../../protocols/generation.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { StageFrame } from '../../protocols/stage.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { Entry, GenerationBook } from './generation-book.ts'
import type { StageLinks } from './stage-links.ts'
import { TokenLog } from './token-log.ts'

/** What a mirror must know of the sessions that this peer drives itself. */
export type Driven = {
  /** Is this peer the origin of it, or about to begin it? */
  readonly drives: (session: SessionId) => 'driving' | 'beginning' | undefined
  /** It has another origin than before. */
  readonly moved: (session: SessionId) => void
  /** Another origin goes on with it in a higher epoch. */
  readonly giveUp: (session: SessionId, to: PeerId, epoch: number) => void
  /** This peer may have to go on with it some time: it needs what that takes before whoever has it is gone. */
  readonly kept: (entry: Entry) => void
}

type Kept = { readonly have?: number; readonly origin?: PeerId; readonly epoch?: number }

/** Keeps copies of the token logs of other peers' sessions, as their origins send them. */
export class Mirror {
  readonly #ports: Pick<Ports, 'clock' | 'network'>
  readonly #view: Pick<MeshView, 'self' | 'live'>
  readonly #book: GenerationBook
  readonly #links: StageLinks
  readonly #driven: Driven

  constructor(ports: Pick<Ports, 'clock' | 'network'>, view: Pick<MeshView, 'self' | 'live'>, book: GenerationBook, links: StageLinks, driven: Driven) {
    this.#ports = ports
    this.#view = view
    this.#book = book
    this.#links = links
    this.#driven = driven
  }

  start(): void {
    this.#ports.network.handle(generationKeep, async (message, from) => this.#keep(message, from))
    this.#links.listen((frame, from) => {
      if (frame.kind !== 'log') return
      // Somebody waits for the first token. Later ones in the next turn: a step that came with it goes to its instance first.
      if (frame.from === 0) this.#log(frame, from)
      else this.#ports.clock.after(0, () => this.#log(frame, from))
    })
  }

  #keep({ session, epoch, fresh, request, leftMs, plan, events }: GenerationKeep, from: PeerId): Kept {
    const entry = this.#book.get(session)
    const driven = this.#driven.drives(session)
    // Two peers begin one session at once: the one that comes first in its order stays.
    if (fresh && driven === 'beginning' && rendezvous(session, [from, this.#view.self])[0] === this.#view.self) return { origin: this.#view.self, epoch }
    // Whoever has the end has all there is to say.
    if (entry !== undefined && entry.origin !== from && entry.log.ended) return { origin: this.#view.self, epoch: entry.epoch }
    if (entry !== undefined && entry.origin !== from && (fresh || epoch < entry.epoch)) return { origin: entry.origin, epoch: entry.epoch }
    if (driven === 'driving' && from !== this.#view.self) this.#driven.giveUp(session, from, epoch)
    const now = this.#ports.clock.monotonic()
    const news = decodeEvents(events, 0)
    if (entry !== undefined) {
      const moved = entry.origin !== from
      Object.assign(entry, { origin: from, epoch, plan, endsAt: now + leftMs, heardAt: now, headDirty: true })
      if (news.length > 0) this.#take(entry, 0, news)
      this.#book.touch(entry)
      if (moved) this.#driven.moved(session)
      return { have: entry.log.length }
    }
    if (request === undefined) return {}
    const added = this.#book.add({ session, request, log: new TokenLog(news), origin: from, epoch, plan, endsAt: now + leftMs })
    this.#driven.kept(added)
    return { have: added.log.length }
  }

  #log({ session, epoch, from: first, events }: Extract<StageFrame, { kind: 'log' }>, from: PeerId): void {
    const entry = this.#book.get(session)
    const answer = (have: number | undefined): void => this.#links.send(from, { kind: 'logged', session, epoch, stage: 0, have })
    // Asked to say it all again, an origin that was overtaken learns of it.
    if (entry === undefined || entry.origin !== from || epoch < entry.epoch) return answer(undefined)
    entry.heardAt = this.#ports.clock.monotonic()
    if (epoch > entry.epoch) Object.assign(entry, { epoch, headDirty: true })
    let news
    try {
      news = decodeEvents(events, first)
    } catch (error) {
      if (asMeshError(error).code === 'INTERNAL') throw error
      return answer(entry.log.length)
    }
    if (this.#take(entry, first, news)) this.#book.touch(entry)
    answer(entry.log.length)
  }

  #take(entry: Entry, from: number, events: ReturnType<typeof decodeEvents>): boolean {
    const { log } = entry
    if (from > log.length) return false
    // Most often the next events; after a takeover perhaps some that are known. Tokens are a function of the request.
    const known = Math.min(log.length - from, events.length)
    const same = events.slice(0, known).every((event, at) => sameToken(event, log.slice(from + at, 1)[0]))
    if (same) log.append(...events.slice(known))
    else {
      log.replace(from, events)
      entry.saved = Math.min(entry.saved, from)
    }
    log.release(log.length)
    return true
  }
}

type Event = ReturnType<typeof decodeEvents>[number]

function sameToken(one: Event, other: Event | undefined): boolean {
  return other !== undefined && (one.kind === 'token' ? other.kind === 'token' && other.token === one.token : other.kind === 'end')
}

/** The error of a peer that refuses a session because it is another's. */
export function begunElsewhere(error: unknown): PeerId | undefined {
  if (!(error instanceof MeshError) || error.code !== 'ALREADY_EXISTS') return undefined
  const { origin } = error.details
  return typeof origin === 'string' ? origin : undefined
}
