import type { CapacityAd, CapacityDelta, InstanceAd } from '../../protocols/capacity.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import { Lru } from '../lib/lru.ts'

/** Orders what one peer says of itself: a later life beats an earlier one, then a later word an earlier. */
export type Version = { readonly incarnation: number; readonly sequence: number }

export function isNewer(a: Version, b: Version | undefined): boolean {
  return b === undefined || a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.sequence > b.sequence)
}

type Heard = {
  /** The newest whole ad, as its peer signed it. */
  readonly whole: CapacityAd
  readonly envelope: Signed
  /** The newest delta on top of it, as signed. */
  readonly delta: Signed | undefined
  /** The whole with the newest delta on top. */
  readonly ad: CapacityAd
  /** Local monotonic time of the last thing that was new: the TTL counts from here, so clocks need not agree. */
  readonly heardAt: Millis
  /** Names `ad` in 32 bits, and `whole`. */
  readonly mark: number
  readonly wholeMark: number
  /** The newest delta whose base has not arrived. */
  readonly early: Early | undefined
}
type Early = { readonly delta: CapacityDelta; readonly envelope: Signed }

export type Change = 'new' | 'newer' | 'stale' | 'base-missing'

/** Peers remembered; beyond it the one heard of longest ago is forgotten. */
const PEERS_BOUND = 20_000
const FORGOTTEN_BOUND = 20_000

/**
 * What every peer last said of itself. Merging is a join: whatever the order and however often a peer's words arrive,
 * the result is the same, and a word older than one already heard never comes back, not even after it expired.
 */
export class AdView {
  readonly #heard = new Lru<PeerId, Heard>(PEERS_BOUND, (peer, { ad }) => this.#evicted(peer, ad))
  readonly #early = new Lru<PeerId, Early>(1_024)
  /** The last version of peers no longer in the view: a ghost must not outlive its successor. */
  readonly #floors = new Lru<PeerId, Version>(FORGOTTEN_BOUND)
  readonly #byBlock = new Map<BlockId, Map<PeerId, readonly InstanceAd[]>>()

  get size(): number {
    return this.#heard.size
  }

  /** Takes a checked whole ad. */
  hear(ad: CapacityAd, envelope: Signed, now: Millis): Change {
    const { peer } = ad
    const before = this.#heard.peek(peer)
    if (before !== undefined && !isNewer(ad, before.whole)) return 'stale'
    if (before === undefined && !isNewer(ad, this.#floors.peek(peer))) return 'stale'
    const early = before?.early ?? this.#early.peek(peer)
    this.#early.delete(peer)
    const fits = early !== undefined && early.delta.incarnation === ad.incarnation && early.delta.base === ad.sequence
    const current = fits ? applied(ad, early.delta) : ad
    // A delta on an older whole may carry a later word of the same life than this late whole.
    const keep = before !== undefined && !isNewer(current, before.ad)
    this.#put(peer, {
      whole: ad,
      envelope,
      delta: keep ? before.delta : fits ? early.envelope : undefined,
      ad: keep ? before.ad : current,
      mark: keep ? before.mark : markOf(current),
      wholeMark: markOf(ad),
      heardAt: now,
      early: fits || early === undefined || !isNewer(early.delta, current) ? undefined : early,
    })
    return before === undefined ? 'new' : 'newer'
  }

  /** Takes a checked delta; `base-missing` when the whole it builds on has to be asked for. */
  apply(delta: CapacityDelta, envelope: Signed, now: Millis): Change {
    const { peer } = delta
    const before = this.#heard.peek(peer)
    const early = before === undefined ? this.#early.peek(peer) : before.early
    if (before === undefined) {
      if (!isNewer(delta, this.#floors.peek(peer)) || !isNewer(delta, early?.delta)) return 'stale'
      this.#early.set(peer, { delta, envelope })
      return 'base-missing'
    }
    if (!isNewer(delta, before.ad)) return 'stale'
    if (delta.incarnation !== before.whole.incarnation || delta.base !== before.whole.sequence) {
      if (!isNewer(delta, early?.delta)) return 'stale'
      this.#heard.set(peer, { ...before, early: { delta, envelope } })
      return 'base-missing'
    }
    const ad = applied(before.whole, delta)
    this.#put(peer, { ...before, ad, mark: markOf(ad), delta: envelope, heardAt: now })
    return 'newer'
  }

  /** Takes out what nobody renewed within its TTL; returns who, sorted. */
  expire(now: Millis, except: PeerId): readonly PeerId[] {
    const expired: PeerId[] = []
    for (const { ad, heardAt } of this.#heard.values()) if (now - heardAt > ad.ttlMs && ad.peer !== except) expired.push(ad.peer)
    for (const peer of expired) this.forget(peer)
    return expired.sort()
  }

  /** Takes a peer out. Only a newer word than its last brings it back. */
  forget(peer: PeerId): void {
    const known = this.#heard.peek(peer)
    if (known === undefined) return
    this.#heard.delete(peer)
    this.#evicted(peer, known.ad)
  }

  ad(peer: PeerId): CapacityAd | undefined {
    return this.#heard.peek(peer)?.ad
  }

  /** The newest whole ad and the delta on it, as their peer signed them, to pass on; without the whole where `held` has its mark. */
  envelopes(peer: PeerId, held?: ReadonlySet<number>): readonly Signed[] {
    const heard = this.#heard.peek(peer)
    if (heard === undefined) return []
    if (heard.delta === undefined) return [heard.envelope]
    return held?.has(heard.wholeMark) === true ? [heard.delta] : [heard.envelope, heard.delta]
  }

  /** Is this very envelope what its peer is known to have said last? Then it is no news. */
  holds(envelope: Signed): boolean {
    const heard = this.#heard.peek(envelope.signer)
    if (heard === undefined) return false
    const { signature, payload } = envelope
    const is = (held: Signed | undefined): boolean => held !== undefined && (held === envelope || (equal(held.signature, signature) && equal(held.payload, payload)))
    return is(heard.envelope) || is(heard.delta)
  }

  /** Names the newest word held of a peer in 32 bits. */
  mark(peer: PeerId): number {
    return this.#heard.peek(peer)?.mark ?? 0
  }

  /** The marks of all that is held, whole ads that have a delta besides, 4 bytes each, at most `most` of them. */
  marks(most: number): Uint8Array {
    const out = new DataView(new ArrayBuffer(4 * Math.min(most, 2 * this.#heard.size)))
    let at = 0
    for (const { mark, wholeMark, delta } of this.#heard.values()) {
      if (at >= out.byteLength) break
      out.setUint32(at, mark)
      at += 4
      if (delta === undefined || at >= out.byteLength) continue
      out.setUint32(at, wholeMark)
      at += 4
    }
    return new Uint8Array(out.buffer, 0, at)
  }

  /** Peers of whose newest word `held` has no mark, in no order, and how many of its marks name nothing that is held here. */
  compared(held: ReadonlySet<number>): { readonly lacking: PeerId[]; readonly unknown: number } {
    const lacking: PeerId[] = []
    let unknown = held.size
    for (const { mark, wholeMark, ad } of this.#heard.values()) {
      if (held.has(mark)) unknown -= 1
      else lacking.push(ad.peer)
      if (wholeMark !== mark && held.has(wholeMark)) unknown -= 1
    }
    return { lacking, unknown }
  }

  /** Sorted. */
  peers(): readonly PeerId[] {
    return [...this.#heard].map(([peer]) => peer).sort()
  }

  /** Hosts that advertise instances of a block, in no order. */
  hostsOf(block: BlockId): Iterable<readonly [PeerId, readonly InstanceAd[]]> {
    return this.#byBlock.get(block) ?? []
  }

  #put(peer: PeerId, heard: Heard): void {
    const before = this.#heard.peek(peer)
    this.#heard.set(peer, heard)
    if (before?.ad === heard.ad) return
    if (before !== undefined) this.#unlist(peer, before.ad)
    if (heard.ad.instances.length > 0) for (const [block, instances] of Map.groupBy(heard.ad.instances, ({ block }) => block)) {
      const hosts = this.#byBlock.get(block) ?? new Map<PeerId, readonly InstanceAd[]>()
      hosts.set(peer, instances)
      this.#byBlock.set(block, hosts)
    }
  }

  #evicted(peer: PeerId, ad: CapacityAd): void {
    this.#unlist(peer, ad)
    this.#floors.set(peer, { incarnation: ad.incarnation, sequence: ad.sequence })
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

/** Reads `AdView.marks`. */
export function readMarks(bytes: Uint8Array): ReadonlySet<number> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength - (bytes.byteLength % 4))
  const marks = new Set<number>()
  for (let at = 0; at < view.byteLength; at += 4) marks.add(view.getUint32(at))
  return marks
}

const marks = new WeakMap<CapacityAd, number>()

/** FNV-1a over who said it and when in its lives. Two words that share a mark are told apart by the next gossip or pull. */
function markOf(ad: CapacityAd): number {
  const known = marks.get(ad)
  if (known !== undefined) return known
  const { peer, incarnation, sequence } = ad
  let mark = 0x811c9dc5
  for (let at = 0; at < peer.length; at += 1) mark = Math.imul(mark ^ peer.charCodeAt(at), 0x01000193)
  mark = Math.imul(mark ^ incarnation, 0x01000193)
  mark = Math.imul(mark ^ sequence, 0x01000193) >>> 0
  marks.set(ad, mark)
  return mark
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false
  for (let at = 0; at < a.byteLength; at += 1) if (a[at] !== b[at]) return false
  return true
}
