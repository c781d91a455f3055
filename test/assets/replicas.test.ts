import assert from 'node:assert/strict'
import { Replicas } from '../../src/assets/replicas.ts'
import { foremost } from '../../src/lib/rendezvous.ts'
import type { World } from '../../simulations/world.ts'
import { started, type HostingPeer } from '../placement/mesh.ts'

const BYTES = new Uint8Array(3_000_000).map((_, at) => at % 251)
const CONFIG = { beatMs: 5_000, leaseMs: 60_000, fetchMs: 30_000 }

type Kept = { readonly world: World<HostingPeer>; readonly author: HostingPeer; readonly other: HostingPeer; readonly replicas: ReadonlyMap<string, Replicas>; readonly content: string; readonly size: number }

/** A mesh whose peers keep replicas, and an asset that one of them has published. */
async function keeping(peers: number, seed: number): Promise<Kept> {
  const { world } = await started({ peers, seed })
  const replicas = new Map([...world.peers].map(([id, peer]) => [id, new Replicas(peer.ports, { view: peer.capacity, catalogue: peer.catalogue }, CONFIG)]))
  for (const each of replicas.values()) each.start()
  const [author, other] = [world.peers.get(world.hosts[0]!.peer)!, world.peers.get(world.hosts[1]!.peer)!]
  const { cid: content, size } = await world.drive(author.ports.content.add((async function * () { yield BYTES })()))
  await world.drive(author.catalogue.publishAsset({ assetURI: 'weights:1-stable', name: 'weights', version: '1', releaseTag: 'stable', content, size, mediaType: 'application/octet-stream', metadata: {}, tags: [], author: author.ports.identity.peer }))
  await world.run(world.now + 2_000)
  return { world, author, other, replicas, content, size }
}

async function holders({ world, content }: Kept): Promise<readonly string[]> {
  const held = await Promise.all([...world.peers].map(async ([id, peer]) => ((await peer.ports.content.has(content)) ? [id] : [])))
  return held.flat().sort()
}

describe('replicas of an asset, in a simulated mesh', () => {
  it('lie on the hosts whose turn it is, and on the next ones when those die, one after the other', async () => {
    for (const seed of [1, 2, 3]) {
      const kept = await keeping(9, seed)
      const { world, author, replicas, content, size } = kept
      const self = author.ports.identity.peer
      await world.drive(replicas.get(self)!.want({ assetURI: 'weights:1-stable', content, size, replicas: 3, labels: {} }))
      await world.run(world.now + 15_000)
      const turn = (): readonly string[] => foremost(content, [...world.peers.keys()], 3)
      assert.deepEqual(await holders(kept), [...new Set([...turn(), self])].sort())
      for (let deaths = 0; deaths < 3; deaths += 1) {
        const victim = turn().find(id => id !== self)
        world.crash(world.hosts.find(({ peer }) => peer === victim)!)
        await world.run(world.now + 30_000)
        const now = await holders(kept)
        assert.ok(turn().every(id => now.includes(id)), `seed ${seed}, ${deaths + 1} dead: ${now.join()} and not ${turn().join()}`)
      }
    }
  })

  it('are wished for by the author of the asset alone, and for that asset’s own content', async () => {
    const kept = await keeping(6, 4)
    const { world, author, other, replicas, content, size } = kept
    // Somebody else's file under the name of this asset, and this asset by somebody else.
    const { cid: foreign } = await world.drive(other.ports.content.add((async function * () { yield BYTES.subarray(0, 2_000_000) })()))
    await world.drive(replicas.get(other.ports.identity.peer)!.want({ assetURI: 'weights:1-stable', content: foreign, size: 2_000_000, replicas: 5, labels: {} }))
    await world.run(world.now + 20_000)
    assert.deepEqual(await holders(kept), [author.ports.identity.peer])
    assert.deepEqual(await holders({ ...kept, content: foreign }), [other.ports.identity.peer])
    // Nor does it keep the author from asking.
    await world.drive(replicas.get(author.ports.identity.peer)!.want({ assetURI: 'weights:1-stable', content, size, replicas: 4, labels: {} }))
    await world.run(world.now + 20_000)
    assert.ok((await holders(kept)).length >= 4)
  })
})
