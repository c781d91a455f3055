import assert from 'node:assert/strict'
import { z } from 'zod'
import { defineProtocol, defineStream, defineTopic } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { acquaint, pair, PEER_A, PEER_B } from './pair.ts'

const echo = defineProtocol({
  id: '/aios/test-echo/1',
  request: z.object({ text: z.string() }),
  response: z.object({ text: z.string() }),
  limits: { requestBytes: 100, responseBytes: 100, perPeerPerSecond: 50, deadlineMs: 1_000 },
})
const news = defineTopic({ id: '/aios/test-news/1', message: z.object({ text: z.string() }), limits: { messageBytes: 100, perPeerPerSecond: 1_000 } })
const bytes = defineStream<Uint8Array>({
  id: '/aios/test-bytes/1',
  encode: frame => frame,
  decode: frame => frame,
  limits: { frameBytes: 100, queuedFrames: 4, idleMs: 60_000, perPeerPerSecond: 50 },
})
const forever = new AbortController().signal

describe('the simulated network', () => {
  it('nothing but hello passes before admission', async () => {
    const { kernel, a, b } = pair()
    b.handle(echo, async request => request)
    await kernel.drive(a.dial(b.addresses(), forever))
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { code: /DEADLINE|PEER_UNREACHABLE/ })
    a.admit(PEER_B)
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { code: /DEADLINE|UNAUTHENTICATED/ })
    b.admit(PEER_A)
    assert.deepEqual(await kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { text: 'x' })
  })

  it('peers of another network are refused in the handshake', async () => {
    const { kernel, net, a } = pair()
    const stranger = net.addHost('12D3KooWstranger', 'another secret')
    net.connect(stranger, { alive: true })
    await assert.rejects(kernel.drive(a.dial([stranger.address], forever)), { code: 'NETWORK_REFUSED' })
  })

  it('the error of the remote answers the request, a bug is reported and answered as INTERNAL', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, a, b, bugs } = world
    b.handle(echo, async ({ text }) => {
      if (text === 'bug') throw new TypeError('oops')
      throw new MeshError('NO_CAPACITY', 'all taken')
    })
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { code: 'NO_CAPACITY', message: 'all taken', retryable: true })
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'bug' })), { code: 'INTERNAL' })
    assert.equal(bugs.length, 1)
  })

  it('limits of size, rate and time are kept', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, a, b } = world
    b.handle(echo, async ({ text }) => (text === 'slow' ? new Promise(() => {}) : { text: text === 'long' ? 'x'.repeat(200) : text }))
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x'.repeat(200) })), { code: 'MESSAGE_TOO_LARGE' })
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'long' })), { code: 'MESSAGE_TOO_LARGE' })
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'slow' })), { code: 'DEADLINE' })
    const outcomes = await kernel.drive(Promise.allSettled(Array.from({ length: 60 }, () => a.request(PEER_B, echo, { text: 'x' }))))
    assert.equal(outcomes.filter(outcome => outcome.status === 'rejected' && outcome.reason.code === 'RATE_LIMITED').length, 10)
    await assert.rejects(kernel.drive(b.request(PEER_A, echo, { text: 'x' })), { code: 'PROTOCOL_UNSUPPORTED' })
  })

  it('a cancelled request tells the peer that answers it', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, a, b } = world
    let told = false
    b.handle(echo, (_, __, signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => {
      told = true
      reject(signal.reason)
    })))
    const controller = new AbortController()
    const asking = a.request(PEER_B, echo, { text: 'x' }, controller.signal)
    kernel.after(50, () => controller.abort(new MeshError('CANCELLED', 'no longer wanted')))
    await assert.rejects(kernel.drive(asking), { code: 'CANCELLED' })
    await kernel.run(kernel.now + 50)
    assert.ok(told)
  })

  it('a crash ends what was asked of the dead and makes it gone; a dead peer does nothing more', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, net, a, b, hosts, lives } = world
    const gone: string[] = []
    a.onPeer((peer, state) => gone.push(`${peer} ${state}`))
    b.handle(echo, async request => {
      await kernel.clock(lives[1]).sleep(500)
      return request
    })
    const asking = a.request(PEER_B, echo, { text: 'x' })
    kernel.after(100, () => {
      lives[1].alive = false
      net.unplug(hosts[1])
    })
    await assert.rejects(kernel.drive(asking), { code: 'PEER_UNREACHABLE' })
    assert.deepEqual(gone, [`${PEER_B} gone`])
    assert.deepEqual(a.peers(), [])
  })

  it('a host that lost its power and is up again tells whoever speaks to its earlier life', async () => {
    const two = pair()
    const { kernel, net, a, b, hosts, lives } = two
    b.handle(echo, async request => request)
    await acquaint(two)
    lives[1].alive = false
    net.unplug(hosts[1], true)
    const gone: string[] = []
    a.onPeer((peer, state) => gone.push(`${peer} ${state}`))
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { code: 'DEADLINE' })
    assert.deepEqual(gone, [])
    net.connect(hosts[1], { alive: true })
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { code: 'PEER_UNREACHABLE' })
    assert.deepEqual(gone, [`${PEER_B} gone`])
  })

  it('a cut link is silent: requests run into their deadline, and only later is the peer gone', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, net, a, b } = world
    b.handle(echo, async request => request)
    const heal = net.partition([PEER_A], [PEER_B])
    await assert.rejects(kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { code: 'DEADLINE' })
    assert.deepEqual(a.peers(), [PEER_B])
    heal()
    assert.deepEqual(await kernel.drive(a.request(PEER_B, echo, { text: 'x' })), { text: 'x' })
    net.partition([PEER_A], [PEER_B])
    await kernel.run(kernel.now + 30_000)
    assert.deepEqual(a.peers(), [])
  })

  it('a lost request is a deadline, and about as many are lost as the weather says', async () => {
    const world = pair({ delayMs: [1, 2], loss: 0, duplicate: 0 })
    await acquaint(world)
    const { kernel, net, a, b } = world
    b.handle(echo, async request => request)
    net.links.weather = { ...net.links.weather, loss: 0.1 }
    let failed = 0
    for (let at = 0; at < 400; at += 1) await kernel.drive(a.request(PEER_B, echo, { text: 'x' }).catch(() => (failed += 1)))
    // Either way may lose it: 19 % of 400 is 76, with a deviation of 8.
    assert.ok(failed > 44 && failed < 108, `${failed} of 400 failed`)
  })

  it('gossip crosses peers that are not connected to one another, is frozen, and does not come back', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, net, a, b } = world
    const c = net.connect(net.addHost('12D3KooWpeerC'), { alive: true })
    await kernel.drive(c.dial(b.addresses(), forever))
    const heard: string[] = []
    a.subscribe(news, message => heard.push(`a ${message.text}`))
    b.subscribe(news, message => heard.push(`b ${message.text}`))
    c.subscribe(news, (message, from) => heard.push(`c ${message.text} from ${from} ${Object.isFrozen(message)}`))
    await kernel.drive(a.publish(news, { text: 'one' }))
    await kernel.run(kernel.now + 100)
    assert.deepEqual(heard, ['b one'], 'c is not admitted yet')
    c.admit(PEER_B)
    b.admit(c.self)
    await kernel.drive(a.publish(news, { text: 'two' }))
    await kernel.run(kernel.now + 100)
    assert.deepEqual(heard.slice(1).sort(), ['b two', `c two from ${PEER_A} true`])
  })

  it('a banned peer is disconnected and cannot come back', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, a, b } = world
    b.ban(PEER_A, 'it lied')
    await kernel.run(kernel.now + 100)
    assert.deepEqual([a.peers(), b.peers()], [[], []])
    await assert.rejects(kernel.drive(a.dial(b.addresses(), forever)), { code: 'NETWORK_REFUSED', message: /it lied/ })
  })
})

describe('simulated streams', () => {
  it('frames arrive in order even when segments are lost', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, net, a, b } = world
    net.links.weather = { ...net.links.weather, loss: 0.3 }
    const got: number[] = []
    b.accept(bytes, async stream => {
      for await (const frame of stream) got.push(frame[0] ?? -1)
      await stream.send(Uint8Array.of(99))
    })
    const answer = await kernel.drive((async () => {
      await using stream = await a.open(PEER_B, bytes, forever)
      for (let at = 0; at < 50; at += 1) await stream.send(Uint8Array.of(at))
      await stream.end()
      const back: number[] = []
      for await (const frame of stream) back.push(frame[0] ?? -1)
      return back
    })())
    assert.deepEqual(got, Array.from({ length: 50 }, (_, at) => at))
    assert.deepEqual(answer, [99])
  })

  it('a sender waits while the reader has a window of frames unread', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, a, b } = world
    let read: () => void = () => {}
    const asked = new Promise<void>(resolve => {
      read = resolve
    })
    b.accept(bytes, async stream => {
      await asked
      for await (const _ of stream);
    })
    let sent = 0
    const sending = (async () => {
      const stream = await a.open(PEER_B, bytes, forever)
      for (; sent < 10; sent += 1) await stream.send(Uint8Array.of(sent))
      await stream.end()
    })()
    await kernel.run(kernel.now + 1_000)
    assert.equal(sent, 4)
    read()
    await kernel.drive(sending)
    assert.equal(sent, 10)
  })

  it('an abort reaches the other side with its code', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, a, b } = world
    b.accept(bytes, async () => {
      throw new MeshError('OVERLOADED', 'come back later')
    })
    await assert.rejects(kernel.drive((async () => {
      const stream = await a.open(PEER_B, bytes, forever)
      for await (const _ of stream);
    })()), { code: 'OVERLOADED' })
  })

  it('to a host that lost its power and is up again, it is over as soon as something is sent: open or about to be opened', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, net, a, b, hosts, lives } = world
    b.accept(bytes, () => new Promise(() => {}))
    const open = await kernel.drive(a.open(PEER_B, bytes, forever))
    lives[1].alive = false
    net.unplug(hosts[1], true)
    const sending = (async () => {
      await open.send(Uint8Array.of(1))
      for await (const _ of open);
    })()
    const opening = a.open(PEER_B, bytes, forever)
    const from = kernel.now
    kernel.after(1_000, () => net.connect(hosts[1], { alive: true }))
    const [sent, opened] = await kernel.drive(Promise.allSettled([sending, opening]))
    for (const ended of [sent, opened]) assert.equal(ended?.status === 'rejected' && asMeshError(ended.reason).code, 'PEER_UNREACHABLE')
    assert.ok(kernel.now - from < 2_000, `it took ${kernel.now - from} ms`)
  })

  it('a crash of the other side ends the iteration', async () => {
    const world = pair()
    await acquaint(world)
    const { kernel, net, a, b, hosts, lives } = world
    b.accept(bytes, () => new Promise(() => {}))
    kernel.after(200, () => {
      lives[1].alive = false
      net.unplug(hosts[1])
    })
    await assert.rejects(kernel.drive((async () => {
      const stream = await a.open(PEER_B, bytes, forever)
      for await (const _ of stream);
    })()), { code: 'PEER_UNREACHABLE' })
  })
})
