import type { Protocol, ProtocolId, StreamProtocol } from '../../../protocols/codec.ts'
import { decode, encode } from '../../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { decodeFailure, encodeFailure, type Frame, FrameReader, idField, KIND, MESSAGE_BYTES, PAYLOAD_BYTES, readId, readU32, writeU32 } from '../../../protocols/mux.ts'
import type { Clock, Stream, Telemetry } from '../../../src/ports.ts'
import { Assembly } from './assembly.ts'
import type { Accepted, Door } from './door.ts'
import { Heartbeat } from './heartbeat.ts'
import type { Lane } from './lane.ts'
import { MuxStream, reasonOf, type StreamWire } from './mux-stream.ts'
import { Outbox } from './outbox.ts'

type Call =
  | { readonly what: 'asked'; readonly limit: number; readonly resolve: (bytes: Uint8Array) => void; readonly reject: (failure: MeshError) => void }
  | { readonly what: 'answering'; readonly controller: AbortController }
  | { readonly what: 'stream'; readonly end: Accepted }

const CALLS_BOUND = 8_192
/** A peer that reads nothing while it asks for much is dropped here. */
const QUEUE_BYTES = 268_435_456
const SWEEP_MS = 25
const EMPTY = new Uint8Array(0)
const NOTHING: readonly Uint8Array[] = []

/** Requests and streams of two peers over one lane. `protocols/mux.md` is what it speaks. */
export class Mux implements StreamWire {
  readonly peer: PeerId
  readonly clock: Clock
  readonly lane: Lane
  readonly #door: Door
  readonly #telemetry: Telemetry
  readonly #outbox: Outbox
  readonly #calls = new Map<number, Call>()
  readonly #assembly: Assembly
  readonly #heartbeat: Heartbeat
  readonly #onClose: (because: MeshError, hostile: boolean) => void
  #next: number
  #failure: MeshError | undefined
  #stopSweep: () => void = () => undefined
  #sweepMs = Infinity

  /** `opener`: whether this side made the lane; it gives its calls odd numbers. */
  constructor(options: { readonly peer: PeerId; readonly lane: Lane; readonly opener: boolean; readonly door: Door; readonly clock: Clock; readonly telemetry: Telemetry; readonly onClose: (because: MeshError, hostile: boolean) => void }) {
    this.peer = options.peer
    this.lane = options.lane
    this.clock = options.clock
    this.#door = options.door
    this.#telemetry = options.telemetry
    this.#outbox = new Outbox(options.lane)
    this.#next = options.opener ? 1 : 2
    this.#onClose = options.onClose
    this.#assembly = new Assembly(options.peer)
    this.#heartbeat = new Heartbeat({ peer: options.peer, clock: options.clock, send: number => this.#outbox.urgent(KIND.ping, number, EMPTY), silent: because => this.#fail(because, false) })
  }

  /** Starts to hear. Called once. */
  start(): void {
    const reader = new FrameReader(frame => this.#hear(frame))
    this.lane.listen({
      data: chunk => {
        if (this.#failure !== undefined) return
        try {
          reader.push(chunk)
        } catch (error) {
          // Only a broken or hostile peer gets here: there is no next frame to resume from.
          if (!(error instanceof MeshError)) this.#door.bug(error, 'mux')
          this.#telemetry.count('mux_malformed_total')
          this.#fail(asMeshError(error), true)
        }
      },
      drained: () => this.#outbox.pump(),
      closed: because => this.#fail(new MeshError('PEER_UNREACHABLE', `the connection to ${this.peer} was lost${because === undefined ? '' : `: ${because.message}`}`), false),
    })
    if (this.#failure === undefined) this.#heartbeat.beat()
  }

  get closed(): boolean {
    return this.#failure !== undefined
  }

  /** Smoothed round trip, once one was measured. */
  get rtt(): Millis | undefined {
    return this.#heartbeat.rtt
  }

  request<Q, R>(protocol: Protocol<Q, R>, request: Q, signal: AbortSignal | undefined, deadlineMs: Millis): Promise<R> {
    const body = encode(request)
    const { requestBytes, responseBytes } = protocol.limits
    if (body.byteLength > requestBytes) throw new MeshError('MESSAGE_TOO_LARGE', `a request of ${protocol.id} is ${body.byteLength} bytes; the limit is ${requestBytes}`, { details: { bytes: body.byteLength, limit: requestBytes } })
    return this.#ask(protocol.id, body, responseBytes, signal, deadlineMs).then(bytes => decode(protocol.response, bytes, responseBytes, `the answer of ${this.peer} to ${protocol.id}`))
  }

  /** No round trip: the first frame may follow in the same packet. */
  open<F>(protocol: StreamProtocol<F>, signal: AbortSignal): Stream<F> {
    const call = this.#number()
    const stream = new MuxStream(this.peer, protocol, this, call, signal)
    this.#calls.set(call, { what: 'stream', end: stream })
    this.#watchIdle(stream.idleMs)
    this.#send(KIND.open, call, [idField(protocol.id)])
    return stream
  }

  /** Tells every call that the connection is gone, and closes the lane. */
  close(because: MeshError): void {
    this.#fail(because, false)
  }

  message(call: number, pieces: readonly Uint8Array[]): Promise<void> | undefined {
    return this.#send(KIND.message, call, pieces)
  }

  credit(call: number, frames: number): void {
    const payload = new Uint8Array(4)
    writeU32(payload, 0, frames)
    this.#outbox.urgent(KIND.credit, call, payload)
  }

  end(call: number): void {
    void this.#send(KIND.end, call, NOTHING)
  }

  fail(call: number, failure: MeshError): void {
    this.#outbox.drop(call)
    this.#outbox.urgent(KIND.failure, call, encodeFailure(failure))
  }

  done(call: number): void {
    this.#forget(call)
  }

  #ask(id: ProtocolId, body: Uint8Array, limit: number, signal: AbortSignal | undefined, deadlineMs: Millis): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(reasonOf(signal))
        return
      }
      const call = this.#number()
      const finish = (): void => {
        cancelTimer()
        signal?.removeEventListener('abort', abort)
        this.#forget(call)
      }
      const give = (failure: MeshError): void => {
        finish()
        this.#outbox.drop(call)
        this.#outbox.urgent(KIND.cancel, call, EMPTY)
        reject(failure)
      }
      const abort = (): void => give(reasonOf(signal!))
      const cancelTimer = this.clock.after(deadlineMs, () => give(new MeshError('DEADLINE', `${this.peer} did not answer ${id} within ${deadlineMs} ms`)))
      signal?.addEventListener('abort', abort, { once: true })
      this.#calls.set(call, {
        what: 'asked',
        limit,
        resolve: bytes => {
          finish()
          resolve(bytes)
        },
        reject: failure => {
          finish()
          reject(failure)
        },
      })
      const field = idField(id)
      const head = new Uint8Array(field.byteLength + 4)
      head.set(field, 0)
      writeU32(head, field.byteLength, deadlineMs)
      void this.#send(KIND.request, call, [head, body])
    })
  }

  #send(kind: Frame['kind'], call: number, pieces: readonly Uint8Array[]): Promise<void> | undefined {
    if (this.#failure !== undefined) return undefined
    if (this.#outbox.queuedBytes > QUEUE_BYTES) {
      this.#fail(new MeshError('OVERLOADED', `${this.peer} does not read what it asked for`), true)
      return undefined
    }
    return this.#outbox.post(kind, call, pieces)
  }

  #number(): number {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#calls.size >= CALLS_BOUND) throw new MeshError('OVERLOADED', `${CALLS_BOUND} calls with ${this.peer} are open already`)
    do this.#next = this.#next > 0xffff_fff0 ? 1 + ((this.#next + 1) & 1) : this.#next + 2
    while (this.#calls.has(this.#next))
    return this.#next
  }

  #forget(call: number): void {
    this.#calls.delete(call)
    this.#assembly.drop(call)
  }

  #hear(frame: Frame): void {
    if (frame.kind === KIND.part) this.#assemble(frame)
    else if (frame.more) this.#beginAssembly(frame)
    else this.#take(frame.kind, frame.call, frame.payload)
  }

  #beginAssembly(frame: Frame): void {
    const limit = this.#limitOf(frame.kind, frame.call, frame.payload.subarray(4))
    // A call that was given up here while its answer was on the way: its parts are dropped as they come.
    if (limit === undefined) return
    try {
      this.#assembly.begin(frame, limit)
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'OVERLOADED') throw error
      this.#refuse(frame.call, error)
    }
  }

  #assemble(frame: Frame): void {
    const message = this.#assembly.add(frame)
    if (message !== undefined) this.#take(message.kind, frame.call, message.whole)
  }

  /** The most that a message of this kind may have; undefined when its call is no longer known. */
  #limitOf(kind: Frame['kind'], call: number, first: Uint8Array): number | undefined {
    const known = this.#calls.get(call)
    if (kind === KIND.request) {
      const { id } = readId(first, 0)
      const answerer = this.#door.answerer(id)
      if (answerer !== undefined) return Math.min(MESSAGE_BYTES, answerer.limits.requestBytes + PAYLOAD_BYTES)
      this.#refuse(call, unsupported(id))
      return undefined
    }
    if (kind === KIND.answer) return known?.what === 'asked' ? Math.min(MESSAGE_BYTES, known.limit) : undefined
    if (kind === KIND.message) return known?.what === 'stream' ? Math.min(MESSAGE_BYTES, known.end.limitBytes) : undefined
    throw new MeshError('MESSAGE_INVALID', `a mux frame of kind ${kind} does not come in parts`)
  }

  #take(kind: Frame['kind'], call: number, payload: Uint8Array): void {
    const known = this.#calls.get(call)
    switch (kind) {
      case KIND.message:
        if (known?.what === 'stream' && !known.end.hear(payload)) throw new MeshError('MESSAGE_INVALID', `${this.peer} sent more than the stream allows`)
        return
      case KIND.credit:
        if (known?.what === 'stream') known.end.hearCredit(readU32(payload, 0))
        return
      case KIND.end:
        if (known?.what === 'stream') known.end.hearEnd()
        return
      case KIND.request:
        this.#answer(call, payload)
        return
      case KIND.open:
        this.#accept(call, payload)
        return
      case KIND.answer:
        if (known?.what === 'asked') known.resolve(payload)
        return
      case KIND.failure: {
        const failure = decodeFailure(payload)
        this.#assembly.drop(call)
        if (known?.what === 'asked') known.reject(failure)
        else if (known?.what === 'stream') {
          this.#outbox.drop(call)
          known.end.hearFailure(failure)
        }
        return
      }
      case KIND.cancel:
        this.#assembly.drop(call)
        if (known?.what === 'answering') known.controller.abort(new MeshError('CANCELLED', `${this.peer} no longer waits`))
        return
      case KIND.ping:
        this.#outbox.urgent(KIND.pong, call, EMPTY)
        return
      case KIND.pong:
        this.#heartbeat.hear(call)
        return
      case KIND.part:
    }
  }

  #answer(call: number, payload: Uint8Array): void {
    const { id, next } = readId(payload, 0)
    const theirDeadline = readU32(payload, next)
    const body = payload.subarray(next + 4)
    this.#mustBeTheirs(call)
    const answerer = this.#door.answerer(id)
    if (answerer === undefined) {
      this.#refuse(call, unsupported(id))
      return
    }
    if (this.#calls.size >= CALLS_BOUND) {
      this.#refuse(call, new MeshError('OVERLOADED', `${CALLS_BOUND} calls are open already`))
      return
    }
    const controller = new AbortController()
    this.#calls.set(call, { what: 'answering', controller })
    const deadlineMs = Math.min(theirDeadline, answerer.limits.deadlineMs)
    const cancelTimer = this.clock.after(deadlineMs, () => controller.abort(new MeshError('DEADLINE', `the deadline of ${deadlineMs} ms of ${id} passed`)))
    const finish = (kind: typeof KIND.answer | typeof KIND.failure, bytes: Uint8Array): void => {
      cancelTimer()
      this.#calls.delete(call)
      // Whoever cancelled or missed the deadline has already told its caller.
      if (!controller.signal.aborted) void this.#send(kind, call, [bytes])
    }
    this.#door.enter(this.peer, id, answerer.limits.perPeerPerSecond, refusal => {
      if (refusal !== undefined) {
        finish(KIND.failure, encodeFailure(refusal))
        return
      }
      answerer.answer(body, this.peer, controller.signal).then(bytes => finish(KIND.answer, bytes), error => {
        if (!(error instanceof MeshError)) this.#door.bug(error, id)
        finish(KIND.failure, encodeFailure(error))
      })
    })
  }

  #accept(call: number, payload: Uint8Array): void {
    const { id } = readId(payload, 0)
    this.#mustBeTheirs(call)
    const acceptor = this.#door.acceptor(id)
    if (acceptor === undefined) {
      this.#refuse(call, unsupported(id))
      return
    }
    if (this.#calls.size >= CALLS_BOUND) {
      this.#refuse(call, new MeshError('OVERLOADED', `${CALLS_BOUND} calls are open already`))
      return
    }
    const { end, serve } = acceptor.begin(this.peer, this, call)
    this.#calls.set(call, { what: 'stream', end })
    this.#watchIdle(end.idleMs)
    this.#door.enter(this.peer, id, acceptor.limits.perPeerPerSecond, refusal => {
      if (refusal !== undefined) {
        end.abort(refusal)
        return
      }
      serve().then(() => end.finish(), error => {
        if (!(error instanceof MeshError)) this.#door.bug(error, id)
        end.abort(asMeshError(error))
      })
    })
  }

  /** A peer numbers its own calls: odd or even, and never one that is open. */
  #mustBeTheirs(call: number): void {
    if ((call & 1) === (this.#next & 1) || this.#calls.has(call)) throw new MeshError('MESSAGE_INVALID', `${this.peer} opened call ${call}, which is not its to open`)
  }

  #refuse(call: number, failure: MeshError): void {
    this.#outbox.urgent(KIND.failure, call, encodeFailure(failure))
  }

  /** One timer for all streams, as often as the least patient of them needs. */
  #watchIdle(idleMs: Millis): void {
    const every = Math.max(SWEEP_MS, idleMs >> 2)
    if (every >= this.#sweepMs) return
    this.#stopSweep()
    this.#sweepMs = every
    this.#stopSweep = this.clock.after(every, () => this.#sweep())
  }

  #sweep(): void {
    this.#sweepMs = Infinity
    const now = this.clock.monotonic()
    for (const call of this.#calls.values()) {
      if (call.what !== 'stream') continue
      call.end.checkIdle(now)
      this.#watchIdle(call.end.idleMs)
    }
  }

  #fail(because: MeshError, hostile: boolean): void {
    if (this.#failure !== undefined) return
    this.#failure = because
    this.#heartbeat.stop()
    this.#stopSweep()
    this.#outbox.dropAll()
    const calls = [...this.#calls.values()]
    this.#calls.clear()
    this.#assembly.clear()
    // A caller may retry elsewhere whatever the peer did wrong: to it, the peer is gone.
    const told = because.code === 'PEER_UNREACHABLE' ? because : new MeshError('PEER_UNREACHABLE', because.message, { cause: because })
    for (const call of calls) {
      if (call.what === 'asked') call.reject(told)
      else if (call.what === 'answering') call.controller.abort(told)
      else call.end.hearFailure(told)
    }
    this.lane.close()
    this.#onClose(because, hostile)
  }
}

function unsupported(id: string): MeshError {
  return new MeshError('PROTOCOL_UNSUPPORTED', `the peer does not speak ${id}: it runs another version`)
}
