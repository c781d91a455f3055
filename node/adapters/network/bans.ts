import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { Lru } from '../../../src/lib/lru.ts'
import type { Clock } from '../../../src/ports.ts'

const BANS_BOUND = 4_096
/** Long enough to end a quarrel, short enough that a peer with a better invite gets in. */
const BAN_MS = 60_000

/** Peers that are refused for now, and why. */
export class Bans {
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #bans = new Lru<PeerId, { readonly until: Millis; readonly because: string }>(BANS_BOUND)

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock
  }

  ban(peer: PeerId, because: string): void {
    this.#bans.set(peer, { until: this.#clock.monotonic() + BAN_MS, because })
  }

  lift(peer: PeerId): void {
    this.#bans.delete(peer)
  }

  /** Why it is refused; undefined when it is not. */
  because(peer: PeerId): string | undefined {
    const ban = this.#bans.peek(peer)
    return ban !== undefined && ban.until > this.#clock.monotonic() ? ban.because : undefined
  }
}
