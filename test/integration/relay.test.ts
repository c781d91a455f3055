import assert from 'node:assert/strict'
import { z } from 'zod'
import { defineProtocol } from '../../protocols/codec.ts'
import { connect, nodesOfTests, until } from './node-under-test.ts'

const bytes = z.object({ bytes: z.instanceof(Uint8Array) })
const echo = defineProtocol({ id: '/aios/test-echo/1', request: bytes, response: bytes, limits: { requestBytes: 4_000_000, responseBytes: 4_000_000, perPeerPerSecond: 10_000, deadlineMs: 5_000 } })
const relayed = (address: string): boolean => address.includes('/p2p-circuit')

describe('a peer that nobody can dial', () => {
  const { start } = nodesOfTests()

  it('is reached through a member that carries its connections, for more than the usual 128 KiB', async () => {
    const relay = await start({ relay: true })
    const hidden = await start({ listen: ['/p2p-circuit'] })
    const other = await start()
    hidden.network.handle(echo, async request => request)
    await connect(hidden, relay)
    await connect(other, relay)
    await until(() => hidden.network.addresses().some(relayed))
    const peer = await other.network.dial(hidden.network.addresses(), other.clock.deadline(5_000))
    assert.equal(peer, hidden.network.self)
    await until(() => other.network.peers().includes(hidden.network.self))
    const sent = new Uint8Array(3_000_000).map((_, at) => at % 251)
    const answer = await other.network.request(hidden.network.self, echo, { bytes: sent })
    assert.deepEqual(answer.bytes, sent)
  })
})
