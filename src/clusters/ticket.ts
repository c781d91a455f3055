import { base64url } from 'multiformats/bases/base64'
import { clusterInvite, clusterTicket } from '../../protocols/cluster.ts'
import { decode, encode, hex } from '../../protocols/codec.ts'
import { MeshError, granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Identity, Random } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'

const PREFIX = 'aiosc1'
const DOMAIN = 'cluster-ticket'

/** The text `aios cluster invite` prints: whoever has it may bring a host of this network into the cluster. */
export function writeTicket(identity: Identity, random: Random, said: { readonly network: Cid; readonly cluster: string; readonly expires: Millis }): string {
  const ticket = seal(identity, DOMAIN, { ...said, nonce: hex(random.bytes(8)) })
  return PREFIX + base64url.baseEncode(encode({ v: 1, owner: identity.peer, ticket }))
}

/** Throws BAD_INPUT when the text is no such invite, and what is wrong with its signature. */
export function readTicket(identity: Identity, text: string): { readonly cluster: string; readonly owner: PeerId; readonly ticket: Signed } {
  const packed = text.replace(/\s+/g, '')
  if (!packed.startsWith(PREFIX)) throw new MeshError('BAD_INPUT', `an invite into a cluster starts with "${PREFIX}": copy the whole line that \`aios cluster invite\` printed`)
  let invite
  try {
    invite = decode(clusterInvite, base64url.baseDecode(packed.slice(PREFIX.length)), 8_192, 'invite')
  } catch (cause) {
    throw new MeshError('BAD_INPUT', 'the invite is damaged or cut short: copy the whole line that `aios cluster invite` printed', { cause })
  }
  const { value } = unseal(identity, DOMAIN, clusterTicket, invite.ticket, 2_048)
  return { cluster: value.cluster, owner: invite.owner, ticket: invite.ticket }
}

/** Is it a ticket of this owner into this cluster, and still good? */
export function checkTicket(identity: Identity, ticket: Signed, wanted: { readonly network: Cid; readonly cluster: string; readonly now: Millis }): Verdict<true> {
  const { value, signer } = unseal(identity, DOMAIN, clusterTicket, ticket, 2_048)
  if (signer !== identity.peer) return refused('the ticket is not of the owner of this cluster')
  if (value.network !== wanted.network || value.cluster !== wanted.cluster) return refused(`the ticket is for cluster ${value.cluster}`)
  if (value.expires < wanted.now) return refused('the ticket has expired: ask the owner for a new one')
  return granted(true)
}
