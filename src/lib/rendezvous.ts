import type { PeerId } from '../../protocols/ids.ts'
import { Lru } from './lru.ts'

/**
 * Orders peers by highest random weight for `key` (Thaler & Ravishankar 1998): every peer that believes in the same
 * members gets the same order, and a member that leaves moves only its own keys. Ties end in the peer id. The weight is
 * no secret: whoever makes keys until one comes first for a block may steward it, within the rights it has anyway.
 */
export function rendezvous(key: string, peers: readonly PeerId[]): readonly PeerId[] {
  const [high, low] = hash(key, 0x9e3779b9)
  return peers
    .map(peer => ({ peer, weight: weigh(high, low, peer) }))
    .sort((a, b) => b.weight - a.weight || (a.peer < b.peer ? -1 : 1))
    .map(({ peer }) => peer)
}

/** The first `count` of `rendezvous`, without ranking the others. */
export function foremost(key: string, peers: Iterable<PeerId>, count: number): readonly PeerId[] {
  const [high, low] = hash(key, 0x9e3779b9)
  const first: PeerId[] = []
  const weights: number[] = []
  for (const peer of peers) {
    const weight = weigh(high, low, peer)
    let at = first.length
    while (at > 0 && (weights[at - 1]! < weight || (weights[at - 1] === weight && peer < first[at - 1]!))) at -= 1
    if (at >= count) continue
    // The last one falls out where there are enough.
    for (let below = Math.min(first.length, count - 1); below > at; below -= 1) {
      first[below] = first[below - 1]!
      weights[below] = weights[below - 1]!
    }
    first[at] = peer
    weights[at] = weight
  }
  return first
}

/** Is `peer`, one of `peers`, the first of `rendezvous`? Mostly decided by the first few of them. */
export function comesFirst(key: string, peer: PeerId, peers: Iterable<PeerId>): boolean {
  const [high, low] = hash(key, 0x9e3779b9)
  const own = weigh(high, low, peer)
  for (const other of peers) {
    const weight = weigh(high, low, other)
    if (weight > own || (weight === own && other < peer)) return false
  }
  return true
}

/** The same peers are ranked again and again, for every key. */
const hashes = new Lru<PeerId, readonly [number, number]>(20_000)

function hashOf(peer: PeerId): readonly [number, number] {
  const known = hashes.peek(peer)
  if (known !== undefined) return known
  const made = hash(peer, 0x85ebca6b)
  hashes.set(peer, made)
  return made
}

/** 53 bits: exact in a double. */
function weigh(high: number, low: number, peer: PeerId): number {
  const [a, b] = hashOf(peer)
  return (finish(high ^ a) >>> 11) * 4_294_967_296 + finish(low ^ Math.imul(b, 0xc2b2ae35) ^ (a >>> 7))
}

/** Two lanes of MurmurHash3's mixing (A. Appleby, public domain), one UTF-16 unit a step. */
function hash(text: string, seed: number): readonly [number, number] {
  let a = seed
  let b = ~seed
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at)
    a = Math.imul(a ^ unit, 0xcc9e2d51)
    a = (a << 15) | (a >>> 17)
    b = Math.imul(b ^ unit, 0x1b873593)
    b = (b << 13) | (b >>> 19)
  }
  return [finish(a ^ text.length), finish(b ^ text.length)]
}

function finish(word: number): number {
  let mixed = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}
