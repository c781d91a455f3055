import type { BlockId, Millis } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'
import type { Stewardship } from './stewardship.ts'

const BLOCKS_BOUND = 50_000

type Told = { readonly epoch: number; readonly desired: number | undefined; readonly scaledAgoMs: Millis | undefined }

/** Remembers how many instances were asked for of blocks that this peer stewarded, so that they stay asked for, whoever stewards. */
export class Wishes {
  readonly #known = new Lru<BlockId, { readonly epoch: number; readonly desired: number; readonly scaledAt: Millis }>(BLOCKS_BOUND)

  set(held: Stewardship, instances: number, now: Millis): void {
    held.desired = instances
    held.scaledAt = now
    this.#known.set(held.block, { epoch: held.epoch, desired: instances, scaledAt: now })
  }

  forget(block: BlockId, held: Stewardship | undefined): void {
    this.#known.delete(block)
    if (held !== undefined) held.desired = undefined
  }

  /** A new stewardship goes on with the later of what this peer knew and what it was told as a mirror. */
  inherit(taken: Stewardship, told: Told | undefined, now: Millis): void {
    const own = this.#known.peek(taken.block)
    if (told !== undefined && told.epoch >= (own?.epoch ?? 0)) {
      taken.desired = told.desired
      taken.scaledAt = told.scaledAgoMs === undefined ? undefined : now - told.scaledAgoMs
    } else if (own !== undefined) {
      taken.desired = own.desired
      taken.scaledAt = own.scaledAt
    }
  }
}
