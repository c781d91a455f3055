import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { peerIdFromString } from '@libp2p/peer-id'
import { z } from 'zod'
import { defineProtocol, defineStream, defineTopic } from '../../protocols/codec.ts'
import type { MeshError } from '../../protocols/errors.ts'
import { KIND, MUX_ID, writeHead } from '../../protocols/mux.ts'
import { Ed25519Identity } from '../../node/adapters/identity.ts'
import { SystemClock } from '../../node/adapters/system.ts'
import { connect, nodesOfTests, type NodeUnderTest, startNode, until } from './node-under-test.ts'

const text = z.object({ text: z.string() })
const echo = defineProtocol({ id: '/aios/test-echo/1', request: text, response: text, limits: { requestBytes: 4_000_000, responseBytes: 4_000_000, perPeerPerSecond: 10_000, deadlineMs: 5_000 } })
const bulk = defineStream<Uint8Array>({ id: '/aios/test-bulk/1', encode: frame => frame, decode: frame => frame, limits: { frameBytes: 4_194_304, queuedFrames: 8, idleMs: 60_000, perPeerPerSecond: 100 } })
const news = defineTopic({ id: '/aios/test-news/1', message: text, limits: { messageBytes: 100_000, perPeerPerSecond: 50 } })
const forever = new AbortController().signal

describe('the network between real nodes', () => {
  const { nodes, start } = nodesOfTests()

  it('one that asked for any port has the same one after a restart, unless somebody took it', async () => {
    const first = await start()
    const [before] = first.network.addresses()
    await first.stop()
    const second = await startNode({ dir: first.dir })
    assert.deepEqual(second.network.addresses(), [before])
    await second.stop()
    const port = Number(/\/tcp\/(\d+)/.exec(before ?? '')?.[1])
    const squatter = createServer().listen({ host: '127.0.0.1', port })
    await once(squatter, 'listening')
    const third = await startNode({ dir: first.dir })
    assert.notDeepEqual(third.network.addresses(), [before])
    await third.stop()
    squatter.close()
    // Torn when the host lost its power.
    await writeFile(join(first.dir, 'ports.json'), '{"')
    await (await startNode({ dir: first.dir })).stop()
  })

  it('where it cannot listen is named with the reason', async () => {
    for (const [address, because] of [['/ip4/192.0.2.1/tcp/0', /not available/], ['/ip4/127.0.0.1/udp/0', /No transport/]] as const) {
      await assert.rejects(startNode({ listen: [address] }), (error: MeshError) => error.code === 'BAD_INPUT' && error.message.includes(`cannot listen on ${address}: `) && because.test(error.message) && !error.message.includes('\n'))
    }
  })

  it('all that stopped at once find one another again, also days later', async () => {
    const [a, b] = [await start({ search: true }), await start({ search: true })]
    await connect(a, b)
    await until(async () => (await Promise.all([a, b].map(async ({ libp2p }) => (await libp2p.peerStore.all()).some(({ tags }) => tags.has('aios-member'))))).every(Boolean))
    await Promise.all([a.stop(), b.stop()])
    const now = Date.now
    try {
      Date.now = () => now() + 3 * 86_400_000
      const again = [await startNode({ dir: a.dir, search: true }), await startNode({ dir: b.dir, search: true })]
      nodes.push(...again)
      await until(() => again.every(({ network }) => network.peers().length === 1))
    } finally {
      Date.now = now
    }
  })

  it('calls take a direct socket once there is one: a Unix socket within a host, TLS otherwise', async () => {
    for (const [fastLane, lane] of [[true, 'unix'], ['tls', 'tls']] as const) {
      const [a, b] = [await start({ fastLane }), await start({ fastLane })]
      b.network.handle(echo, async request => request)
      await connect(a, b)
      await until(() => a.network.laneOf(b.network.self) === lane && b.network.laneOf(a.network.self) === lane)
      assert.deepEqual(await a.network.request(b.network.self, echo, { text: lane }), { text: lane })
      assert.equal(a.tally.counts.get('fast_lane_up_total'), 1)
    }
  })

  it('without a direct socket everything runs over libp2p', async () => {
    const [a, b] = [await start(), await start({ fastLane: false })]
    b.network.handle(echo, async request => request)
    await connect(a, b)
    assert.deepEqual(await a.network.request(b.network.self, echo, { text: 'x'.repeat(300_000) }), { text: 'x'.repeat(300_000) })
    assert.equal((a.network.laneOf(b.network.self) ?? 'libp2p') !== 'libp2p', false)
  })

  it('two peers that dial each other at the same moment end with one mux, and both can call', async () => {
    const [a, b] = [await start(), await start()]
    for (const node of [a, b]) node.network.handle(echo, async request => request)
    const deadline = a.clock.deadline(5_000)
    await Promise.all([a.network.dial(b.network.addresses(), deadline), b.network.dial(a.network.addresses(), deadline)])
    await until(() => a.network.peers().length === 1 && b.network.peers().length === 1)
    const muxes = a.libp2p.getConnections().flatMap(connection => connection.streams).filter(stream => stream.protocol === MUX_ID)
    assert.equal(muxes.length, 1)
    assert.deepEqual(await Promise.all([a.network.request(b.network.self, echo, { text: '1' }), b.network.request(a.network.self, echo, { text: '2' })]), [{ text: '1' }, { text: '2' }])
  })

  it('small calls are answered while a bulk stream is under way, and every byte of it arrives', async () => {
    for (const fastLane of [true, 'tls', false] as const) {
      const [a, b] = [await start({ fastLane }), await start({ fastLane })]
      b.network.handle(echo, async request => request)
      let received = 0
      const whole = Promise.withResolvers<void>()
      b.network.accept(bulk, async stream => {
        for await (const frame of stream) {
          received += frame.byteLength
          assert.equal(frame[frame.byteLength - 1], 7)
        }
        whole.resolve()
      })
      await connect(a, b)
      if (fastLane !== false) await until(() => (a.network.laneOf(b.network.self) ?? 'libp2p') !== 'libp2p')
      const stream = await a.network.open(b.network.self, bulk, forever)
      const frame = new Uint8Array(3_000_001).fill(7)
      const sending = (async () => {
        for (let at = 0; at < 20; at += 1) await stream.send(frame)
        await stream.end()
      })()
      let answered = 0
      for (; received < 30_000_000; answered += 1) await a.network.request(b.network.self, echo, { text: 'x' })
      await sending
      await whole.promise
      assert.equal(received, 20 * frame.byteLength)
      assert.ok(answered >= 3, `${answered} calls were answered beside the bulk`)
    }
  })

  it('a killed process is gone at once, not after a timeout', async () => {
    const a = await start()
    const home = await mkdtemp(join(tmpdir(), 'aios-victim-'))
    const child = spawn(process.execPath, [fileURLToPath(new URL('victim.ts', import.meta.url)), home], { stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      const [address] = await once(createInterface(child.stdout), 'line')
      const peer = await a.network.dial([String(address)], a.clock.deadline(5_000))
      await until(() => (a.network.laneOf(peer) ?? 'libp2p') !== 'libp2p')
      a.network.admit(peer)
      const gone = new Promise<void>(resolve => a.network.onPeer((_, state) => state === 'gone' && resolve()))
      const pending = assert.rejects(a.network.request(peer, { ...echo, limits: { ...echo.limits, deadlineMs: 60_000 } }, { text: 'x' }), { code: /PEER_UNREACHABLE|PROTOCOL_UNSUPPORTED/ })
      const killed = performance.now()
      child.kill('SIGKILL')
      await gone
      assert.ok(performance.now() - killed < 2_000)
      await pending
      assert.deepEqual(a.network.peers(), [])
    } finally {
      child.kill('SIGKILL')
      await rm(home, { recursive: true, force: true, maxRetries: 5 })
    }
  })

  it('a lost member is dialled again, and members of members become neighbours', async () => {
    const a = await start({ search: true })
    const b = await start({ search: true, bootstrap: a.network.addresses() })
    const c = await start({ search: true, bootstrap: a.network.addresses() })
    await until(() => [a, b, c].every(node => node.network.peers().length === 2))
    await a.libp2p.hangUp(peerIdFromString(b.network.self))
    await until(() => a.network.peers().length === 2 && b.network.peers().length === 2)
  })

  it('garbage on the mux drops that connection and nothing else', async () => {
    const frames = (ours: number): Record<string, Uint8Array> => ({ noise: new Uint8Array(64).fill(0xa5), 'too long': head(1 << 30, KIND.message, 1), 'unknown kind': head(0, 60, 1), 'a call of ours': Buffer.concat([head(2, KIND.open, ours), Buffer.from([1, 65])]), 'parts of nothing known': Buffer.concat([head(8, KIND.open | 0x80, 3), new Uint8Array(8)]) })
    // The peer with the lower id opens the mux. With the higher id the attacker has it opened to it, and no mux of its own competes with the garbage.
    const [lowest, ...others] = Array.from({ length: 7 }, (_, index) => new Ed25519Identity(new Uint8Array(32).fill(index + 1))).sort((one, other) => (one.peer < other.peer ? -1 : 1))
    const [a, friend] = [await start({ fastLane: false, ...(lowest === undefined ? {} : { identity: lowest }) }), await start({ fastLane: false })]
    a.network.handle(echo, async request => request)
    await connect(friend, a)
    for (const [index, what] of Object.keys(frames(0)).entries()) {
      const attacker = await start({ fastLane: false, admits: false, identity: others[index]! })
      const bytes = frames(1)[what] ?? new Uint8Array(0)
      const stream = await muxFrom(attacker, a)
      await until(() => a.libp2p.getConnections(attacker.libp2p.peerId).length > 0)
      const malformed = a.tally.counts.get('mux_malformed_total') ?? 0
      const theirs = a.libp2p.getConnections(attacker.libp2p.peerId)
      stream.send(bytes)
      // Others may come after them: the hash table dials whom it has just met, to see whether it is still there.
      await until(() => theirs.every(({ status }) => status === 'aborted'))
      assert.equal(a.tally.counts.get('mux_malformed_total'), malformed + 1, what)
      assert.deepEqual(await friend.network.request(a.network.self, echo, { text: what }), { text: what })
    }
  })

  it('a stranger who does not say hello is closed', async () => {
    class Hasty extends SystemClock {
      override after(duration: number, run: () => void): () => void {
        return super.after(duration >= 10_000 ? duration / 40 : duration, run)
      }
    }
    const [a, b] = [await start({ admits: false, clock: new Hasty() }), await start({ admits: false })]
    await b.network.dial(a.network.addresses(), b.clock.deadline(5_000))
    await until(() => a.libp2p.getConnections().length === 0)
    assert.equal(a.tally.counts.get('strangers_closed_total'), 1)
  })

  it('gossip of strangers is not heard, what floods or does not parse is dropped', async () => {
    const a = await start({ admits: false })
    const [b, stranger] = [await start(), await start()]
    a.network.onConnection(peer => {
      if (peer === b.network.self) a.network.admit(peer)
    })
    const heard: string[] = []
    a.network.subscribe(news, ({ text }) => heard.push(text))
    for (const node of [b, stranger]) node.network.subscribe(news, () => undefined)
    await connect(b, a)
    await stranger.network.dial(a.network.addresses(), a.clock.deadline(5_000))
    const subscribers = (): readonly string[] => a.libp2p.services.pubsub.getSubscribers(news.id).map(String)
    await until(() => subscribers().includes(b.network.self) && subscribers().includes(stranger.network.self))
    let said = 0
    await until(async () => {
      await stranger.network.publish(news, { text: 'psst' })
      await b.network.publish(news, { text: `hello ${said++}` })
      return heard.length >= 3
    })
    assert.ok(heard.every(line => line.startsWith('hello')))
    const dropped = (): number => a.tally.counts.get('gossip_dropped_total') ?? 0
    const before = dropped()
    await b.libp2p.services.pubsub.publish(news.id, new Uint8Array([1, 2, 3]))
    await until(() => dropped() > before)
    // Each more than its rate allows is an offence; who keeps offending is shown out.
    await Promise.all(Array.from({ length: 300 }, (_, at) => b.libp2p.services.pubsub.publish(news.id, encodeText(`flood ${at}`))))
    await until(() => !a.network.peers().includes(b.network.self))
    assert.ok(heard.filter(line => line.startsWith('flood')).length <= 150)
  })

  it('an oversize message cannot make a peer deaf for good', async function () {
    this.timeout(40_000)
    const a = await start({ search: true })
    const b = await start({ search: true, bootstrap: a.network.addresses() })
    const heard: string[] = []
    a.network.subscribe(news, ({ text }) => heard.push(text))
    b.network.subscribe(news, () => undefined)
    await until(() => a.network.peers().length === 1 && b.network.peers().length === 1)
    const says = async (line: string): Promise<void> => until(async () => {
      await b.network.publish(news, { text: line })
      await a.clock.sleep(100)
      return heard.includes(line)
    }, 30_000)
    await says('before')
    // A length prefix of 256 MiB: the library gives up on the stream, and never opens another.
    const [gossip] = b.libp2p.getConnections().flatMap(connection => connection.streams).filter(stream => stream.protocol.startsWith('/meshsub/') && stream.direction === 'outbound')
    assert.ok(gossip !== undefined)
    gossip.send(Uint8Array.of(0x80, 0x80, 0x80, 0x80, 0x01))
    await until(() => !a.libp2p.services.pubsub.getPeers().map(String).includes(b.network.self))
    await says('after')
    assert.ok((a.tally.counts.get('gossip_deaf_total') ?? 0) + (b.tally.counts.get('gossip_deaf_total') ?? 0) >= 1)
  })

  it('a restarted node keeps its name, and its folder can be opened again in one process', async () => {
    const a = await startNode()
    const peer = a.network.self
    await a.stop()
    const again = await startNode({ dir: a.dir })
    assert.equal(again.network.self, peer)
    await again.close()
    await a.close()
  })
})

function head(length: number, kind: number, call: number): Uint8Array {
  const out = new Uint8Array(9)
  writeHead(out, 0, length, kind, call)
  return out
}

function encodeText(line: string): Uint8Array {
  // DAG-CBOR of { text: line } for lines under 24 characters.
  return Buffer.concat([Buffer.from([0xa1, 0x64]), Buffer.from('text'), Buffer.from([0x60 + line.length]), Buffer.from(line)])
}

/** The mux stream that `a`, having the lower id, opened to `attacker`. */
async function muxFrom(attacker: NodeUnderTest, a: NodeUnderTest) {
  const connection = await attacker.libp2p.dial(a.libp2p.getMultiaddrs())
  await until(() => connection.streams.some(stream => stream.protocol === MUX_ID))
  return connection.streams.find(stream => stream.protocol === MUX_ID)!
}
