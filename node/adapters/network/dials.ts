import type { Libp2p } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { Lru } from '../../../src/lib/lru.ts'
import type { Clock } from '../../../src/ports.ts'
import { unreachable } from './addresses.ts'
import type { Bans } from './bans.ts'

/** All that have to do with a peer ask for it when it dies, one after the other: what one dial found out is true for the others, too. */
const SPARED_MS: Millis = 200
const FAILED_BOUND = 1_024

/** Connects to peers by their id: one dial a peer at a time, and none right after one that found nobody. */
export class Dials {
  readonly #libp2p: Pick<Libp2p, 'dial'>
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #bans: Bans
  readonly #under = new Map<PeerId, Promise<void>>()
  readonly #failed = new Lru<PeerId, { readonly at: Millis; readonly failure: MeshError }>(FAILED_BOUND)

  constructor(libp2p: Pick<Libp2p, 'dial'>, clock: Pick<Clock, 'monotonic'>, bans: Bans) {
    this.#libp2p = libp2p
    this.#clock = clock
    this.#bans = bans
  }

  /** Throws NETWORK_REFUSED, PEER_UNREACHABLE, the signal's reason. */
  reach(peer: PeerId, signal: AbortSignal): Promise<void> {
    const known = this.#under.get(peer)
    if (known !== undefined) return known
    const dialling = this.#dial(peer, signal).finally(() => this.#under.delete(peer))
    this.#under.set(peer, dialling)
    return dialling
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
