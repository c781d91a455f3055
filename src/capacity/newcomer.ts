import type { Millis, PeerId } from '../../protocols/ids.ts'
import { Pause } from '../lib/pause.ts'
import type { Clock } from '../ports.ts'

/** How long nobody new is heard of before a peer that has just started takes what it sees for the mesh, and how long it waits for that at most. */
const SETTLE_MS = 1_000
const SETTLE_MOST_MS = 10_000
/** How long what is known has not grown much before a newcomer does with it, though nobody has said that it is most: alone, and among others. */
const KNOW_MOST_MS = { alone: 750, among: 2_000 }
/** How much the mesh a newcomer knows must have grown for it not to know most of it yet. */
const MUCH = 1.1
/** Nobody can say so to one that has been here for less: who starts first meets the others one by one. */
const MEET_MS = 500
/** So many others that know no more make it sure; one alone may have heard from the same. */
const AGREEING = 2

/** What a peer that has just started may take for the mesh, and when. */
export class Newcomer {
  readonly #clock: Pick<Clock, 'monotonic' | 'after'>
  readonly #connected: () => number
  readonly #agreeing = new Set<PeerId>()
  readonly #pause = new Pause()
  #startedAt = 0
  #most = 0
  /** When the last peer was heard of that was unknown before. */
  #grewAt = 0
  #known = 0
  /** The same of a tenth more peers than before. */
  #grewMuchAt = 0
  #knowsMost = false
  #stopped = false

  /** `connected`: peers that could be asked. */
  constructor(clock: Pick<Clock, 'monotonic' | 'after'>, connected: () => number) {
    this.#clock = clock
    this.#connected = connected
  }

  start(): void {
    this.#startedAt = this.#clock.monotonic()
    this.#grewAt = this.#startedAt
    this.#grewMuchAt = this.#startedAt
  }

  stop(): void {
    this.#stopped = true
    this.#pause.news()
  }

  /** So many peers are known now. */
  knows(peers: number): void {
    if (peers <= this.#most) return
    this.#most = peers
    this.#grewAt = this.#clock.monotonic()
    this.#grows(peers)
  }

  /** `peer`, which knows so many peers, told all that it holds; with those who have not proved themselves yet, `known` are known from that. */
  told(peer: PeerId, knows: number, known: number): void {
    if (this.#knowsMost || this.#grows(known) || knows * MUCH < known || this.#clock.monotonic() - this.#startedAt < MEET_MS) return
    this.#agreeing.add(peer)
    if (this.#agreeing.size < Math.min(AGREEING, this.#connected())) return
    this.#knowsMost = true
    this.#pause.news()
  }

  /** Does what is known grow by much with every answer, so that others are to be asked soon? Not for ever, though nobody says that it is most. */
  get growing(): boolean {
    return !this.#knowsMost && this.#clock.monotonic() - this.#startedAt < SETTLE_MOST_MS
  }

  /**
   * Resolves once this peer, which has just started, has not heard of a new peer for a while: until then it holds a part of the mesh for
   * all of it, and would ask others than the rest does. Never later than a bound after the start, and at once ever after.
   */
  settled(): Promise<void> {
    return this.#until(() => this.#grewAt + SETTLE_MS)
  }

  /** The same for who can do with most of the mesh: single peers that are heard of late keep nobody waiting. */
  knowsMost(): Promise<void> {
    return this.#until(() => (this.#knowsMost ? -Infinity : this.#grewMuchAt + (this.#connected() === 0 ? KNOW_MOST_MS.alone : KNOW_MOST_MS.among)))
  }

  #grows(peers: number): boolean {
    if (peers <= this.#known * MUCH) return false
    this.#known = peers
    this.#grewMuchAt = this.#clock.monotonic()
    this.#agreeing.clear()
    return true
  }

  /** Until the time that `when` says, which may change meanwhile. */
  async #until(when: () => Millis): Promise<void> {
    while (!this.#stopped) {
      const wait = Math.min(when(), this.#startedAt + SETTLE_MOST_MS) - this.#clock.monotonic()
      if (wait <= 0) return
      await this.#pause.wait(this.#clock, wait)
    }
  }
}
