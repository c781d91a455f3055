import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Millis, PeerId, RunId } from '../../protocols/ids.ts'
import { runRead, type RunEvent } from '../../protocols/runs.ts'
import { Backoff } from '../lib/backoff.ts'
import { rendezvous } from '../lib/rendezvous.ts'
import type { Ports, Random } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import type { RunBook } from './run-book.ts'

/** What `peer` has of a run, and who drives it as far as `peer` knows. */
export type RunCopy = { readonly peer: PeerId; readonly coordinator: PeerId | undefined; readonly epoch: number | undefined; readonly events: readonly RunEvent[] }

/** One wait of a follower, and one answer of whoever it asks. */
const WAIT_MS: Millis = 5_000
const ANSWER_MS: Millis = 2_000
const PAUSE_MS: Millis = 20
/** Peers asked for a run that this one knows nothing of. */
const ASKED = 16
const PATIENCE = { firstMs: 100, maxMs: 2_000, retries: 8 }

/** Reads runs from whoever holds them. */
export class RunWatch {
  readonly #ports: Pick<Ports, 'clock' | 'network'>
  readonly #random: Random
  readonly #view: Pick<MeshView, 'self' | 'live'>
  readonly #book: RunBook

  constructor(ports: Pick<Ports, 'clock' | 'network'>, random: Random, view: Pick<MeshView, 'self' | 'live'>, book: RunBook) {
    this.#ports = ports
    this.#random = random
    this.#view = view
    this.#book = book
  }

  /**
   * The events of a run from number `from` on, as they become durable, until its end. Moves on to another holder when
   * one dies. Throws NOT_FOUND when no live peer knows it, and the signal's reason.
   */
  async * follow(run: RunId, from: number, signal: AbortSignal): AsyncGenerator<RunEvent> {
    let next = from
    const patience = new Backoff(this.#random, PATIENCE)
    while (true) {
      signal.throwIfAborted()
      const copy = await this.read(run, next, WAIT_MS, signal)
      signal.throwIfAborted()
      if (copy === undefined || (copy.events.length === 0 && copy.coordinator === undefined)) {
        const pauseMs = patience.next()
        if (pauseMs === undefined) throw new MeshError('NOT_FOUND', `no live peer ${copy === undefined ? 'knows' : 'drives'} ${run}`)
        await this.#ports.clock.sleep(pauseMs, signal)
        continue
      }
      for (const event of copy.events) {
        yield event
        next += 1
        if (event.type === 'completed' || event.type === 'aborted') return
      }
      if (copy.events.length > 0) patience.reset()
      // Whoever answers at once that there is nothing new is not asked again at once.
      else await this.#ports.clock.sleep(PAUSE_MS, signal)
    }
  }

  /** What the best holder that answers has: the coordinator, then this peer's own copy, then the others that may have one. */
  async read(run: RunId, from: number, waitMs: Millis, signal: AbortSignal): Promise<RunCopy | undefined> {
    const { self } = this.#view
    const head = this.#book.head(run)
    if (head?.end !== undefined || head?.coordinator === self) {
      const events = await this.#book.read(run, from, waitMs, signal)
      if (events.length > 0 || head.end !== undefined || (await this.#book.events(run)).length > 0) return { peer: self, coordinator: head.coordinator, epoch: head.epoch, events }
    }
    const asked = new Set(head === undefined || head.coordinator === self ? [] : [head.coordinator])
    for (const peer of rendezvous(run, this.#view.live())) if (asked.size < ASKED && peer !== self) asked.add(peer)
    for (const peer of asked) {
      const copy = await this.ask(peer, run, from, waitMs, signal)
      if (copy === undefined) continue
      // A mirror's answer names the coordinator, who knows more; its own copy will do while nobody does.
      if (copy.coordinator === undefined || copy.coordinator === peer || copy.events.length > 0) return copy
      const fresher = copy.coordinator === self ? undefined : await this.ask(copy.coordinator, run, from, waitMs, signal)
      return fresher ?? copy
    }
    const own = await this.#book.read(run, from, 0)
    return own.length > 0 || (await this.#book.events(run)).length > 0 ? { peer: self, coordinator: undefined, epoch: head?.epoch, events: own } : undefined
  }

  /** One peer's copy; undefined when it has none or does not answer. */
  async ask(peer: PeerId, run: RunId, from: number, waitMs: Millis, signal?: AbortSignal): Promise<RunCopy | undefined> {
    try {
      const answer = await this.#ports.network.request(peer, runRead, { run, from, waitMs }, this.#ports.clock.deadline(waitMs + ANSWER_MS, signal))
      return answer.found ? { peer, coordinator: answer.coordinator, epoch: answer.epoch, events: answer.events } : undefined
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code === 'INTERNAL') throw failure
      return undefined
    }
  }
}
