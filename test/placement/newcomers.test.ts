import assert from 'node:assert/strict'
import { blockRecord, componentManifest } from '../../protocols/specs.ts'
import { mesh, ready } from './mesh.ts'

const BLOCKS = 6
const LEAST = 2

describe('newcomers', () => {
  it('peers that all start at once place each block about once, for none stewards before it knows most of the mesh', async () => {
    const world = mesh({ peers: 60 })
    await world.startAll(5)
    const { catalogue, ports } = world.peers.get(world.hosts[0]!.peer)!
    const manifest = componentManifest.parse({ componentURI: 'node.sample:1-stable', componentId: { name: 'sample', version: '1', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node' }, files: [], needs: {}, author: ports.identity.peer })
    const { cid } = await world.drive(catalogue.publishComponent(manifest))
    for (let at = 0; at < BLOCKS; at += 1) {
      await world.drive(catalogue.putBlock(blockRecord.parse({ blockId: `b-${at}`, componentURI: manifest.componentURI, component: cid, runtime: { name: 'node' }, minInstances: LEAST, maxInstances: 4, needs: {}, owner: ports.identity.peer, revision: 0 })))
    }
    await world.run(5_000)
    for (let at = 0; at < BLOCKS; at += 1) assert.ok(ready(world, `b-${at}`) >= LEAST, `b-${at} has ${ready(world, `b-${at}`)} instances`)
    // Twice as many, and more, where everybody acts on the few it has heard of.
    const awards = world.telemetry.counters.get('awards_total{accepted=true}') ?? 0
    assert.ok(awards <= BLOCKS * LEAST + 2, `${awards} awards for ${BLOCKS * LEAST} instances`)
  })
})
