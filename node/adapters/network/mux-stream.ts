import type { StreamProtocol } from '../../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { Clock, Stream } from '../../../src/ports.ts'
import { lengthOf } from './outbox.ts'

/** What a stream asks of the mux it runs on. */
export type StreamWire = {
  readonly clock: Clock
  /** Undefined when it left at once. */
  message(call: number, pieces: readonly Uint8Array[]): Promise<void> | undefined
  credit(call: number, frames: number): void
  end(call: number): void
  fail(call: number, failure: MeshError): void
  /** Both directions are done: forget the call. */
  done(call: number): void
}

type Reader<F> = { readonly resolve: (result: IteratorResult<F>) => void; readonly reject: (error: Error) => void }
type Ear<F> = { readonly hear: (frame: F) => void; readonly resolve: () => void; readonly reject: (error: unknown) => void }

/** Sends that may wait for credit at once; a caller that does not await its sends meets this. */
const SENDERS_BOUND = 1_024

/** One end of a stream on a mux. */
export class MuxStream<F> implements Stream<F> {
  readonly peer: PeerId
  readonly #protocol: StreamProtocol<F>
  readonly #wire: StreamWire
  readonly #call: number
  readonly #unread: Uint8Array[] = []
  readonly #readers: Reader<F>[] = []
  readonly #senders: (() => void)[] = []
  #ear: Ear<F> | undefined
  #controller: AbortController | undefined
  #credit: number
  /** Read, but not yet given back to the sender as credit. */
  #owed = 0
  #sentEnd = false
  #heardEnd = false
  #failure: MeshError | undefined
  #deaf = false
  #lastActive: number
  #unlink: (() => void) | undefined

  constructor(peer: PeerId, protocol: StreamProtocol<F>, wire: StreamWire, call: number, signal?: AbortSignal) {
    this.peer = peer
    this.#protocol = protocol
    this.#wire = wire
    this.#call = call
    this.#credit = protocol.limits.queuedFrames
    this.#lastActive = wire.clock.monotonic()
    if (signal !== undefined) {
      const follow = (): void => this.abort(reasonOf(signal))
      signal.addEventListener('abort', follow, { once: true })
      this.#unlink = () => signal.removeEventListener('abort', follow)
    }
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#failure !== undefined) this.#controller.abort(this.#failure)
    }
    return this.#controller.signal
  }

  async send(frame: F): Promise<void> {
    const waits = this.offer(frame)
    if (waits !== undefined) await waits
  }

  offer(frame: F): Promise<void> | undefined {
    this.#mustBeOpen()
    const pieces = this.#protocol.pieces?.(frame) ?? [this.#protocol.encode(frame)]
    const { frameBytes } = this.#protocol.limits
    const bytes = lengthOf(pieces)
    if (bytes > frameBytes) throw new MeshError('MESSAGE_TOO_LARGE', `a frame of ${this.#protocol.id} is ${bytes} bytes; the limit is ${frameBytes}`, { details: { bytes, limit: frameBytes } })
    if (this.#credit === 0 || this.#senders.length > 0) {
      if (this.#senders.length >= SENDERS_BOUND) throw new MeshError('OVERLOADED', `${SENDERS_BOUND} frames of ${this.#protocol.id} wait already: await each send`)
      return this.#post(pieces, new Promise<void>(resolve => this.#senders.push(resolve)))
    }
    this.#credit -= 1
    return this.#hand(pieces)
  }

  async end(): Promise<void> {
    if (this.#sentEnd || this.#failure !== undefined) return
    // Sends that wait for credit go first: they were called first.
    if (this.#senders.length > 0) await new Promise<void>(resolve => this.#senders.push(resolve))
    if (this.#sentEnd || this.#failure !== undefined) return
    this.#sentEnd = true
    this.#wire.end(this.#call)
    if (this.#heardEnd) this.#close()
  }

  abort(error: Error): void {
    if (this.#closed()) return
    const failure = error instanceof MeshError ? error : new MeshError('CANCELLED', error.message)
    this.#wire.fail(this.#call, failure)
    this.#settle(failure)
  }

  each(hear: (frame: F) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#ear = { hear, resolve, reject }
      // What came before, unless what it says ends it.
      while (this.#ear !== undefined && this.#unread.length > 0) this.#tell(this.#unread.shift()!, this.#ear)
      if (this.#failure !== undefined) reject(this.#failure)
      else if (this.#heardEnd) resolve()
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nobody will read on: give up the other direction too, whatever it still sends.
    if (!this.#heardEnd && this.#sentEnd) this.abort(new MeshError('CANCELLED', `the reader of ${this.#protocol.id} has left`))
    else {
      await this.end()
      if (!this.#heardEnd) this.abort(new MeshError('CANCELLED', `the reader of ${this.#protocol.id} has left`))
    }
  }

  [Symbol.asyncIterator](): AsyncIterator<F> {
    return { next: () => this.#next(), return: () => Promise.resolve({ done: true, value: undefined }) }
  }

  /** After this nothing is read any more: what still comes is dropped, and its sender does not stall. */
  finish(): void {
    this.#deaf = true
    this.#owed += this.#unread.length
    this.#unread.length = 0
    this.#giveCredit(1)
    this.end().catch(() => undefined)
  }

  /** Told by the mux. False: the sender has outrun its credit, which no peer of ours does. */
  hear(bytes: Uint8Array): boolean {
    if (this.#heardEnd || this.#failure !== undefined) return true
    if (this.#unread.length + this.#owed >= this.#protocol.limits.queuedFrames) return false
    if (bytes.byteLength > this.#protocol.limits.frameBytes) return false
    this.#lastActive = this.#wire.clock.monotonic()
    if (this.#deaf) {
      this.#owed += 1
      this.#giveCredit(1)
      return true
    }
    const ear = this.#ear
    if (ear !== undefined) {
      this.#tell(bytes, ear)
      return true
    }
    const reader = this.#readers.shift()
    if (reader === undefined) this.#unread.push(bytes)
    else this.#deliver(bytes, reader)
    return true
  }

  hearEnd(): void {
    if (this.#heardEnd || this.#failure !== undefined) return
    this.#heardEnd = true
    for (const reader of this.#readers.splice(0)) reader.resolve({ done: true, value: undefined })
    this.#ear?.resolve()
    if (this.#sentEnd) this.#close()
  }

  hearCredit(frames: number): void {
    this.#credit = Math.min(this.#protocol.limits.queuedFrames, this.#credit + frames)
    this.#wake()
  }

  /** The other side gave up, or the mux is gone. */
  hearFailure(failure: MeshError): void {
    if (!this.#closed()) this.#settle(failure)
  }

  get idleMs(): number {
    return this.#protocol.limits.idleMs
  }

  /** Told now and then by the mux. */
  checkIdle(now: number): void {
    if (now - this.#lastActive >= this.idleMs) this.abort(new MeshError('DEADLINE', `the stream ${this.#protocol.id} was silent for ${this.idleMs} ms`))
  }

  get limitBytes(): number {
    return this.#protocol.limits.frameBytes
  }

  #next(): Promise<IteratorResult<F>> {
    const bytes = this.#unread.shift()
    if (bytes !== undefined) return new Promise((resolve, reject) => this.#deliver(bytes, { resolve, reject }))
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    if (this.#heardEnd) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }))
  }

  #deliver(bytes: Uint8Array, reader: Reader<F>): void {
    const frame = this.#read(bytes, reader)
    if (frame !== undefined) reader.resolve({ done: false, value: frame.value })
  }

  #tell(bytes: Uint8Array, ear: Ear<F>): void {
    const frame = this.#read(bytes, ear)
    if (frame === undefined) return
    try {
      ear.hear(frame.value)
    } catch (error) {
      // As if an iteration had been left: whoever waits for its end says what becomes of the stream.
      this.#ear = undefined
      ear.reject(error)
    }
  }

  /** The frame in `bytes`; where there is none its reader is told, and the stream ends. */
  #read(bytes: Uint8Array, reader: { readonly reject: (error: Error) => void }): { readonly value: F } | undefined {
    let value: F
    try {
      value = this.#protocol.decode(bytes)
    } catch (error) {
      const failure = asMeshError(error)
      reader.reject(failure)
      this.abort(failure)
      return undefined
    }
    this.#owed += 1
    this.#giveCredit(Math.max(1, this.#protocol.limits.queuedFrames >> 1))
    return { value }
  }

  /** Once it may be sent. Whoever wakes us has taken the credit for us, so that a later send cannot overtake. */
  async #post(pieces: readonly Uint8Array[], may: Promise<void>): Promise<void> {
    await may
    this.#mustBeOpen()
    await this.#hand(pieces)
  }

  #hand(pieces: readonly Uint8Array[]): Promise<void> | undefined {
    this.#lastActive = this.#wire.clock.monotonic()
    const handed = this.#wire.message(this.#call, pieces)
    return handed === undefined ? undefined : this.#handed(handed)
  }

  async #handed(handed: Promise<void>): Promise<void> {
    await handed
    if (this.#failure !== undefined) throw this.#failure
  }

  #giveCredit(threshold: number): void {
    if (this.#owed < threshold || this.#heardEnd || this.#failure !== undefined) return
    this.#wire.credit(this.#call, this.#owed)
    this.#owed = 0
  }

  #wake(): void {
    while (this.#credit > 0) {
      const sender = this.#senders.shift()
      if (sender === undefined) return
      this.#credit -= 1
      sender()
    }
  }

  #closed(): boolean {
    return this.#failure !== undefined || (this.#sentEnd && this.#heardEnd)
  }

  #settle(failure: MeshError): void {
    this.#failure = failure
    this.#unread.length = 0
    for (const reader of this.#readers.splice(0)) reader.reject(failure)
    this.#ear?.reject(failure)
    for (const wake of this.#senders.splice(0)) wake()
    this.#controller?.abort(failure)
    this.#close()
  }

  #close(): void {
    this.#unlink?.()
    this.#wire.done(this.#call)
  }

  #mustBeOpen(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#sentEnd) throw new MeshError('CANCELLED', `the stream ${this.#protocol.id} was ended; nothing more can be sent`)
  }
}

export function reasonOf(signal: AbortSignal): MeshError {
  const reason: unknown = signal.reason
  return reason instanceof MeshError ? reason : new MeshError('CANCELLED', reason instanceof Error ? reason.message : 'cancelled', { cause: reason })
}
