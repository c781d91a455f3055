import type { Libp2p } from '@libp2p/interface'
import type { Cid, Millis } from '../../../protocols/ids.ts'
import type { Clock, Telemetry } from '../../../src/ports.ts'
import type { Services } from '../network/options.ts'
import { parseCid } from './block-files.ts'

const QUEUE_BOUND = 1_024
const PROVIDE_MS: Millis = 30_000
/** Lets a burst of new content pass before the DHT is told of it. */
const SETTLE_MS: Millis = 2_000

/** Tells the DHT what is here, one root at a time and in the background. Re-providing is the DHT's own. */
export class Provider {
  readonly #libp2p: Libp2p<Services>
  readonly #clock: Clock
  readonly #telemetry: Telemetry
  readonly #queue = new Set<Cid>()
  readonly #stopping = new AbortController()
  #running = false

  constructor(options: { readonly libp2p: Libp2p<Services>; readonly clock: Clock; readonly telemetry: Telemetry }) {
    this.#libp2p = options.libp2p
    this.#clock = options.clock
    this.#telemetry = options.telemetry
  }

  add(cid: Cid): void {
    // Members ask each other directly first: a root that is not provided is only harder to find from afar.
    if (this.#queue.size >= QUEUE_BOUND || this.#stopping.signal.aborted) return
    this.#queue.add(cid)
    if (this.#running) return
    this.#running = true
    void this.#work().finally(() => (this.#running = false))
  }

  stop(): void {
    this.#stopping.abort(new Error('stopping'))
    this.#queue.clear()
  }

  async #work(): Promise<void> {
    const { signal } = this.#stopping
    try {
      while (this.#queue.size > 0) {
        await this.#clock.sleep(SETTLE_MS, signal)
        if (this.#libp2p.getConnections().length === 0) continue
        for (const cid of this.#queue) {
          this.#queue.delete(cid)
          await this.#libp2p.contentRouting.provide(parseCid(cid), { signal: this.#clock.deadline(PROVIDE_MS, signal) }).catch(error => this.#telemetry.event('debug', 'content.not-provided', { cid, because: String(error) }))
          signal.throwIfAborted()
        }
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }
}
