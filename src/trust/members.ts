import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Cid, PeerId } from '../../protocols/ids.ts'
import type { CapabilityChain } from '../../protocols/membership.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Clock, Identity } from '../ports.ts'
import { sameBytes } from '../lib/same-bytes.ts'
import { proveChain, SKEW_MS } from './capability.ts'
import { markOf, memberOf, readShort, writtenMember, type Member } from './member.ts'

export type MemberPage = { members: { peer: PeerId; chain: Signed[] }[]; next?: PeerId }

/** What a list that is compared with ours lacks, and whether it names what ours does not hold. */
export type Compared = { readonly page: MemberPage; readonly unknown: boolean }

const BOUND = 20_000
const PAGE = 128
/** Half of what an answer may have: chains differ in length. */
const PAGE_BYTES = 524_288
/** Parts of the list that are compared one by one, so that two peers exchange what differs and little else. */
const BUCKETS = 64
const BUCKET_BYTES = 8
/** Up to so many members are named one by one, so that only what is lacking is answered. */
const MARKS = 1_024
const MARK_BYTES = 4

/**
 * Holds who has proved to be a member. Of two chains of one peer every replica keeps the same one, in whatever order
 * they came: the one with more rights, then the one that lasts longer, then the lower mark.
 */
export class Members {
  readonly #identity: Identity
  readonly #network: Cid
  readonly #owner: PeerId
  readonly #clock: Pick<Clock, 'unix'>
  readonly #known = new Map<PeerId, Member>()
  readonly #sum = new Uint8Array(32)
  readonly #buckets = new Uint8Array(BUCKETS * BUCKET_BYTES)
  #marks: Uint8Array | undefined
  /** In order of their ids. */
  readonly #sorted: Member[] = []

  constructor(identity: Identity, network: Cid, owner: PeerId, clock: Pick<Clock, 'unix'>) {
    this.#identity = identity
    this.#network = network
    this.#owner = owner
    this.#clock = clock
  }

  get size(): number {
    return this.#known.size
  }

  /** Undefined once its chain has run out. */
  get(peer: PeerId): Member | undefined {
    const member = this.#known.get(peer)
    return member === undefined || this.#expired(member) ? undefined : member
  }

  /** Takes a chain that proves `peer` a member; the value says whether that was news. Refuses with the reason. */
  learn(peer: PeerId, chain: CapabilityChain): Verdict<boolean> {
    const known = this.get(peer)
    if (known !== undefined && (chain[0] === known.chain[0] || markOf(chain) === known.mark)) return granted(false)
    const proof = proveChain(this.#identity, this.#network, this.#owner, chain, this.#clock.unix())
    if (!proof.ok) return proof
    if (proof.value.subject !== peer) return refused('the capability belongs to somebody else')
    const member = memberOf(peer, chain, proof.value)
    if (known !== undefined && !better(member, known)) return granted(false)
    if (!this.#known.has(peer) && this.#known.size >= BOUND && this.forgetExpired() === 0) return refused(`this peer knows ${BOUND} members, and has no room for more`, true)
    this.#drop(peer)
    this.#known.set(peer, member)
    this.#sorted.splice(this.#placeOf(peer), 0, member)
    this.#mix(member)
    return granted(true)
  }

  /** How many were forgotten. */
  forgetExpired(): number {
    const expired = [...this.#known].filter(([, member]) => this.#expired(member))
    for (const [peer] of expired) this.#drop(peer)
    return expired.length
  }

  /** The same for everybody who knows the same chains. */
  digest(): Uint8Array {
    return this.#sum.slice()
  }

  isDigest(theirs: Uint8Array): boolean {
    return sameBytes(theirs, this.#sum)
  }

  /** A digest of each part of the list, one after the other. */
  buckets(): Uint8Array {
    return this.#buckets.slice()
  }

  /** 4 bytes of hash for each member; undefined when there are too many to name them one by one. */
  marks(): Uint8Array | undefined {
    if (this.#known.size > MARKS) return undefined
    if (this.#marks !== undefined) return this.#marks
    const out = new Uint8Array(this.#known.size * MARK_BYTES)
    let at = 0
    for (const { hash } of this.#sorted) for (let byte = 0; byte < MARK_BYTES; byte += 1) out[at++] = hash[byte]!
    this.#marks = out
    return out
  }

  /** Those after `after`, in order of their ids; only from parts of the list that differ from `theirs`, and only whom `held` does not name, where those are given. */
  page(after: PeerId | undefined, theirs?: Uint8Array, held?: Uint8Array): Compared {
    let from = after === undefined ? 0 : this.#placeOf(after)
    if (after !== undefined && this.#sorted[from]?.peer === after) from += 1
    const members: MemberPage['members'] = []
    let bytes = 0
    let last: PeerId | undefined
    let shared = 0
    const marks = held === undefined ? undefined : readMarks(held)
    const same = theirs === undefined ? undefined : Array.from({ length: BUCKETS }, (_, bucket) => this.#agrees(bucket, theirs))
    for (let at = from; at < this.#sorted.length; at += 1) {
      const member = this.#sorted[at]!
      const { peer } = member
      if (marks?.has(member.short) === true) {
        shared += 1
        continue
      }
      if (same?.[bucketOf(peer)] === true || this.#expired(member)) continue
      if (last !== undefined && (members.length === PAGE || bytes + member.bytes > PAGE_BYTES)) return { page: { members, next: last }, unknown: false }
      bytes += member.bytes
      last = peer
      members.push({ peer, chain: member.chain })
    }
    return { page: { members }, unknown: after === undefined && marks !== undefined && marks.size > shared }
  }

  all(): readonly { readonly peer: PeerId; readonly chain: CapabilityChain }[] {
    return [...this.#known].map(([peer, { chain }]) => ({ peer, chain }))
  }

  /** As it is kept on disk. */
  saved(peers: Iterable<PeerId> = this.#known.keys()): readonly Uint8Array[] {
    const entries: Uint8Array[] = []
    for (const peer of peers) {
      const member = this.#known.get(peer)
      if (member !== undefined) entries.push(writtenMember(member))
    }
    return entries
  }

  #agrees(bucket: number, theirs: Uint8Array): boolean {
    for (let at = bucket * BUCKET_BYTES; at < (bucket + 1) * BUCKET_BYTES; at += 1) if (this.#buckets[at] !== theirs[at]) return false
    return true
  }

  #expired({ expires }: Member): boolean {
    return expires < this.#clock.unix() - SKEW_MS
  }

  #drop(peer: PeerId): void {
    const member = this.#known.get(peer)
    if (member === undefined) return
    this.#known.delete(peer)
    this.#sorted.splice(this.#placeOf(peer), 1)
    this.#mix(member)
  }

  /** The first place in order that does not come before `peer`. */
  #placeOf(peer: PeerId): number {
    let [least, most] = [0, this.#sorted.length]
    while (least < most) {
      const middle = (least + most) >>> 1
      if (this.#sorted[middle]!.peer < peer) least = middle + 1
      else most = middle
    }
    return least
  }

  /** Adds to the digest what is not in it, and takes out what is. */
  #mix({ peer, hash }: Member): void {
    const bucket = bucketOf(peer) * BUCKET_BYTES
    this.#marks = undefined
    for (let at = 0; at < hash.length; at += 1) this.#sum[at]! ^= hash[at]!
    for (let at = 0; at < BUCKET_BYTES; at += 1) this.#buckets[bucket + at]! ^= hash[at]!
  }
}

function better(one: Member, other: Member): boolean {
  if (one.rights.length !== other.rights.length) return one.rights.length > other.rights.length
  if (one.expires !== other.expires) return one.expires > other.expires
  return one.mark < other.mark
}

function readMarks(bytes: Uint8Array): ReadonlySet<number> {
  const marks = new Set<number>()
  for (let at = 0; at + MARK_BYTES <= bytes.byteLength; at += MARK_BYTES) marks.add(readShort(bytes, at))
  return marks
}

function bucketOf(peer: PeerId): number {
  let hash = 0
  for (let at = 0; at < peer.length; at += 1) hash = (Math.imul(hash, 31) + peer.charCodeAt(at)) | 0
  return (hash >>> 0) % BUCKETS
}
