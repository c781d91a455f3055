import assert from 'node:assert/strict'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import type { SimulatedHost } from '../../simulations/host.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import type { Ports } from '../../src/ports.ts'
import { Admission } from '../../src/trust/admission.ts'
import { foundNetwork, networkOf, readInvite, writeInvite, type Membership } from '../../src/trust/invitation.ts'

const HOUR = 3_600_000

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
    await world.drive(second.join([at(world, 0).host.address], new AbortController().signal), 10_000)
    const { granted } = at(world, 1).member
    assert(granted)
    assert.deepEqual([...second.rights(at(world, 1).host.peer)].sort(), ['host', 'invite', 'join', 'operate', 'publish'])
    assert.deepEqual(at(world, 1).member.ports.network.peers(), [at(world, 0).host.peer])

    // The third enters through the second, and the owner learns of it without having met it.
    const next = invited(world, 1, granted, ['join', 'host'])
    const third = await open(world, 2, next.membership, next.bearerKey)
    await world.drive(third.join([at(world, 1).host.address], new AbortController().signal), 10_000)
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
    await assert.rejects(world.drive(late.join([at(world, 0).host.address], new AbortController().signal), 10_000), { code: 'FORBIDDEN', message: /expired: ask for a new invite/ })
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
    await assert.rejects(world.drive(stranger.join([at(world, 0).host.address], new AbortController().signal), 10_000), { code: 'FORBIDDEN' })
    assert.deepEqual(owner.rights(at(world, 1).host.peer), [])
    assert.deepEqual(at(world, 0).member.ports.network.peers(), [])
  })
})
