import assert from 'node:assert/strict'
import { livenessTopic } from '../../protocols/capacity.ts'
import { NOTHING_TO_SEE, viewsConverge } from '../../simulations/checkers.ts'
import { World, type SimPeer } from '../../simulations/world.ts'
import { Capacity, CAPACITY, type CapacityConfig } from '../../src/capacity/capacity.ts'
import { seal } from '../../src/trust/seal.ts'
import { enter } from '../placement/mesh.ts'

class Watcher implements SimPeer {
  readonly capacity: Capacity
  readonly heard: { readonly at: number; readonly peer: string; readonly what: string }[] = []

  constructor(capacity: Capacity) {
    this.capacity = capacity
  }

  inspect() {
    return { ...NOTHING_TO_SEE, live: this.capacity.live() }
  }

  stop(): Promise<void> {
    return this.capacity.stop()
  }
}

const FREE = { cpuMilli: 0, memoryMb: 0, diskMb: 0, gpus: [] }

function mesh(peers: number, seed = 1, loss = 0, isMember = (_peer: string): boolean => true, config: CapacityConfig = CAPACITY): World<Watcher> {
  const world: World<Watcher> = new World({
    seed,
    peers,
    weather: { delayMs: [1, 20], loss, duplicate: loss / 2 },
    checkers: [viewsConverge()],
    checkEveryMs: 100,
    factory: async (ports, host) => {
      const capacity = new Capacity(ports, { ...config, isMember })
      const watcher = new Watcher(capacity)
      capacity.onChange((peer, what) => watcher.heard.push({ at: world.now, peer, what }))
      enter(ports, world.hosts.filter(({ index }) => index < host.index).slice(-6).map(({ address }) => address))
      await capacity.start({ free: () => FREE, instances: () => [], holds: () => [] })
      return watcher
    },
  })
  return world
}

function others(world: World<Watcher>, than: string): readonly Watcher[] {
  return [...world.peers].filter(([peer]) => peer !== than).map(([, watcher]) => watcher)
}

function noticedAfter(watcher: Watcher, peer: string, from: number): number {
  const word = watcher.heard.find(({ at, peer: about, what }) => at >= from && about === peer && (what === 'dead' || what === 'left'))
  return word === undefined ? Infinity : word.at - from
}

describe('knowing the mesh', () => {
  it('everybody hears what everybody has', async () => {
    const world = mesh(8)
    await world.startAll()
    await world.run(world.now + 2_000)
    for (const { capacity } of world.peers.values()) {
      assert.deepEqual(capacity.live(), [...world.peers.keys()].sort())
      assert.equal(capacity.ads().length, 8)
      assert.ok(capacity.caughtUp)
    }
  })

  it('a peer that has just started waits until it hears of nobody new before it takes what it sees for the mesh, and never again', async () => {
    const world = mesh(12, 3)
    await world.startAll()
    const settled = await world.drive(Promise.all([...world.peers.values()].map(async ({ capacity }) => {
      await capacity.settled()
      return { at: world.now, live: capacity.live().length }
    })))
    assert.deepEqual(settled.map(({ live }) => live), Array.from({ length: 12 }, () => 12))
    const after = Math.max(...settled.map(({ at }) => at))
    await world.drive(Promise.all([...world.peers.values()].map(({ capacity }) => capacity.settled())))
    assert.equal(world.now, after)
  })

  it('single peers that are heard of late keep nobody waiting who can do with most of the mesh', async () => {
    const world = mesh(12, 3)
    await world.startAll()
    const most = await world.drive(Promise.all([...world.peers.values()].map(async ({ capacity }) => {
      await capacity.knowsMost()
      return { at: world.now, live: capacity.live().length }
    })))
    assert.ok(most.every(({ live }) => live >= 11), most.map(({ live }) => live).join(' '))
    const after = Math.max(...most.map(({ at }) => at))
    await world.drive(Promise.all([...world.peers.values()].map(({ capacity }) => capacity.settled())))
    assert.ok(after < world.now, 'most was known before it was certain that nobody else comes')
  })

  it('words that were said when a peer knew few are renewed at the pace of the mesh that it knows now, and nobody is given up for it', async () => {
    const { advertiser } = CAPACITY
    // 20 peers are a mesh four times as large as a small one: 120 s instead of 30.
    const world = mesh(20, 5, 0, undefined, { ...CAPACITY, advertiser: { ...advertiser, smallMesh: 5 } })
    await world.startAll()
    await world.run(3_000)
    const { network: { counts } } = world
    const before = counts.published
    const first = new Map([...world.peers.values()].flatMap(({ capacity }) => capacity.ads().map(ad => [ad.peer, ad] as const)))
    assert.ok([...first.values()].some(({ ttlMs }) => ttlMs < 60_000), 'some said their first word to few')
    await world.run(29_000)
    assert.equal(counts.published, before)
    await world.run(100_000)
    for (const { capacity, heard } of world.peers.values()) {
      assert.equal(capacity.live().length, 20)
      for (const ad of capacity.ads()) assert.ok(ad.issuedAt > (first.get(ad.peer)?.issuedAt ?? Infinity) && ad.ttlMs > 100_000)
      assert.deepEqual(heard.filter(({ what }) => what === 'dead'), [])
    }
  })

  it('a peer that is killed is noticed by all well within three seconds, connection broken or silent', async () => {
    for (const silent of [false, true]) {
      for (const seed of [1, 2, 3]) {
        const world = mesh(6, seed)
        await world.startAll()
        await world.run(5_000 + seed * 137)
        const victim = world.hosts[seed]!
        const from = world.now
        world.crash(victim, silent)
        await world.run(from + 3_000)
        const worst = Math.max(...others(world, victim.peer).map(watcher => noticedAfter(watcher, victim.peer, from)))
        assert.ok(worst <= (silent ? 3_000 : 600), `${silent ? 'silent' : 'broken'} death noticed by all after ${worst} ms`)
      }
    }
  })

  it('a peer that says goodbye is gone at once, and welcome again', async () => {
    const world = mesh(5)
    await world.startAll()
    await world.run(3_000)
    const host = world.hosts[2]!
    const from = world.now
    await world.drive(world.peers.get(host.peer)!.stop())
    await world.run(from + 100)
    for (const watcher of others(world, host.peer)) {
      assert.ok(noticedAfter(watcher, host.peer, from) <= 100)
      assert.equal(watcher.capacity.state(host.peer), 'left')
    }
    world.crash(host)
    await world.run(world.now + 500)
    await world.drive(world.start(host))
    await world.run(world.now + 2_000)
    for (const { capacity } of world.peers.values()) assert.equal(capacity.live().length, 5)
  })

  it('a restarted peer outranks its ghost', async () => {
    const world = mesh(4)
    await world.startAll()
    await world.run(3_000)
    const host = world.hosts[1]!
    const ghost = world.peers.get(world.hosts[0]!.peer)!.capacity.ad(host.peer)!
    world.crash(host)
    world.restart(host)
    await world.run(world.now + 3_000)
    for (const { capacity } of world.peers.values()) assert.ok(capacity.ad(host.peer)!.incarnation > ghost.incarnation)
  })

  it('both sides of a partition give the other up, and find each other when it heals', async () => {
    const world = mesh(6)
    await world.startAll()
    await world.run(3_000)
    const heal = world.partition(world.hosts.slice(0, 3), world.hosts.slice(3))
    await world.run(world.now + 10_000)
    for (const { capacity } of world.peers.values()) assert.equal(capacity.live().length, 3)
    heal()
    await world.run(world.now + 15_000)
    for (const { capacity } of world.peers.values()) assert.equal(capacity.live().length, 6)
  })

  it('three of sixty that were cut off are found again, though few of so many try each', async () => {
    const world = mesh(60)
    await world.startAll()
    await world.run(5_000)
    const heal = world.partition(world.hosts.slice(10, 13), [...world.hosts.slice(0, 10), ...world.hosts.slice(13)])
    await world.run(world.now + 10_000)
    assert.equal(world.peers.get(world.hosts[0]!.peer)!.capacity.live().length, 57)
    heal()
    await world.run(world.now + 15_000)
    for (const { capacity } of world.peers.values()) assert.equal(capacity.live().length, 60)
  })

  it('five in a hundred messages lost give nobody up', async () => {
    const world = mesh(8, 5, 0.05)
    await world.startAll()
    await world.run(5_000)
    const from = world.now
    await world.run(from + 60_000)
    const given = [...world.peers.values()].flatMap(({ heard }) => heard.filter(({ at, what }) => at > from && what === 'dead'))
    assert.ok(given.length <= 2, `${given.length} times a living peer was given up in a minute among 8`)
    await world.settle(10_000)
  })

  it('in a village that loses five in a hundred messages nobody living is suspected for long, and the dead are noticed by all', async () => {
    const world = mesh(40, 3, 0.05)
    await world.startAll()
    await world.run(6_000)
    const from = world.now
    await world.run(from + 10_000)
    const words = [...world.peers.values()].flatMap(({ heard }) => heard.filter(({ at, what }) => at > from && what !== 'ad'))
    assert.ok(words.length <= 20, `${words.length} times somebody changed his mind about a living peer, in ten seconds among 40`)
    const victim = world.hosts[7]!
    const died = world.now
    world.crash(victim, true)
    await world.run(died + 4_000)
    const worst = Math.max(...others(world, victim.peer).map(watcher => noticedAfter(watcher, victim.peer, died)))
    assert.ok(worst <= 3_000, `a silent death under loss was noticed by all after ${worst} ms`)
  })

  it('a member who gives a living peer up is not believed by those who are connected to it, and the others hear better', async () => {
    const world = mesh(6)
    await world.startAll()
    await world.run(3_000)
    const [liar, victim] = [world.hosts[0]!, world.hosts[3]!]
    const { incarnation } = world.peers.get(victim.peer)!.capacity.ad(victim.peer)!
    const from = world.now
    world.network.publish(world.network.host(liar.peer)!, livenessTopic, seal(liar.identity, 'liveness', { rumours: [{ about: victim.peer, incarnation, state: 'dead' }], issuedAt: world.kernel.clock().unix() }))
    await world.run(from + 2_000)
    for (const watcher of others(world, victim.peer)) {
      assert.equal(watcher.capacity.state(victim.peer), 'alive')
      assert.equal(noticedAfter(watcher, victim.peer, from), Infinity)
    }
  })

  it('an ad that comes before the proof of membership counts when the proof has come, and not before', async () => {
    const strangers = new Set<string>()
    const world = mesh(3, 1, 0, peer => !strangers.has(peer))
    strangers.add(world.hosts[2]!.peer)
    await world.startAll()
    await world.run(3_000)
    const { capacity } = world.peers.get(world.hosts[0]!.peer)!
    assert.equal(capacity.ad(world.hosts[2]!.peer), undefined)
    strangers.clear()
    capacity.proved(world.hosts[2]!.peer)
    assert.ok(capacity.ad(world.hosts[2]!.peer), 'who is told of the proof takes the ad at once')
    await world.run(world.now + 1_100)
    assert.ok(world.peers.get(world.hosts[1]!.peer)!.capacity.ad(world.hosts[2]!.peer), 'the others find out soon')
  })
})
