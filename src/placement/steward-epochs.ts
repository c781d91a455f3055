import { z } from 'zod'
import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockId, Millis } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports } from '../ports.ts'

const EPOCH = 'placement/steward/'
const EPOCHS_BOUND = 50_000

/** Holds the epochs this peer has taken, each durable before anybody hears of it; says so when it cannot write them. */
export class StewardEpochs {
  readonly #ports: Pick<Ports, 'clock' | 'journal' | 'telemetry'>
  readonly #unfitMs: Millis
  readonly #epochs = new Lru<BlockId, number>(EPOCHS_BOUND)
  readonly #unfitHearers = new Set<() => void>()
  #unfitUntil = -Infinity

  constructor(ports: Pick<Ports, 'clock' | 'journal' | 'telemetry'>, unfitMs: Millis) {
    this.#ports = ports
    this.#unfitMs = unfitMs
  }

  async open(): Promise<void> {
    const { journal } = this.#ports
    for (const key of await journal.keys(EPOCH)) {
      const cell = await journal.get(key)
      if (cell !== undefined) this.#epochs.set(key.slice(EPOCH.length), decode(z.int(), cell, 64, key))
    }
  }

  /** Could this peer make an epoch durable when it last tried? */
  get fit(): boolean {
    return this.#ports.clock.monotonic() >= this.#unfitUntil
  }

  /** Calls `hear` when this peer finds that it cannot steward. */
  onUnfit(hear: () => void): () => void {
    this.#unfitHearers.add(hear)
    return () => this.#unfitHearers.delete(hear)
  }

  /** Somebody holds this one: ours will be higher. */
  heard(block: BlockId, epoch: number): void {
    this.#epochs.set(block, Math.max(epoch, this.#epochs.peek(block) ?? 0))
  }

  /** An epoch above `seen` and all of ours; undefined where it could not be written: the next in line shall steward. */
  async take(block: BlockId, seen: number): Promise<number | undefined> {
    const { clock, journal, telemetry } = this.#ports
    const epoch = Math.max(seen, this.#epochs.peek(block) ?? 0) + 1
    this.#epochs.set(block, epoch)
    try {
      await journal.set(EPOCH + block, encode(epoch))
      this.#unfitUntil = -Infinity
      return epoch
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      telemetry.event('error', 'steward.cannot-write', { block, code: error.code, because: error.message })
      this.#unfitUntil = clock.monotonic() + this.#unfitMs
      for (const hear of this.#unfitHearers) hear()
      return undefined
    }
  }
}
