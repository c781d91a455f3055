import { timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect, createServer, type Server, type TLSSocket } from 'node:tls'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis } from '../../../protocols/ids.ts'
import type { Clock } from '../../../src/ports.ts'
import { type Certificate, fingerprintOf } from './certificate.ts'
import { gather, GATHER_BYTES, type Lane, type LaneEars } from './lane.ts'

export const TOKEN_BYTES = 32
const GREETING_MS = 5_000
/** Sockets that have shown no token yet, all strangers together. */
const STRANGERS_BOUND = 64
const ACCEPTED = Buffer.from([1])
const KEEP_ALIVE_MS = 15_000

/** A lane over a TLS 1.3 socket that both sides have pinned. */
export class TlsLane implements Lane {
  readonly name = 'tls'
  readonly #socket: TLSSocket
  readonly #early: Uint8Array
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #scheduled = false
  #ears: LaneEars | undefined

  /** `early`: what arrived behind the greeting. */
  constructor(socket: TLSSocket, early: Uint8Array) {
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
    queueMicrotask(this.#flush)
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

  readonly #flush = (): void => {
    this.#scheduled = false
    const socket = this.#socket
    if (socket.destroyed) return
    const chunks = this.#waiting
    const bytes = this.#waitingBytes
    this.#waiting = []
    this.#waitingBytes = 0
    if (bytes <= GATHER_BYTES) {
      socket.write(gather(chunks, bytes), this.#written)
      return
    }
    socket.cork()
    for (const chunk of chunks) socket.write(chunk)
    socket.write('', this.#written)
    socket.uncork()
  }

  readonly #written = (): void => this.#ears?.drained()
}

/** What a token is good for: who will show it, with which certificate, and what to do then. */
export type Expected = { readonly fingerprint: Uint8Array; readonly arrived: (lane: TlsLane) => void }

/** Accepts fast lanes: a socket must show a pinned certificate and the one-time token that goes with it. */
export class TlsListener {
  readonly #server: Server
  readonly #certificate: Certificate
  readonly #expected = new Map<string, Expected>()
  readonly #strangers = new Set<TLSSocket>()
  readonly #clock: Clock
  #port = 0

  constructor(certificate: Certificate, clock: Clock) {
    this.#certificate = certificate
    this.#clock = clock
    // The certificate is checked against the pin of the token below; no authority could vouch for it.
    this.#server = createServer({ cert: certificate.certPem, key: certificate.keyPem, minVersion: 'TLSv1.3', requestCert: true, rejectUnauthorized: false, handshakeTimeout: GREETING_MS, noDelay: true, highWaterMark: 262_144 }, socket => this.#greet(socket))
    this.#server.on('tlsClientError', () => undefined)
    this.#server.maxConnections = 2_048
  }

  async listen(host: string, port: number): Promise<void> {
    this.#server.listen(port, host)
    await once(this.#server, 'listening')
    this.#server.unref()
    const address = this.#server.address()
    this.#port = isAddress(address) ? address.port : 0
  }

  get port(): number {
    return this.#port
  }

  get fingerprint(): Uint8Array {
    return this.#certificate.fingerprint
  }

  /** Waits for whoever shows `token`, for `patienceMs`. Returns how to stop waiting. */
  expect(token: Uint8Array, patienceMs: Millis, expected: Expected): () => void {
    const key = Buffer.from(token).toString('hex')
    this.#expected.set(key, expected)
    const cancel = this.#clock.after(patienceMs, () => this.#expected.delete(key))
    return () => {
      cancel()
      this.#expected.delete(key)
    }
  }

  close(): void {
    this.#server.close()
    this.#expected.clear()
    for (const socket of this.#strangers) socket.destroy()
  }

  #greet(socket: TLSSocket): void {
    socket.on('error', () => undefined)
    if (this.#strangers.size >= STRANGERS_BOUND) {
      socket.destroy()
      return
    }
    this.#strangers.add(socket)
    const leave = (): void => {
      cancel()
      this.#strangers.delete(socket)
    }
    const cancel = this.#clock.after(GREETING_MS, () => socket.destroy())
    socket.once('close', leave)
    readExactly(socket, TOKEN_BYTES).then(({ bytes, rest }) => {
      leave()
      socket.removeListener('close', leave)
      const key = Buffer.from(bytes).toString('hex')
      const expected = this.#expected.get(key)
      // One-time, whoever shows it and however that goes.
      this.#expected.delete(key)
      if (expected === undefined || !isPinned(socket, expected.fingerprint)) {
        socket.destroy()
        return
      }
      socket.write(ACCEPTED)
      expected.arrived(new TlsLane(socket, rest))
    }, () => socket.destroy())
  }
}

/** Dials a fast lane. Throws PEER_UNREACHABLE when nothing answers, UNAUTHENTICATED when it is somebody else. */
export async function dialLane(options: { readonly host: string; readonly port: number; readonly certificate: Certificate; readonly fingerprint: Uint8Array; readonly token: Uint8Array; readonly signal: AbortSignal }): Promise<TlsLane> {
  const { host, port, certificate, fingerprint, token, signal } = options
  // Pinned below before anything is said; no authority could vouch for it.
  const socket = connect({ host, port, cert: certificate.certPem, key: certificate.keyPem, minVersion: 'TLSv1.3', rejectUnauthorized: false, checkServerIdentity: () => undefined })
  const stop = (): void => void socket.destroy(new Error('gave up'))
  signal.addEventListener('abort', stop, { once: true })
  socket.on('error', () => undefined)
  try {
    await once(socket, 'secureConnect')
    if (!isPinned(socket, fingerprint)) throw new MeshError('UNAUTHENTICATED', `whoever answers at ${host}:${port} is not the peer that was asked for`)
    socket.write(token)
    const { bytes, rest } = await readExactly(socket, ACCEPTED.byteLength)
    if (bytes[0] !== ACCEPTED[0]) throw new MeshError('UNAUTHENTICATED', `${host}:${port} did not accept our token`)
    return new TlsLane(socket, rest)
  } catch (cause) {
    socket.destroy()
    if (cause instanceof MeshError) throw cause
    throw new MeshError('PEER_UNREACHABLE', `no direct connection to ${host}:${port}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

function isPinned(socket: TLSSocket, fingerprint: Uint8Array): boolean {
  const shown = socket.getPeerCertificate()
  // Without a certificate Node answers an empty object, whatever its types say.
  if (!('raw' in shown) || !(shown.raw instanceof Uint8Array) || fingerprint.byteLength !== 32) return false
  return timingSafeEqual(fingerprintOf(shown.raw), fingerprint)
}

/** The first `length` bytes, and what came with them. Rejects when the socket closes before. */
function readExactly(socket: TLSSocket, length: number): Promise<{ readonly bytes: Uint8Array; readonly rest: Uint8Array }> {
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

function isAddress(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === 'object' && address !== null
}
