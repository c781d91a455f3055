import { MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import type { Clock } from '../../../src/ports.ts'

const PING_MS = 10_000
const PINGS_MISSED = 3

/** Asks again and again whether the other side is there, and learns how far away it is. */
export class Heartbeat {
  readonly #peer: PeerId
  readonly #clock: Clock
  readonly #send: (number: number) => void
  readonly #silent: (because: MeshError) => void
  #stop: () => void = () => undefined
  #pinged: { readonly at: number; readonly number: number } | undefined
  #missed = 0
  #rtt: Millis | undefined

  constructor(options: { readonly peer: PeerId; readonly clock: Clock; readonly send: (number: number) => void; readonly silent: (because: MeshError) => void }) {
    this.#peer = options.peer
    this.#clock = options.clock
    this.#send = options.send
    this.#silent = options.silent
  }

  /** Smoothed round trip, once one was measured. */
  get rtt(): Millis | undefined {
    return this.#rtt
  }

  beat(): void {
    if (this.#pinged !== undefined && ++this.#missed >= PINGS_MISSED) {
      this.#silent(new MeshError('PEER_UNREACHABLE', `${this.#peer} has been silent for ${PING_MS * PINGS_MISSED} ms`))
      return
    }
    this.#pinged = { at: performance.now(), number: ((this.#pinged?.number ?? 0) + 1) & 0xffff }
    this.#send(this.#pinged.number)
    this.#stop = this.#clock.after(PING_MS, () => this.beat())
  }

  hear(number: number): void {
    if (this.#pinged?.number !== number) return
    const took = performance.now() - this.#pinged.at
    this.#pinged = undefined
    this.#missed = 0
    this.#rtt = this.#rtt === undefined ? took : this.#rtt * 0.75 + took * 0.25
  }

  stop(): void {
    this.#stop()
  }
}
