import { digest, hex, utf8 } from '../../protocols/codec.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import type { CapabilityChain, Right } from '../../protocols/membership.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Clock, Identity } from '../ports.ts'
import { proveChain, SKEW_MS } from './capability.ts'

export type Member = { readonly chain: CapabilityChain; readonly rights: readonly Right[]; readonly expires: Millis; /** Of the leaf's signature: names the chain. */ readonly mark: string }
export type MemberPage = { members: { peer: PeerId; chain: Signed[] }[]; next?: PeerId }

const BOUND = 20_000
const PAGE = 128
/** Half of what an answer may have: chains differ in length. */
const PAGE_BYTES = 524_288
/** What a link has beside its payload and signature. */
const LINK_BYTES = 160

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
  #sorted: readonly PeerId[] | undefined

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
    const mark = markOf(chain)
    const known = this.get(peer)
    if (known?.mark === mark) return granted(false)
    const proof = proveChain(this.#identity, this.#network, this.#owner, chain, this.#clock.unix())
    if (!proof.ok) return proof
    if (proof.value.subject !== peer) return refused('the capability belongs to somebody else')
    const member: Member = { chain, rights: proof.value.rights, expires: proof.value.expires, mark }
    if (known !== undefined && !better(member, known)) return granted(false)
    if (!this.#known.has(peer) && this.#known.size >= BOUND && this.forgetExpired() === 0) return refused(`this peer knows ${BOUND} members, and has no room for more`, true)
    this.#drop(peer)
    this.#known.set(peer, member)
    this.#sorted = undefined
    this.#mix(peer, mark)
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

  /** Those after `after`, in order of their ids. */
  page(after: PeerId | undefined): MemberPage {
    this.#sorted ??= [...this.#known.keys()].sort()
    const from = after === undefined ? 0 : this.#sorted.findIndex(peer => peer > after)
    const members: MemberPage['members'] = []
    let bytes = 0
    if (from < 0) return { members }
    for (const [at, peer] of this.#sorted.slice(from, from + PAGE + 1).entries()) {
      const member = this.get(peer)
      const size = member?.chain.reduce((sum, { payload, signature }) => sum + payload.byteLength + signature.byteLength + LINK_BYTES, 0) ?? 0
      if (at === PAGE || bytes + size > PAGE_BYTES) return { members, next: this.#sorted[from + at - 1] ?? peer }
      bytes += size
      if (member !== undefined) members.push({ peer, chain: [...member.chain] })
    }
    return { members }
  }

  all(): readonly { readonly peer: PeerId; readonly chain: CapabilityChain }[] {
    return [...this.#known].map(([peer, { chain }]) => ({ peer, chain }))
  }

  #expired({ expires }: Member): boolean {
    return expires < this.#clock.unix() - SKEW_MS
  }

  #drop(peer: PeerId): void {
    const member = this.#known.get(peer)
    if (member === undefined) return
    this.#known.delete(peer)
    this.#sorted = undefined
    this.#mix(peer, member.mark)
  }

  /** Adds to the digest what is not in it, and takes out what is. */
  #mix(peer: PeerId, mark: string): void {
    for (const [at, byte] of digest(utf8(`${peer}\0${mark}`)).entries()) this.#sum[at] = (this.#sum[at] ?? 0) ^ byte
  }
}

function better(one: Member, other: Member): boolean {
  if (one.rights.length !== other.rights.length) return one.rights.length > other.rights.length
  if (one.expires !== other.expires) return one.expires > other.expires
  return one.mark < other.mark
}

function markOf(chain: CapabilityChain): string {
  const [leaf] = chain
  return leaf === undefined ? '' : hex(leaf.signature)
}
