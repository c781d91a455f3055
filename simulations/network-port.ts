import type { Protocol, ProtocolId, StreamProtocol, Topic } from '../protocols/codec.ts'
import { asMeshError, MeshError } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import type { Network, Stream } from '../src/ports.ts'
import { Calls, overTheWire, tooOften } from './call.ts'
import { type Connection, Connections, type Direction, RETRANSMIT_MS } from './connections.ts'
import { hashBytes } from './identity.ts'
import type { Life } from './kernel.ts'
import type { Host, SimulatedNetwork } from './network.ts'
import { RateLimit } from './rate-limit.ts'
import { StreamEnd, type Wire } from './streams.ts'

/** Method shorthand: both ends of a stream name one protocol by its id, so their frame types agree. */
type Acceptor = { serve(stream: Stream<unknown>, from: PeerId): Promise<void> }

/** How long a message may wait at a peer that has not admitted its sender yet. */
const ADMISSION_MS = 2_000

/** The Network port of one life of one peer. */
export class NetworkPort implements Network {
  readonly self: PeerId
  readonly host: Host
  readonly life: Life
  readonly connections: Connections
  readonly calls: Calls
  readonly #net: SimulatedNetwork
  readonly #acceptors = new Map<ProtocolId, Acceptor>()
  readonly #rates: RateLimit

  constructor(net: SimulatedNetwork, host: Host, life: Life) {
    this.#net = net
    this.host = host
    this.life = life
    this.self = host.peer
    this.connections = new Connections(net, this, host, life)
    this.#rates = new RateLimit(() => net.kernel.now)
    this.calls = new Calls(net, this, this.#rates)
  }

  addresses(): readonly string[] {
    return [this.host.address]
  }

  async dial(addresses: readonly string[], signal: AbortSignal): Promise<PeerId> {
    let failure = new MeshError('PEER_UNREACHABLE', 'no address to dial')
    for (const address of addresses) {
      signal.throwIfAborted()
      const target = this.#net.at(address)
      try {
        if (target !== undefined) return await unlessAborted(this.connections.reach(target), signal)
        failure = new MeshError('PEER_UNREACHABLE', `nobody answers at ${address}`)
      } catch (error) {
        failure = asMeshError(error)
      }
    }
    throw failure
  }

  request<Q, R>(to: PeerId, protocol: Protocol<Q, R>, request: Q, until?: AbortSignal | Millis): Promise<R> {
    return this.calls.ask(to, protocol, request, until)
  }

  handle<Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>): void {
    this.calls.handle(protocol, answer)
  }

  open<F>(to: PeerId, protocol: StreamProtocol<F>, signal: AbortSignal): Promise<Stream<F>> {
    signal.throwIfAborted()
    let opened: StreamEnd<F> | undefined
    const opening = new Promise<Stream<F>>((resolve, reject) => {
      this.connections.whenReady(to, { patienceMs: ADMISSION_MS * 2, unadmitted: false }, connection => {
        const mine = new StreamEnd(to, protocol, this.#wire(connection))
        opened = mine
        const fail = (failure: MeshError): void => {
          mine.sever(failure)
          reject(failure)
        }
        const opening = { fail }
        track(connection, mine)
        connection.pending.add(opening)
        this.#later(connection, () => connection.port.#welcome(this.self, protocol, mine, failure => {
          this.#later(connection, () => {
            connection.pending.delete(opening)
            if (failure !== undefined) {
              fail(failure)
              return
            }
            const cancel = (): void => mine.abort(asCancelled(signal.reason))
            signal.addEventListener('abort', cancel, { once: true })
            mine.signal.addEventListener('abort', () => signal.removeEventListener('abort', cancel), { once: true })
            resolve(mine)
          })
        }))
      }, reject)
    })
    return unlessAborted(opening, signal, () => opened?.abort(new MeshError('CANCELLED', 'the stream was cancelled before it opened')))
  }

  accept<F>(protocol: StreamProtocol<F>, serve: (stream: Stream<F>, from: PeerId) => Promise<void>): void {
    if (this.#acceptors.has(protocol.id)) throw new Error(`bug: ${protocol.id} is already accepted`)
    this.#acceptors.set(protocol.id, { serve })
  }

  async publish<M>(topic: Topic<M>, message: M): Promise<void> {
    if (!this.life.alive) return
    if (this.#rates.allow(topic.id, this.self, topic.limits.perPeerPerSecond)) this.#net.publish(this.host, topic, message)
    else this.#net.counts.rateLimited += 1
  }

  subscribe<M>(topic: Topic<M>, hear: (message: M, from: PeerId) => void): () => void {
    return this.#net.subscribe(this, topic, hear)
  }

  onConnection(hear: (peer: PeerId, direction: Direction) => void): () => void {
    return this.connections.onConnection(hear)
  }

  admit(peer: PeerId): void {
    this.connections.admit(peer)
  }

  peers(): readonly PeerId[] {
    return this.connections.admitted()
  }

  onPeer(hear: (peer: PeerId, state: 'joined' | 'gone') => void): () => void {
    return this.connections.onPeer(hear)
  }

  ban(peer: PeerId, because: string): void {
    this.connections.ban(peer, because)
  }

  rtt(peer: PeerId): Millis | undefined {
    return this.connections.get(peer)?.rtt
  }

  /** Welcomes a stream whose other end is `theirs`; says how it went. */
  #welcome<F>(from: PeerId, protocol: StreamProtocol<F>, theirs: StreamEnd<F>, done: (failure?: MeshError) => void): void {
    const connection = this.connections.get(from)
    if (connection === undefined) {
      this.connections.reset(from)
      return
    }
    if (!connection.admitted) {
      this.connections.whenAdmitted(connection, ADMISSION_MS, () => this.#welcome(from, protocol, theirs, done), () => done(new MeshError('UNAUTHENTICATED', `${this.self} has not admitted ${from}`)))
      return
    }
    const acceptor = this.#acceptors.get(protocol.id)
    if (acceptor === undefined) {
      done(new MeshError('PROTOCOL_UNSUPPORTED', `${this.self} does not speak ${protocol.id}`))
      return
    }
    if (!this.#rates.allow(protocol.id, from, protocol.limits.perPeerPerSecond)) {
      this.#net.counts.rateLimited += 1
      done(tooOften(protocol.id, from, protocol.limits.perPeerPerSecond))
      return
    }
    const mine = new StreamEnd(from, protocol, this.#wire(connection))
    StreamEnd.join(mine, theirs)
    track(connection, mine)
    acceptor.serve(mine, from).then(() => mine.end(), error => mine.abort(overTheWire(this.#net, this.self, error)))
    done()
  }

  #wire(connection: Connection): Wire {
    const { kernel, links } = this.#net
    const [from, to] = [this.host.index, connection.host.index]
    return {
      now: () => kernel.now,
      delay: () => links.delay(from, to) + (links.lost() ? RETRANSMIT_MS : 0),
      severed: () => links.severed(from, to) || (this.#isDown(connection) && this.connections.get(connection.host.peer) === connection),
      after: (duration, run) => void kernel.after(duration, run, this.life),
      delivered: bytes => {
        if (connection.port.life.alive) this.#net.record(from, to, hashBytes(bytes, 1))
        else this.connections.restarted(connection)
      },
    }
  }

  /** Its host is not running: nothing answers, and what was sent is sent again until the connection is given up. */
  #isDown({ host, port }: Connection): boolean {
    return !port.life.alive && host.port === undefined
  }

  /** Something that TCP carries reliably: late when a segment is lost, and when the link is cut until it heals or the connection is given up. */
  #later(connection: Connection, run: () => void): void {
    const { kernel, links } = this.#net
    const [from, to] = [this.host.index, connection.host.index]
    const arrive = (): void => {
      if (!this.life.alive) return
      if (links.severed(from, to) || this.#isDown(connection)) {
        if (this.connections.get(connection.host.peer) === connection) kernel.after(RETRANSMIT_MS, arrive)
      } else if (connection.port.life.alive) run()
      else this.connections.restarted(connection)
    }
    kernel.after(links.delay(from, to) + (links.lost() ? RETRANSMIT_MS : 0), arrive)
  }
}

function track(connection: Connection, stream: { sever(failure: MeshError): void; readonly closed: boolean }): void {
  for (const other of connection.streams) if (other.closed) connection.streams.delete(other)
  connection.streams.add(stream)
}

function asCancelled(reason: unknown): MeshError {
  return reason instanceof MeshError ? reason : new MeshError('CANCELLED', reason instanceof Error ? reason.message : 'the stream was cancelled')
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal, aborted?: () => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = (): void => {
      aborted?.()
      reject(signal.reason)
    }
    if (signal.aborted) {
      work.catch(() => undefined)
      cancel()
      return
    }
    signal.addEventListener('abort', cancel, { once: true })
    const clean = (): void => signal.removeEventListener('abort', cancel)
    work.then(value => {
      clean()
      resolve(value)
    }, error => {
      clean()
      reject(error)
    })
  })
}
