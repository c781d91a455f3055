import assert from 'node:assert/strict'
import { encode } from '../../protocols/codec.ts'
import { capability, hello } from '../../protocols/membership.ts'
import { signingBytes, type Signed } from '../../protocols/signed.ts'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import type { SimulatedHost } from '../../simulations/host.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import type { Ports } from '../../src/ports.ts'
import { Admission } from '../../src/trust/admission.ts'
import { issue } from '../../src/trust/capability.ts'
import { foundNetwork, networkOf, readInvite, writeInvite, type Membership } from '../../src/trust/invitation.ts'
import { seal, unseal } from '../../src/trust/seal.ts'

const HOUR = 3_600_000
const never = new AbortController().signal

type Member = SimPeer & { readonly ports: Ports; admission: Admission | undefined; granted: Membership | undefined }

function village(peers: number): World<Member> {
  return new World<Member>({ seed: 11, peers, factory: async ports => ({ ports, admission: undefined, granted: undefined, inspect: () => NOTHING_TO_SEE, stop: async () => {} }) })
}

function at(world: World<Member>, index: number): { readonly member: Member; readonly host: SimulatedHost } {
  const host = world.hosts[index]
  const member = host === undefined ? undefined : world.peers.get(host.peer)
  assert(host !== undefined && member !== undefined)
  return { member, host }
}

async function open(world: World<Member>, index: number, membership: Membership, bearerKey?: Uint8Array): Promise<Admission> {
  const { member } = at(world, index)
  const admission = new Admission(member.ports, membership, bearerKey, async granted => {
    member.granted = granted
  })
  member.admission = admission
  await admission.start()
  return admission
}

function found(world: World<Member>, index: number): Membership {
  const { ports } = at(world, index).member
  return foundNetwork(ports.identity, ports.random, 'village', ports.clock.unix())
}

function invited(world: World<Member>, by: number, membership: Membership, rights: Parameters<typeof writeInvite>[3]['rights'] = ['join', 'host', 'publish', 'operate', 'invite'], validMs = HOUR): { readonly membership: Membership; readonly bearerKey: Uint8Array } {
  const { ports } = at(world, by).member
  const read = readInvite(writeInvite(ports.identity, ports.random, membership, { addresses: [], rights, now: ports.clock.unix(), validMs }))
  return { membership: { network: networkOf(read.genesis), genesis: read.genesis, secret: read.secret, chain: read.chain }, bearerKey: read.bearerKey }
}

describe('admission', () => {
  it('an invite makes a stranger a member in its own name, known to peers it never met', async () => {
    const world = village(3)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const first = invited(world, 0, home)
    const second = await open(world, 1, first.membership, first.bearerKey)
    await world.drive(second.join([at(world, 0).host.address], never), 10_000)
    const { granted } = at(world, 1).member
    assert(granted)
    assert.deepEqual([...second.rights(at(world, 1).host.peer)].sort(), ['host', 'invite', 'join', 'operate', 'publish'])
    assert.deepEqual(at(world, 1).member.ports.network.peers(), [at(world, 0).host.peer])

    // The third enters through the second, and the owner learns of it without having met it.
    const next = invited(world, 1, granted, ['join', 'host'])
    const third = await open(world, 2, next.membership, next.bearerKey)
    await world.drive(third.join([at(world, 1).host.address], never), 10_000)
    assert.equal(third.may(at(world, 2).host.peer, 'publish').ok, false)
    await world.drive(owner.pull(at(world, 1).host.peer), 10_000)
    assert.equal(owner.may(at(world, 2).host.peer, 'host').ok, true)
    assert.equal(owner.may(at(world, 2).host.peer, 'operate').ok, false)
  })

  it('a member that comes back needs no invite, and one whose capability ran out is told so', async () => {
    const world = village(2)
    await world.startAll()
    const home = found(world, 0)
    await open(world, 0, home)
    const { membership, bearerKey } = invited(world, 0, home, ['join'], 1_000)
    const late = await open(world, 1, membership, bearerKey)
    await world.run(world.now + HOUR)
    await assert.rejects(world.drive(late.join([at(world, 0).host.address], never), 10_000), { code: 'FORBIDDEN', message: /expired: ask for a new invite/ })
    assert.deepEqual(at(world, 0).member.ports.network.peers(), [])
  })

  it('whoever knows the secret but holds no capability is refused and told why, and stays outside', async () => {
    const world = village(3)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    // A stranger's own network under the same secret, as a leaked key file would allow.
    const forged: Membership = { ...found(world, 1), secret: home.secret }
    const stranger = await open(world, 1, { ...forged, network: home.network, genesis: home.genesis })
    await assert.rejects(world.drive(stranger.join([at(world, 0).host.address], never), 10_000), { code: 'FORBIDDEN' })
    assert.deepEqual(owner.rights(at(world, 1).host.peer), [])
    assert.deepEqual(at(world, 0).member.ports.network.peers(), [])
  })

  it('whoever is refused for good is shut out, unless it comes back with something better before the door closes', async () => {
    const world = village(2)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const { network, identity, clock } = at(world, 1).member.ports
    const to = at(world, 0).host.peer
    await world.drive(network.dial([at(world, 0).host.address], never), 10_000)
    const say = (chain: Membership['chain']): Promise<{ readonly refused?: unknown }> =>
      world.drive(network.request(to, hello, seal(identity, 'hello', { network: home.network, peer: identity.peer, to, chain, issuedAt: clock.unix(), protocolMajor: 1 })), 10_000)
    const good = [issue(at(world, 0).member.ports.identity, { network: home.network, subject: identity.peer, rights: ['host'], notBefore: clock.unix(), expires: clock.unix() + HOUR, nonce: 'n' }), ...home.chain]
    assert.partialDeepStrictEqual(await say(home.chain), { refused: { code: 'FORBIDDEN', because: 'the capability belongs to somebody else' } })
    assert.equal((await say(good)).refused, undefined)
    await world.run(world.now + 2_000)
    assert.deepEqual([owner.rights(identity.peer), at(world, 0).member.ports.network.peers()], [['join', 'host'], [identity.peer]])
    assert.notEqual((await say(home.chain)).refused, undefined)
    await world.run(world.now + 2_000)
    assert.deepEqual(at(world, 0).member.ports.network.peers(), [])
  })

  it('a peer that may not admit says so, and is no enemy of whom it sent away', async () => {
    const world = village(3)
    await world.startAll()
    const home = found(world, 0)
    await open(world, 0, home)
    const guest = invited(world, 0, home, ['join'])
    const second = await open(world, 1, guest.membership, guest.bearerKey)
    await world.drive(second.join([at(world, 0).host.address], never), 10_000)
    const next = invited(world, 0, home, ['join', 'host'])
    const third = await open(world, 2, next.membership, next.bearerKey)
    await assert.rejects(world.drive(third.join([at(world, 1).host.address], never), 10_000), { code: 'UNAUTHENTICATED', message: /dial one that may invite/ })
    await world.drive(third.join([at(world, 0).host.address], never), 10_000)
    await world.drive(third.greet(at(world, 1).host.peer), 10_000)
    assert.deepEqual(second.rights(at(world, 2).host.peer), ['join', 'host'])
    assert.equal(at(world, 2).member.ports.network.peers().length, 2)
  })

  it('an answer that makes nobody a member lets nobody in', async () => {
    const world = village(2)
    await world.startAll()
    const home = found(world, 0)
    const { membership, bearerKey } = invited(world, 0, home)
    const joiner = await open(world, 1, membership, bearerKey)
    const { ports } = at(world, 0).member
    // A member that answers, and keeps the grant to itself.
    ports.network.handle(hello, async (_, from) => ({ hello: seal(ports.identity, 'hello', { network: home.network, peer: ports.identity.peer, to: from, chain: home.chain, issuedAt: ports.clock.unix(), protocolMajor: 1 }) }))
    await assert.rejects(world.drive(joiner.join([at(world, 0).host.address], never), 10_000), { code: 'NETWORK_REFUSED', message: /no membership that holds/ })
    assert.deepEqual([joiner.rights(at(world, 1).host.peer), at(world, 1).member.ports.network.peers()], [[], []])
  })

  it('a hello counts once, now, for one peer: not later, not elsewhere, not from another', async () => {
    const world = village(3)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const [mine, theirs] = [at(world, 1).member.ports, at(world, 2).member.ports]
    const chain = [issue(at(world, 0).member.ports.identity, { network: home.network, subject: mine.identity.peer, rights: ['host'], notBefore: mine.clock.unix(), expires: mine.clock.unix() + HOUR, nonce: 'n' }), ...home.chain]
    const say = (to: string, peer = mine.identity.peer) => seal(mine.identity, 'hello', { network: home.network, peer, to, chain, issuedAt: mine.clock.unix(), protocolMajor: 1 })
    const to = at(world, 0).host.peer
    const old = say(to)
    const tell = async (ports: Ports, envelope: Signed): Promise<string> => {
      await world.drive(ports.network.dial([at(world, 0).host.address], never), 10_000)
      return (await world.drive(ports.network.request(to, hello, envelope), 10_000)).refused?.because ?? 'welcome'
    }
    assert.match(await tell(theirs, old), /signed by somebody else/)
    await world.run(world.now + 60_000)
    assert.match(await tell(mine, old), /30 s off/)
    assert.match(await tell(mine, say(at(world, 2).host.peer)), /meant for somebody else/)
    assert.match(await tell(mine, seal(mine.identity, 'capability', { x: 1 })), /expected a signed hello/)
    assert.match(await tell(mine, say(to)), /welcome/)
    assert.deepEqual(owner.rights(mine.identity.peer), ['join', 'host'])
  })

  it('the word of an invite holds for whom it names, when it was given', async () => {
    const world = village(3)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const { membership, bearerKey } = invited(world, 0, home)
    const { identity, clock, network } = at(world, 1).member.ports
    const [invitation] = membership.chain
    assert(invitation)
    const bearer = unseal(identity, 'capability', capability, invitation).value.bearer ?? ''
    const attempt = async (subject: string, issuedAt: number): Promise<string> => {
      const payload = encode({ network: home.network, subject, issuedAt })
      const vouch = { domain: 'bearer', payload, signer: bearer, signature: identity.signWith(bearerKey, signingBytes('bearer', payload)) }
      await world.drive(network.dial([at(world, 0).host.address], never), 10_000)
      const envelope = seal(identity, 'hello', { network: home.network, peer: identity.peer, to: at(world, 0).host.peer, chain: membership.chain, bearer: vouch, issuedAt: clock.unix(), protocolMajor: 1 })
      return (await world.drive(network.request(at(world, 0).host.peer, hello, envelope), 10_000)).refused?.because ?? 'welcome'
    }
    assert.match(await attempt(at(world, 2).host.peer, clock.unix()), /not presented by its holder/)
    assert.match(await attempt(identity.peer, clock.unix() - HOUR), /presented at another time/)
    assert.deepEqual(owner.rights(identity.peer), [])
    assert.equal(await attempt(identity.peer, clock.unix()), 'welcome')
  })

  it('a member whose time is up is shown out while it is connected', async () => {
    const world = village(2)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const { ports: { identity: issuer, clock } } = at(world, 0).member
    const guest = at(world, 1).host.peer
    const chain = [issue(issuer, { network: home.network, subject: guest, rights: ['host'], notBefore: clock.unix(), expires: clock.unix() + 120_000, nonce: 'n' }), ...home.chain]
    const second = await open(world, 1, { ...home, chain })
    await world.drive(second.join([at(world, 0).host.address], never), 10_000)
    await world.run(world.now + 60_000)
    assert.deepEqual(at(world, 0).member.ports.network.peers(), [guest])
    await world.run(world.now + 180_000)
    assert.deepEqual([owner.rights(guest), at(world, 0).member.ports.network.peers()], [[], []])
  })

  it('who joined elsewhere is heard of without being met, and known after a restart', async () => {
    const world = village(3)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const first = invited(world, 0, home)
    const second = await open(world, 1, first.membership, first.bearerKey)
    await world.drive(second.join([at(world, 0).host.address], never), 10_000)
    const { granted } = at(world, 1).member
    assert(granted)
    const next = invited(world, 1, granted, ['host'])
    const third = await open(world, 2, next.membership, next.bearerKey)
    await world.drive(third.join([at(world, 1).host.address], never), 10_000)
    const stranger = at(world, 2).host.peer
    assert.deepEqual(owner.rights(stranger), [])
    await world.run(world.now + 45_000)
    assert.deepEqual(owner.rights(stranger), ['join', 'host'])

    const { host } = at(world, 0)
    await world.run(world.now + 5_000)
    world.crash(host)
    await world.drive(world.start(host))
    const reborn = await open(world, 0, home)
    assert.deepEqual(reborn.rights(stranger), ['join', 'host'])
  })

  it('a members file that cannot be read is no reason to stay away', async () => {
    const world = village(1)
    await world.startAll()
    const home = found(world, 0)
    await world.drive(at(world, 0).member.ports.journal.set('members', new Uint8Array([1, 2, 3])))
    const owner = await open(world, 0, home)
    assert.equal(owner.may(at(world, 0).host.peer, 'operate').ok, true)
  })

  it('an invite with more rights adds them to a member that has fewer', async () => {
    const world = village(2)
    await world.startAll()
    const home = found(world, 0)
    const owner = await open(world, 0, home)
    const guest = at(world, 1).host.peer
    const few = invited(world, 0, home, ['join'])
    const second = await open(world, 1, few.membership, few.bearerKey)
    await world.drive(second.join([at(world, 0).host.address], never), 10_000)
    assert.deepEqual(owner.rights(guest), ['join'])
    const more = invited(world, 0, home, ['join', 'publish'])
    const again = new Admission(at(world, 1).member.ports, more.membership, more.bearerKey, async () => {})
    await world.drive(again.greet(at(world, 0).host.peer), 10_000)
    assert.deepEqual([owner.rights(guest), again.rights(guest)], [['join', 'publish'], ['join', 'publish']])
  })
})
