import { check, encode, decode } from '../../protocols/codec.ts'
import { MeshError, asMeshError, granted, isErrorCode, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { bearerBody, capabilityChain, hello, helloBody, membersPull, type CapabilityChain, type Right } from '../../protocols/membership.ts'
import { signingBytes, type Signed } from '../../protocols/signed.ts'
import { z } from 'zod'
import type { Ports } from '../ports.ts'
import { issue, proveChain, SKEW_MS } from './capability.ts'
import { readGenesis, type Membership } from './invitation.ts'
import { seal, unseal } from './seal.ts'
import { hex } from '../../protocols/codec.ts'

const YEAR = 365 * 86_400_000
const MEMBERS_BOUND = 20_000
const membersFile = z.object({ members: z.array(z.object({ peer: z.string(), chain: capabilityChain })) })

type Member = { readonly chain: CapabilityChain; readonly rights: readonly Right[]; readonly expires: Millis }

/**
 * Decides who is one of us. On every new connection both sides prove, before anything else is said, that they know the
 * network (the handshake secret did that) and hold a capability that leads back to its owner.
 */
export class Admission {
  readonly #ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>
  readonly #owner: PeerId
  readonly #members = new Map<PeerId, Member>()
  #membership: Membership
  #bearerKey: Uint8Array | undefined
  #onGranted: (membership: Membership) => Promise<void>
  #pulling: Promise<void> | undefined
  readonly #greeting = new Map<PeerId, Promise<void>>()

  /** `bearerKey`: the one-time key of an invite, until the first member has made us one in our own name. */
  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>, membership: Membership, bearerKey: Uint8Array | undefined, onGranted: (membership: Membership) => Promise<void>) {
    this.#ports = ports
    this.#membership = membership
    this.#bearerKey = bearerKey
    this.#onGranted = onGranted
    this.#owner = readGenesis(ports.identity, membership.genesis).owner
    if (bearerKey === undefined) this.#remember(ports.identity.peer, membership.chain)
  }

  async start(): Promise<void> {
    const { network, journal } = this.#ports
    const saved = await journal.get('members')
    if (saved !== undefined) for (const { peer, chain } of decode(membersFile, saved, 64 * 1_048_576, 'members').members) this.#learn(peer, chain)
    network.handle(hello, async (envelope, from) => this.#answer(envelope, from))
    network.handle(membersPull, async ({ after }) => this.#page(after))
    network.onConnection((peer, direction) => {
      if (direction === 'outbound') void this.greet(peer).catch(error => this.#ports.telemetry.event('warn', 'admission.refused', { peer, because: asMeshError(error).message }))
    })
  }

  get membership(): Membership {
    return this.#membership
  }

  get owner(): PeerId {
    return this.#owner
  }

  /** Rights a peer has proved; empty when it has not, or they ran out. */
  rights(peer: PeerId): readonly Right[] {
    const member = this.#members.get(peer)
    return member === undefined || member.expires < this.#ports.clock.unix() - SKEW_MS ? [] : member.rights
  }

  /** May `peer` do this here? The refusal says what it lacks. */
  may(peer: PeerId, right: Right): Verdict<true> {
    const rights = this.rights(peer)
    if (rights.includes(right)) return granted(true)
    return refused(rights.length === 0 ? `${peer} has not proved membership of this network` : `${peer} holds ${rights.join(', ')} but not ${right}`, rights.length === 0)
  }

  /** Dials and waits until the peer reached has taken us in. Throws PEER_UNREACHABLE, NETWORK_REFUSED or FORBIDDEN. */
  async join(addresses: readonly string[], signal: AbortSignal): Promise<PeerId> {
    const peer = await this.#ports.network.dial(addresses, signal)
    await this.greet(peer)
    return peer
  }

  /** Says hello to a connected peer and checks what it answers. Throws NETWORK_REFUSED or FORBIDDEN with its reason. */
  greet(peer: PeerId): Promise<void> {
    const under = this.#greeting.get(peer) ?? this.#greet(peer).finally(() => this.#greeting.delete(peer))
    this.#greeting.set(peer, under)
    return under
  }

  async #greet(peer: PeerId): Promise<void> {
    const { network, identity } = this.#ports
    const answer = await network.request(peer, hello, this.#say(peer))
    if (answer.hello === undefined) {
      const because = answer.refused?.because ?? 'no reason given'
      const code = answer.refused !== undefined && isErrorCode(answer.refused.code) ? answer.refused.code : 'NETWORK_REFUSED'
      network.ban(peer, because)
      throw new MeshError(code, `${peer} refused us: ${because}`)
    }
    const verdict = this.#judge(answer.hello, peer)
    if (!verdict.ok) {
      network.ban(peer, verdict.because)
      throw new MeshError('NETWORK_REFUSED', `${peer} is not a member: ${verdict.because}`)
    }
    if (this.#bearerKey !== undefined && answer.granted !== undefined) {
      const proof = proveChain(identity, this.#membership.network, this.#owner, answer.granted, this.#ports.clock.unix())
      if (proof.ok && proof.value.subject === identity.peer) {
        const membership = { ...this.#membership, chain: answer.granted }
        await this.#onGranted(membership)
        this.#membership = membership
        this.#bearerKey = undefined
        this.#remember(identity.peer, answer.granted)
      }
    }
    network.admit(peer)
    await this.pull(peer).catch(error => this.#ports.telemetry.event('warn', 'members.pull-failed', { peer, because: asMeshError(error).message }))
  }

  /** Learns the members that `peer` knows; each proves itself, so it does not matter who says it. */
  async pull(peer: PeerId): Promise<void> {
    this.#pulling ??= this.#pullAll(peer).finally(() => (this.#pulling = undefined))
    await this.#pulling
  }

  async #pullAll(peer: PeerId): Promise<void> {
    let after: PeerId | undefined
    let learned = false
    for (let page = 0; page < 200; page++) {
      const answer = await this.#ports.network.request(peer, membersPull, after === undefined ? {} : { after })
      for (const member of answer.members) learned = this.#learn(member.peer, member.chain) || learned
      if (answer.next === undefined || answer.next === after) break
      after = answer.next
    }
    if (learned) await this.#save()
  }

  #say(to: PeerId): Signed {
    const { identity, clock } = this.#ports
    const { network, chain } = this.#membership
    const issuedAt = clock.unix()
    return seal(identity, 'hello', { network, peer: identity.peer, to, chain, bearer: this.#vouch(issuedAt), issuedAt, protocolMajor: 1 })
  }

  #vouch(issuedAt: Millis): Signed | undefined {
    if (this.#bearerKey === undefined) return undefined
    const { identity } = this.#ports
    const proof = proveChain(identity, this.#membership.network, this.#owner, this.#membership.chain, issuedAt)
    if (!proof.ok || proof.value.bearer === undefined) return undefined
    const payload = encode({ network: this.#membership.network, subject: identity.peer, issuedAt })
    return { domain: 'bearer', payload, signer: proof.value.bearer, signature: identity.signWith(this.#bearerKey, signingBytes('bearer', payload)) }
  }

  async #answer(envelope: Signed, from: PeerId): Promise<{ hello?: Signed; granted?: Signed[]; refused?: { code: string; because: string } }> {
    const verdict = this.#judge(envelope, from)
    if (!verdict.ok) {
      this.#ports.telemetry.count('admission_refused_total')
      this.#ports.telemetry.event('warn', 'admission.refused', { peer: from, because: verdict.because })
      // Time for the answer to leave before the door closes.
      this.#ports.clock.after(500, () => this.#ports.network.ban(from, verdict.because))
      return { refused: { code: 'FORBIDDEN', because: verdict.because } }
    }
    await this.#save()
    this.#ports.network.admit(from)
    return verdict.value.granted === undefined ? { hello: this.#say(from) } : { hello: this.#say(from), granted: verdict.value.granted }
  }

  #judge(envelope: Signed, from: PeerId): Verdict<{ readonly granted: Signed[] | undefined }> {
    const { identity, clock } = this.#ports
    const now = clock.unix()
    try {
      const { value, signer } = unseal(identity, 'hello', helloBody, envelope, 32_768)
      if (signer !== from || value.peer !== from) return refused('the hello was signed by somebody else')
      if (value.to !== identity.peer) return refused('the hello was meant for somebody else')
      if (Math.abs(value.issuedAt - now) > SKEW_MS) return refused('the hello is more than 30 s off: check the clocks of both hosts')
      if (value.network !== this.#membership.network) return refused('you belong to another network')
      if (value.protocolMajor !== 1) return refused(`you speak protocol ${value.protocolMajor}, we speak 1: upgrade the older side`)
      const proof = proveChain(identity, value.network, this.#owner, value.chain, now)
      if (!proof.ok) return proof
      if (proof.value.subject === from) {
        this.#remember(from, value.chain)
        return granted({ granted: undefined })
      }
      if (proof.value.bearer === undefined || value.bearer === undefined) return refused('the capability belongs to somebody else')
      const vouch = unseal(identity, 'bearer', bearerBody, value.bearer, 1_024)
      if (vouch.signer !== proof.value.bearer || vouch.value.subject !== from || vouch.value.network !== value.network) return refused('the invite was not presented by its holder')
      return this.#adopt(from, proof.value.rights, now)
    } catch (error) {
      if (error instanceof MeshError) return refused(error.message)
      throw error
    }
  }

  /** Makes the bearer of a good invite a member in its own name, with at most our own rights. */
  #adopt(peer: PeerId, rights: readonly Right[], now: Millis): Verdict<{ readonly granted: Signed[] }> {
    const mine = this.rights(this.#ports.identity.peer)
    if (!mine.includes('invite')) return refused('this peer may not admit new ones: dial one that may invite', true)
    const known = this.#members.get(peer)
    if (known !== undefined && known.expires > now) return granted({ granted: [...known.chain] })
    if (this.#membership.chain.length >= 8) return refused('the chain of invitations is too long: ask the owner for an invite')
    const link = issue(this.#ports.identity, {
      network: this.#membership.network,
      subject: peer,
      rights: rights.filter(right => mine.includes(right)),
      notBefore: now - SKEW_MS,
      expires: Math.min(now + YEAR, this.#members.get(this.#ports.identity.peer)?.expires ?? now),
      nonce: hex(this.#ports.random.bytes(8)),
    })
    const chain = [link, ...this.#membership.chain]
    this.#remember(peer, chain)
    return granted({ granted: chain })
  }

  #learn(peer: PeerId, chain: CapabilityChain): boolean {
    if (this.#members.has(peer)) return false
    const proof = proveChain(this.#ports.identity, this.#membership.network, this.#owner, chain, this.#ports.clock.unix())
    if (!proof.ok || proof.value.subject !== peer) return false
    return this.#remember(peer, chain)
  }

  #remember(peer: PeerId, chain: CapabilityChain): boolean {
    const proof = proveChain(this.#ports.identity, this.#membership.network, this.#owner, chain, this.#ports.clock.unix())
    if (!proof.ok || (!this.#members.has(peer) && this.#members.size >= MEMBERS_BOUND)) return false
    this.#members.set(peer, { chain, rights: proof.value.rights, expires: proof.value.expires })
    return true
  }

  #page(after: PeerId | undefined): { members: { peer: PeerId; chain: Signed[] }[]; next?: PeerId } {
    const ids = [...this.#members.keys()].sort().filter(peer => after === undefined || peer > after)
    const members = ids.slice(0, 128).flatMap(peer => {
      const member = this.#members.get(peer)
      return member === undefined ? [] : [{ peer, chain: [...member.chain] }]
    })
    const last = members.at(-1)?.peer
    return ids.length > 128 && last !== undefined ? { members, next: last } : { members }
  }

  async #save(): Promise<void> {
    const members = [...this.#members].map(([peer, { chain }]) => ({ peer, chain }))
    await this.#ports.journal.set('members', encode(check(membersFile, { members }, 'members')))
  }
}
