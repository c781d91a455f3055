import { base64url } from 'multiformats/bases/base64'
import { decode, encode, hex, recordCid } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Millis } from '../../protocols/ids.ts'
import { genesis, invite, type CapabilityChain, type Genesis, type Invite, type Right } from '../../protocols/membership.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Identity, Random } from '../ports.ts'
import { ALL_RIGHTS, issue } from './capability.ts'
import { seal, unseal } from './seal.ts'

/** What a peer keeps of the network it belongs to. */
export type Membership = { readonly network: Cid; readonly genesis: Signed; readonly secret: Uint8Array; readonly chain: CapabilityChain }

const YEARS_10 = 10 * 365 * 86_400_000
const PREFIX = 'aios1'
/** Of a capability chain, leaf and root included. */
export const LINKS = 8

/** A new network with this peer as its owner. */
export function foundNetwork(identity: Identity, random: Random, name: string, now: Millis): Membership {
  const document: Genesis = { name, owner: identity.peer, protocolMajor: 1, admission: 'invite', createdAt: now, nonce: random.bytes(16) }
  const sealed = seal(identity, 'genesis', document)
  const network = recordCid(encode(sealed))
  const root = issue(identity, { network, subject: identity.peer, rights: [...ALL_RIGHTS], notBefore: now, expires: now + YEARS_10, nonce: hex(random.bytes(8)) })
  return { network, genesis: sealed, secret: random.bytes(32), chain: [root] }
}

/** The genesis inside an envelope, checked to be its owner's. Throws SIGNATURE_INVALID or MESSAGE_INVALID. */
export function readGenesis(identity: Identity, sealed: Signed): Genesis {
  const { value, signer } = unseal(identity, 'genesis', genesis, sealed, 4_096)
  if (value.owner !== signer) throw new MeshError('SIGNATURE_INVALID', 'the genesis was not signed by the owner it names')
  return value
}

/** The text `aios invite` prints: opaque, copyable, secret. Throws FORBIDDEN when the chain of invitations is too long to pass on. */
export function writeInvite(identity: Identity, random: Random, membership: Membership, options: { readonly addresses: readonly string[]; readonly rights: readonly Right[]; readonly now: Millis; readonly validMs: Millis }): string {
  if (membership.chain.length >= LINKS) throw new MeshError('FORBIDDEN', `this peer was invited over ${membership.chain.length} others; ask one nearer to the owner for an invite`)
  const bearer = identity.mint()
  const link = issue(identity, { network: membership.network, bearer: bearer.peer, rights: [...options.rights], notBefore: options.now, expires: options.now + options.validMs, nonce: hex(random.bytes(8)) })
  const value: Invite = { v: 1, genesis: membership.genesis, secret: membership.secret, addresses: options.addresses.filter(address => address.length <= 300).slice(0, 16), chain: [link, ...membership.chain], bearerKey: bearer.privateKey }
  return PREFIX + base64url.baseEncode(encode(value))
}

/** Throws BAD_INPUT when the text is no invite (cut short, wrapped, or something else). */
export function readInvite(text: string): Invite {
  const packed = text.replace(/\s+/g, '')
  if (!packed.startsWith(PREFIX)) throw new MeshError('BAD_INPUT', `an invite starts with "${PREFIX}": copy the whole line that \`aios invite\` printed`)
  try {
    return decode(invite, base64url.baseDecode(packed.slice(PREFIX.length)), 65_536, 'invite')
  } catch (cause) {
    throw new MeshError('BAD_INPUT', 'the invite is damaged or cut short: copy the whole line that `aios invite` printed', { cause })
  }
}

export function networkOf(sealed: Signed): Cid {
  return recordCid(encode(sealed))
}
