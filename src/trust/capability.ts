import { MeshError, granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import { capability, type Capability, type CapabilityChain, type Right } from '../../protocols/membership.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { Identity } from '../ports.ts'
import { seal, shared, unseal } from './seal.ts'

export const ALL_RIGHTS: readonly Right[] = ['join', 'host', 'publish', 'operate', 'invite']

/** Clocks of honest hosts may differ by this much. */
export const SKEW_MS = 30_000

/** A link with every field at its longest takes half of this. */
const LINK_BYTES = 1_024

/** What a chain was found to prove, by its leaf. Nothing about it can change but that it runs out. */
const found = new WeakMap<Signed, { readonly chain: CapabilityChain; readonly network: Cid; readonly owner: PeerId; readonly notBefore: Millis; readonly proven: Proven }>()

/** What a chain proves: who may do what, until when. */
export type Proven = { readonly subject: PeerId | undefined; readonly bearer: PeerId | undefined; readonly rights: readonly Right[]; readonly expires: Millis }

/**
 * Checks a capability chain, leaf first: every link signed by the subject of the one behind it, the last by the network's
 * owner, none wider than its parent, all in date. Refuses with the reason; never throws on bad input.
 */
export function proveChain(identity: Identity, network: Cid, owner: PeerId, chain: CapabilityChain, now: Millis): Verdict<Proven> {
  const links = chain.map(shared)
  const known = links[0] === undefined ? undefined : found.get(links[0])
  if (known !== undefined && known.network === network && known.owner === owner && known.notBefore <= now + SKEW_MS && known.proven.expires >= now - SKEW_MS && sameLinks(known.chain, links)) return granted(known.proven)
  let holder: PeerId = owner
  let notBefore = 0
  let rights: readonly Right[] = ALL_RIGHTS
  let leaf: Capability | undefined
  let expires = Number.MAX_SAFE_INTEGER
  for (const link of chain.toReversed()) {
    let value: Capability
    try {
      value = unseal(identity, 'capability', capability, link, LINK_BYTES).value
    } catch (error) {
      if (error instanceof MeshError) return refused(error.message)
      throw error
    }
    if (value.network !== network) return refused('the capability is for another network')
    if (value.issuer !== link.signer) return refused('the capability names an issuer that did not sign it')
    if (value.issuer !== holder) return refused(`the capability was issued by ${value.issuer}, who does not hold the right to pass on`)
    if (leaf !== undefined && !rights.includes('invite')) return refused(`${value.issuer} may not pass rights on`)
    if (value.notBefore > now + SKEW_MS) return refused('the capability is not valid yet: check this host\'s clock')
    if (value.expires < now - SKEW_MS) return refused('the capability has expired: ask for a new invite')
    // Every right implies `join`, whether a link names it or not.
    const excess = value.rights.filter(right => right !== 'join' && !rights.includes(right))
    if (excess.length > 0) return refused(`the capability grants ${excess.join(', ')}, which its issuer does not hold`)
    rights = value.rights
    expires = Math.min(expires, value.expires)
    notBefore = Math.max(notBefore, value.notBefore)
    const next = value.subject ?? value.bearer
    if (next === undefined) return refused('the capability names nobody')
    if (value.subject !== undefined && value.bearer !== undefined) return refused('the capability names both a subject and a bearer')
    holder = next
    leaf = value
  }
  if (leaf === undefined) return refused('the capability chain is empty')
  const proven: Proven = { subject: leaf.subject, bearer: leaf.bearer, rights: rights.includes('join') ? rights : ['join', ...rights], expires }
  // Opened by now, so each has one object that stands for it.
  const kept = chain.map(shared)
  if (kept[0] !== undefined) found.set(kept[0], { chain: kept, network, owner, notBefore, proven })
  return granted(proven)
}

function sameLinks(one: CapabilityChain, other: CapabilityChain): boolean {
  return one.length === other.length && one.every((link, at) => link === other[at])
}

/** Signs a capability as this peer. */
export function issue(identity: Identity, value: Omit<Capability, 'issuer'>): Signed {
  return seal(identity, 'capability', { ...value, issuer: identity.peer })
}
