import { MeshError } from '../../protocols/errors.ts'
import type { Cid, Millis } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { Backoff } from '../lib/backoff.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue } from '../roles.ts'

export type BundlesConfig = { readonly fetchMs: Millis; readonly firstMs: Millis; readonly mostMs: Millis; readonly tries: number }
export const BUNDLES: BundlesConfig = { fetchMs: 600_000, firstMs: 1_000, mostMs: 60_000, tries: 12 }

const BUNDLES_BOUND = 256

/**
 * Holds the bundles of blocks that this peer hosts or might have to bring back: a block's steward and the two after it
 * each keep a copy, so that the death of the only host that had it is not the death of the block.
 */
export class Bundles {
  readonly #ports: Pick<Ports, 'clock' | 'content' | 'telemetry'>
  readonly #random: Random
  readonly #catalogue: Pick<Catalogue, 'componentByCid'>
  readonly #config: BundlesConfig
  readonly #kept = new Lru<Cid, 'coming' | 'held'>(BUNDLES_BOUND)
  readonly #life = new AbortController()

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'content' | 'telemetry'>, catalogue: Pick<Catalogue, 'componentByCid'>, config: BundlesConfig) {
    this.#ports = ports
    this.#random = ports.random.fork('bundles')
    this.#catalogue = catalogue
    this.#config = config
  }

  /** Component CIDs whose bundle is whole here, the most recently used first. */
  held(): readonly Cid[] {
    return [...this.#kept].filter(([, state]) => state === 'held').map(([cid]) => cid).reverse()
  }

  /** Brings the bundle here, in the background, if it is not. */
  keep(block: BlockRecord): void {
    if (this.#kept.get(block.component) !== undefined) return
    this.#kept.set(block.component, 'coming')
    void this.#bring(block)
  }

  stop(): void {
    this.#life.abort(new MeshError('CANCELLED', 'the peer is shutting down'))
  }

  async #bring({ component, blockId }: BlockRecord): Promise<void> {
    const { clock, content, telemetry } = this.#ports
    const backoff = new Backoff(this.#random, { firstMs: this.#config.firstMs, maxMs: this.#config.mostMs, retries: this.#config.tries })
    for (;;) {
      try {
        const signal = clock.deadline(this.#config.fetchMs, this.#life.signal)
        const manifest = await this.#catalogue.componentByCid(component, signal)
        for (const { cid } of manifest.files) await content.fetch(cid, { signal })
        this.#kept.set(component, 'held')
        return
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        const wait = this.#life.signal.aborted || !error.retryable ? undefined : backoff.next()
        if (wait === undefined) {
          this.#kept.delete(component)
          if (!this.#life.signal.aborted) telemetry.event('warn', 'bundle.not-kept', { block: blockId, code: error.code, because: error.message })
          return
        }
        await clock.sleep(wait)
      }
    }
  }
}
