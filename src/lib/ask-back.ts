import type { PeerId } from '../../protocols/ids.ts'
import type { Clock, Random } from '../ports.ts'

/** Not all who were asked by one peer ask it back in the same instant. */
const WITHIN_MS = 100

/** Whoever asked and holds more than we do is asked in its turn, at once: what few know reaches all in half the time, and before the questions become rare. */
export class AskBack {
  readonly #clock: Pick<Clock, 'after'>
  readonly #random: Pick<Random, 'below'>
  readonly #ask: (peer: PeerId) => void
  /** About to be asked. */
  readonly #peers = new Set<PeerId>()

  constructor(clock: Pick<Clock, 'after'>, random: Pick<Random, 'below'>, ask: (peer: PeerId) => void) {
    this.#clock = clock
    this.#random = random
    this.#ask = ask
  }

  soon(peer: PeerId): void {
    if (this.#peers.has(peer)) return
    this.#peers.add(peer)
    this.#clock.after(this.#random.below(WITHIN_MS), () => {
      this.#peers.delete(peer)
      this.#ask(peer)
    })
  }
}
