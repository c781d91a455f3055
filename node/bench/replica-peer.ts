import { join } from 'node:path'
import { z } from 'zod'
import { granted } from '../../protocols/errors.ts'
import type { Identity } from '../../src/ports.ts'
import { createContentStore } from '../adapters/content-store.ts'
import { openIdentity } from '../adapters/identity.ts'
import { createLibp2pNetwork } from '../adapters/libp2p.ts'
import { createRegistryStore } from '../adapters/registry/store.ts'
import { SystemClock, SystemRandom } from '../adapters/system.ts'
import { createTelemetry } from '../adapters/telemetry.ts'

// One of the two processes of the replica benchmark: `replica-peer.ts DIR RECORDS [ADDRESS]`. Without an address it writes
// the records through its store and serves them; with one it is the fresh replica. Says what happened in lines of JSON.
const [dir = '', count = '0', address] = process.argv.slice(2)
const records = Number(count)
const value = z.object({ cid: z.string(), summary: z.string() })

const own = openIdentity(join(dir, 'peer.key'))
let verified = 0
const identity: Identity = {
  peer: own.peer,
  sign: bytes => own.sign(bytes),
  verify: (peer, bytes, signature) => {
    verified++
    return own.verify(peer, bytes, signature)
  },
  mint: () => own.mint(),
  signWith: (key, bytes) => own.signWith(key, bytes),
}
const clock = new SystemClock()
const random = new SystemRandom()
const { telemetry } = createTelemetry({ level: 'warn', destination: join(dir, 'bench.log') })
const mesh = await createLibp2pNetwork({ dir, identity: own, secret: new Uint8Array(32).fill(7), listen: ['/ip4/127.0.0.1/tcp/0'], search: false, clock, random, telemetry })
mesh.network.onConnection(peer => mesh.network.admit(peer))
const content = createContentStore({ dir, network: mesh, clock, telemetry })
const registry = createRegistryStore({ dir, networkId: 'bench', network: mesh.network, identity, clock, random, telemetry, mayWrite: () => granted(true), helia: content.helia })
const components = registry.store.open('components', value)
await mesh.start()
await content.start()

if (address === undefined) {
  const began = performance.now()
  for (let at = 0; at < records; at += 500) {
    await Promise.all(Array.from({ length: Math.min(500, records - at) }, (_, i) => components.put(`bench.component-${at + i}:1.0.0-stable`, { cid: 'bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy', summary: `record ${at + i} of the benchmark` })))
  }
  await registry.start()
  say({ addresses: mesh.network.addresses(), writeSeconds: (performance.now() - began) / 1_000 })
} else {
  const began = performance.now()
  await registry.start()
  await mesh.network.dial([address], clock.deadline(10_000))
  const last = `bench.component-${records - 1}:1.0.0-stable`
  while (registry.status().records < records || (await components.get(last)) === undefined) await new Promise(resolve => setTimeout(resolve, 20))
  const readable = (await components.list()).length
  say({ seconds: (performance.now() - began) / 1_000, readable, verified })
}
await new Promise(resolve => process.once('SIGTERM', resolve))
await registry.stop()
await content.stop()
await mesh.stop()
process.exit(0)

function say(what: object): void {
  process.stdout.write(`${JSON.stringify(what)}\n`)
}
