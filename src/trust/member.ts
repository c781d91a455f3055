import { digest, encode, hex, utf8 } from '../../protocols/codec.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { CapabilityChain, Right } from '../../protocols/membership.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Proven } from './capability.ts'
import { shared } from './seal.ts'

export type Member = {
  readonly peer: PeerId
  readonly chain: Signed[]
  readonly rights: readonly Right[]
  readonly expires: Millis
  /** Of the leaf's signature: names the chain. */
  readonly mark: string
  /** Of peer and mark, sha2-256. */
  readonly hash: Uint8Array
  /** The first 4 bytes of `hash`. */
  readonly short: number
  /** What its chain takes in a message, about. */
  readonly bytes: number
}

/** What a link has beside its payload and signature. */
const LINK_BYTES = 160

/** By the leaf: the same chain comes from many peers, and in one process to many. */
const made = new WeakMap<Signed, Member>()
const written = new WeakMap<Member, Uint8Array>()

/** The member that a proven chain makes of `peer`; the same object each time. To be read only. */
export function memberOf(peer: PeerId, given: CapabilityChain, { rights, expires }: Proven): Member {
  const chain = given.map(shared)
  const [leaf] = chain
  const known = leaf === undefined ? undefined : made.get(leaf)
  if (known !== undefined && known.peer === peer && known.chain.length === chain.length && known.chain.every((link, at) => link === chain[at])) return known
  const mark = markOf(chain)
  const hash = digest(utf8(`${peer}\0${mark}`))
  const member: Member = { peer, chain, rights, expires, mark, hash, short: readShort(hash, 0), bytes: chain.reduce((sum, { payload, signature }) => sum + payload.byteLength + signature.byteLength + LINK_BYTES, 0) }
  if (leaf !== undefined) made.set(leaf, member)
  return member
}

/** Its bytes as they are kept on disk. */
export function writtenMember(member: Member): Uint8Array {
  const known = written.get(member)
  if (known !== undefined) return known
  const { peer, chain } = member
  const bytes = encode({ peer, chain })
  written.set(member, bytes)
  return bytes
}

export function markOf(chain: CapabilityChain): string {
  const [leaf] = chain
  return leaf === undefined ? '' : hex(leaf.signature)
}

/** Big-endian. */
export function readShort(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}
