import assert from 'node:assert/strict'
import { ready, running, started, untilReady, type HostingPeer } from './mesh.ts'
import type { World } from '../../simulations/world.ts'

function peerOf(world: World<HostingPeer>, index: number): HostingPeer {
  const peer = world.peers.get(world.hosts[index]!.peer)
  assert.ok(peer)
  return peer
}

const promised = (world: World<HostingPeer>): number => [...world.peers.values()].reduce((sum, { placement }) => sum + placement.promised().length, 0)

describe('placing several blocks together', () => {
  it('puts each on the host named for it, and their stewards take over without placing any again', async () => {
    const { world, block } = await started({ peers: 5 })
    const blocks = [0, 1, 2].map(at => block({ blockId: `stage-${at}` }))
    const asker = peerOf(world, 0)
    const members = blocks.map((one, at) => ({ block: one, host: world.hosts[at + 1]!.peer }))
    const { verdict } = await world.drive(asker.placement.placeTogether(members, 1_700_000_000))
    assert(verdict.ok)
    await world.run(world.now + 1_500)
    for (const one of blocks) await world.drive(asker.catalogue.putBlock(one))
    await world.run(world.now + 60_000)
    for (const { block: { blockId }, host } of members) {
      const [only, second] = running(world, blockId)
      assert.equal(only?.host, host)
      assert.equal(only.state, 'ready')
      assert.equal(second, undefined)
      assert(only.epoch > 1_700_000_000, 'its steward has taken it over')
    }
  })

  it('places none when one host has no room, gives everything back and says who refused', async () => {
    const { world, block } = await started({ peers: 4 })
    const asker = peerOf(world, 0)
    const members = [block({ blockId: 'stage-0' }), block({ blockId: 'stage-1', needs: { ...block().needs, memoryMb: 100_000_000 } }), block({ blockId: 'stage-2' })].map((one, at) => ({ block: one, host: world.hosts[at]!.peer }))
    const { verdict, refusers } = await world.drive(asker.placement.placeTogether(members, 1))
    assert(!verdict.ok)
    assert.deepEqual(refusers.map(({ host }) => host), [world.hosts[1]!.peer])
    await world.run(world.now + 500)
    assert.equal(promised(world), 0)
    assert.deepEqual(['stage-0', 'stage-1', 'stage-2'].flatMap(id => running(world, id)), [])
  })

  it('places none when one host is gone, whatever the others have promised', async () => {
    const { world, block } = await started({ peers: 4 })
    const asker = peerOf(world, 0)
    const members = [1, 2, 3].map(at => ({ block: block({ blockId: `stage-${at}` }), host: world.hosts[at]!.peer }))
    world.crash(world.hosts[2]!)
    const { verdict, refusers } = await world.drive(asker.placement.placeTogether(members, 1))
    assert(!verdict.ok)
    assert.deepEqual(refusers.map(({ host }) => host), [world.hosts[2]!.peer])
    await world.run(world.now + 500)
    assert.equal(promised(world), 0)
  })

  it('never puts two instances of one stage on one host', async () => {
    const { world, block } = await started({ peers: 3 })
    const asker = peerOf(world, 0)
    // One more than there are hosts: it stays wanted.
    await world.drive(asker.catalogue.putBlock(block({ runtime: { name: 'llm' }, parameters: { first: 0, end: 1, layers: 1, vocab: 8, contextTokens: 8, kvTokens: 8, layerMs: 1, positionMs: 1 }, minInstances: 4, maxInstances: 4 })))
    await world.run(world.now + 20_000)
    assert.equal(ready(world, 'b'), 3)
    const hosts = running(world, 'b').map(({ host }) => host)
    assert.equal(new Set(hosts).size, hosts.length)
  })

  it('works again under the same names after the blocks were removed', async () => {
    const { world, block } = await started({ peers: 3 })
    const asker = peerOf(world, 0)
    const one = block({ blockId: 'stage-0' })
    const place = (epoch: number) => world.drive(asker.placement.placeTogether([{ block: one, host: world.hosts[1]!.peer }], epoch))
    assert((await place(100)).verdict.ok)
    await world.run(world.now + 1_000)
    await world.drive(asker.catalogue.putBlock(one))
    await untilReady(world, 'stage-0', 1)
    await world.drive(asker.catalogue.withdrawBlock('stage-0'))
    await untilReady(world, 'stage-0', 0)
    assert.equal((await place(100)).verdict.ok, false)
    assert.equal((await place(500)).verdict.ok, true)
  })
})
