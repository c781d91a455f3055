import assert from 'node:assert/strict'
import { running, started, untilReady } from './mesh.ts'

const PEERS = 20

describe('a round of asking', () => {
  it('places several instances of a block, each on another host', async () => {
    const { world, block } = await started({ peers: PEERS, weather: { delayMs: [40, 60], loss: 0, duplicate: 0 } })
    await world.run(world.now + 4_000)
    const [any] = world.peers.values()
    await world.drive(any!.catalogue.putBlock(block({ minInstances: 4, maxInstances: 6 })))
    await untilReady(world, 'b', 4)
    assert.equal(new Set(running(world, 'b').map(({ host }) => host)).size, 4)
    const steward = world.peers.get(any!.placement.stewardOf('b')!)
    const lines = steward?.placement.lastPlacement('b')?.candidates ?? []
    assert.deepEqual([...new Set(lines.flatMap(({ peer, step, ok }) => (step === 'award' && ok ? [peer] : [])))].sort(), running(world, 'b').map(({ host }) => host).sort())
    assert.equal(world.telemetry.counters.get('awards_total{accepted=true}'), 4)
  })

  it('waits for none of the few that do not answer, and tells of them', async () => {
    const { world, block } = await started({ peers: 9 })
    await world.run(world.now + 2_000)
    const [any] = world.peers.values()
    const steward = any!.placement.stewardOf('b')
    const silent = world.hosts.filter(({ peer }) => peer !== steward && peer !== any!.ports.identity.peer).slice(0, 2)
    // Nobody has noticed yet: they are asked like everybody.
    world.partition(silent, world.hosts.filter(host => !silent.includes(host)))
    await world.drive(any!.catalogue.putBlock(block({ minInstances: 2 })))
    const ms = await untilReady(world, 'b', 2)
    assert.ok(ms < 1_000, `${ms} ms`)
    const lines = world.peers.get(steward!)?.placement.lastPlacement('b')?.candidates ?? []
    const unheard = lines.filter(({ because }) => because.endsWith('others had answered before it did'))
    assert.ok(unheard.some(({ peer, ok }) => !ok && silent.some(host => host.peer === peer)), JSON.stringify(lines))
  })

  it('leaves the rest to the next one where a host that was just taken would come before the others again', async () => {
    const { world, block } = await started({ peers: 3 })
    const [any] = world.peers.values()
    await world.drive(any!.catalogue.putBlock(block({ minInstances: 7, maxInstances: 7 })))
    await untilReady(world, 'b', 7)
    const held = Map.groupBy(running(world, 'b'), ({ host }) => host)
    assert.deepEqual([...held.values()].map(({ length }) => length).sort(), [2, 2, 3])
  })
})
