import type { Socket } from 'node:net'
import { gather, GATHER_BYTES, type Lane, type LaneEars } from './lane.ts'

const KEEP_ALIVE_MS = 15_000

/** A lane over a socket of its own, once both sides have proved who they are: TLS between hosts, a Unix socket within one. */
export class SocketLane implements Lane {
  readonly name: 'tls' | 'unix'
  readonly #socket: Socket
  readonly #early: Uint8Array
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #scheduled = false
  readonly #scratch = Buffer.allocUnsafeSlow(GATHER_BYTES)
  #scratchBusy = false
  #ears: LaneEars | undefined

  /** `early`: what arrived behind the greeting. */
  constructor(name: 'tls' | 'unix', socket: Socket, early: Uint8Array) {
    this.name = name
    this.#socket = socket
    this.#early = early
    socket.setNoDelay(true)
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
  }

  get queuedBytes(): number {
    return this.#waitingBytes + this.#socket.writableLength
  }

  write(bytes: Uint8Array): void {
    this.#waiting.push(bytes)
    this.#waitingBytes += bytes.byteLength
    if (this.#scheduled) return
    this.#scheduled = true
    process.nextTick(this.#flush)
  }

  listen(ears: LaneEars): void {
    this.#ears = ears
    const socket = this.#socket
    let failure: Error | undefined
    socket.on('error', error => (failure = error))
    socket.on('close', () => ears.closed(failure))
    socket.on('end', () => socket.destroy())
    if (this.#early.byteLength > 0) ears.data(this.#early)
    socket.on('data', ears.data)
    socket.resume()
    if (socket.destroyed) ears.closed(undefined)
  }

  close(): void {
    this.#socket.destroy()
  }

  /** After all promises of this turn have settled: what they write leaves together. */
  readonly #flush = (): void => {
    this.#scheduled = false
    const socket = this.#socket
    if (socket.destroyed) return
    const chunks = this.#waiting
    const bytes = this.#waitingBytes
    this.#waiting = []
    this.#waitingBytes = 0
    if (bytes <= GATHER_BYTES) {
      const [only] = chunks
      if (chunks.length === 1 && only !== undefined) {
        socket.write(only, this.#written)
      } else if (this.#scratchBusy) {
        const out = Buffer.allocUnsafe(bytes)
        gather(chunks, out)
        socket.write(out, this.#written)
      } else {
        // A buffer a call is what the garbage collector minds most: this one is used again once it has been sent.
        this.#scratchBusy = true
        gather(chunks, this.#scratch)
        socket.write(this.#scratch.subarray(0, bytes), this.#scratchWritten)
      }
      return
    }
    socket.cork()
    for (const chunk of chunks) socket.write(chunk)
    socket.write('', this.#written)
    socket.uncork()
  }

  readonly #scratchWritten = (): void => {
    this.#scratchBusy = false
    this.#ears?.drained()
  }

  readonly #written = (): void => this.#ears?.drained()
}

/** The first `length` bytes, and what came with them. Rejects when the socket closes before. */
export function readExactly(socket: Socket, length: number): Promise<{ readonly bytes: Uint8Array; readonly rest: Uint8Array }> {
  return new Promise((resolve, reject) => {
    let read = Buffer.alloc(0)
    const clean = (): void => {
      socket.removeListener('data', hear)
      socket.removeListener('close', fail)
    }
    const fail = (): void => {
      clean()
      reject(new Error('closed before the greeting'))
    }
    const hear = (chunk: Buffer): void => {
      read = Buffer.concat([read, chunk])
      if (read.byteLength < length) return
      clean()
      socket.pause()
      resolve({ bytes: read.subarray(0, length), rest: read.subarray(length) })
    }
    socket.on('data', hear)
    socket.on('close', fail)
  })
}
