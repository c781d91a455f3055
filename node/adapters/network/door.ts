import { decode, encode, type Protocol, type StreamProtocol } from '../../../protocols/codec.ts'
import { MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import { hello } from '../../../protocols/membership.ts'
import type { Stream, Telemetry } from '../../../src/ports.ts'
import { MuxStream, type StreamWire } from './mux-stream.ts'
import type { Session } from './session.ts'

/** How long a call may wait at a peer that has not admitted its caller yet: both are in the middle of their hellos. */
const ADMISSION_MS = 2_000

/** How a protocol is answered, its types closed over. Throws what the wire should say. */
export type Answerer = {
  readonly limits: Protocol<unknown, unknown>['limits']
  readonly answer: (request: Uint8Array, from: PeerId, signal: AbortSignal) => Promise<Uint8Array>
}

/** The near end of an accepted stream, its frame type closed over. */
export type Accepted = Pick<MuxStream<unknown>, 'hear' | 'hearEnd' | 'hearCredit' | 'hearFailure' | 'finish' | 'limitBytes' | 'idleMs' | 'checkIdle'> & { abort(error: Error): void }
export type Acceptor = {
  readonly limits: StreamProtocol<unknown>['limits']
  readonly begin: (from: PeerId, wire: StreamWire, call: number) => { readonly end: Accepted; readonly serve: () => Promise<void> }
}

/** What this peer serves, and who may ask for it. */
export type Door = {
  answerer(id: string): Answerer | undefined
  acceptor(id: string): Acceptor | undefined
  /** Calls `go` once it is known whether `from` may use `id`, with the refusal if not: at once for admitted peers. */
  enter(from: PeerId, id: string, perSecond: number, go: (refusal: MeshError | undefined) => void): void
  bug(error: unknown, id: string): void
}

/** What this peer serves over all its muxes, at what rates, to members only. */
export class OpenDoor implements Door {
  readonly #self: PeerId
  readonly #telemetry: Telemetry
  readonly #sessionOf: (peer: PeerId) => Session | undefined
  readonly #answerers = new Map<string, Answerer>()
  readonly #acceptors = new Map<string, Acceptor>()

  constructor(self: PeerId, telemetry: Telemetry, sessionOf: (peer: PeerId) => Session | undefined) {
    this.#self = self
    this.#telemetry = telemetry
    this.#sessionOf = sessionOf
  }

  handle<Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>): void {
    if (this.#answerers.has(protocol.id)) throw new Error(`bug: ${protocol.id} is already answered`)
    const { requestBytes, responseBytes } = protocol.limits
    this.#answerers.set(protocol.id, {
      limits: protocol.limits,
      answer: async (bytes, from, signal) => {
        const out = encode(await answer(decode(protocol.request, bytes, requestBytes, `a request of ${protocol.id}`), from, signal))
        if (out.byteLength > responseBytes) throw new MeshError('MESSAGE_TOO_LARGE', `the answer to ${protocol.id} is ${out.byteLength} bytes; the limit is ${responseBytes}`, { details: { bytes: out.byteLength, limit: responseBytes } })
        return out
      },
    })
  }

  accept<F>(protocol: StreamProtocol<F>, serve: (stream: Stream<F>, from: PeerId) => Promise<void>): void {
    if (this.#acceptors.has(protocol.id)) throw new Error(`bug: ${protocol.id} is already accepted`)
    this.#acceptors.set(protocol.id, {
      limits: protocol.limits,
      begin: (from, wire, call) => {
        const end = new MuxStream(from, protocol, wire, call)
        return { end, serve: () => serve(end, from) }
      },
    })
  }

  answerer(id: string): Answerer | undefined {
    return this.#answerers.get(id)
  }

  acceptor(id: string): Acceptor | undefined {
    return this.#acceptors.get(id)
  }

  enter(from: PeerId, id: string, perSecond: number, go: (refusal: MeshError | undefined) => void): void {
    const session = this.#sessionOf(from)
    if (session === undefined) {
      go(notAdmitted(this.#self, from))
    } else if (!session.rates.take(id, perSecond)) {
      this.#telemetry.count('rate_limited_total', { protocol: id })
      go(new MeshError('RATE_LIMITED', `you used ${id} more than ${perSecond} times a second`))
    } else if (session.admitted || id === hello.id) {
      go(undefined)
    } else {
      session.whenAdmitted(ADMISSION_MS, admitted => go(admitted ? undefined : notAdmitted(this.#self, from)))
    }
  }

  bug(error: unknown, id: string): void {
    this.#telemetry.event('error', 'network.bug', { protocol: id, because: error instanceof Error ? error.stack : String(error) })
  }
}

function notAdmitted(self: PeerId, from: PeerId): MeshError {
  return new MeshError('UNAUTHENTICATED', `${self} has not admitted ${from}: say hello first`)
}
