import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { generationAsk } from '../../protocols/generation-log.ts'
import type { SessionId } from '../../protocols/generation.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { background } from '../lib/background.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { Entry, GenerationBook } from './generation-book.ts'

export type TakeoverTimes = {
  /** How long each mirror further down the order leaves those before it. */
  readonly turnMs: Millis
  readonly sweepMs: Millis
  /** An origin says something to its mirrors more often than that. */
  readonly silentMs: Millis
  /** How long a restarted peer waits for others to speak up before it goes on with its sessions. */
  readonly graceMs: Millis
}

export type TakeoverParts = {
  readonly ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly view: MeshView
  readonly book: GenerationBook
  readonly drives: (session: SessionId) => boolean
  /** Goes on with a session from what this peer has of it. */
  readonly resume: (entry: Entry) => Promise<void>
  /** Copies events that `peer` has and this peer has not. */
  readonly catchUp: (entry: Entry, peer: PeerId, events: number, signal: AbortSignal) => Promise<void>
  readonly stopped: AbortSignal
}

const ASKED = 3
const CATCH_UP_MS: Millis = 2_000
const ASK_MS: Millis = 1_000
const SESSIONS_A_SWEEP = 64

export type Found = { readonly origin: PeerId | undefined; readonly epoch: number; readonly events: number; readonly ended: boolean }

/** Sees to it that sessions whose origin is gone go on, here or at a mirror before this one. No client has to ask. */
export class Takeover {
  readonly #parts: TakeoverParts
  readonly #times: TakeoverTimes
  readonly #considering = new Set<SessionId>()
  /** Whose origin was seen to go, until somebody is known to generate them. */
  readonly #doubtful = new Set<SessionId>()

  constructor(parts: TakeoverParts, times: TakeoverTimes) {
    this.#parts = parts
    this.#times = times
  }

  start(): void {
    const { view, stopped, book, ports: { clock, network } } = this.#parts
    const gone = (peer: PeerId): void => {
      for (const entry of book.open()) if (entry.origin === peer) this.#consider(entry)
    }
    const deaf = view.onLife((peer, what) => {
      // One that is back after its death does not remember.
      if (what !== 'suspect') gone(peer)
    })
    const hung = network.onPeer((peer, state) => {
      if (state === 'gone') gone(peer)
    })
    stopped.addEventListener('abort', () => {
      deaf()
      hung()
    }, { once: true })
    clock.after(this.#times.graceMs, () => this.#sweep())
  }

  /** What a peer knows of a session; undefined when nothing, or when it does not answer. */
  async ask(peer: PeerId, session: SessionId, signal: AbortSignal): Promise<Found | undefined> {
    const { network, clock } = this.#parts.ports
    const patience = new AbortController()
    const cancel = clock.after(ASK_MS, () => patience.abort(new MeshError('DEADLINE', `${peer} said nothing of ${session} within ${ASK_MS} ms`)))
    const follow = (): void => patience.abort(signal.reason)
    signal.addEventListener('abort', follow, { once: true })
    if (signal.aborted) follow()
    try {
      const { known, origin, epoch = 0, events, ended } = await network.request(peer, generationAsk, { session, do: 'find' }, patience.signal)
      return known ? { origin, epoch, events, ended } : undefined
    } catch (error) {
      if (asMeshError(error).code === 'INTERNAL') throw error
      return undefined
    } finally {
      cancel()
      signal.removeEventListener('abort', follow)
    }
  }

  /** Does this peer say of itself that it generates the session, or that it has its end? */
  async generates(peer: PeerId, session: SessionId, signal: AbortSignal): Promise<boolean> {
    for (let tries = 0; tries < 2; tries += 1) {
      const found = await this.ask(peer, session, signal)
      if (found !== undefined) return found.ended || found.origin === peer
      if (this.#parts.view.state(peer) !== 'alive') return false
    }
    return false
  }

  #sweep(): void {
    const { ports: { clock }, stopped, book, view } = this.#parts
    if (stopped.aborted) return
    const now = clock.monotonic()
    let looked = 0
    for (const session of this.#doubtful) if (book.get(session)?.endedAt !== undefined || book.get(session) === undefined) this.#doubtful.delete(session)
    for (const entry of book.open()) {
      if (this.#parts.drives(entry.session) || looked >= SESSIONS_A_SWEEP) continue
      const state = view.state(entry.origin)
      const quiet = now - entry.heardAt > this.#times.silentMs
      if (entry.origin !== view.self && !quiet && !this.#doubtful.has(entry.session) && (state === 'alive' || state === 'suspect')) continue
      looked += 1
      this.#consider(entry)
    }
    clock.after(this.#times.sweepMs, () => this.#sweep())
  }

  #consider(entry: Entry): void {
    const { session } = entry
    const { ports: { telemetry } } = this.#parts
    if (this.#considering.has(session)) return
    this.#considering.add(session)
    this.#doubtful.add(session)
    background(telemetry, 'llm.takeover_failed', this.#takeUp(entry).finally(() => this.#considering.delete(session)), 'warn')
  }

  async #takeUp(entry: Entry): Promise<void> {
    const { ports: { clock, telemetry }, view, stopped } = this.#parts
    const { session, epoch, origin } = entry
    const order = rendezvous(session, view.live().filter(peer => peer !== origin || peer === view.self))
    const place = order.indexOf(view.self)
    if (place > 0) await clock.sleep(place * this.#times.turnMs, stopped)
    const settled = (): boolean => entry.endedAt !== undefined || entry.epoch !== epoch || this.#parts.drives(session) || this.#parts.book.get(session) !== entry
    if (settled()) return this.#trust(entry)
    // A client waits: all are asked at once, and whoever is slow is waited for only where the next in order, the other mirror, knows nothing.
    const found: (Found & { readonly peer: PeerId })[] = []
    const asked = order.filter(peer => peer !== view.self).slice(0, ASKED).map(async peer => {
      const copy = await this.ask(peer, session, stopped)
      if (copy !== undefined) found.push({ peer, ...copy })
      return copy
    })
    const all = Promise.all(asked)
    background(telemetry, 'llm.takeover_failed', all, 'warn')
    const [alive, next] = await Promise.all([origin !== view.self && this.generates(origin, session, stopped), asked[0]])
    if (alive) return this.#trust(entry)
    if (next === undefined) await all
    if (settled()) return
    const active = found.find(copy => copy.peer === copy.origin && copy.epoch >= epoch)
    if (active !== undefined && !active.ended) {
      entry.origin = active.peer
      entry.epoch = active.epoch
      return this.#trust(entry)
    }
    // A token that was given out is at one mirror, perhaps not at this one.
    const longest = found.reduce<(typeof found)[number] | undefined>((best, copy) => (copy.events > Math.max(entry.log.length, best?.events ?? 0) ? copy : best), undefined)
    if (longest !== undefined) await this.#parts.catchUp(entry, longest.peer, longest.events, clock.deadline(CATCH_UP_MS, stopped))
    if (settled()) return
    telemetry.count('llm_sessions_taken_over_total')
    telemetry.event('info', 'llm.taken_over', { session, from: origin, tokens: entry.log.length })
    await this.#parts.resume(entry)
    this.#trust(entry)
  }

  #trust(entry: Entry): void {
    entry.heardAt = this.#parts.ports.clock.monotonic()
    this.#doubtful.delete(entry.session)
  }
}
