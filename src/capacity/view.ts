import type { CapacityAd, CapacityDelta, InstanceAd } from '../../protocols/capacity.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { Lru } from '../lib/lru.ts'
import { sameBytes } from '../lib/same-bytes.ts'
import { markOf, SlotMarks, type Marks } from './marks.ts'

/** Orders what one peer says of itself: a later life beats an earlier one, then a later word an earlier. */
export type Version = { readonly incarnation: number; readonly sequence: number }

export function isNewer(a: Version, b: Version | undefined): boolean {
  return b === undefined || a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.sequence > b.sequence)
}

/** Changed in place: in a large mesh somebody says something all the time. */
type Heard = {
  /** The newest whole ad, as its peer signed it. */
  whole: CapacityAd
  envelope: Signed
  /** The newest delta on top of it, as signed. */
  delta: Signed | undefined
  /** The whole with the newest delta on top. */
  ad: CapacityAd
  /** Local monotonic time of the last thing that was new: the TTL counts from here, so clocks need not agree. */
  heardAt: Millis
  /** When it was last put at the end of those that may be forgotten. */
  movedAt: Millis
  /** Where its marks are. */
  slot: number
  /** The newest delta whose base has not arrived. */
  early: Early | undefined
}
type Early = { readonly delta: CapacityDelta; readonly envelope: Signed }

export type Change = 'new' | 'newer' | 'stale' | 'base-missing'

/** Peers remembered; beyond it the one heard of longest ago is forgotten, to within `ORDER_MS`. */
const PEERS_BOUND = 20_000
const ORDER_MS = 10_000
const RELOOK_MS = 10_000
const FORGOTTEN_BOUND = 20_000

/**
 * What every peer last said of itself. Merging is a join: whatever the order and however often a peer's words arrive,
 * the result is the same, and a word older than one already heard never comes back, not even after it expired.
 */
export class AdView {
  /** Least recently heard of first. */
  readonly #heard = new Map<PeerId, Heard>()
  readonly #marks = new SlotMarks<Heard>()
  readonly #early = new Lru<PeerId, Early>(1_024)
  /** The last version of peers no longer in the view: a ghost must not outlive its successor. */
  readonly #floors = new Lru<PeerId, Version>(FORGOTTEN_BOUND)
  readonly #byBlock = new Map<BlockId, Map<PeerId, readonly InstanceAd[]>>()
  /** Nobody's time is up before. */
  #expiresFrom: Millis = Infinity

  get size(): number {
    return this.#heard.size
  }

  /** Takes a checked whole ad. */
  hear(ad: CapacityAd, envelope: Signed, now: Millis): Change {
    const { peer } = ad
    const before = this.#heard.get(peer)
    if (before !== undefined && !isNewer(ad, before.whole)) return 'stale'
    if (before === undefined && !isNewer(ad, this.#floors.peek(peer))) return 'stale'
    const early = before?.early ?? this.#early.peek(peer)
    this.#early.delete(peer)
    const fits = early !== undefined && early.delta.incarnation === ad.incarnation && early.delta.base === ad.sequence
    const current = fits ? applied(ad, early.delta) : ad
    // A delta on an older whole may carry a later word of the same life than this late whole.
    const keep = before !== undefined && !isNewer(current, before.ad)
    const delta = keep ? before.delta : fits ? early.envelope : undefined
    const late = fits || early === undefined || !isNewer(early.delta, current) ? undefined : early
    const heard = before ?? this.#add({ whole: ad, envelope, delta, ad: current, heardAt: now, movedAt: now, slot: -1, early: late })
    heard.whole = ad
    heard.envelope = envelope
    heard.delta = delta
    heard.early = late
    this.#renew(heard, keep ? before.ad : current, now)
    return before === undefined ? 'new' : 'newer'
  }

  /** Takes a checked delta; `base-missing` when the whole it builds on has to be asked for. */
  apply(delta: CapacityDelta, envelope: Signed, now: Millis): Change {
    const { peer } = delta
    const before = this.#heard.get(peer)
    const early = before === undefined ? this.#early.peek(peer) : before.early
    if (before === undefined) {
      if (!isNewer(delta, this.#floors.peek(peer)) || !isNewer(delta, early?.delta)) return 'stale'
      this.#early.set(peer, { delta, envelope })
      return 'base-missing'
    }
    if (!isNewer(delta, before.ad)) return 'stale'
    if (delta.incarnation !== before.whole.incarnation || delta.base !== before.whole.sequence) {
      if (!isNewer(delta, early?.delta)) return 'stale'
      before.early = { delta, envelope }
      return 'base-missing'
    }
    before.delta = envelope
    this.#renew(before, applied(before.whole, delta), now)
    return 'newer'
  }

  /** Takes out what nobody renewed within its TTL, or `leastMs` where that is longer; returns who, sorted. */
  expire(now: Millis, except: PeerId, leastMs: Millis = 0): readonly PeerId[] {
    if (now <= this.#expiresFrom) return []
    const expired: PeerId[] = []
    this.#expiresFrom = Infinity
    for (const { ad, heardAt } of this.#heard.values()) {
      if (ad.peer === except) continue
      const ttlMs = Math.max(ad.ttlMs, leastMs)
      if (now - heardAt > ttlMs) expired.push(ad.peer)
      // What `leastMs` keeps is looked at again before it is over: the mesh may become smaller.
      else this.#expiresFrom = Math.min(this.#expiresFrom, heardAt + ttlMs, ad.ttlMs < leastMs ? now + RELOOK_MS : Infinity)
    }
    for (const peer of expired) this.forget(peer)
    return expired.sort()
  }

  /** Takes a peer out. Only a newer word than its last brings it back. */
  forget(peer: PeerId): void {
    const known = this.#heard.get(peer)
    if (known === undefined) return
    const { ad } = known
    this.#heard.delete(peer)
    this.#marks.remove(known)
    this.#unlist(peer, ad)
    this.#floors.set(peer, { incarnation: ad.incarnation, sequence: ad.sequence })
  }

  ad(peer: PeerId): CapacityAd | undefined {
    return this.#heard.get(peer)?.ad
  }

  /** The newest whole ad and the delta on it, as their peer signed them, to pass on; without the whole where `held` has its mark. */
  envelopes(peer: PeerId, held?: Marks): readonly Signed[] {
    const heard = this.#heard.get(peer)
    if (heard === undefined) return []
    if (heard.delta === undefined) return [heard.envelope]
    return held?.has(markOf(heard.whole)) === true ? [heard.delta] : [heard.envelope, heard.delta]
  }

  /** Is this very envelope what its peer is known to have said last? Then it is no news. */
  holds(envelope: Signed): boolean {
    const heard = this.#heard.get(envelope.signer)
    if (heard === undefined) return false
    const { signature, payload } = envelope
    const is = (held: Signed | undefined): boolean => held !== undefined && (held === envelope || (sameBytes(held.signature, signature) && sameBytes(held.payload, payload)))
    return is(heard.envelope) || is(heard.delta)
  }

  /** Names the newest word held of a peer in 32 bits. */
  mark(peer: PeerId): number {
    const heard = this.#heard.get(peer)
    return heard === undefined ? 0 : markOf(heard.ad)
  }

  /** The marks of all that is held, whole ads that have a delta besides, 4 bytes each, at most `most` of them. */
  marks(most: number): Uint8Array {
    return this.#marks.written(most)
  }

  /** Peers of whose newest word `held` has no mark, in no order, and how many of its marks name nothing that is held here. */
  compared(held: Marks): { readonly lacking: PeerId[]; readonly unknown: number } {
    const { lacking, unknown } = this.#marks.compared(held)
    return { lacking: lacking.map(({ ad }) => ad.peer), unknown }
  }

  /** Sorted. */
  peers(): readonly PeerId[] {
    return [...this.#heard.keys()].sort()
  }

  /** Hosts that advertise instances of a block, in no order. */
  hostsOf(block: BlockId): Iterable<readonly [PeerId, readonly InstanceAd[]]> {
    return this.#byBlock.get(block) ?? []
  }

  #add(heard: Heard): Heard {
    const [oldest] = this.#heard.size < PEERS_BOUND ? [] : this.#heard.keys()
    if (oldest !== undefined) this.forget(oldest)
    const { peer } = heard.ad
    this.#heard.set(peer, heard)
    this.#marks.add(heard)
    this.#list(peer, heard.ad)
    return heard
  }

  /** A word is the newest of its peer. */
  #renew(heard: Heard, ad: CapacityAd, now: Millis): void {
    const { peer } = ad
    heard.heardAt = now
    this.#expiresFrom = Math.min(this.#expiresFrom, now + ad.ttlMs)
    // Moving it each time would cost more than all else.
    if (now - heard.movedAt > ORDER_MS) {
      heard.movedAt = now
      this.#heard.delete(peer)
      this.#heard.set(peer, heard)
    }
    if (heard.ad !== ad) {
      this.#unlist(peer, heard.ad)
      heard.ad = ad
      this.#list(peer, ad)
    }
    this.#marks.set(heard, markOf(ad), markOf(heard.whole))
  }

  #list(peer: PeerId, { instances }: CapacityAd): void {
    if (instances.length > 0) for (const [block, those] of Map.groupBy(instances, ({ block }) => block)) {
      const hosts = this.#byBlock.get(block) ?? new Map<PeerId, readonly InstanceAd[]>()
      hosts.set(peer, those)
      this.#byBlock.set(block, hosts)
    }
  }

  #unlist(peer: PeerId, ad: CapacityAd): void {
    for (const { block } of ad.instances) {
      const hosts = this.#byBlock.get(block)
      hosts?.delete(peer)
      if (hosts?.size === 0) this.#byBlock.delete(block)
    }
  }
}

/** What each delta made of the whole it was last put on: who takes it twice, and every peer of one process, shares it. */
const whole = new WeakMap<CapacityDelta, { readonly base: CapacityAd; readonly ad: CapacityAd }>()

function applied(base: CapacityAd, delta: CapacityDelta): CapacityAd {
  const known = whole.get(delta)
  if (known?.base === base) return known.ad
  const ad: CapacityAd = { ...base, sequence: delta.sequence, issuedAt: delta.issuedAt }
  // Object.assign and not a spread: a field that is absent from the delta keeps its value.
  Object.assign(ad, delta.changed)
  whole.set(delta, { base, ad })
  return ad
}
