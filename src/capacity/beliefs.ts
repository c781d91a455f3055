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
  readonly #held = new Lru<PeerId, Belief>(BELIEFS_BOUND)
  #living: readonly PeerId[] | undefined

  constructor(self: PeerId) {
    this.#self = self
  }

  of(peer: PeerId): Belief | undefined {
    return this.#held.peek(peer)
  }

  /** True when it changed what is believed. */
  hear(peer: PeerId, state: LifeState, incarnation: number, now: Millis): boolean {
    const before = this.#held.peek(peer)
    if (!overrides({ state, incarnation }, before)) return false
    this.#held.set(peer, { state, incarnation, since: now })
    if (before === undefined || isLiving(state) !== isLiving(before.state)) this.#living = undefined
    return true
  }

  forget(peer: PeerId): void {
    this.#held.delete(peer)
    this.#living = undefined
  }

  /** Alive and suspect peers and ourselves, sorted. */
  living(): readonly PeerId[] {
    this.#living ??= [this.#self, ...[...this.#held].filter(([, { state }]) => isLiving(state)).map(([peer]) => peer)].sort()
    return this.#living
  }

  /** Peers given up, the most recent last. */
  dead(): readonly PeerId[] {
    return [...this.#held].filter(([, { state }]) => state === 'dead').map(([peer]) => peer)
  }

  /** The next `count` living peers after us in the ring of ids: so each peer is watched by as many, however large the mesh. */
  watched(count: number): readonly PeerId[] {
    const living = this.living()
    const at = living.indexOf(this.#self)
    const others = [...living.slice(at + 1), ...living.slice(0, at)]
    return others.slice(0, count)
  }
}
