import type { Network, Stream } from '../../src/ports.ts'
import { clock } from './peers.ts'

/** The same network, every message of which leaves `delayMs` late, in order: half a round trip that is not there. */
export function farNetwork(network: Network, delayMs: number): Network {
  const late = (): Promise<void> => clock.sleep(delayMs)
  return {
    get self() {
      return network.self
    },
    addresses: () => network.addresses(),
    dial: (addresses, signal) => network.dial(addresses, signal),
    // The answer's way back is waited for here, so that the other side need not know.
    request: async (to, protocol, request, until) => {
      await late()
      const answer = await network.request(to, protocol, request, until)
      await late()
      return answer
    },
    handle: (protocol, answer) => network.handle(protocol, answer),
    open: async (to, protocol, signal) => farStream(await network.open(to, protocol, signal), delayMs),
    accept: (protocol, serve) => network.accept(protocol, (stream, from) => serve(farStream(stream, delayMs), from)),
    publish: async (topic, message) => {
      await late()
      await network.publish(topic, message)
    },
    subscribe: (topic, hear) => network.subscribe(topic, hear),
    onConnection: hear => network.onConnection(hear),
    admit: peer => network.admit(peer),
    peers: () => network.peers(),
    onPeer: hear => network.onPeer(hear),
    ban: (peer, because) => network.ban(peer, because),
    rtt: peer => {
      const near = network.rtt(peer)
      return near === undefined ? undefined : near + 2 * delayMs
    },
  }
}

/** Frames leave one after the other, each late by as much; whoever sends does not wait for that. */
function farStream<F>(stream: Stream<F>, delayMs: number): Stream<F> {
  let last: Promise<void> = Promise.resolve()
  const inTurn = (leave: () => Promise<void>): void => {
    const due = clock.monotonic() + delayMs
    last = last.then(async () => {
      const left = due - clock.monotonic()
      if (left > 0) await clock.sleep(left)
      await leave().catch(() => undefined)
    })
  }
  return {
    peer: stream.peer,
    send: async frame => inTurn(() => stream.send(frame)),
    offer(frame) {
      inTurn(() => stream.send(frame))
      return undefined
    },
    each: hear => stream.each(hear),
    end: async () => inTurn(() => stream.end()),
    abort: error => stream.abort(error),
    get signal() {
      return stream.signal
    },
    [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator](),
    [Symbol.asyncDispose]: async () => {
      await last
      await stream[Symbol.asyncDispose]()
    },
  }
}
