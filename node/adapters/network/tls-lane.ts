import { timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { connect, createServer, type Server, type TLSSocket } from 'node:tls'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis } from '../../../protocols/ids.ts'
import type { Clock } from '../../../src/ports.ts'
import { type Certificate, fingerprintOf } from './certificate.ts'
import { readExactly, SocketLane } from './socket-lane.ts'
import { TOKEN_BYTES } from './unix-lane.ts'

const GREETING_MS = 5_000
/** Sockets that have shown no token yet, all strangers together. */
const STRANGERS_BOUND = 64
const ACCEPTED = Buffer.from([1])

/** What a token is good for: who will show it, with which certificate, and what to do then. */
export type Expected = { readonly fingerprint: Uint8Array; readonly arrived: (lane: SocketLane) => void }

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
      expected.arrived(new SocketLane('tls', socket, rest))
    }, () => socket.destroy())
  }
}

/** Dials a fast lane. Throws PEER_UNREACHABLE when nothing answers, UNAUTHENTICATED when it is somebody else. */
export async function dialLane(options: { readonly host: string; readonly port: number; readonly certificate: Certificate; readonly fingerprint: Uint8Array; readonly token: Uint8Array; readonly signal: AbortSignal }): Promise<SocketLane> {
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
    return new SocketLane('tls', socket, rest)
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

function isAddress(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === 'object' && address !== null
}
