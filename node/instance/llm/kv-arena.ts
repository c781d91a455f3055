import type { KvLayout, KvPlane } from './kv-layout.ts'
import { KvMemory } from './kv-memory.ts'

/** Places to add at once, at most. */
const MORE_SLOTS = 4

/** What an arena must know of who sits in it. */
export type Seated = { readonly held: number }

/**
 * The keys and values of several sessions in one block of memory a tensor, `[slots, heads, capacity, dim]`: neighbours
 * are fed to the graph as one batch, without copying. Positions beyond what a session holds are never read.
 */
export class KvArena<Session extends Seated> {
  readonly #layout: KvLayout
  readonly #leastSlots: number
  readonly #memory: KvMemory
  readonly #members: Session[] = []
  #planes: readonly KvPlane[] = []
  #bytes: readonly Uint8Array[] = []
  #slots = 0
  #capacity = 0
  /** Grows whenever the planes are others than before. */
  version = 0

  /** There are `leastSlots` places at least, taken or not. What they lie in comes out of `memory` and goes back there. */
  constructor(layout: KvLayout, leastSlots = 1, memory = new KvMemory(0)) {
    this.#layout = layout
    this.#leastSlots = leastSlots
    this.#memory = memory
  }

  get members(): readonly Session[] {
    return this.#members
  }

  get capacity(): number {
    return this.#capacity
  }

  get planes(): readonly KvPlane[] {
    return this.#planes
  }

  get bytes(): readonly Uint8Array[] {
    return this.#bytes
  }

  get slots(): number {
    return this.#slots
  }

  get memoryBytes(): number {
    return this.#slots * this.#capacity * this.#layout.kvBytes
  }

  /** Takes a session in at the end; what it holds elsewhere is the caller's to copy. Throws RangeError when memory is short. */
  add(session: Session, capacity: number): number {
    const slot = this.#members.length
    if (slot === this.#slots || capacity > this.#capacity) this.#resize(slot === this.#slots ? Math.max(this.#leastSlots, this.#slots + Math.min(Math.max(1, this.#slots), MORE_SLOTS)) : this.#slots, Math.max(capacity, this.#capacity))
    this.#members.push(session)
    return slot
  }

  /** The last session takes the place of the one that leaves: no holes. Returns the one that moved. */
  remove(slot: number): Session | undefined {
    const last = this.#members.pop()
    if (last === undefined || slot === this.#members.length) return undefined
    this.#members[slot] = last
    this.#layout.copy(this.#bytes, this.#members.length, this.#capacity, 0, this.#bytes, slot, this.#capacity, 0, last.held)
    return last
  }

  /** Two sessions change places. Throws RangeError when memory is short; they stay then. */
  swap(a: number, b: number): void {
    const first = this.#members[a]
    const second = this.#members[b]
    if (a === b || first === undefined || second === undefined) return
    const kept = this.#layout.planes(1, first.held).map(plane => plane.bytes)
    this.#layout.copy(this.#bytes, a, this.#capacity, 0, kept, 0, first.held, 0, first.held)
    this.#layout.copy(this.#bytes, b, this.#capacity, 0, this.#bytes, a, this.#capacity, 0, second.held)
    this.#layout.copy(kept, 0, first.held, 0, this.#bytes, b, this.#capacity, 0, first.held)
    this.#members[a] = second
    this.#members[b] = first
  }

  /** Somebody else sits at a place from now on, and has what was held there. */
  handOver(slot: number, session: Session): void {
    this.#members[slot] = session
  }

  /** Makes room for `capacity` positions each. Throws RangeError when memory is short; nothing is lost then. */
  reach(capacity: number): void {
    if (capacity > this.#capacity) this.#resize(this.#slots, capacity)
  }

  /** Gives memory back that nobody here needs, if there is enough left to do so. */
  trim(slots: number, capacity: number): void {
    if (slots >= this.#slots && capacity >= this.#capacity) return
    try {
      this.#resize(Math.max(Math.min(slots, this.#slots), this.#members.length, this.#leastSlots), capacity)
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
    }
  }

  release(): void {
    for (const { data } of this.#planes) this.#memory.give(data.buffer)
    this.#planes = []
    this.#bytes = []
    this.#slots = 0
    this.#capacity = 0
    this.version++
  }

  #resize(slots: number, capacity: number): void {
    const planes = this.#layout.planes(slots, capacity, this.#memory)
    const bytes = planes.map(plane => plane.bytes)
    // Memory that was never written to is not there yet: one tensor at a time, little more than one copy of all is.
    for (const [index, { data }] of this.#planes.entries()) {
      for (const [slot, { held }] of this.#members.entries()) this.#layout.copyPlane(index, this.#bytes[index]!, slot, this.#capacity, 0, bytes[index]!, slot, capacity, 0, held)
      this.#memory.give(data.buffer)
    }
    this.version++
    this.#planes = planes
    this.#bytes = bytes
    this.#slots = slots
    this.#capacity = capacity
  }
}
