import assert from 'node:assert/strict'
import { z } from 'zod'
import { defineProtocol, defineStream, defineTopic, type Protocol, type StreamProtocol } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { hello } from '../../protocols/membership.ts'
import type { Clock, Network, Stream } from '../../src/ports.ts'

/** Two peers of one network and one of another, running, not connected. `clock` is the time they live in. */
export type NetworksUnderTest = { readonly mine: Network; readonly theirs: Network; readonly stranger: Network; readonly clock: Clock; close(): Promise<void> }

type Text = { readonly text: string }
const DEADLINE_MS = 400
const WINDOW = 4
let made = 0

/** A protocol of its own for each test: handlers cannot be taken back. */
function echoing(): Protocol<Text, Text> {
  made += 1
  const text = z.object({ text: z.string() })
  return defineProtocol({ id: `/aios/test-echo-${made}/1`, request: text, response: text, limits: { requestBytes: 100, responseBytes: 100, perPeerPerSecond: 50, deadlineMs: DEADLINE_MS } })
}

function streaming(frameBytes = 100, idleMs = 60_000): StreamProtocol<Uint8Array> {
  made += 1
  return defineStream<Uint8Array>({
    id: `/aios/test-stream-${made}/1`,
    encode: frame => frame,
    decode: frame => {
      if (frame[0] === 255) throw new MeshError('MESSAGE_INVALID', 'a frame that begins with 255')
      return frame
    },
    limits: { frameBytes, queuedFrames: WINDOW, idleMs, perPeerPerSecond: 50 },
  })
}

/** What every `Network` promises. Run on the real one and on the simulator's. */
export function networkConformance(name: string, setup: () => Promise<NetworksUnderTest>): void {
  describe(`network: ${name}`, () => {
    let net: NetworksUnderTest
    const forever = new AbortController().signal
    const until = async (condition: () => boolean): Promise<void> => {
      const ends = net.clock.monotonic() + 10_000
      while (!condition()) {
        if (net.clock.monotonic() > ends) throw new Error('the condition did not come true in time')
        await net.clock.sleep(10)
      }
    }

    before(async () => {
      net = await setup()
    })
    after(() => net.close())

    it('until a peer is admitted only hello passes, either way', async () => {
      const { mine, theirs, clock } = net
      const protocol = echoing()
      theirs.handle(protocol, async request => request)
      theirs.handle(hello, async () => ({ refused: { code: 'FORBIDDEN', because: 'heard you' } }))
      const directions: string[] = []
      const offs = [mine.onConnection((_, direction) => directions.push(`mine ${direction}`)), theirs.onConnection((_, direction) => directions.push(`theirs ${direction}`))]
      assert.equal(await mine.dial(theirs.addresses(), clock.deadline(5_000)), theirs.self)
      await until(() => directions.length === 2)
      assert.deepEqual(directions.sort(), ['mine outbound', 'theirs inbound'])
      for (const off of offs) off()
      const said = { domain: 'hello', payload: new Uint8Array(1), signer: mine.self, signature: new Uint8Array(1) }
      assert.equal((await mine.request(theirs.self, hello, said)).refused?.because, 'heard you')
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'x' }), { code: /DEADLINE|PEER_UNREACHABLE|UNAUTHENTICATED/ })
      assert.deepEqual(mine.peers(), [])
      mine.admit(theirs.self)
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'x' }), { code: /DEADLINE|UNAUTHENTICATED/ })
      theirs.admit(mine.self)
      assert.deepEqual(await mine.request(theirs.self, protocol, { text: 'x' }), { text: 'x' })
      assert.deepEqual(mine.peers(), [theirs.self])
    })

    it('the error of the remote answers a request with its code, message and whether to retry; a bug is INTERNAL', async () => {
      const { mine, theirs } = net
      const protocol = echoing()
      theirs.handle(protocol, async ({ text }) => {
        if (text === 'bug') throw new TypeError('oops')
        throw new MeshError('NO_CAPACITY', 'all taken', { retryable: false })
      })
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'x' }), { code: 'NO_CAPACITY', message: 'all taken', retryable: false })
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'bug' }), { code: 'INTERNAL' })
    })

    it('a peer that does not speak a protocol says so', async () => {
      const { mine, theirs } = net
      await assert.rejects(mine.request(theirs.self, echoing(), { text: 'x' }), { code: 'PROTOCOL_UNSUPPORTED' })
      await assert.rejects(async () => {
        const stream = await mine.open(theirs.self, streaming(), forever)
        for await (const _ of stream);
      }, { code: 'PROTOCOL_UNSUPPORTED' })
    })

    it('limits of size, time and rate are kept', async () => {
      const { mine, theirs } = net
      const protocol = echoing()
      theirs.handle(protocol, async ({ text }) => (text === 'slow' ? new Promise<Text>(() => undefined) : { text: text === 'long' ? 'x'.repeat(200) : text }))
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'x'.repeat(200) }), { code: 'MESSAGE_TOO_LARGE' })
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'long' }), { code: 'MESSAGE_TOO_LARGE' })
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'slow' }), { code: 'DEADLINE' })
      const outcomes = await Promise.allSettled(Array.from({ length: 120 }, () => mine.request(theirs.self, protocol, { text: 'x' })))
      const limited = outcomes.filter(outcome => outcome.status === 'rejected' && outcome.reason instanceof MeshError && outcome.reason.code === 'RATE_LIMITED').length
      assert.ok(limited >= 20 && limited < 120, `${limited} of 120 calls at a limit of 50 a second were refused`)
    })

    it('a cancelled request tells the peer that is answering it', async () => {
      const { mine, theirs } = net
      const protocol = echoing()
      const told = Promise.withResolvers<unknown>()
      const began = Promise.withResolvers<void>()
      theirs.handle(protocol, (_, __, signal) => new Promise((_resolve, reject) => {
        began.resolve()
        signal.addEventListener('abort', () => {
          told.resolve(signal.reason)
          reject(signal.reason)
        }, { once: true })
      }))
      const controller = new AbortController()
      const asking = mine.request(theirs.self, protocol, { text: 'x' }, controller.signal)
      await began.promise
      controller.abort(new MeshError('CANCELLED', 'no longer wanted'))
      await assert.rejects(asking, { code: 'CANCELLED', message: 'no longer wanted' })
      assert.ok((await told.promise) instanceof MeshError)
    })

    it('an answer is waited for no longer than the asker says', async () => {
      const { mine, theirs } = net
      const protocol = echoing()
      theirs.handle(protocol, () => new Promise(() => {}))
      await assert.rejects(mine.request(theirs.self, protocol, { text: 'x' }, 50), { code: 'DEADLINE', message: /50 ms/ })
    })

    it('frames arrive in order both ways, and the end after them', async () => {
      const { mine, theirs } = net
      const protocol = streaming()
      theirs.accept(protocol, async (stream, from) => {
        assert.equal(from, mine.self)
        for await (const frame of stream) await stream.send(Uint8Array.of(frame[0]! + 100))
      })
      await using stream = await mine.open(theirs.self, protocol, forever)
      const sending = (async () => {
        for (let at = 0; at < 50; at += 1) await stream.send(Uint8Array.of(at))
        await stream.end()
      })()
      const heard: number[] = []
      for await (const frame of stream) heard.push(frame[0]!)
      await sending
      assert.deepEqual(heard, Array.from({ length: 50 }, (_, at) => at + 100))
      await assert.rejects(stream.send(Uint8Array.of(1)), { code: 'CANCELLED' })
    })

    it('whoever is told of frames hears what came before it listened, then all others in order, and the end', async () => {
      const { mine, theirs, clock } = net
      const protocol = streaming()
      const heard: number[] = []
      const ended = Promise.withResolvers<void>()
      theirs.accept(protocol, async stream => {
        await clock.sleep(50)
        await stream.each(frame => heard.push(frame[0]!))
        ended.resolve()
      })
      await using stream = await mine.open(theirs.self, protocol, forever)
      let waited = 0
      for (let at = 0; at < 50; at += 1) {
        const waits = stream.offer(Uint8Array.of(at))
        if (waits !== undefined) waited += 1
        await waits
      }
      await stream.end()
      await ended.promise
      assert.ok(waited > 0, 'an offer beyond what may be unread waits')
      assert.deepEqual(heard, Array.from({ length: 50 }, (_, at) => at))
      assert.throws(() => void stream.offer(Uint8Array.of(1)), { code: 'CANCELLED' })
    })

    it('what throws when it is told of a frame ends the stream with its code, and hears no more of it', async () => {
      const { mine, theirs } = net
      const protocol = streaming()
      const heard: number[] = []
      theirs.accept(protocol, stream => stream.each(frame => {
        heard.push(frame[0]!)
        throw new MeshError('NO_CAPACITY', 'one is enough')
      }))
      const stream = await mine.open(theirs.self, protocol, forever)
      for (let at = 0; at < 3; at += 1) await stream.send(Uint8Array.of(at))
      await assert.rejects(stream.each(() => undefined), { code: 'NO_CAPACITY', message: 'one is enough' })
      assert.deepEqual(heard, [0])
    })

    it('a slow reader holds its sender back', async () => {
      const { mine, theirs, clock } = net
      const protocol = streaming()
      const accepted = Promise.withResolvers<Stream<Uint8Array>>()
      const over = Promise.withResolvers<void>()
      theirs.accept(protocol, async stream => {
        accepted.resolve(stream)
        await over.promise
      })
      await using stream = await mine.open(theirs.self, protocol, forever)
      let sent = 0
      const sending = (async () => {
        for (let at = 0; at < 20; at += 1) {
          await stream.send(Uint8Array.of(at))
          sent += 1
        }
        await stream.end()
      })()
      const reader = await accepted.promise
      await clock.sleep(200)
      assert.equal(sent, WINDOW)
      const heard: number[] = []
      for await (const frame of reader) heard.push(frame[0]!)
      await sending
      over.resolve()
      assert.deepEqual(heard, Array.from({ length: 20 }, (_, at) => at))
    })

    it('an abort reaches the other side with its code, both directions end', async () => {
      const { mine, theirs } = net
      const protocol = streaming()
      const ended = Promise.withResolvers<unknown>()
      theirs.accept(protocol, async stream => {
        try {
          for await (const _ of stream);
          ended.resolve('no error')
        } catch (error) {
          ended.resolve(error)
          assert.ok(stream.signal.aborted)
        }
      })
      const stream = await mine.open(theirs.self, protocol, forever)
      await stream.send(Uint8Array.of(1))
      stream.abort(new MeshError('OVERLOADED', 'changed my mind'))
      const error = await ended.promise
      assert.ok(error instanceof MeshError && error.code === 'OVERLOADED' && error.message === 'changed my mind', String(error))
      await assert.rejects(stream.send(Uint8Array.of(1)), { code: 'OVERLOADED' })
    })

    it('a frame that is too large or does not decode ends the stream with its code', async () => {
      const { mine, theirs } = net
      const protocol = streaming()
      theirs.accept(protocol, async stream => {
        for await (const _ of stream);
      })
      const first = await mine.open(theirs.self, protocol, forever)
      await assert.rejects(first.send(new Uint8Array(101)), { code: 'MESSAGE_TOO_LARGE' })
      await first.send(Uint8Array.of(255))
      await assert.rejects(first[Symbol.asyncIterator]().next(), { code: 'MESSAGE_INVALID' })
    })

    it('an error of whoever serves a stream reaches its reader', async () => {
      const { mine, theirs } = net
      const protocol = streaming()
      theirs.accept(protocol, async () => {
        throw new MeshError('NO_INSTANCE', 'not here')
      })
      const stream = await mine.open(theirs.self, protocol, forever)
      await assert.rejects(stream[Symbol.asyncIterator]().next(), { code: 'NO_INSTANCE', message: 'not here' })
    })

    it('the signal that opened a stream ends it', async () => {
      const { mine, theirs } = net
      const protocol = streaming()
      const ended = Promise.withResolvers<void>()
      theirs.accept(protocol, async stream => {
        stream.signal.addEventListener('abort', () => ended.resolve(), { once: true })
        await ended.promise
      })
      const controller = new AbortController()
      const stream = await mine.open(theirs.self, protocol, controller.signal)
      const reading = stream[Symbol.asyncIterator]().next()
      controller.abort(new MeshError('CANCELLED', 'enough'))
      await assert.rejects(reading, { code: 'CANCELLED' })
      await ended.promise
    })

    it('a silent stream ends after its idle time', async () => {
      const { mine, theirs } = net
      const protocol = streaming(100, 300)
      theirs.accept(protocol, async stream => {
        for await (const _ of stream);
      })
      const stream = await mine.open(theirs.self, protocol, forever)
      await assert.rejects(stream[Symbol.asyncIterator]().next(), { code: 'DEADLINE' })
    })

    it('gossip reaches the other, not its author; what is oversize is never sent', async () => {
      const { mine, theirs, clock } = net
      const topic = defineTopic({ id: `/aios/test-news-${++made}/1`, message: z.object({ text: z.string() }), limits: { messageBytes: 100, perPeerPerSecond: 1_000 } })
      const heard: string[] = []
      const own: string[] = []
      const stop = theirs.subscribe(topic, ({ text }, from) => heard.push(`${from === mine.self} ${text}`))
      mine.subscribe(topic, ({ text }) => own.push(text))
      await assert.rejects(mine.publish(topic, { text: 'x'.repeat(200) }), { code: 'MESSAGE_TOO_LARGE' })
      for (let at = 0; heard.length === 0; at += 1) {
        assert.ok(at < 100, 'no gossip arrived')
        await mine.publish(topic, { text: `news ${at}` })
        await clock.sleep(100)
      }
      assert.match(heard[0]!, /^true news/)
      assert.deepEqual(own, [])
      stop()
    })

    it('peers of another network are refused in the handshake, and told why', async () => {
      const { mine, stranger, clock } = net
      await assert.rejects(mine.dial(stranger.addresses(), clock.deadline(5_000)), { code: 'NETWORK_REFUSED' })
      await assert.rejects(stranger.dial(mine.addresses(), clock.deadline(5_000)), { code: 'NETWORK_REFUSED' })
    })

    it('a peer that cannot be reached is said to be unreachable', async () => {
      const { mine, clock } = net
      await assert.rejects(mine.request('12D3KooWGQzCKJKxJqnJ3bSUdQ3Q3VQ8GvBzMqYF5mCKzJ8bKqvL', echoing(), { text: 'x' }, clock.deadline(2_000)), { code: /PEER_UNREACHABLE|DEADLINE/ })
    })

    it('a ban closes what is open, tells who listens, and refuses to connect again', async () => {
      const { mine, theirs, clock } = net
      const protocol = echoing()
      theirs.handle(protocol, () => new Promise<Text>(() => undefined))
      const gone: string[] = []
      mine.onPeer((peer, state) => gone.push(`mine ${peer === theirs.self} ${state}`))
      theirs.onPeer((peer, state) => gone.push(`theirs ${peer === mine.self} ${state}`))
      const pending = assert.rejects(mine.request(theirs.self, protocol, { text: 'x' }), { code: /PEER_UNREACHABLE|NETWORK_REFUSED|DEADLINE/ })
      theirs.ban(mine.self, 'misbehaved')
      await until(() => gone.length === 2)
      assert.deepEqual(gone.sort(), ['mine true gone', 'theirs true gone'])
      await pending
      assert.deepEqual(theirs.peers(), [])
      await assert.rejects(theirs.dial(mine.addresses(), clock.deadline(3_000)), { code: 'NETWORK_REFUSED', message: /misbehaved/ })
      await assert.rejects(mine.dial(theirs.addresses(), clock.deadline(3_000)), { code: /NETWORK_REFUSED|PEER_UNREACHABLE/ })
    })
  })
}
