import { decode, encode, type Protocol, type Topic } from '../../protocols/codec.ts'
import { MeshError, asMeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { Clock, Network, Random, Telemetry } from '../../src/ports.ts'

type Answer = (bytes: Uint8Array, from: PeerId, signal: AbortSignal) => Promise<Uint8Array>

/** Peers in one process that exchange encoded, size-checked messages: requests and topics, no streams. */
export class Loopback {
  readonly #peers = new Map<PeerId, { readonly handlers: Map<string, Answer>; readonly topics: Map<string, Set<(bytes: Uint8Array, from: PeerId) => void>>; readonly hearers: Set<(peer: PeerId, state: 'joined' | 'gone') => void> }>()
  /** Return false to lose a topic message. */
  gossip: (topic: string, from: PeerId, to: PeerId) => boolean = () => true
  /** Sees, and may replace, what a peer answers. */
  answering: (protocol: string, by: PeerId, answer: Uint8Array) => Uint8Array = (_, __, answer) => answer
  readonly requests: { readonly protocol: string; readonly to: PeerId }[] = []

  join(self: PeerId): Network {
    const me = { handlers: new Map<string, Answer>(), topics: new Map<string, Set<(bytes: Uint8Array, from: PeerId) => void>>(), hearers: new Set<(peer: PeerId, state: 'joined' | 'gone') => void>() }
    const others = [...this.#peers.values()]
    this.#peers.set(self, me)
    for (const other of others) for (const hear of other.hearers) hear(self, 'joined')
    const unused = (): never => {
      throw new Error('the loopback network has no such thing')
    }
    return {
      self,
      addresses: () => [],
      dial: unused,
      open: unused,
      accept: unused,
      onConnection: () => () => {},
      admit: () => {},
      ban: () => {},
      rtt: () => undefined,
      peers: () => [...this.#peers.keys()].filter(peer => peer !== self).sort(),
      onPeer: hear => {
        me.hearers.add(hear)
        return () => me.hearers.delete(hear)
      },
      handle: <Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>) => {
        me.handlers.set(protocol.id, async (bytes, from, signal) => encode(await answer(decode(protocol.request, bytes, protocol.limits.requestBytes, protocol.id), from, signal)))
      },
      request: async <Q, R>(to: PeerId, protocol: Protocol<Q, R>, request: Q, until?: AbortSignal | number): Promise<R> => {
        this.requests.push({ protocol: protocol.id, to })
        await new Promise(resolve => setImmediate(resolve))
        const handler = this.#peers.get(to)?.handlers.get(protocol.id)
        if (handler === undefined) throw new MeshError('PEER_UNREACHABLE', `${to} is not here`)
        try {
          const answer = this.answering(protocol.id, to, await handler(encode(request), self, typeof until === 'object' ? until : new AbortController().signal))
          return decode(protocol.response, answer, protocol.limits.responseBytes, protocol.id)
        } catch (error) {
          throw asMeshError(error)
        }
      },
      publish: async <M>(topic: Topic<M>, message: M) => {
        const bytes = encode(message)
        if (bytes.byteLength > topic.limits.messageBytes) throw new MeshError('MESSAGE_TOO_LARGE', `${topic.id} message is ${bytes.byteLength} bytes`)
        for (const [peer, { topics }] of this.#peers) if (peer !== self && this.gossip(topic.id, self, peer)) setImmediate(() => topics.get(topic.id)?.forEach(hear => hear(bytes, self)))
      },
      subscribe: <M>(topic: Topic<M>, hear: (message: M, from: PeerId) => void) => {
        const hearers = me.topics.get(topic.id) ?? new Set()
        me.topics.set(topic.id, hearers)
        const listen = (bytes: Uint8Array, from: PeerId): void => hear(decode(topic.message, bytes, topic.limits.messageBytes, topic.id), from)
        hearers.add(listen)
        return () => hearers.delete(listen)
      },
    }
  }

  leave(peer: PeerId): void {
    this.#peers.delete(peer)
    for (const other of this.#peers.values()) for (const hear of other.hearers) hear(peer, 'gone')
  }
}

/** Real time. `pace` divides every wait, so that a test need not sit through a repair interval. */
export function realClock(pace = 1): Clock {
  const after = (duration: number, run: () => void): (() => void) => {
    const timer = setTimeout(run, duration / pace)
    timer.unref()
    return () => clearTimeout(timer)
  }
  return {
    monotonic: () => Math.floor(performance.now()),
    unix: () => Date.now(),
    sleep: duration => new Promise(resolve => setTimeout(resolve, duration / pace)),
    after,
    deadline: (duration, parent) => (parent === undefined ? AbortSignal.timeout(duration) : AbortSignal.any([AbortSignal.timeout(duration), parent])),
  }
}

export const realRandom: Random = {
  float: () => Math.random(),
  below: limit => Math.floor(Math.random() * limit),
  bytes: length => crypto.getRandomValues(new Uint8Array(length)),
  pick: items => items[Math.floor(Math.random() * items.length)]!,
  fork: () => realRandom,
}

export type Recorded = Telemetry & { readonly events: { readonly level: string; readonly name: string; readonly fields: Readonly<Record<string, unknown>> }[]; readonly counts: Map<string, number> }

export function recording(): Recorded {
  const counts = new Map<string, number>()
  const events: Recorded['events'] = []
  return {
    counts,
    events,
    count: (metric, labels, by = 1) => {
      const name = labels === undefined || Object.keys(labels).length === 0 ? metric : `${metric}{${Object.values(labels).join(',')}}`
      counts.set(name, (counts.get(name) ?? 0) + by)
    },
    gauge: () => {},
    observe: () => {},
    event: (level, name, fields) => void events.push({ level, name, fields }),
  }
}

/** Waits until it is so; gives up after `limit` ms, so that a failed test ends. */
export async function until(condition: () => boolean | Promise<boolean>, limit = 45_000): Promise<void> {
  for (const end = performance.now() + limit; !(await condition()); await new Promise(resolve => setTimeout(resolve, 5))) {
    if (performance.now() > end) throw new Error(`still not so after ${limit} ms: ${condition.toString().slice(0, 200)}`)
  }
}
