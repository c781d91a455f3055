import type { Connection } from '@libp2p/interface'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import type { Clock } from '../../../src/ports.ts'
import type { Mux } from './mux.ts'
import { TokenBuckets } from './token-bucket.ts'

/** Calls of a peer that wait for its admission. */
const HELD_BOUND = 64

type Waiter = { readonly met: () => boolean; readonly resolve: () => void; readonly reject: (failure: MeshError) => void }

/** What is open between us and one peer. Lives from its first connection to its last. */
export class Session {
  readonly peer: PeerId
  readonly since: Millis
  readonly connections = new Set<Connection>()
  /** What the peer asks of us, by protocol. */
  readonly rates = new TokenBuckets(() => performance.now())
  /** A control mux is being opened. */
  opening = false
  readonly #clock: Clock
  readonly #waiters = new Set<Waiter>()
  readonly #held = new Set<() => void>()
  #admitted = false
  #control: Mux | undefined
  #fast: Mux | undefined
  /** The connection under the control mux. */
  #carrier: Connection | undefined
  #ended: MeshError | undefined

  constructor(peer: PeerId, clock: Clock) {
    this.peer = peer
    this.#clock = clock
    this.since = clock.monotonic()
  }

  get admitted(): boolean {
    return this.#admitted
  }

  get ended(): boolean {
    return this.#ended !== undefined
  }

  /** Where calls go: the fast lane while there is one. */
  get mux(): Mux | undefined {
    return this.#fast ?? this.#control
  }

  get control(): Mux | undefined {
    return this.#control
  }

  get fast(): Mux | undefined {
    return this.#fast
  }

  get carrier(): Connection | undefined {
    return this.#carrier
  }

  /** The newest mux wins: the other side opened it because it had lost the older one. */
  setControl(mux: Mux, carrier: Connection): void {
    const old = this.#control
    this.#control = mux
    this.#carrier = carrier
    old?.close(new MeshError('PEER_UNREACHABLE', `the connection to ${this.peer} was replaced`))
    this.#settle()
  }

  setFast(mux: Mux): void {
    const old = this.#fast
    this.#fast = mux
    old?.close(new MeshError('PEER_UNREACHABLE', `the connection to ${this.peer} was replaced`))
  }

  /** Says which of the two it was. */
  lose(mux: Mux): 'control' | 'fast' | 'neither' {
    if (this.#fast === mux) {
      this.#fast = undefined
      return 'fast'
    }
    if (this.#control !== mux) return 'neither'
    this.#control = undefined
    this.#carrier = undefined
    return 'control'
  }

  /** True the first time. */
  admit(): boolean {
    if (this.#admitted) return false
    this.#admitted = true
    this.#settle()
    for (const go of this.#held) go()
    return true
  }

  /** Resolves when calls may be made, throws PEER_UNREACHABLE when that did not come to be within `patienceMs`. */
  ready(options: { readonly unadmitted: boolean }, patienceMs: Millis, signal: AbortSignal | undefined): Promise<void> {
    const met = (): boolean => this.#control !== undefined && (options.unadmitted || this.#admitted)
    if (met()) return Promise.resolve()
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    return new Promise((resolve, reject) => {
      const clean = (): void => {
        cancel()
        signal?.removeEventListener('abort', abort)
        this.#waiters.delete(waiter)
      }
      const waiter: Waiter = {
        met,
        resolve: () => {
          clean()
          resolve()
        },
        reject: failure => {
          clean()
          reject(failure)
        },
      }
      const abort = (): void => waiter.reject(signal?.reason instanceof MeshError ? signal.reason : new MeshError('CANCELLED', 'cancelled', { cause: signal?.reason }))
      const cancel = this.#clock.after(patienceMs, () => waiter.reject(new MeshError('PEER_UNREACHABLE', this.#control === undefined ? `${this.peer} is connected but does not speak to us` : `${this.peer} is connected but was not admitted within ${patienceMs} ms`)))
      if (signal?.aborted === true) {
        abort()
        return
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#waiters.add(waiter)
    })
  }

  /** Calls `go(true)` at admission, `go(false)` when that takes longer than `patienceMs` or too many wait already. */
  whenAdmitted(patienceMs: Millis, go: (admitted: boolean) => void): void {
    if (this.#admitted || this.#ended !== undefined || this.#held.size >= HELD_BOUND) {
      go(this.#admitted)
      return
    }
    const done = (): void => {
      cancel()
      this.#held.delete(done)
      go(this.#admitted)
    }
    const cancel = this.#clock.after(patienceMs, done)
    this.#held.add(done)
  }

  end(because: MeshError): void {
    if (this.#ended !== undefined) return
    this.#ended = because
    this.#fast?.close(because)
    this.#control?.close(because)
    this.#fast = undefined
    this.#control = undefined
    for (const waiter of this.#waiters) waiter.reject(because)
    for (const go of this.#held) go()
  }

  #settle(): void {
    for (const waiter of this.#waiters) if (waiter.met()) waiter.resolve()
  }
}
