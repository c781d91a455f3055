import { encode, hex } from '../../protocols/codec.ts'
import { MeshError, asMeshError, granted, isErrorCode, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { bearerBody, hello, helloBody, type CapabilityChain, type Right } from '../../protocols/membership.ts'
import { signingBytes, type Signed } from '../../protocols/signed.ts'
import { retry } from '../lib/backoff.ts'
import { hedgeWithin } from '../lib/hedge.ts'
import type { Ports, Random } from '../ports.ts'
import { issue, proveChain, SKEW_MS } from './capability.ts'
import { LINKS, readGenesis, type Membership } from './invitation.ts'
import { Roll } from './roll.ts'
import { seal, unseal } from './seal.ts'

const YEAR = 365 * 86_400_000
/** How often this peer looks whose time is up. */
const LOOK_MS = 30_000
/** For a refusal to leave before the door closes. */
const PARTING_MS = 500
/** A host under load answers later than this rarely; a lost hello must not cost the connection. */
const HELLO_MS = 2_000
/** Nothing else passes before it: a hello without an answer is said again before it is given up. */
const HELLO_AGAIN_MS = 500
const HELLOS_SAID = 3
const HELLOS = { firstMs: 100, maxMs: 500, retries: 3 }

/**
 * Decides who is one of us. On every new connection both sides prove, before anything else is said, that they know the
 * network (the handshake secret did that) and hold a capability that leads back to its owner.
 */
export class Admission {
  readonly #ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>
  readonly #owner: PeerId
  readonly #random: Random
  readonly #roll: Roll
  #membership: Membership
  #bearerKey: Uint8Array | undefined
  readonly #onGranted: (membership: Membership) => Promise<void>
  readonly #greeting = new Map<PeerId, Promise<void>>()
  /** Doors about to be closed on those who were refused. */
  readonly #closing = new Map<PeerId, () => void>()
  #cancelLook = (): void => undefined

  /** `bearerKey`: the one-time key of an invite, until the first member has made us one in our own name. */
  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>, membership: Membership, bearerKey: Uint8Array | undefined, onGranted: (membership: Membership) => Promise<void>) {
    this.#ports = ports
    this.#random = ports.random.fork('admission')
    this.#membership = membership
    this.#bearerKey = bearerKey
    this.#onGranted = onGranted
    this.#owner = readGenesis(ports.identity, membership.genesis).owner
    this.#roll = new Roll(ports, membership.network, this.#owner)
    if (bearerKey === undefined) this.#roll.learn(ports.identity.peer, membership.chain)
  }

  async start(): Promise<void> {
    const { network } = this.#ports
    await this.#roll.start()
    network.handle(hello, async (envelope, from) => this.#answer(envelope, from))
    network.onConnection((peer, direction) => {
      if (direction === 'outbound') this.#introduce(peer)
    })
    this.#look()
  }

  /** Takes nobody's time any more; what is known stays. */
  stop(): void {
    this.#cancelLook()
    this.#roll.stop()
    for (const cancel of this.#closing.values()) cancel()
  }

  get membership(): Membership {
    return this.#membership
  }

  get owner(): PeerId {
    return this.#owner
  }

  /** Rights a peer has proved; empty when it has not, or they ran out. */
  rights(peer: PeerId): readonly Right[] {
    return this.#roll.get(peer)?.rights ?? []
  }

  /** Calls `hear` with each peer that proves its membership. */
  onProved(hear: (peer: PeerId) => void): void {
    this.#roll.onLearned(hear)
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
    return shared(this.#greeting, peer, () => this.#greet(peer))
  }

  /** A lost hello is said again while the connection may still wait for it: nothing else passes before it. */
  #introduce(peer: PeerId): void {
    const { clock, telemetry } = this.#ports
    const say = (): Promise<void> => this.greet(peer).catch(error => {
      const { code, message } = asMeshError(error)
      throw new MeshError(code, message, { cause: error, retryable: code === 'DEADLINE' })
    })
    retry({ clock, random: this.#random }, HELLOS, say).catch(error => telemetry.event('warn', 'admission.refused', { peer, because: asMeshError(error).message }))
  }

  async #greet(peer: PeerId): Promise<void> {
    const { clock, network } = this.#ports
    const answer = await hedgeWithin(clock, { againMs: HELLO_AGAIN_MS, times: HELLOS_SAID, windowMs: HELLO_MS }, leftMs => network.request(peer, hello, this.#say(peer), leftMs))
    if (answer.hello === undefined) {
      const because = answer.refused?.because ?? 'no reason given'
      const code = answer.refused !== undefined && isErrorCode(answer.refused.code) ? answer.refused.code : 'NETWORK_REFUSED'
      // It could not take us in; that is no reason to shun it once somebody else has.
      if (code !== 'UNAUTHENTICATED') network.ban(peer, `it refused us: ${because}`)
      throw new MeshError(code, `${peer} refused us: ${because}`)
    }
    const verdict = this.#judge(answer.hello, peer)
    if (!verdict.ok) {
      if (!verdict.retryable) network.ban(peer, verdict.because)
      throw new MeshError(verdict.retryable ? 'UNAUTHENTICATED' : 'NETWORK_REFUSED', `${peer} is not a member: ${verdict.because}`)
    }
    if (this.#bearerKey !== undefined) await this.#enter(peer, answer.granted)
    network.admit(peer)
    await this.#roll.met(peer, verdict.value.news)
  }

  /** Takes the membership that `peer` made of our invite. */
  async #enter(peer: PeerId, chain: CapabilityChain | undefined): Promise<void> {
    const { identity } = this.#ports
    const verdict = chain === undefined ? refused('it sent none') : this.#roll.learn(identity.peer, chain)
    if (chain === undefined || !verdict.ok) throw new MeshError('NETWORK_REFUSED', `${peer} gave us no membership that holds: ${verdict.ok ? 'it sent none' : verdict.because}`)
    const membership = { ...this.#membership, chain }
    await this.#onGranted(membership)
    this.#membership = membership
    this.#bearerKey = undefined
  }

  /** Learns the members that `peer` knows. */
  pull(peer: PeerId): Promise<void> {
    return this.#roll.pull(peer)
  }

  /** Whose capability ran out is shown out, connection or not. */
  #look(): void {
    const { clock, network } = this.#ports
    this.#cancelLook = clock.after(Math.round(LOOK_MS * (0.75 + this.#random.float() / 2)), () => {
      this.#roll.forgetExpired()
      for (const peer of network.peers()) if (this.rights(peer).length === 0) network.ban(peer, 'its capability has expired: it needs a new invite')
      this.#look()
    })
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
    const { clock, network, telemetry } = this.#ports
    const verdict = this.#judge(envelope, from)
    this.#closing.get(from)?.()
    if (!verdict.ok) {
      const because = verdict.because.slice(0, 300)
      telemetry.count('admission_refused_total')
      telemetry.event('warn', 'admission.refused', { peer: from, because })
      if (verdict.retryable) return { refused: { code: 'UNAUTHENTICATED', because } }
      const cancel = clock.after(PARTING_MS, () => {
        this.#closing.delete(from)
        network.ban(from, because)
      })
      this.#closing.set(from, () => {
        cancel()
        this.#closing.delete(from)
      })
      return { refused: { code: 'FORBIDDEN', because } }
    }
    network.admit(from)
    return verdict.value.granted === undefined ? { hello: this.#say(from) } : { hello: this.#say(from), granted: verdict.value.granted }
  }

  #judge(envelope: Signed, from: PeerId): Verdict<{ readonly granted: Signed[] | undefined; readonly news: boolean }> {
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
        const learned = this.#roll.learn(from, value.chain)
        return learned.ok ? granted({ granted: undefined, news: learned.value }) : learned
      }
      if (proof.value.bearer === undefined || value.bearer === undefined) return refused('the capability belongs to somebody else')
      const vouch = unseal(identity, 'bearer', bearerBody, value.bearer, 1_024)
      if (vouch.signer !== proof.value.bearer || vouch.value.subject !== from || vouch.value.network !== value.network) return refused('the invite was not presented by its holder')
      if (Math.abs(vouch.value.issuedAt - now) > SKEW_MS) return refused('the invite was presented at another time: check the clocks of both hosts')
      return this.#adopt(from, proof.value.rights, now)
    } catch (error) {
      if (error instanceof MeshError) return refused(error.message)
      throw error
    }
  }

  /** Makes the bearer of a good invite a member in its own name, with at most our own rights. */
  #adopt(peer: PeerId, rights: readonly Right[], now: Millis): Verdict<{ readonly granted: Signed[]; readonly news: boolean }> {
    const { identity, random } = this.#ports
    const own = this.#roll.get(identity.peer)
    if (own?.rights.includes('invite') !== true) return refused('this peer may not admit new ones: dial one that may invite', true)
    const rightsGiven = rights.filter(right => own.rights.includes(right))
    // It asks again because it lost our answer, or it was a member before: nothing to add.
    const known = this.#roll.get(peer)
    if (known !== undefined && rightsGiven.every(right => known.rights.includes(right))) return granted({ granted: [...known.chain], news: false })
    if (this.#membership.chain.length >= LINKS) return refused('the chain of invitations is too long here: dial a peer nearer to the owner', true)
    const link = issue(identity, { network: this.#membership.network, subject: peer, rights: rightsGiven, notBefore: now - SKEW_MS, expires: Math.min(now + YEAR, own.expires), nonce: hex(random.bytes(8)) })
    const chain = [link, ...this.#membership.chain]
    const learned = this.#roll.learn(peer, chain)
    return learned.ok ? granted({ granted: chain, news: true }) : learned
  }
}

/** One piece of work a peer at a time: who asks meanwhile gets the same one. */
function shared(under: Map<PeerId, Promise<void>>, peer: PeerId, work: () => Promise<void>): Promise<void> {
  const known = under.get(peer)
  if (known !== undefined) return known
  const begun = work().finally(() => under.delete(peer))
  under.set(peer, begun)
  return begun
}
