import type { Libp2p } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { abortable } from '../../../src/lib/abortable.ts'
import { Lru } from '../../../src/lib/lru.ts'
import type { Clock } from '../../../src/ports.ts'
import { unreachable } from './addresses.ts'
import type { Bans } from './bans.ts'

/** All that have to do with a peer ask for it when it dies, one after the other: what one dial found out is true for the others, too. */
const SPARED_MS: Millis = 200
const FAILED_BOUND = 1_024

type Dial = { readonly done: Promise<void>; readonly end: AbortController; waiting: number }

/** Connects to peers by their id: one dial a peer at a time, and none right after one that found nobody. */
export class Dials {
  readonly #libp2p: Pick<Libp2p, 'dial'>
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #bans: Bans
  readonly #under = new Map<PeerId, Dial>()
  readonly #failed = new Lru<PeerId, { readonly at: Millis; readonly failure: MeshError }>(FAILED_BOUND)

  constructor(libp2p: Pick<Libp2p, 'dial'>, clock: Pick<Clock, 'monotonic'>, bans: Bans) {
    this.#libp2p = libp2p
    this.#clock = clock
    this.#bans = bans
  }

  /** Throws NETWORK_REFUSED, PEER_UNREACHABLE, the signal's reason. The dial goes on while anybody waits for it. */
  async reach(peer: PeerId, signal: AbortSignal): Promise<void> {
    const dial = this.#under.get(peer) ?? this.#begin(peer)
    dial.waiting += 1
    try {
      await abortable(dial.done, signal)
    } finally {
      dial.waiting -= 1
      if (dial.waiting === 0) dial.end.abort(new MeshError('CANCELLED', `nobody waits for ${peer} any more`))
    }
  }

  #begin(peer: PeerId): Dial {
    const end = new AbortController()
    const dial: Dial = { done: this.#dial(peer, end.signal), end, waiting: 0 }
    this.#under.set(peer, dial)
    const over = (): void => {
      if (this.#under.get(peer) === dial) this.#under.delete(peer)
    }
    // Whoever comes once nobody waits begins anew, however long the old one takes to end.
    end.signal.addEventListener('abort', over, { once: true })
    dial.done.then(over, over)
    return dial
  }

  async #dial(peer: PeerId, signal: AbortSignal): Promise<void> {
    const banned = this.#bans.because(peer)
    if (banned !== undefined) throw new MeshError('NETWORK_REFUSED', `${peer} is banned here: ${banned}`)
    const failed = this.#failed.peek(peer)
    if (failed !== undefined && this.#clock.monotonic() - failed.at < SPARED_MS) throw failed.failure
    try {
      await this.#libp2p.dial(peerIdFromString(peer), { signal })
    } catch (error) {
      const failure = unreachable(error, [peer], signal)
      if (failure.code === 'PEER_UNREACHABLE') this.#failed.set(peer, { at: this.#clock.monotonic(), failure })
      throw failure
    }
  }
}
