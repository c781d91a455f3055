import assert from 'node:assert/strict'
import { ready, running, started, untilReady, type HostingPeer } from './mesh.ts'
import type { World } from '../../simulations/world.ts'
import type { SimulatedHost } from '../../simulations/host.ts'

function peerOf(world: World<HostingPeer>, index: number): HostingPeer {
  const peer = world.peers.get(world.hosts[index]!.peer)
  assert.ok(peer)
  return peer
}

function hostOf(world: World<HostingPeer>, peer: string | undefined): SimulatedHost {
  const host = world.hosts.find(host => host.peer === peer)
  assert.ok(host)
  return host
}

describe('placing', () => {
  it('a new block gets its instances, spread over hosts, in well under a second', async () => {
    const { world, block } = await started({ peers: 5 })
    await world.drive(peerOf(world, 0).catalogue.putBlock(block({ minInstances: 3 })))
    const ms = await untilReady(world, 'b', 3)
    assert.equal(new Set(running(world, 'b').map(({ host }) => host)).size, 3)
    assert.ok(ms < 2_000, `${ms} ms`)
    await world.run(world.now + 60_000)
    assert.equal(ready(world, 'b'), 3)
  })

  it('the host of an instance dies, and within five seconds another one answers', async () => {
    const slowest: number[] = []
    for (const seed of [1, 2, 3, 4]) {
      const { world, block } = await started({ peers: 4, seed })
      await world.drive(peerOf(world, 0).catalogue.putBlock(block()))
      await untilReady(world, 'b', 1)
      await world.run(world.now + 3_000)
      const [before] = running(world, 'b')
      world.crash(hostOf(world, before?.host), seed % 2 === 0)
      slowest.push(await untilReady(world, 'b', 1))
      assert.notEqual(running(world, 'b')[0]?.instance, before?.instance)
    }
    assert.ok(Math.max(...slowest) <= 5_000, `failovers took ${slowest.join(', ')} ms`)
  })

  it('a steward dies: its successor adopts every instance under the next epoch, and none stops serving', async () => {
    const { world, block } = await started({ peers: 6 })
    await world.drive(peerOf(world, 0).catalogue.putBlock(block({ minInstances: 2 })))
    await untilReady(world, 'b', 2)
    await world.run(world.now + 5_000)
    const steward = peerOf(world, 0).placement.stewardOf('b')
    const before = running(world, 'b').filter(({ host }) => host !== steward)
    world.crash(hostOf(world, steward))
    await world.run(world.now + 6_000)
    const after = running(world, 'b')
    assert.equal(after.filter(({ state }) => state === 'ready').length, 2)
    for (const { instance, epoch } of before) {
      const adopted = after.find(one => one.instance === instance)
      assert.equal(adopted?.state, 'ready')
      assert.ok(adopted.epoch > epoch)
    }
  })

  it('a scaled block grows and shrinks, and a removed one goes', async () => {
    const { world, block } = await started({ peers: 4 })
    const { catalogue } = peerOf(world, 0)
    await world.drive(catalogue.putBlock(block()))
    await untilReady(world, 'b', 1)
    await world.drive(catalogue.putBlock(block({ minInstances: 3, revision: 1 })))
    await untilReady(world, 'b', 3)
    await world.drive(catalogue.putBlock(block({ minInstances: 1, revision: 2 })))
    await untilReady(world, 'b', 1)
    await world.run(world.now + 15_000)
    assert.equal(ready(world, 'b'), 1)
    await world.drive(catalogue.withdrawBlock('b'))
    await world.run(world.now + 15_000)
    assert.deepEqual(running(world, 'b'), [])
    for (const { placement } of world.peers.values()) assert.deepEqual(placement.promised(), [])
  })

  it('a changed block is rolled out one instance at a time, its least always ready, and a scaled one is not', async () => {
    const { world, block } = await started({ peers: 4 })
    const { catalogue } = peerOf(world, 0)
    await world.drive(catalogue.putBlock(block({ minInstances: 2, maxInstances: 2 })))
    await untilReady(world, 'b', 2)
    const before = running(world, 'b').map(({ instance }) => instance)
    await world.drive(catalogue.putBlock(block({ minInstances: 2, maxInstances: 3, revision: 1 })))
    await world.run(world.now + 10_000)
    assert.deepEqual(running(world, 'b').map(({ instance }) => instance), before)
    await world.drive(catalogue.putBlock(block({ minInstances: 2, maxInstances: 2, parameters: { threshold: 2 }, revision: 2 })))
    const replaced = (): boolean => {
      const now = running(world, 'b')
      assert.ok(now.filter(({ state }) => state === 'ready').length >= 2 && now.filter(({ state }) => state !== 'draining').length <= 3, JSON.stringify(now))
      return now.length === 2 && now.every(({ instance }) => !before.includes(instance))
    }
    const from = world.now
    while (!replaced()) {
      assert.ok(world.now - from < 30_000, JSON.stringify(running(world, 'b')))
      await world.run(world.now + 10)
    }
  })

  it('a rollout that cannot start leaves the old instances answering, and the steward that follows goes on with it', async () => {
    const { world, block } = await started({ peers: 5 })
    const { catalogue } = peerOf(world, 0)
    await world.drive(catalogue.putBlock(block()))
    await untilReady(world, 'b', 1)
    const [before] = running(world, 'b')
    await world.drive(catalogue.putBlock(block({ parameters: { a: 1 }, labels: { region: 'nowhere' }, revision: 1 })))
    await world.run(world.now + 20_000)
    assert.deepEqual(running(world, 'b').map(({ instance, state }) => [instance, state]), [[before?.instance, 'ready']])
    await world.drive(catalogue.putBlock(block({ parameters: { a: 1 }, revision: 2 })))
    const steward = peerOf(world, 0).placement.stewardOf('b')
    if (steward !== before?.host && steward !== world.hosts[0]!.peer) world.crash(hostOf(world, steward))
    await world.run(world.now + 20_000)
    const now = running(world, 'b')
    assert.deepEqual(now.map(({ state }) => state), ['ready'])
    assert.notEqual(now[0]?.instance, before?.instance)
  })

  it('both sides of a partition serve; when it heals the surplus is drained', async () => {
    const { world, block } = await started({ peers: 6 })
    await world.drive(peerOf(world, 0).catalogue.putBlock(block({ minInstances: 2 })))
    await untilReady(world, 'b', 2)
    await world.run(world.now + 3_000)
    const hosts = new Set(running(world, 'b').map(({ host }) => host))
    const [with_, without] = [world.hosts.filter(({ peer }) => hosts.has(peer)), world.hosts.filter(({ peer }) => !hosts.has(peer))]
    const heal = world.partition(with_, without)
    await world.run(world.now + 45_000)
    assert.equal(ready(world, 'b'), 4, 'two on each side')
    heal()
    await world.run(world.now + 40_000)
    assert.equal(ready(world, 'b'), 2)
    assert.equal(new Set(running(world, 'b').map(({ epoch }) => epoch)).size, 1)
  })

  it('a host that restarts resumes what it had promised, under the same contract', async () => {
    const { world, block } = await started({ peers: 1 })
    await world.drive(peerOf(world, 0).catalogue.putBlock(block({ minInstances: 2 })))
    await untilReady(world, 'b', 2)
    const before = running(world, 'b').map(({ instance }) => instance)
    const host = world.hosts[0]!
    world.crash(host)
    await world.drive(world.start(host))
    await untilReady(world, 'b', 2)
    await world.run(world.now + 30_000)
    assert.deepEqual(running(world, 'b').filter(({ state }) => state === 'ready').map(({ instance }) => instance), before)
  })

  it('an instance whose steward died serves on while no successor can be found', async () => {
    const { world, block } = await started({ peers: 2 })
    await world.drive(peerOf(world, 0).catalogue.putBlock(block()))
    await untilReady(world, 'b', 1)
    const [one] = running(world, 'b')
    const host = hostOf(world, one?.host)
    const other = world.hosts.find(each => each !== host)!
    world.crash(other, true)
    await world.run(world.now + 120_000)
    assert.deepEqual(running(world, 'b').map(({ instance, state }) => [instance, state]), [[one?.instance, 'ready']])
  })

  it('explains who would be asked, who bids what and who refuses why, and reserves nothing', async () => {
    const { world, block } = await started({ peers: 4 })
    const before = [...world.peers.values()].map(({ placement }) => placement.free())
    const explanation = await world.drive(peerOf(world, 1).placement.explain(block({ needs: { cpuMilli: 1_000, memoryMb: 512, diskMb: 0, gpus: 0, gpuMemoryMb: 0 } })))
    assert.ok(explanation.chosen !== undefined)
    assert.equal(explanation.candidates.filter(({ step, ok }) => step === 'bid' && ok).length, 4)
    assert.ok(explanation.candidates.some(({ step, peer }) => step === 'post_dry_run' && peer === explanation.chosen))
    assert.deepEqual([...world.peers.values()].map(({ placement }) => placement.free()), before)
    const nowhere = await world.drive(peerOf(world, 1).placement.explain(block({ labels: { region: 'eu' } })))
    assert.equal(nowhere.chosen, undefined)
    assert.ok(nowhere.candidates.every(({ because }) => /no label region/.test(because)))
    const large = await world.drive(peerOf(world, 1).placement.explain(block({ runtime: { name: 'container' } })))
    assert.ok(large.candidates.every(({ because }) => /no container runtime/.test(because)))
  })

  it('through loss, duplicates, crashes and partitions no ledger is over-promised and every block comes back', async () => {
    for (const seed of [11, 12, 13]) {
      const { world, block } = await started({ peers: 8, seed, weather: { delayMs: [1, 40], loss: 0.05, duplicate: 0.05 } })
      for (let at = 0; at < 6; at += 1) await world.drive(peerOf(world, 0).catalogue.putBlock(block({ blockId: `b${at}`, minInstances: 1 + (at % 3), needs: { cpuMilli: 1_500, memoryMb: 1_024, diskMb: 0, gpus: 0, gpuMemoryMb: 0 } })))
      await world.run(world.now + 5_000)
      for (let round = 0; round < 5; round += 1) {
        const victim = world.hosts[(seed + round * 3) % 8]!
        if (victim.running) world.crash(victim, round % 2 === 0)
        const heal = round === 2 ? world.partition(world.hosts.slice(0, 3), world.hosts.slice(3)) : undefined
        await world.run(world.now + 4_000 + round * 700)
        heal?.()
        world.restart(victim)
      }
      await world.settle(60_000)
      await world.run(world.now + 30_000)
      for (let at = 0; at < 6; at += 1) assert.equal(ready(world, `b${at}`), 1 + (at % 3), `b${at} of seed ${seed}`)
    }
  })
})
