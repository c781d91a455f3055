import { MeshError } from '../protocols/errors.ts'
import type { Millis } from '../protocols/ids.ts'
import type { Journal } from '../src/ports.ts'
import type { Kernel, Life } from './kernel.ts'
import type { SeededRandom } from './random.ts'

type Write = { readonly bytes: number; readonly apply: () => void; readonly done: () => void }

/** How long a write takes to reach the disk. */
const SYNC_MS: readonly [Millis, Millis] = [1, 4]

/**
 * One simulated disk. Outlives the lives of its peer. A write is acknowledged once synced; a crash keeps any prefix of
 * those that were not acknowledged yet, each whole or not at all, as SQLite's WAL does.
 */
export class SimulatedDisk {
  /** Writes fail with STORAGE_FULL beyond this. */
  limitBytes = Infinity
  readonly #kernel: Kernel
  readonly #random: SeededRandom
  readonly #streams = new Map<string, Uint8Array[]>()
  readonly #cells = new Map<string, Uint8Array>()
  readonly #unsynced: Write[] = []
  #usedBytes = 0
  #acknowledged = 0
  #syncing = false

  constructor(kernel: Kernel, random: SeededRandom) {
    this.#kernel = kernel
    this.#random = random
  }

  /** Acknowledged entries and cells ever written: what a checker may count on. */
  get acknowledged(): number {
    return this.#acknowledged
  }

  /** Are there writes that a crash could still lose? */
  get busy(): boolean {
    return this.#unsynced.length > 0
  }

  /** Writes not synced yet. */
  get backlog(): number {
    return this.#unsynced.length
  }

  journal(life: Life): Journal {
    return {
      append: (stream, entries) => {
        // The caller may reuse its buffers.
        const copies = entries.map(copyOf)
        return this.#write(life, copies.reduce((sum, copy) => sum + copy.byteLength, 0), () => {
          const held = this.#streams.get(stream)
          if (copies.length === 0) return
          if (held === undefined) this.#streams.set(stream, copies)
          else for (const copy of copies) held.push(copy)
        })
      },
      read: async (stream, from = 0) => (this.#streams.get(stream) ?? []).slice(from),
      streams: async prefix => sorted(this.#streams.keys(), prefix),
      drop: stream => this.#write(life, 0, () => {
        for (const entry of this.#streams.get(stream) ?? []) this.#usedBytes -= entry.byteLength
        this.#streams.delete(stream)
      }),
      set: (key, value) => {
        const copy = value?.slice()
        return this.#write(life, copy?.byteLength ?? 0, () => {
          this.#usedBytes -= this.#cells.get(key)?.byteLength ?? 0
          if (copy === undefined) this.#cells.delete(key)
          else this.#cells.set(key, copy)
        })
      },
      get: async key => this.#cells.get(key),
      keys: async prefix => sorted(this.#cells.keys(), prefix),
    }
  }

  /** Power loss or kill -9: decides which unacknowledged writes had reached the disk. */
  crash(): void {
    const survivors = this.#random.below(this.#unsynced.length + 1)
    for (const write of this.#unsynced.splice(0).slice(0, survivors)) write.apply()
    this.#syncing = false
  }

  #write(life: Life, bytes: number, apply: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!life.alive) return
      if (this.#usedBytes + bytes > this.limitBytes) {
        reject(new MeshError('STORAGE_FULL', `the disk is full: ${bytes} bytes more than ${this.limitBytes} allow`))
        return
      }
      this.#usedBytes += bytes
      this.#unsynced.push({ bytes, apply, done: resolve })
      this.#sync(life)
    })
  }

  /** One sync commits everything that waited for it (group commit). */
  #sync(life: Life): void {
    if (this.#syncing) return
    this.#syncing = true
    const [least, most] = SYNC_MS
    this.#kernel.after(least + this.#random.below(most - least + 1), () => {
      this.#syncing = false
      for (const write of this.#unsynced.splice(0)) {
        write.apply()
        this.#acknowledged += 1
        write.done()
      }
    }, life)
  }
}

const copied = new WeakMap<Uint8Array, Uint8Array>()
const SMALL_BYTES = 256

/** Of the same bytes in the same array the same copy: what many hosts write of one thing is held once. */
function copyOf(entry: Uint8Array): Uint8Array {
  if (entry.byteLength < SMALL_BYTES) return entry.slice()
  const known = copied.get(entry)
  if (known !== undefined && Buffer.compare(known, entry) === 0) return known
  const copy = entry.slice()
  copied.set(entry, copy)
  return copy
}

function sorted(keys: Iterable<string>, prefix: string): readonly string[] {
  return [...keys].filter(key => key.startsWith(prefix)).sort()
}
