import type { Protocol, ProtocolId } from '../protocols/codec.ts'
import { asMeshError, MeshError } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import { hello } from '../protocols/membership.ts'
import type { Carried } from './carriage.ts'
import type { Connection, Connections } from './connections.ts'
import { onAbort, type Life, type Step } from './kernel.ts'
import type { Host, SimulatedNetwork } from './network.ts'
import type { Rate, RateLimit } from './rate-limit.ts'

/** How long a message may wait at a peer that has not admitted its sender yet. */
const ADMISSION_MS = 2_000
const CANCEL = 0x43414e43
const FAILURE = 0x4641494c
/** For handlers that take no signal. */
const NEVER = new AbortController().signal

/** One end of calls: a life of a peer. */
export type Party = {
  readonly self: PeerId
  readonly host: Host
  readonly life: Life
  readonly connections: Connections
  readonly calls: Calls
}

type Limits = Protocol<unknown, unknown>['limits']
type Answer = { readonly limits: Limits; readonly rate: Rate; readonly heedful: boolean; readonly serve: (request: Carried, from: PeerId, signal: AbortSignal) => Promise<unknown> }
/** A question as the one who answers it sees it. */
export type Asked = {
  readonly protocol: { readonly id: ProtocolId; readonly limits: Limits }
  readonly request: Carried
  readonly asker: Party
  controller: AbortController | undefined
  readonly cancelled: boolean
  reply(by: Party, result: Carried | MeshError): void
}

/** One question, from when it is asked until its asker has an answer or waits no more: there are very many, and each is one object. */
class Call<R> implements Asked {
  readonly protocol: Pick<Protocol<unknown, R>, 'id' | 'limits' | 'response'>
  readonly request: Carried
  readonly asker: Party
  /** Among the calls of its connection. */
  place = -1
  /** At the one who answers. */
  controller: AbortController | undefined
  cancelled = false
  readonly #net: SimulatedNetwork
  readonly #to: PeerId
  readonly #deadlineMs: Millis
  readonly #resolve: (answer: R) => void
  readonly #reject: (failure: unknown) => void
  readonly #deadline: Deadline
  #unfollow: (() => void) | undefined
  #connection: Connection | undefined
  #sentAt = 0
  #settled = false
  #answered = false

  constructor(net: SimulatedNetwork, asker: Party, to: PeerId, protocol: Pick<Protocol<unknown, R>, 'id' | 'limits' | 'response'>, request: Carried, deadlineMs: Millis, resolve: (answer: R) => void, reject: (failure: unknown) => void) {
    this.#net = net
    this.asker = asker
    this.#to = to
    this.protocol = protocol
    this.request = request
    this.#deadlineMs = deadlineMs
    this.#resolve = resolve
    this.#reject = reject
    this.#deadline = new Deadline(asker.life, this)
  }

  begin(signal: AbortSignal | undefined): void {
    const deadlineMs = this.#deadlineMs
    this.#net.kernel.enter(deadlineMs, this.#deadline)
    if (signal !== undefined) this.#unfollow = onAbort(signal, () => this.fail(signal.reason))
    const connection = this.asker.connections.get(this.#to)
    if (connection?.admitted === true) this.#send(connection)
    else this.asker.connections.whenReady(this.#to, { patienceMs: deadlineMs, unadmitted: this.protocol.id === hello.id }, ready => this.#send(ready), failure => this.fail(failure))
  }

  fail(failure: unknown): void {
    if (this.#settle()) this.#reject(failure)
  }

  late(): void {
    this.fail(new MeshError('DEADLINE', `${this.#to} did not answer ${this.protocol.id} within ${this.#deadlineMs} ms`))
  }

  /** Called by the one who answers: the answer goes back, unless that way loses it. */
  reply(by: Party, result: Carried | MeshError): void {
    this.#answered = true
    const { asker } = this
    const back = by.connections.get(asker.self)
    if (back?.port === asker) send(this.#net, by, back, new Datagram(this.#net, by, back, this, result))
  }

  /** The answer has come. */
  hear(result: Carried | MeshError): void {
    const { protocol: { id, response, limits: { responseBytes } } } = this
    const connection = this.#connection
    if (connection !== undefined) connection.rtt = Math.round(connection.rtt * 0.75 + (this.#net.kernel.now - this.#sentAt) * 0.25)
    if (!this.#settle()) return
    if (result instanceof MeshError) {
      this.#reject(result)
      return
    }
    try {
      this.#resolve(this.#net.carriage.unload('the answer to', id, result, response, responseBytes))
    } catch (error) {
      this.#reject(error)
    }
  }

  /** Its asker no longer waits. */
  cancel(): void {
    this.cancelled = true
    this.controller?.abort(notWaitedFor(this.asker.self, this.protocol.id))
  }

  #send(connection: Connection): void {
    if (this.#settled) return
    this.place = connection.calls.push(this) - 1
    this.#connection = connection
    this.#sentAt = this.#net.kernel.now
    send(this.#net, this.asker, connection, new Datagram(this.#net, this.asker, connection, this, undefined))
  }

  #settle(): boolean {
    if (this.#settled) return false
    this.#settled = true
    this.#deadline.call = undefined
    this.#unfollow?.()
    const connection = this.#connection
    if (connection === undefined) return true
    const { calls } = connection
    if (calls[this.place] === this) {
      // The last one takes its place.
      const last = calls.pop()
      if (last !== undefined && last !== this) {
        calls[this.place] = last
        last.place = this.place
      }
    }
    if (!this.#answered) send(this.#net, this.asker, connection, new Datagram(this.#net, this.asker, connection, this, 'cancel'))
    return true
  }
}

/** When it has come too late. What it waits for is let go of as soon as that has come. */
class Deadline implements Step {
  readonly life: Life
  call: { late(): void } | undefined

  constructor(life: Life, call: { late(): void }) {
    this.life = life
    this.call = call
  }

  run(): void {
    this.call?.late()
  }
}

type OnItsWay = Asked & { hear(result: Carried | MeshError): void; cancel(): void }

/** A question on its way, its answer (`load`), or the word that nobody waits for one any more. */
class Datagram implements Step {
  readonly life = undefined
  readonly #net: SimulatedNetwork
  readonly #from: Party
  readonly #connection: Connection
  readonly #call: OnItsWay
  readonly #load: Carried | MeshError | 'cancel' | undefined

  constructor(net: SimulatedNetwork, from: Party, connection: Connection, call: OnItsWay, load: Carried | MeshError | 'cancel' | undefined) {
    this.#net = net
    this.#from = from
    this.#connection = connection
    this.#call = call
    this.#load = load
  }

  /** It arrives at the life that was connected, unless it is cut off. */
  run(): void {
    const { links } = this.#net
    const { host, port } = this.#connection
    const from = this.#from
    if (!links.whole && links.severed(from.host.index, host.index)) return
    if (!port.life.alive) {
      from.connections.restarted(this.#connection)
      return
    }
    const load = this.#load
    if (load === undefined) {
      this.#net.record(from.host.index, host.index, this.#call.request.hash)
      port.calls.answer(this.#call)
    } else if (load === 'cancel') {
      this.#net.record(from.host.index, host.index, CANCEL)
      this.#call.cancel()
    } else {
      this.#net.record(from.host.index, host.index, load instanceof MeshError ? FAILURE : load.hash)
      this.#call.hear(load)
    }
  }
}

function send({ kernel, links, counts }: SimulatedNetwork, from: Party, connection: Connection, datagram: Datagram): void {
  if (!from.life.alive) return
  if (links.lost()) counts.lost += 1
  else kernel.enter(links.delay(from.host.index, connection.host.index), datagram)
}

/** What one life of a peer asks, and what it answers. */
export class Calls {
  readonly #net: SimulatedNetwork
  readonly #party: Party
  readonly #rates: RateLimit
  readonly #answers = new Map<ProtocolId, Answer>()

  constructor(net: SimulatedNetwork, party: Party, rates: RateLimit) {
    this.#net = net
    this.#party = party
    this.#rates = rates
  }

  ask<Q, R>(to: PeerId, protocol: Protocol<Q, R>, request: Q, until?: AbortSignal | Millis): Promise<R> {
    return new Promise((resolve, reject) => {
      const [signal, deadlineMs] = typeof until === 'number' ? [undefined, Math.min(protocol.limits.deadlineMs, until)] : [until, protocol.limits.deadlineMs]
      signal?.throwIfAborted()
      const carried = this.#net.carriage.load('a request of', protocol.id, request, protocol.limits.requestBytes)
      this.#net.counts.requests += 1
      new Call<R>(this.#net, this.#party, to, protocol, carried, deadlineMs, resolve, reject).begin(signal)
    })
  }

  handle<Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>): void {
    const { id, limits: { requestBytes } } = protocol
    if (this.#answers.has(id)) throw new Error(`bug: ${id} is already answered`)
    const { carriage } = this.#net
    // Making a signal costs more than most answers: who declares no third parameter gets none of its own.
    this.#answers.set(id, { limits: protocol.limits, rate: this.#rates.of(id), heedful: answer.length !== 1 && answer.length !== 2, serve: (request, from, signal) => answer(carriage.unload('a request of', id, request, protocol.request, requestBytes), from, signal) })
  }

  /** A question has arrived. */
  answer(call: Asked): void {
    const { id, limits: { deadlineMs } } = call.protocol
    const { self: from } = call.asker
    const { connections, self } = this.#party
    const connection = connections.get(from)
    if (connection === undefined) {
      connections.reset(from)
      return
    }
    if (!connection.admitted && id !== hello.id) {
      connections.whenAdmitted(connection, Math.min(ADMISSION_MS, deadlineMs), () => this.answer(call), () => call.reply(this.#party, new MeshError('UNAUTHENTICATED', `${self} has not admitted ${from}`)))
      return
    }
    const answer = this.#answers.get(id)
    if (answer === undefined) call.reply(this.#party, new MeshError('PROTOCOL_UNSUPPORTED', `${self} does not speak ${id}`))
    else if (!answer.rate.allow(from, answer.limits.perPeerPerSecond)) {
      this.#net.counts.rateLimited += 1
      call.reply(this.#party, tooOften(id, from, answer.limits.perPeerPerSecond))
    } else if (answer.heedful) this.#serveHeedful(answer, call, connection)
    else this.#serve(answer, call, NEVER, undefined)
  }

  #serveHeedful(answer: Answer, call: Asked, connection: Connection): void {
    const { id, limits: { deadlineMs } } = call.protocol
    const controller = new AbortController()
    call.controller = controller
    if (call.cancelled) controller.abort(notWaitedFor(call.asker.self, id))
    const lost = { fail: (failure: MeshError) => controller.abort(failure) }
    const cancel = this.#net.kernel.after(deadlineMs, () => controller.abort(new MeshError('DEADLINE', `the deadline of ${deadlineMs} ms of ${id} passed`)), this.#party.life)
    connection.pending.add(lost)
    this.#serve(answer, call, controller.signal, () => {
      cancel()
      connection.pending.delete(lost)
    })
  }

  #serve(answer: Answer, call: Asked, signal: AbortSignal, finished: (() => void) | undefined): void {
    const { id } = call.protocol
    const finish = (result: Carried | MeshError): void => {
      finished?.()
      call.reply(this.#party, result)
    }
    const fail = (error: unknown): void => finish(overTheWire(this.#net, this.#party.self, error))
    const give = (value: unknown): void => {
      let load: Carried
      try {
        load = this.#net.carriage.load('the answer to', id, value, answer.limits.responseBytes)
      } catch (error) {
        fail(error)
        return
      }
      finish(load)
    }
    try {
      answer.serve(call.request, call.asker.self, signal).then(give, fail)
    } catch (error) {
      fail(error)
    }
  }
}

/** A failure as the one who asked sees it. What is no MeshError is a bug of the one who answers. */
export function overTheWire(net: SimulatedNetwork, by: PeerId, error: unknown): MeshError {
  if (!(error instanceof MeshError)) net.bug(error, by)
  const { code, message, details, retryable } = asMeshError(error)
  return new MeshError(code, message, { details, retryable })
}

export function tooOften(id: ProtocolId, from: PeerId, perPeerPerSecond: number): MeshError {
  return new MeshError('RATE_LIMITED', `${from} used ${id} more than ${perPeerPerSecond} times a second`)
}

function notWaitedFor(by: PeerId, id: ProtocolId): MeshError {
  return new MeshError('CANCELLED', `${by} no longer waits for ${id}`)
}
