import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { z } from 'zod'
import { Ed25519Identity } from '../../node/adapters/identity.ts'
import { Bans } from '../../node/adapters/network/bans.ts'
import { Dials } from '../../node/adapters/network/dials.ts'
import { MeshError } from '../../protocols/errors.ts'
import { nodesOfTests, until } from './node-under-test.ts'

describe('dials to a host that takes connections and says nothing', () => {
  const { start } = nodesOfTests()
  const { peer } = new Ed25519Identity(new Uint8Array(32).fill(77))

  it('are one for all who ask, each of whom waits as long as it wants to', async () => {
    const node = await start()
    const taken: Socket[] = []
    const silent = createServer(socket => {
      socket.on('error', () => undefined)
      taken.push(socket)
    }).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = z.object({ port: z.int() }).parse(silent.address())
    await node.libp2p.peerStore.patch(peerIdFromString(peer), { multiaddrs: [multiaddr(`/ip4/127.0.0.1/tcp/${port}`)] })
    try {
      const dials = new Dials(node.libp2p, node.clock, new Bans(node.clock))
      const [hasty, patient] = [new AbortController(), new AbortController()]
      const first = assert.rejects(dials.reach(peer, hasty.signal), { code: 'DEADLINE' })
      let ended = false
      const second = dials.reach(peer, patient.signal).finally(() => (ended = true))
      // As a host does that does not know the network's secret.
      const refused = assert.rejects(second, { code: 'NETWORK_REFUSED' })
      await until(() => taken.length === 1)
      hasty.abort(new MeshError('DEADLINE', 'late'))
      await first
      assert.equal(ended, false)
      assert.equal(taken[0]?.destroyed, false)
      taken[0]?.destroy()
      await refused
      assert.equal(taken.length, 1)
      const alone = new AbortController()
      const third = assert.rejects(dials.reach(peer, alone.signal), { code: 'CANCELLED' })
      await until(() => taken.length === 2)
      alone.abort(new MeshError('CANCELLED', 'no longer'))
      await third
    } finally {
      for (const socket of taken) socket.destroy()
      silent.close()
    }
  })
})
