import type { StreamProtocol } from '../protocols/codec.ts'
import { asMeshError, MeshError } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import type { Stream } from '../src/ports.ts'

/** What a stream needs of the link it runs over. */
export type Wire = {
  readonly now: () => Millis
  /** One-way delay of the next frame, retransmissions included. */
  readonly delay: () => Millis
  /** A cut link keeps frames waiting, as TCP does, until it heals or the connection is given up. */
  readonly severed: () => boolean
  readonly after: (duration: Millis, run: () => void) => void
  readonly delivered: (bytes: Uint8Array) => void
}

type Parcel = { readonly at: Millis; readonly bytes: Uint8Array; readonly deliver: () => void }
type Reader<F> = { readonly resolve: (result: IteratorResult<F>) => void; readonly reject: (error: Error) => void }
type Ear<F> = { readonly hear: (frame: F) => void; readonly resolve: () => void; readonly reject: (error: unknown) => void }

const RETRY_SEVERED_MS = 100
const EMPTY = new Uint8Array(0)

/** One end of a simulated duplex: in order, with credit, torn down as a whole. */
export class StreamEnd<F> implements Stream<F> {
  readonly peer: PeerId
  readonly #protocol: StreamProtocol<F>
  readonly #wire: Wire
  readonly #controller = new AbortController()
  readonly #parcels: Parcel[] = []
  readonly #unread: F[] = []
  readonly #senders: (() => void)[] = []
  readonly #readers: Reader<F>[] = []
  #ear: Ear<F> | undefined
  #other: StreamEnd<F> | undefined
  #inFlight = 0
  #lastActive: Millis
  #sentEnd = false
  #heardEnd = false
  #failure: MeshError | undefined

  constructor(peer: PeerId, protocol: StreamProtocol<F>, wire: Wire) {
    this.peer = peer
    this.#protocol = protocol
    this.#wire = wire
    this.#lastActive = wire.now()
    this.#watchIdle()
  }

  /** Ties two ends together. */
  static join<F>(one: StreamEnd<F>, other: StreamEnd<F>): void {
    one.#other = other
    other.#other = one
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  get closed(): boolean {
    return this.#failure !== undefined || (this.#sentEnd && this.#heardEnd)
  }

  /** The most frames that ever waited here unread: checked against the protocol's window. */
  get unread(): number {
    return this.#unread.length
  }

  async send(frame: F): Promise<void> {
    const waits = this.offer(frame)
    if (waits !== undefined) await waits
  }

  offer(frame: F): Promise<void> | undefined {
    this.#mustBeOpen()
    const bytes = this.#protocol.encode(frame)
    const { frameBytes, queuedFrames } = this.#protocol.limits
    if (bytes.byteLength > frameBytes) throw new MeshError('MESSAGE_TOO_LARGE', `a frame of ${this.#protocol.id} is ${bytes.byteLength} bytes; the limit is ${frameBytes}`)
    if (this.#inFlight >= queuedFrames) return this.#sendLater(bytes)
    this.#sendNow(bytes)
    return undefined
  }

  each(hear: (frame: F) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#ear = { hear, resolve, reject }
      for (let frame = this.#unread[0]; frame !== undefined && this.#ear !== undefined; frame = this.#unread[0]) {
        this.#unread.shift()
        this.#tell(frame, this.#ear)
      }
      if (this.#failure !== undefined) reject(this.#failure)
      else if (this.#heardEnd) resolve()
    })
  }

  async end(): Promise<void> {
    if (this.#sentEnd || this.#failure !== undefined) return
    this.#sentEnd = true
    this.#post(EMPTY, other => other.#hearEnd())
  }

  abort(error: Error): void {
    if (this.closed) return
    const failure = error instanceof MeshError ? error : new MeshError('CANCELLED', error.message)
    this.#fail(failure)
    this.#post(EMPTY, other => other.#fail(failure))
  }

  /** The connection under it is gone: nothing can be told to the other side. */
  sever(failure: MeshError): void {
    if (!this.closed) this.#fail(failure)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end()
    if (!this.#heardEnd) this.abort(new MeshError('CANCELLED', `the stream ${this.#protocol.id} was closed by ${this.#other?.peer ?? 'its reader'}`))
  }

  [Symbol.asyncIterator](): AsyncIterator<F> {
    return {
      next: () => this.#next(),
      return: async () => ({ done: true, value: undefined }),
    }
  }

  #next(): Promise<IteratorResult<F>> {
    const frame = this.#unread.shift()
    if (frame !== undefined) {
      this.#giveCredit()
      return Promise.resolve({ done: false, value: frame })
    }
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    if (this.#heardEnd) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }))
  }

  async #sendLater(bytes: Uint8Array): Promise<void> {
    while (this.#inFlight >= this.#protocol.limits.queuedFrames) {
      await new Promise<void>(resolve => this.#senders.push(resolve))
      this.#mustBeOpen()
    }
    this.#sendNow(bytes)
  }

  #sendNow(bytes: Uint8Array): void {
    this.#inFlight += 1
    this.#post(bytes, other => other.#hear(bytes))
  }

  #tell(frame: F, ear: Ear<F>): void {
    this.#giveCredit()
    try {
      ear.hear(frame)
    } catch (error) {
      this.#ear = undefined
      ear.reject(error)
    }
  }

  #post(bytes: Uint8Array, deliver: (other: StreamEnd<F>) => void): void {
    const other = this.#other
    if (other === undefined) return
    this.#lastActive = this.#wire.now()
    const previous = this.#parcels.at(-1)
    const at = Math.max(previous?.at ?? 0, this.#wire.now() + this.#wire.delay())
    this.#parcels.push({ at, bytes, deliver: () => deliver(other) })
    if (previous === undefined) this.#pumpAt(at)
  }

  #pumpAt(at: Millis): void {
    this.#wire.after(at - this.#wire.now(), () => {
      if (this.#wire.severed()) {
        this.#pumpAt(this.#wire.now() + RETRY_SEVERED_MS)
        return
      }
      for (let parcel = this.#parcels[0]; parcel !== undefined && parcel.at <= this.#wire.now(); parcel = this.#parcels[0]) {
        this.#parcels.shift()
        this.#wire.delivered(parcel.bytes)
        parcel.deliver()
      }
      const next = this.#parcels[0]
      if (next !== undefined) this.#pumpAt(next.at)
    })
  }

  #hear(bytes: Uint8Array): void {
    if (this.closed) return
    this.#lastActive = this.#wire.now()
    let frame: F
    try {
      frame = this.#protocol.decode(bytes)
    } catch (error) {
      this.abort(asMeshError(error))
      return
    }
    const ear = this.#ear
    if (ear !== undefined) return this.#tell(frame, ear)
    const reader = this.#readers.shift()
    if (reader === undefined) {
      this.#unread.push(frame)
      return
    }
    this.#giveCredit()
    reader.resolve({ done: false, value: frame })
  }

  #hearEnd(): void {
    this.#heardEnd = true
    for (const reader of this.#readers.splice(0)) reader.resolve({ done: true, value: undefined })
    this.#ear?.resolve()
  }

  #giveCredit(): void {
    this.#lastActive = this.#wire.now()
    const other = this.#other
    if (other === undefined) return
    this.#wire.after(this.#wire.delay(), () => {
      other.#inFlight -= 1
      other.#senders.shift()?.()
    })
  }

  #fail(failure: MeshError): void {
    if (this.closed) return
    this.#failure = failure
    this.#unread.length = 0
    for (const reader of this.#readers.splice(0)) reader.reject(failure)
    this.#ear?.reject(failure)
    for (const wake of this.#senders.splice(0)) wake()
    this.#controller.abort(failure)
  }

  #mustBeOpen(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#sentEnd) throw new MeshError('CANCELLED', `the stream ${this.#protocol.id} was ended; nothing more can be sent`)
  }

  #watchIdle(): void {
    const idleMs = this.#protocol.limits.idleMs
    this.#wire.after(Math.max(1, this.#lastActive + idleMs - this.#wire.now()), () => {
      if (this.closed) return
      if (this.#wire.now() - this.#lastActive >= idleMs) this.abort(new MeshError('DEADLINE', `the stream ${this.#protocol.id} was silent for ${idleMs} ms`))
      else this.#watchIdle()
    })
  }
}
