import { z } from 'zod'
import { decode, encode } from '../../protocols/codec.ts'
import type { BlockId, ContractId } from '../../protocols/ids.ts'
import { signed } from '../../protocols/signed.ts'
import { blockRecord } from '../../protocols/specs.ts'
import type { Journal } from '../ports.ts'

const saved = z.object({ contract: signed, block: blockRecord, hold: z.string(), bornEpoch: z.int(), draining: z.boolean() })
export type SavedContract = z.infer<typeof saved>

const CONTRACT = 'placement/contract/'
const FENCE = 'placement/fence/'
const SAVED_BYTES = 262_144
const EPOCH_BYTES = 64

/** Holds on disk what a host has promised and whom it obeys. What it resolves to is durable. */
export class ContractJournal {
  readonly #journal: Journal

  constructor(journal: Journal) {
    this.#journal = journal
  }

  /** By contract id. */
  contracts(): Promise<readonly (readonly [ContractId, SavedContract])[]> {
    return this.#read(CONTRACT, (cell, key) => decode(saved, cell, SAVED_BYTES, key))
  }

  /** Highest epoch obeyed, by block. */
  fences(): Promise<readonly (readonly [BlockId, number])[]> {
    return this.#read(FENCE, (cell, key) => decode(z.int(), cell, EPOCH_BYTES, key))
  }

  /** Throws STORAGE_FULL or STORAGE_FAILED. */
  keep(id: ContractId, contract: SavedContract): Promise<void> {
    return this.#journal.set(CONTRACT + id, encode(contract))
  }

  forget(id: ContractId): Promise<void> {
    return this.#journal.set(CONTRACT + id, undefined)
  }

  /** `undefined` forgets it. */
  fence(block: BlockId, epoch: number | undefined): Promise<void> {
    return this.#journal.set(FENCE + block, epoch === undefined ? undefined : encode(epoch))
  }

  async #read<T>(prefix: string, read: (cell: Uint8Array, key: string) => T): Promise<readonly (readonly [string, T])[]> {
    const found: (readonly [string, T])[] = []
    for (const key of await this.#journal.keys(prefix)) {
      const cell = await this.#journal.get(key)
      if (cell !== undefined) found.push([key.slice(prefix.length), read(cell, key)])
    }
    return found
  }
}
