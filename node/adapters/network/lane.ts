import type { Stream } from '@libp2p/interface'

/** What a lane tells whoever runs on it. `closed` is told once, last. */
export type LaneEars = {
  readonly data: (chunk: Uint8Array) => void
  /** Less is queued than was. */
  readonly drained: () => void
  readonly closed: (because: Error | undefined) => void
}

/** A pipe of bytes to one authenticated peer, both ways, in order. */
export interface Lane {
  readonly name: 'libp2p' | 'tls' | 'unix'
  /** Queues bytes. What is written within one task leaves in one write. */
  write(bytes: Uint8Array): void
  /** Written, but not yet with the operating system. */
  readonly queuedBytes: number
  /** Starts delivery. Called once. */
  listen(ears: LaneEars): void
  /** At once, dropping what is queued. */
  close(): void
}

/** Writes of one task up to this many bytes are copied into one buffer: cheaper than a vectored write of many. */
export const GATHER_BYTES = 65_536

/** Copies all of them into `out`, which has room. */
export function gather(chunks: readonly Uint8Array[], out: Uint8Array): void {
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.byteLength
  }
}

/**
 * A lane over one libp2p stream: works wherever libp2p connects, through relays included.
 *
 * Fenced here: `onDrain()` of a stream resolves at once after its first drain, so the `drain` event is used, guarded by
 * `writableNeedsDrain`; `for await` and `lpStream` have no receive backpressure, so the `message` event is read at once
 * and memory is bounded by the credit of the streams above.
 */
export class Libp2pLane implements Lane {
  readonly name = 'libp2p' as const
  readonly #stream: Stream
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #flushing = false
  #closed = false
  #ears: LaneEars | undefined

  constructor(stream: Stream) {
    this.#stream = stream
  }

  get queuedBytes(): number {
    return this.#waitingBytes + this.#stream.writeBufferLength
  }

  write(bytes: Uint8Array): void {
    if (this.#closed) return
    this.#waiting.push(bytes)
    this.#waitingBytes += bytes.byteLength
    if (this.#flushing) return
    this.#flushing = true
    process.nextTick(this.#flush)
  }

  listen(ears: LaneEars): void {
    this.#ears = ears
    const stream = this.#stream
    const closed = (because: Error | undefined): void => {
      if (this.#closed) return
      this.#closed = true
      this.#waiting = []
      ears.closed(because)
    }
    stream.addEventListener('message', event => {
      if (this.#closed) return
      if (event.data instanceof Uint8Array) ears.data(event.data)
      else for (const chunk of event.data) ears.data(chunk)
    })
    stream.addEventListener('drain', () => {
      if (this.#waiting.length > 0) this.#flush()
      else ears.drained()
    })
    // Said when its own buffer has emptied, which may be without another `drain`.
    stream.addEventListener('idle', () => ears.drained())
    stream.addEventListener('remoteCloseWrite', () => {
      stream.abort(new Error('the other side closed the mux'))
      closed(undefined)
    })
    stream.addEventListener('close', event => closed(event.error))
    if (stream.status !== 'open') closed(new Error(`the stream is ${stream.status}`))
  }

  close(): void {
    if (this.#stream.status === 'open') this.#stream.abort(new Error('the mux was closed'))
  }

  /** After all promises of this turn have settled: what they write leaves together. */
  readonly #flush = (): void => {
    this.#flushing = false
    if (this.#closed || this.#stream.writableNeedsDrain || this.#waiting.length === 0) return
    const chunks = this.#waiting
    const bytes = this.#waitingBytes
    this.#waiting = []
    this.#waitingBytes = 0
    try {
      if (bytes <= GATHER_BYTES) {
        const out = Buffer.allocUnsafe(bytes)
        gather(chunks, out)
        this.#stream.send(out)
      } else for (const chunk of chunks) this.#stream.send(chunk)
      if (!this.#stream.writableNeedsDrain) this.#ears?.drained()
    } catch (error) {
      this.#stream.abort(error instanceof Error ? error : new Error(String(error)))
    }
  }
}
