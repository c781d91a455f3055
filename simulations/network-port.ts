import { type Protocol, type ProtocolId, type StreamProtocol, type Topic } from '../protocols/codec.ts'
import { asMeshError, MeshError } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import { hello } from '../protocols/membership.ts'
import type { Network, Stream } from '../src/ports.ts'
import type { Carried } from './carriage.ts'
import { type Connection, Connections, type Direction, RETRANSMIT_MS } from './connections.ts'
import { hashBytes } from './identity.ts'
import { onAbort, type Life } from './kernel.ts'
import type { Host, SimulatedNetwork } from './network.ts'
import { RateLimit } from './rate-limit.ts'
import { StreamEnd, type Wire } from './streams.ts'

type Answer = { readonly heedful: boolean; readonly give: (request: Carried, from: PeerId, signal: AbortSignal) => Promise<Carried> }
type Call = { readonly id: ProtocolId; readonly request: Carried; readonly deadlineMs: Millis; controller: AbortController | undefined; cancelled: boolean; readonly reply: (result: Carried | MeshError) => void }
/** Method shorthand: both ends of a stream name one protocol by its id, so their frame types agree. */
type Acceptor = { serve(stream: Stream<unknown>, from: PeerId): Promise<void> }

/** How long a message may wait at a peer that has not admitted its sender yet. */
const ADMISSION_MS = 2_000
const CANCEL = 0x43414e43
const FAILURE = 0x4641494c
/** For handlers that take no signal. */
const NEVER = new AbortController().signal

/** The Network port of one life of one peer. */
export class NetworkPort implements Network {
  readonly self: PeerId
  readonly host: Host
  readonly life: Life
  readonly connections: Connections
  readonly #net: SimulatedNetwork
  readonly #answers = new Map<ProtocolId, Answer>()
  readonly #acceptors = new Map<ProtocolId, Acceptor>()
  readonly #rates: RateLimit

  constructor(net: SimulatedNetwork, host: Host, life: Life) {
    this.#net = net
    this.host = host
    this.life = life
    this.self = host.peer
    this.connections = new Connections(net, this, host, life)
    this.#rates = new RateLimit(() => net.kernel.now)
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

  async request<Q, R>(to: PeerId, protocol: Protocol<Q, R>, request: Q, signal?: AbortSignal): Promise<R> {
    signal?.throwIfAborted()
    const { id, limits } = protocol
    const carried = this.#net.carriage.load('a request of', id, request, limits.requestBytes)
    this.#net.counts.requests += 1
    const answer = await this.#call(to, id, carried, limits.deadlineMs, signal)
    return this.#net.carriage.unload('the answer to', id, answer, protocol.response, limits.responseBytes)
  }

  handle<Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>): void {
    const { id, limits: { requestBytes, responseBytes, perPeerPerSecond } } = protocol
    if (this.#answers.has(id)) throw new Error(`bug: ${id} is already answered`)
    const { carriage } = this.#net
    const give = async (request: Carried, from: PeerId, signal: AbortSignal): Promise<Carried> => {
      this.#limit(id, from, perPeerPerSecond)
      return carriage.load('the answer to', id, await answer(carriage.unload('a request of', id, request, protocol.request, requestBytes), from, signal), responseBytes)
    }
    // Making a signal costs more than most answers: who declares no third parameter gets none of its own.
    this.#answers.set(id, { heedful: answer.length !== 1 && answer.length !== 2, give })
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
        track(connection, mine)
        connection.pending.add(fail)
        this.#later(connection, () => connection.port.#welcome(this.self, protocol, mine, failure => {
          this.#later(connection, () => {
            connection.pending.delete(fail)
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

  #call(to: PeerId, id: ProtocolId, request: Carried, deadlineMs: Millis, signal: AbortSignal | undefined): Promise<Carried> {
    return new Promise((resolve, reject) => {
      let asked: Connection | undefined
      let hangUp: (() => void) | undefined
      let settled = false
      const settle = (): boolean => {
        if (settled) return false
        settled = true
        cancelDeadline()
        unfollow?.()
        asked?.pending.delete(fail)
        hangUp?.()
        return true
      }
      const fail = (failure: unknown): void => {
        if (settle()) reject(failure)
      }
      const cancelDeadline = this.#net.kernel.after(deadlineMs, () => fail(new MeshError('DEADLINE', `${to} did not answer ${id} within ${deadlineMs} ms`)), this.life)
      const unfollow = signal === undefined ? undefined : onAbort(signal, () => fail(signal.reason))
      this.connections.whenReady(to, { patienceMs: deadlineMs, unadmitted: id === hello.id }, connection => {
        if (settled) return
        connection.pending.add(fail)
        asked = connection
        const sentAt = this.#net.kernel.now
        hangUp = this.#post(connection, id, request, deadlineMs, result => {
          connection.rtt = Math.round(connection.rtt * 0.75 + (this.#net.kernel.now - sentAt) * 0.25)
          if (!settle()) return
          if (result instanceof MeshError) reject(result)
          else resolve(result)
        })
      }, fail)
    })
  }

  /** Sends a request over; `hear` gets the answer unless either way loses it. Returns how to cancel it. */
  #post(connection: Connection, id: ProtocolId, request: Carried, deadlineMs: Millis, hear: (result: Carried | MeshError) => void): () => void {
    let answered = false
    const { port } = connection
    const reply = (result: Carried | MeshError): void => {
      answered = true
      const back = port.connections.get(this.self)
      if (back?.port === this) port.#send(back, result instanceof MeshError ? FAILURE : result.hash, () => hear(result))
    }
    const call: Call = { id, request, deadlineMs, controller: undefined, cancelled: false, reply }
    this.#send(connection, request.hash, () => port.#answer(call, this.self))
    return () => {
      if (answered) return
      this.#send(connection, CANCEL, () => {
        call.cancelled = true
        call.controller?.abort(notWaitedFor(this.self, id))
      })
    }
  }

  #answer(call: Call, from: PeerId): void {
    const { id, request, deadlineMs, reply } = call
    const connection = this.connections.get(from)
    if (connection === undefined) {
      this.#reset(from)
      return
    }
    if (!connection.admitted && id !== hello.id) {
      this.connections.whenAdmitted(connection, Math.min(ADMISSION_MS, deadlineMs), () => this.#answer(call, from), () => reply(new MeshError('UNAUTHENTICATED', `${this.self} has not admitted ${from}`)))
      return
    }
    const answer = this.#answers.get(id)
    if (answer === undefined) {
      reply(new MeshError('PROTOCOL_UNSUPPORTED', `${this.self} does not speak ${id}`))
      return
    }
    if (!answer.heedful) {
      answer.give(request, from, NEVER).then(reply, error => reply(this.#overTheWire(error)))
      return
    }
    const controller = new AbortController()
    call.controller = controller
    if (call.cancelled) controller.abort(notWaitedFor(from, id))
    const abort = (failure: MeshError): void => controller.abort(failure)
    const cancel = this.#net.kernel.after(deadlineMs, () => abort(new MeshError('DEADLINE', `the deadline of ${deadlineMs} ms of ${id} passed`)), this.life)
    connection.pending.add(abort)
    const finish = (result: Carried | MeshError): void => {
      cancel()
      connection.pending.delete(abort)
      reply(result)
    }
    answer.give(request, from, controller.signal).then(finish, error => finish(this.#overTheWire(error)))
  }

  /** Welcomes a stream whose other end is `theirs`; says how it went. */
  #welcome<F>(from: PeerId, protocol: StreamProtocol<F>, theirs: StreamEnd<F>, done: (failure?: MeshError) => void): void {
    const connection = this.connections.get(from)
    if (connection === undefined) {
      this.#reset(from)
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
    try {
      this.#limit(protocol.id, from, protocol.limits.perPeerPerSecond)
    } catch (error) {
      done(asMeshError(error))
      return
    }
    const mine = new StreamEnd(from, protocol, this.#wire(connection))
    StreamEnd.join(mine, theirs)
    track(connection, mine)
    acceptor.serve(mine, from).then(() => mine.end(), error => mine.abort(this.#overTheWire(error)))
    done()
  }

  #limit(id: ProtocolId, from: PeerId, perPeerPerSecond: number): void {
    if (this.#rates.allow(id, from, perPeerPerSecond)) return
    this.#net.counts.rateLimited += 1
    throw new MeshError('RATE_LIMITED', `${from} used ${id} more than ${perPeerPerSecond} times a second`)
  }

  #overTheWire(error: unknown): MeshError {
    if (!(error instanceof MeshError)) this.#net.bug(error, this.self)
    const { code, message, details, retryable } = asMeshError(error)
    return new MeshError(code, message, { details, retryable })
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
        else this.#restarted(connection)
      },
    }
  }

  /** One datagram's fate: lost, cut off, or delivered to the life that was connected. */
  #send(connection: Connection, hash: number, deliver: () => void): void {
    const { kernel, links, counts } = this.#net
    const [from, to] = [this.host.index, connection.host.index]
    if (!this.life.alive) return
    if (links.lost()) {
      counts.lost += 1
      return
    }
    kernel.after(links.delay(from, to), () => {
      if (!links.whole && links.severed(from, to)) return
      if (!connection.port.life.alive) {
        this.#restarted(connection)
        return
      }
      this.#net.record(from, to, hash)
      deliver()
    })
  }

  /** We spoke to an earlier life of a host that is up again: it knows nothing of the connection, and says so. */
  #restarted(connection: Connection): void {
    const { host, port } = connection
    if (host.port === undefined) return
    const { kernel, links } = this.#net
    kernel.after(links.delay(host.index, this.host.index), () => {
      if (!links.severed(host.index, this.host.index)) this.connections.lose(host.peer, port)
    }, this.life)
  }

  /** Somebody speaks over a connection that we have given up: as TCP does, we say so. */
  #reset(from: PeerId): void {
    const other = this.#net.host(from)
    const port = other?.port
    if (other === undefined || port === undefined) return
    const { kernel, links } = this.#net
    kernel.after(links.delay(this.host.index, other.index), () => {
      if (!links.severed(this.host.index, other.index)) port.connections.lose(this.self, this)
    }, port.life)
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
      else this.#restarted(connection)
    }
    kernel.after(links.delay(from, to) + (links.lost() ? RETRANSMIT_MS : 0), arrive)
  }
}

function track(connection: Connection, stream: { sever(failure: MeshError): void; readonly closed: boolean }): void {
  for (const other of connection.streams) if (other.closed) connection.streams.delete(other)
  connection.streams.add(stream)
}

function notWaitedFor(by: PeerId, id: ProtocolId): MeshError {
  return new MeshError('CANCELLED', `${by} no longer waits for ${id}`)
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
