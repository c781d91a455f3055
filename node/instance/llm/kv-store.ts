import { KvArena } from './kv-arena.ts'
import type { KvLayout, KvPlane } from './kv-layout.ts'
import { KvMemory } from './kv-memory.ts'

/** Rows that one run computes at most: beyond it a CPU gains nothing more (measured: 16 rows gave less than 8). */
export const BATCH_ROWS = 16
const GRAIN = 16
/** How many times longer than the shortest the longest session of a batch may be before they are computed apart. */
const CLASS_RATIO = 4
const LEAST_CLASS = 512

/** The keys and values of one session. */
export class KvSession {
  /** Positions that it may come to hold. */
  reserved: number
  /** Positions [0, held) are computed. */
  held = 0
  arena: KvArena<KvSession> | undefined
  slot = 0
  /** The class of the shared arena it sits in; undefined while it has one of its own. */
  size: number | undefined

  constructor(reserved: number) {
    this.reserved = reserved
  }
}

/** Neighbours in one arena, computed as one run. `undefined`: somebody who has no step now, or nobody, computed for nothing. */
export type KvRun = { readonly arena: KvArena<KvSession>; readonly first: number; readonly rows: readonly (KvSession | undefined)[] }

/**
 * Where sessions keep their keys and values. A session begins in an arena of its own; once it decodes it sits with others of
 * like length, so that a batch is a view. What is fed is as long as the arena's capacity and costs the runtime that much,
 * so capacity follows the longest member in small steps and sessions of very different lengths sit apart.
 */
export class KvStore {
  readonly layout: KvLayout
  readonly #leastClass: number
  readonly #leastRows: number
  readonly #memory: KvMemory
  readonly #shared: { readonly arena: KvArena<KvSession>; readonly size: number; debt: number }[] = []
  readonly #alone = new Set<KvArena<KvSession>>()

  /**
   * `weightBytes`: what every run reads, however few its rows; padding is cheap until it costs as much. `leastRows`: of a run
   * of those who sit together. `spareBytes`: of memory that may be kept for sessions to come.
   */
  constructor(layout: KvLayout, weightBytes: number, leastRows = 1, spareBytes = 0) {
    this.layout = layout
    this.#memory = new KvMemory(spareBytes)
    this.#leastRows = leastRows
    this.#leastClass = Math.max(LEAST_CLASS, Math.floor(weightBytes / layout.kvBytes / BATCH_ROWS))
  }

  /** Bytes set aside for keys and values now, and kept for those to come. */
  get memoryBytes(): number {
    let bytes = this.#memory.bytes
    for (const arena of this.#alone) bytes += arena.memoryBytes
    for (const { arena } of this.#shared) bytes += arena.memoryBytes
    return bytes
  }

  /** Room for positions [0, end). Throws RangeError when there is no memory; the session is as before then. */
  reach(session: KvSession, end: number): void {
    const { arena, size } = session
    if (arena === undefined) {
      const own = new KvArena<KvSession>(this.layout, 1, this.#memory)
      own.add(session, capacityFor(end, session.reserved))
      this.#alone.add(own)
      session.arena = own
      session.slot = 0
    } else if (size !== undefined && this.#classOf(end) > size) {
      this.#sit(session, this.#classOf(end), end)
    } else if (end > arena.capacity) {
      arena.reach(capacityFor(end, Math.max(...arena.members.map(member => member.reserved))))
    }
  }

  /** Sits a session with others, to be computed with them. Throws RangeError. */
  seat(session: KvSession): void {
    if (session.size === undefined) this.#sit(session, this.#classOf(session.held + 1), session.held + 1)
  }

  forget(session: KvSession): void {
    const { arena, size } = session
    if (arena === undefined) return
    session.arena = undefined
    session.size = undefined
    this.#leave(arena, session.slot, size !== undefined)
  }

  /** Leaves what a session holds where it is, though nobody computes it any more: the positions that takes. Undefined where it sits among others, or has places to spare. */
  park(session: KvSession): number | undefined {
    const { arena } = session
    if (arena === undefined || arena.members.length > 1 || arena.slots > this.#leastRows) return undefined
    const at = this.#shared.findIndex(one => one.arena === arena)
    if (at >= 0) this.#shared.splice(at, 1)
    this.#alone.add(arena)
    session.size = undefined
    return arena.slots * arena.capacity
  }

  /** Gives a session, which has nothing yet, what a parked one has. False where that is more than it may come to hold. */
  adopt(session: KvSession, parked: KvSession): boolean {
    const { arena, slot } = parked
    if (arena === undefined || arena.capacity > mostFor(session.reserved)) return false
    arena.handOver(slot, session)
    session.arena = arena
    session.slot = slot
    parked.arena = undefined
    return true
  }

  /** The runs that compute one more position for each of `sessions`, all seated. May move sessions so that they lie together. */
  runs(sessions: readonly KvSession[]): readonly KvRun[] {
    const runs: KvRun[] = []
    for (const shared of this.#shared) {
      const { arena } = shared
      const wanted = sessions.filter(session => session.arena === arena)
      if (wanted.length === 0) continue
      let first = Math.min(...wanted.map(session => session.slot))
      let last = Math.max(...wanted.map(session => session.slot))
      const gaps = last - first + 1 - wanted.length
      if (gaps > 0) {
        // Moving costs once, gaps cost at every step: move when the gaps have cost as much (ski rental, at most twice the optimum).
        shared.debt += gaps * (arena.capacity + GRAIN)
        const strangers = wanted.filter(session => session.slot >= wanted.length)
        if (shared.debt >= strangers.reduce((sum, { held }) => sum + 3 * held, 0)) {
          shared.debt = 0
          this.#gather(arena, wanted.length, new Set(wanted))
          first = Math.min(...wanted.map(session => session.slot))
          last = Math.max(...wanted.map(session => session.slot))
        }
      }
      const count = Math.max(last - first + 1, this.#leastRows)
      first = Math.min(first, arena.slots - count)
      const chosen = new Set(wanted)
      const rows = Array.from({ length: count }, (_, row) => arena.members[first + row])
      runs.push({ arena, first, rows: rows.map(member => (member !== undefined && chosen.has(member) ? member : undefined)) })
    }
    return runs
  }

  /** Keeps what a run computed: output planes `[rows, heads, count, dim]`, of which this session's is `block`. */
  append(session: KvSession, computed: readonly Uint8Array[], block: number, position: number, count: number): void {
    const { arena } = session
    if (arena === undefined) return
    this.layout.copy(computed, block, count, 0, arena.bytes, session.slot, arena.capacity, position, count)
  }

  /** Positions [position, position + count) as they travel. */
  read(session: KvSession, position: number, count: number): Uint8Array {
    const { arena } = session
    return arena === undefined ? new Uint8Array(0) : this.layout.pack(arena.bytes, session.slot, arena.capacity, position, count)
  }

  /** Room must have been made by `reach`. */
  write(session: KvSession, position: number, rows: Uint8Array): void {
    const { arena } = session
    if (arena !== undefined) this.layout.unpack(rows, arena.bytes, session.slot, arena.capacity, position)
  }

  /** A copy of some positions, as planes of exactly that length. Throws RangeError. */
  copyOut(session: KvSession, position: number, count: number): readonly KvPlane[] {
    const planes = this.layout.planes(1, count)
    const { arena } = session
    if (arena !== undefined) this.layout.copy(arena.bytes, session.slot, arena.capacity, position, planes.map(plane => plane.bytes), 0, count, 0, count)
    return planes
  }

  #classOf(positions: number): number {
    let size = 0
    for (let most = this.#leastClass; most < positions; most *= CLASS_RATIO) size++
    return size
  }

  #sit(session: KvSession, size: number, end: number): void {
    const from = session.arena
    const wasShared = session.size !== undefined
    const fromSlot = session.slot
    let shared = this.#shared.find(one => one.size === size && one.arena.members.length < BATCH_ROWS && one.arena !== from)
    if (shared === undefined && from !== undefined && !wasShared && from.slots >= this.#leastRows) return this.#share(session, from, size, end)
    if (shared === undefined) {
      shared = { arena: new KvArena<KvSession>(this.layout, this.#leastRows, this.#memory), size, debt: 0 }
      this.#shared.push(shared)
    }
    const { arena } = shared
    const slot = arena.add(session, capacityFor(end, session.reserved))
    if (from !== undefined) this.layout.copy(from.bytes, fromSlot, from.capacity, 0, arena.bytes, slot, arena.capacity, 0, session.held)
    session.arena = arena
    session.slot = slot
    session.size = size
    if (from !== undefined) this.#leave(from, fromSlot, wasShared)
  }

  /** The first of its class: others come to where it is. */
  #share(session: KvSession, arena: KvArena<KvSession>, size: number, end: number): void {
    if (end > arena.capacity) arena.reach(capacityFor(end, session.reserved))
    this.#alone.delete(arena)
    this.#shared.push({ arena, size, debt: 0 })
    session.size = size
  }

  #leave(arena: KvArena<KvSession>, slot: number, shared: boolean): void {
    const moved = arena.remove(slot)
    if (moved !== undefined) moved.slot = slot
    if (!shared) this.#alone.delete(arena)
    if (arena.members.length === 0) {
      arena.release()
      const at = this.#shared.findIndex(one => one.arena === arena)
      if (at >= 0) this.#shared.splice(at, 1)
      return
    }
    const longest = Math.max(...arena.members.map(member => member.held))
    const wanted = capacityFor(longest, Math.max(...arena.members.map(member => member.reserved)))
    if (arena.members.length + 8 <= arena.slots || wanted * 2 <= arena.capacity) arena.trim(arena.members.length + 2, Math.min(wanted, arena.capacity))
  }

  /** Brings `chosen` to the first places, as far as there is memory to do so. */
  #gather(arena: KvArena<KvSession>, count: number, chosen: ReadonlySet<KvSession>): void {
    let from = count
    for (let slot = 0; slot < count; slot++) {
      const here = arena.members[slot]
      if (here === undefined || chosen.has(here)) continue
      while (!chosen.has(arena.members[from]!)) from++
      const there = arena.members[from]!
      try {
        arena.swap(slot, from)
      } catch (error) {
        if (error instanceof RangeError) return
        throw error
      }
      there.slot = slot
      here.slot = from
    }
  }
}

/**
 * Room to spare is cleared at every step and saves copying all rows once in as many steps (measured: copying into new memory
 * costs about four times as much a row as clearing); the sum is least at √(8 × positions).
 */
function capacityFor(positions: number, reserved: number): number {
  const wanted = Math.ceil((positions + Math.sqrt(8 * positions)) / GRAIN) * GRAIN
  return Math.max(positions, Math.min(wanted, mostFor(reserved)))
}

function mostFor(reserved: number): number {
  return Math.ceil(reserved / GRAIN) * GRAIN
}
