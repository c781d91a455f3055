import { MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId, RunId } from '../../protocols/ids.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import { Backoff } from '../lib/backoff.ts'
import type { Clock, Random } from '../ports.ts'
import type { Claims, Copy } from './claim.ts'
import { epochAt, type RunBook } from './run-book.ts'
import type { Ended } from './run.ts'
import type { RunWatch } from './watch.ts'

/** A run won: what is known of it, written under the new epoch. Empty when nobody began it. */
export type Acquired = { readonly epoch: number; readonly log: readonly RunEvent[] }

/** How long a claim that lost waits for the winner's first events. */
const WINNER_MS: Millis = 1_500
const ROUNDS = { firstMs: 50, maxMs: 1_000, retries: 8 }
const MOST_EVENTS = 100_000

/** Wins a run against whoever else wants it, with the best copy of it that can be had. */
export class Acquisition {
  readonly #ports: { readonly clock: Clock; readonly random: Random }
  readonly #self: PeerId
  readonly #book: RunBook
  readonly #watch: RunWatch
  readonly #claims: Claims
  readonly #claiming = new Set<RunId>()

  constructor(ports: { readonly clock: Clock; readonly random: Random }, self: PeerId, parts: { readonly book: RunBook; readonly watch: RunWatch; readonly claims: Claims }) {
    this.#ports = ports
    this.#self = self
    this.#book = parts.book
    this.#watch = parts.watch
    this.#claims = parts.claims
  }

  /** Between its claim and its first word, or the end of its try. */
  intends(run: RunId): boolean {
    return this.#claiming.has(run)
  }

  /**
   * Claims a run and, once won, does `use` with it while still holding others off; undefined when somebody else drives
   * it or it has ended. `also` are peers known to hold copies. `patient`: waits for the first words of a winner that has
   * not said any. Throws CONFLICT when nobody wins, and what `use` throws.
   */
  async acquire<T>(run: RunId, options: { readonly also: readonly PeerId[]; readonly patient: boolean; readonly signal: AbortSignal }, use: (won: Acquired) => Promise<T>): Promise<{ readonly value: T } | undefined> {
    const backoff = new Backoff(this.#ports.random, ROUNDS)
    let heard = 0
    while (true) {
      const epoch = Math.max(heard, this.#book.head(run)?.epoch ?? 0) + 1
      this.#claiming.add(run)
      try {
        const result = await this.#claims.claim(run, epoch, options.also)
        // Somebody whom these registrars could not hear may have written in this epoch already: two must never share one.
        const written = result.won ? Math.max(extentOf(await this.#book.events(run)).lastEpoch, ...result.copies.map(({ lastEpoch }) => lastEpoch)) : 0
        if (result.won && written < epoch) return { value: await use({ epoch, log: await this.#inherit(run, epoch, result.copies) }) }
        heard = Math.max(heard, written, result.won ? 0 : result.epoch)
        this.#claiming.delete(run)
        if (!result.won && await this.#isTaken(run, result, options.patient)) return undefined
      } finally {
        this.#claiming.delete(run)
      }
      const pauseMs = backoff.next()
      if (pauseMs === undefined) throw new MeshError('CONFLICT', `nobody could agree on who runs ${run}: try again`, { retryable: true })
      await this.#ports.clock.sleep(pauseMs, options.signal)
    }
  }

  /** A peer's whole copy; empty when it has none, or not from the beginning. */
  async download(run: RunId, peer: PeerId): Promise<readonly RunEvent[]> {
    const events: RunEvent[] = []
    while (events.length < MOST_EVENTS && !isEnd(events.at(-1))) {
      const page = await this.#watch.ask(peer, run, events.length, 0)
      if (page === undefined || page.events.length === 0) break
      events.push(...page.events)
    }
    return events[0]?.type === 'began' ? events : []
  }

  async #isTaken(run: RunId, lost: { readonly coordinator: PeerId | undefined; readonly epoch: number; readonly finished: boolean }, patient: boolean): Promise<boolean> {
    const { coordinator, epoch, finished } = lost
    if (coordinator === undefined || coordinator === this.#self) return finished
    if (!finished) {
      const said = await this.#watch.ask(coordinator, run, 0, patient ? WINNER_MS : 0)
      // A winner that has written nothing may die and leave nothing: to whoever must know that the run exists, it does not yet.
      if (said?.coordinator !== coordinator || (patient && said.events.length === 0)) return false
    }
    // From now on this peer's copy is theirs to write.
    const held = this.#book.head(run)
    if (held !== undefined && held.end === undefined && coordinator !== held.coordinator && epoch >= held.epoch) await this.#book.promise(run, held, { coordinator, epoch })
    return true
  }

  /** The longest copy in the newest epoch, as this peer's own. */
  async #inherit(run: RunId, epoch: number, copies: readonly Copy[]): Promise<readonly RunEvent[]> {
    const own = await this.#book.events(run)
    const better = copies.filter(copy => copy.peer !== this.#self && newestFirst(copy, extentOf(own)) < 0).sort(newestFirst)
    for (const { peer, events } of better) {
      const copy = await this.download(run, peer)
      if (copy.length < events) continue
      await this.#book.append(run, { coordinator: this.#self, epoch }, 0, copy, { show: true })
      return copy
    }
    return own
  }
}

type Extent = Pick<Copy, 'events' | 'lastEpoch'>

export function extentOf(log: readonly RunEvent[]): Extent {
  return { events: log.length, lastEpoch: log.length === 0 ? 0 : epochAt(log, log.length - 1) }
}

/** Raft's rule: of two copies the one whose last event is of the newer epoch, then the longer. */
export function newestFirst(a: Extent, b: Extent): number {
  return b.lastEpoch - a.lastEpoch || b.events - a.events
}

export function isEnd(event: RunEvent | undefined): event is Ended {
  return event?.type === 'completed' || event?.type === 'aborted'
}
