import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { createContentStore } from '../../node/adapters/content-store.ts'
import { openIdentity } from '../../node/adapters/identity.ts'
import { createLibp2pNetwork, type OpenNetwork } from '../../node/adapters/libp2p.ts'
import { createRegistryStore, type RegistryHandle } from '../../node/adapters/registry/store.ts'
import { SystemClock, SystemRandom } from '../../node/adapters/system.ts'
import { granted } from '../../protocols/errors.ts'
import { recording, until, type Recorded } from '../registries/loopback.ts'

const named = z.object({ name: z.string() })

type Running = { readonly mesh: OpenNetwork; readonly registry: RegistryHandle; readonly telemetry: Recorded; stop(): Promise<void> }

describe('registries between two whole peers', function () {
  this.timeout(60_000)
  const base = mkdtempSync(join(tmpdir(), 'registry-net-'))
  const running: Running[] = []

  async function start(name: string): Promise<Running> {
    const dir = join(base, name)
    const [clock, random, telemetry] = [new SystemClock(), new SystemRandom(), recording()]
    const identity = openIdentity(join(dir, 'peer.key'))
    const mesh = await createLibp2pNetwork({ dir, identity, secret: new Uint8Array(32).fill(1), listen: ['/ip4/127.0.0.1/tcp/0'], search: false, clock, random, telemetry })
    mesh.network.onConnection(peer => mesh.network.admit(peer))
    const content = createContentStore({ dir, network: mesh, clock, telemetry })
    const registry = createRegistryStore({ dir, networkId: 'net', network: mesh.network, identity, clock, random, telemetry, mayWrite: () => granted(true), helia: content.helia })
    await mesh.start()
    await content.start()
    await registry.start()
    const peer = {
      mesh,
      registry,
      telemetry,
      async stop() {
        await registry.stop()
        await content.stop()
        await mesh.stop()
      },
    }
    running.push(peer)
    return peer
  }

  after(async () => {
    for (const peer of running) await peer.stop()
    rmSync(base, { recursive: true, force: true })
  })

  it('a newcomer copies what is there, hears news, and follows the writer\'s OrbitDB log through the guarded network', async () => {
    const a = await start('a')
    const mine = a.registry.store.open('components', named)
    await mine.put('old:1-x', { name: 'old' })
    const b = await start('b')
    await b.mesh.network.dial(a.mesh.network.addresses(), AbortSignal.timeout(10_000))
    const theirs = b.registry.store.open('components', named)
    await until(async () => (await theirs.get('old:1-x')) !== undefined)
    await until(() => b.registry.status().synced)
    const { self } = a.mesh.network
    await until(() => b.registry.status().writers.includes(self))
    await mine.put('new:1-x', { name: 'new' })
    await until(async () => (await theirs.get('new:1-x')) !== undefined)
    await until(() => a.registry.status().logs?.outbox === 0)
    const failed = (peer: Running): string[] => peer.telemetry.events.filter(event => event.name === 'registry.log-failed').map(event => String(event.fields['message']))
    assert.deepEqual([failed(a), failed(b)], [[], []])
    assert.deepEqual(b.registry.status().refused, 0)
  })

  it('a log is read through a network that lets nothing else of OrbitDB pass', async () => {
    const [a, b] = running
    assert.ok(a !== undefined && b !== undefined)
    const address = a.registry.status().logs?.address
    assert.ok(address !== undefined)
    await until(() => b.mesh.network.topicAllowed(address))
    assert.ok(!b.mesh.network.topicAllowed(`${address}x`))
    await until(() => b.registry.status().logRecords >= 2)
  })
})
