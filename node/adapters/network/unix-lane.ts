import { timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, lstatSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, connect, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis } from '../../../protocols/ids.ts'
import type { Clock } from '../../../src/ports.ts'
import { LANE_FOLDER, sweepDeadLanes } from './dead-lanes.ts'
import { readExactly, SocketLane } from './socket-lane.ts'

export const TOKEN_BYTES = 32
const GREETING_MS = 2_000
const STRANGERS_BOUND = 16

type Expected = { readonly reply: Uint8Array; readonly arrived: (lane: SocketLane) => void }

/**
 * Lanes between daemons of one user on one host: a Unix socket in a folder that only this user may enter, so the kernel
 * keeps everybody else out and nothing needs to be encrypted. Each side still shows the other a one-time token that went
 * over the authenticated mux.
 */
export class UnixListener {
  readonly #clock: Clock
  readonly #server: Server
  readonly #expected = new Map<string, Expected>()
  #strangers = 0
  #path: string | undefined

  constructor(clock: Clock) {
    this.#clock = clock
    this.#server = createServer(socket => this.#greet(socket))
    this.#server.on('error', () => undefined)
  }

  /** The socket's path, or undefined where the host has no such sockets. */
  get path(): string | undefined {
    return this.#path
  }

  async listen(): Promise<void> {
    const folder = mkdtempSync(join(tmpdir(), LANE_FOLDER))
    chmodSync(folder, 0o700)
    const path = join(folder, 's')
    this.#server.listen(path)
    await once(this.#server, 'listening')
    this.#server.unref()
    this.#path = path
    // Housekeeping that nobody waits for: what it cannot take away stays.
    sweepDeadLanes(this.#clock.unix()).catch(() => undefined)
  }

  close(): void {
    this.#server.close()
    this.#expected.clear()
    if (this.#path !== undefined) rmSync(dirname(this.#path), { recursive: true, force: true })
    this.#path = undefined
  }

  /** Waits for whoever shows `token`, and answers it with `reply`. */
  expect(token: Uint8Array, patienceMs: Millis, expected: Expected): void {
    const key = Buffer.from(token).toString('hex')
    this.#expected.set(key, expected)
    this.#clock.after(patienceMs, () => this.#expected.delete(key))
  }

  #greet(socket: Socket): void {
    socket.on('error', () => undefined)
    if (this.#strangers >= STRANGERS_BOUND) {
      socket.destroy()
      return
    }
    this.#strangers += 1
    const cancel = this.#clock.after(GREETING_MS, () => socket.destroy())
    readExactly(socket, TOKEN_BYTES).then(({ bytes, rest }) => {
      const key = Buffer.from(bytes).toString('hex')
      const expected = this.#expected.get(key)
      this.#expected.delete(key)
      if (expected === undefined) {
        socket.destroy()
        return
      }
      socket.write(expected.reply)
      expected.arrived(new SocketLane('unix', socket, rest))
    }, () => socket.destroy()).finally(() => {
      cancel()
      this.#strangers -= 1
    })
  }
}

/** Dials the other's socket. Throws PEER_UNREACHABLE when it is not there or not of this user, UNAUTHENTICATED when it answers wrongly. */
export async function dialUnix(path: string, token: Uint8Array, reply: Uint8Array, signal: AbortSignal): Promise<SocketLane> {
  if (!isPrivate(path)) throw new MeshError('PEER_UNREACHABLE', `${path} is not a socket of this user on this host`)
  const socket = connect(path)
  const stop = (): void => void socket.destroy(new Error('gave up'))
  signal.addEventListener('abort', stop, { once: true })
  socket.on('error', () => undefined)
  try {
    await once(socket, 'connect')
    socket.write(token)
    const { bytes, rest } = await readExactly(socket, TOKEN_BYTES)
    if (reply.byteLength !== TOKEN_BYTES || !timingSafeEqual(bytes, reply)) throw new MeshError('UNAUTHENTICATED', `whoever answers at ${path} is not the peer that was asked for`)
    return new SocketLane('unix', socket, rest)
  } catch (cause) {
    socket.destroy()
    if (cause instanceof MeshError) throw cause
    throw new MeshError('PEER_UNREACHABLE', `no local connection through ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

/** Ours, and in a folder of ours that nobody else may enter: then nobody else can have put it there. */
function isPrivate(path: string): boolean {
  const uid = process.getuid?.()
  if (uid === undefined || !/^\/[\w./-]{1,100}$/.test(path)) return false
  try {
    const socket = lstatSync(path)
    const folder = lstatSync(dirname(path))
    return socket.isSocket() && socket.uid === uid && folder.isDirectory() && folder.uid === uid && (folder.mode & 0o077) === 0
  } catch {
    return false
  }
}
