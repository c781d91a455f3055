import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { generationStream, type FollowFrame } from '../../protocols/generation-log.ts'
import type { GenerationEvent, SessionId } from '../../protocols/generation.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import { Backoff } from '../lib/backoff.ts'
import { Pause } from '../lib/pause.ts'
import type { Ports, Random, Stream } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { GenerationBook } from './generation-book.ts'
import type { Found } from './takeover.ts'
import type { TokenLog } from './token-log.ts'

const FIRST_FRAME_MS: Millis = 10_000
/** How long a session that is known may be without anybody who generates it. */
const PATIENCE_MS: Millis = 60_000
/** The same for one that nobody has heard of: its origin may have died a moment ago, or we have just come. */
const UNKNOWN_MS: Millis = 5_000
const NEAREST = 4
const ASKED_AT_ONCE = 16
const ASKED_MOST = 128

export type FollowParts = {
  readonly ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly random: Random
  readonly view: MeshView
  readonly book: GenerationBook
  /** The log of a session that this peer drives, or has the end of. */
  readonly log: (session: SessionId) => TokenLog | undefined
  readonly ask: (peer: PeerId, session: SessionId, signal: AbortSignal) => Promise<Found | undefined>
}

/** Reads sessions wherever they are generated, and lets others read those that are generated here. */
export class Follow {
  readonly #parts: FollowParts
  /** Readers that look for whoever generates a session. */
  readonly #looking = new Map<SessionId, Pause>()

  constructor(parts: FollowParts) {
    this.#parts = parts
  }

  start(): void {
    this.#parts.ports.network.accept(generationStream, stream => this.#serve(stream))
  }

  /** Somebody generates it now: who looks for it looks again. */
  news(session: SessionId): void {
    this.#looking.get(session)?.news()
  }

  /** Events from number `after` on, each once, across takeovers. Throws NOT_FOUND, PEER_UNREACHABLE, and the signal's reason. */
  async * read(session: SessionId, after: number, signal: AbortSignal): AsyncGenerator<GenerationEvent> {
    const { clock } = this.#parts.ports
    const backoff = new Backoff(this.#parts.random, { firstMs: 20, maxMs: 500, retries: Infinity })
    let next = after
    let seen = false
    let lastNews = clock.monotonic()
    for (;;) {
      signal.throwIfAborted()
      const own = this.#parts.log(session)
      const holder = own === undefined ? await this.find(session, signal) : undefined
      seen ||= own !== undefined || holder !== undefined || this.#parts.book.get(session) !== undefined
      try {
        const events = own !== undefined ? own.read(next, signal) : holder === undefined ? [] : this.copy(holder, session, next, signal)
        for await (const event of events) {
          lastNews = clock.monotonic()
          backoff.reset()
          yield event
          if (event.kind === 'end') return
          next += 1
        }
      } catch (error) {
        signal.throwIfAborted()
        const failure = asMeshError(error)
        // Lost on the way, or the session has moved: look again.
        if (failure.code === 'INTERNAL') throw failure
      }
      signal.throwIfAborted()
      const waitedMs = clock.monotonic() - lastNews
      if (seen && waitedMs > PATIENCE_MS) throw new MeshError('PEER_UNREACHABLE', `nobody in reach has gone on with ${session} for ${PATIENCE_MS} ms`)
      if (!seen && waitedMs > UNKNOWN_MS) throw new MeshError('NOT_FOUND', `no peer in reach has ${session}`)
      await this.#pause(session, backoff.next() ?? 500, signal)
    }
  }

  /** Until there is news of the session, at most so long. */
  async #pause(session: SessionId, mostMs: Millis, signal: AbortSignal): Promise<void> {
    const pause = this.#looking.get(session) ?? new Pause()
    this.#looking.set(session, pause)
    try {
      await pause.wait(this.#parts.ports.clock, mostMs, signal)
    } finally {
      if (pause.idle) this.#looking.delete(session)
    }
  }

  /** Who generates a session, or has the whole of it; undefined when nobody in reach says so. */
  async find(session: SessionId, signal: AbortSignal): Promise<PeerId | undefined> {
    const { view, book } = this.#parts
    const believed = book.get(session)?.origin
    const others = rendezvous(session, view.live().filter(peer => peer !== view.self && peer !== believed)).slice(0, ASKED_MOST)
    const rounds: (readonly PeerId[])[] = believed === undefined || believed === view.self ? [] : [[believed]]
    rounds.push(others.slice(0, NEAREST))
    for (let at = NEAREST; at < others.length; at += ASKED_AT_ONCE) rounds.push(others.slice(at, at + ASKED_AT_ONCE))
    for (const round of rounds) {
      const answers = await Promise.all(round.map(async peer => ({ peer, found: await this.#parts.ask(peer, session, signal) })))
      const holding = answers.find(({ peer, found }) => found !== undefined && (found.ended || found.origin === peer))
      if (holding !== undefined) return holding.peer
      // A mirror says whose it is; that one is asked itself, as it may be gone.
      const named = answers.map(({ found }) => found?.origin).find(origin => origin !== undefined && origin !== view.self && !round.includes(origin))
      if (named !== undefined && (await this.#parts.ask(named, session, signal))?.origin === named) return named
    }
    return undefined
  }

  /** Events from one peer, as far as it goes. */
  async * copy(peer: PeerId, session: SessionId, after: number, signal: AbortSignal): AsyncGenerator<GenerationEvent> {
    await using stream = await this.#parts.ports.network.open(peer, generationStream, signal)
    await stream.send({ kind: 'follow', session, after })
    let next = after
    for await (const frame of stream) {
      if (frame.kind !== 'events') throw new MeshError('MESSAGE_INVALID', `expected events of ${session}`)
      for (const [at, event] of frame.events.entries()) {
        // What was asked for, whatever is sent.
        const end = event.kind === 'end'
        if (!end && frame.from + at !== next) continue
        if (!end) next += 1
        yield event
        if (end) return
      }
    }
  }

  async #serve(stream: Stream<FollowFrame>): Promise<void> {
    const { clock } = this.#parts.ports
    const cancel = clock.after(FIRST_FRAME_MS, () => stream.abort(new MeshError('DEADLINE', 'nothing was asked for')))
    const first = await stream[Symbol.asyncIterator]().next().finally(cancel)
    if (first.done === true || first.value.kind !== 'follow') throw new MeshError('MESSAGE_INVALID', 'expected to be asked for a session')
    const { session, after } = first.value
    const log = this.#parts.log(session)
    if (log === undefined) throw new MeshError('NOT_FOUND', `${session} is not generated here`)
    let from = log.ended ? Math.min(after, log.length - 1) : after
    for await (const event of log.read(from, stream.signal)) {
      await stream.send({ kind: 'events', from, events: [event] })
      from += 1
    }
    await stream.end()
  }
}
