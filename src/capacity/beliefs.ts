import type { Rumour } from '../../protocols/capacity.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'

export type LifeState = Rumour['state']
export type Belief = { readonly state: LifeState; readonly incarnation: number; readonly since: Millis }

const RANK: Readonly<Record<LifeState, number>> = { alive: 0, suspect: 1, dead: 2, left: 3 }
const BELIEFS_BOUND = 20_000

/**
 * Does a word about a peer replace what is believed of it? A later life replaces everything said of an earlier one;
 * within one life the worse word wins, and only a new incarnation takes it back (SWIM, Das, Gupta & Motivala 2002, §4.2).
 */
export function overrides(word: { readonly state: LifeState; readonly incarnation: number }, belief: Belief | undefined): boolean {
  return belief === undefined || word.incarnation > belief.incarnation || (word.incarnation === belief.incarnation && RANK[word.state] > RANK[belief.state])
}

function isLiving(state: LifeState): boolean {
  return state === 'alive' || state === 'suspect'
}

/** Who is believed alive, suspect, dead or gone. A join: order and repetition of the words make no difference. */
export class Beliefs {
  readonly #self: PeerId
  readonly #held = new Lru<PeerId, Belief>(BELIEFS_BOUND, peer => this.#moved(peer, 'left'))
  /** In the order in which they were given up. */
  readonly #dead = new Set<PeerId>()
  #living: PeerId[]
  /** Has the list been handed out? Then it is no longer changed, but copied. */
  #handedOut = false

  constructor(self: PeerId) {
    this.#self = self
    this.#living = [self]
  }

  of(peer: PeerId): Belief | undefined {
    return this.#held.peek(peer)
  }

  /** True when it changed what is believed. */
  hear(peer: PeerId, state: LifeState, incarnation: number, now: Millis): boolean {
    const before = this.#held.peek(peer)
    if (!overrides({ state, incarnation }, before)) return false
    this.#held.set(peer, { state, incarnation, since: now })
    if (before?.state !== state) this.#moved(peer, state)
    return true
  }

  /** Alive and suspect peers and ourselves, sorted. */
  living(): readonly PeerId[] {
    this.#handedOut = true
    return this.#living
  }

  /** Peers given up, the most recent last. */
  dead(): readonly PeerId[] {
    return [...this.#dead]
  }

  /** The next `count` living peers after us in the ring of ids: so each peer is watched by as many, however large the mesh. */
  watched(count: number): readonly PeerId[] {
    return this.#inRing(this.#self, 1, count)
  }

  /** The others among the `count` living peers before it in the ring: they watch it too, and are connected to it. */
  watchersOf(peer: PeerId, count: number): PeerId[] {
    return this.#inRing(peer, -1, count).filter(other => other !== this.#self)
  }

  /** One comes or goes: cheaper than to sort all of them again. Never changes a list that was handed out. */
  #moved(peer: PeerId, state: LifeState): void {
    const lives = isLiving(state)
    this.#dead.delete(peer)
    if (state === 'dead') this.#dead.add(peer)
    const at = placeOf(this.#living, peer)
    const listed = this.#living[at] === peer
    if (listed === lives || peer === this.#self) return
    if (this.#handedOut) this.#living = [...this.#living]
    this.#handedOut = false
    if (lives) this.#living.splice(at, 0, peer)
    else this.#living.splice(at, 1)
  }

  #inRing(peer: PeerId, step: 1 | -1, count: number): readonly PeerId[] {
    const living = this.#living
    const at = placeOf(living, peer)
    // Where it is, or where it would be.
    const others = living[at] === peer ? living.length - 1 : living.length
    const first = living[at] === peer || step < 0 ? at + step : at
    return Array.from({ length: Math.min(count, others) }, (_, n) => living[(first + n * step + count * living.length) % living.length]!)
  }
}

/** The first place in the sorted `peers` that does not come before `peer`. */
function placeOf(peers: readonly PeerId[], peer: PeerId): number {
  let [least, most] = [0, peers.length]
  while (least < most) {
    const middle = (least + most) >>> 1
    if (peers[middle]! < peer) least = middle + 1
    else most = middle
  }
  return least
}
