import { PREFIX_BLOCK } from '../../../protocols/stage.ts'
import type { KvPlane } from './kv-layout.ts'
import type { KvSession, KvStore } from './kv-store.ts'

/** Closed sessions that are kept whole, for whoever goes on with their prompts to take over as they are. */
const PARKED = 4

/** A closed session that is kept whole: what its prompt is called, and how many positions that takes. */
type Parked = { readonly prefix: readonly string[]; readonly tokens: number }

/**
 * Keys and values of prompt blocks, by the chained hash that stands for a block and all before it: those of sessions that are
 * open, and of closed ones until the room is needed. What is reused are the very rows that were computed once. The last few
 * that closed stay as they are: a prompt that goes on where one of them ended takes its rows over, and nothing is copied.
 */
export class PrefixCache {
  readonly #store: KvStore
  /** Closed sessions' blocks, least recently used first. */
  readonly #kept = new Map<string, readonly KvPlane[]>()
  /** Whole closed sessions, the first that closed first. */
  readonly #parked = new Map<KvSession, Parked>()
  /** Of sessions that are open or parked. */
  readonly #held = new Map<string, { readonly session: KvSession; readonly block: number }>()

  constructor(store: KvStore) {
    this.#store = store
  }

  /** Positions kept for nobody in particular. */
  get tokens(): number {
    let tokens = this.#kept.size * PREFIX_BLOCK
    for (const parked of this.#parked.values()) tokens += parked.tokens
    return tokens
  }

  /** Beyond what the store has. */
  get memoryBytes(): number {
    return this.#kept.size * PREFIX_BLOCK * this.#store.layout.kvBytes
  }

  /**
   * Gives a new session what is known of its prompt: it holds that at once, and has it once the returned function was called,
   * which may wait until whoever opens it has heard. Throws RangeError when memory is short.
   */
  restore(session: KvSession, prefix: readonly string[]): () => void {
    let blocks = 0
    while (blocks < prefix.length && (blocks + 1) * PREFIX_BLOCK <= session.reserved && this.#has(prefix[blocks]!)) blocks++
    const known = prefix.slice(0, blocks)
    if (this.#takeOver(session, known)) return () => undefined
    // Room for it to be kept whole in its turn.
    const fold = (): void => this.#fold(PARKED - 1)
    if (blocks === 0) return fold
    this.#store.reach(session, blocks * PREFIX_BLOCK)
    const planes = known.map(hash => this.#planes(hash))
    session.held = blocks * PREFIX_BLOCK
    this.#touch(known)
    return () => {
      for (const [block, of] of planes.entries()) this.#store.append(session, of.map(plane => plane.bytes), 0, block * PREFIX_BLOCK, PREFIX_BLOCK)
      fold()
    }
  }

  /** An open session whose prompt has these hashes: what it computes of them may be copied. */
  offer(session: KvSession, prefix: readonly string[]): void {
    for (const [block, hash] of prefix.entries()) {
      const other = this.#held.get(hash)
      if (other === undefined || other.session.held < (other.block + 1) * PREFIX_BLOCK) this.#held.set(hash, { session, block })
    }
  }

  /** A session closes; `room` positions are free for what it leaves. The store forgets it, unless it is kept whole. */
  retire(session: KvSession, prefix: readonly string[], keep: boolean, room: number): void {
    const blocks = keep ? Math.min(prefix.length, Math.floor(Math.min(session.held, room) / PREFIX_BLOCK)) : 0
    if (this.#park(session, prefix, blocks, room)) return
    this.#drop(session, prefix)
    this.#keep(session, prefix.slice(0, blocks))
    this.shrink(room)
    this.#store.forget(session)
  }

  /** Forgets the longest unused until at most `tokens` positions are kept. */
  shrink(tokens: number): void {
    for (const hash of this.#kept.keys()) {
      if (this.tokens <= tokens) return
      this.#kept.delete(hash)
    }
    for (const [session, { prefix, tokens: own }] of this.#parked) {
      if (this.tokens <= tokens) return
      // Of a prompt its beginning is of most use.
      this.#keep(session, prefix.slice(0, Math.max(0, Math.floor((tokens - this.tokens + own) / PREFIX_BLOCK))))
      this.#unpark(session, prefix)
    }
  }

  /** Keeps a session whole where most of it is prompt, and somebody else has not the same. */
  #park(session: KvSession, prefix: readonly string[], blocks: number, room: number): boolean {
    const capacity = session.arena?.capacity ?? 0
    const last = prefix[blocks - 1]
    const other = last === undefined ? undefined : this.#held.get(last)?.session
    if (last === undefined || 2 * blocks * PREFIX_BLOCK < capacity || (other !== undefined && this.#parked.has(other))) return false
    const tokens = this.#store.park(session)
    if (tokens === undefined || tokens > room) return false
    this.#fold(PARKED - 1)
    this.#drop(session, prefix)
    const known = prefix.slice(0, blocks)
    this.#parked.set(session, { prefix: known, tokens })
    for (const [block, hash] of known.entries()) {
      this.#held.set(hash, { session, block })
      this.#kept.delete(hash)
    }
    this.shrink(room)
    return true
  }

  /** Where a parked session has just these blocks, its place is the new one's. */
  #takeOver(session: KvSession, known: readonly string[]): boolean {
    const holder = this.#held.get(known.at(-1) ?? '')?.session
    const parked = holder === undefined ? undefined : this.#parked.get(holder)
    if (holder === undefined || parked?.prefix.length !== known.length || !this.#store.adopt(session, holder)) return false
    session.held = known.length * PREFIX_BLOCK
    this.#parked.delete(holder)
    this.#drop(holder, known)
    return true
  }

  /** Of whole sessions that are too many only the blocks are kept. */
  #fold(most: number): void {
    for (const [session, { prefix }] of this.#parked) {
      if (this.#parked.size <= most) return
      this.#keep(session, prefix)
      this.#unpark(session, prefix)
    }
  }

  #unpark(session: KvSession, prefix: readonly string[]): void {
    this.#parked.delete(session)
    this.#drop(session, prefix)
    this.#store.forget(session)
  }

  #keep(session: KvSession, prefix: readonly string[]): void {
    const left: string[] = []
    for (const [block, hash] of prefix.entries()) {
      const holder = this.#held.get(hash)?.session
      if (holder !== undefined && holder !== session && this.#parked.has(holder)) continue
      left.push(hash)
      if (this.#kept.has(hash)) continue
      try {
        this.#kept.set(hash, this.#store.copyOut(session, block * PREFIX_BLOCK, PREFIX_BLOCK))
      } catch {
        // No memory to remember it in; it is computed again.
        left.pop()
        break
      }
    }
    this.#touch(left)
  }

  #drop(session: KvSession, prefix: readonly string[]): void {
    for (const hash of prefix) if (this.#held.get(hash)?.session === session) this.#held.delete(hash)
  }

  #has(hash: string): boolean {
    const holder = this.#held.get(hash)
    return this.#kept.has(hash) || (holder !== undefined && holder.session.held >= (holder.block + 1) * PREFIX_BLOCK)
  }

  #planes(hash: string): readonly KvPlane[] {
    const kept = this.#kept.get(hash)
    if (kept !== undefined) return kept
    const holder = this.#held.get(hash)!
    return this.#store.copyOut(holder.session, holder.block * PREFIX_BLOCK, PREFIX_BLOCK)
  }

  /** The first block last: without it those behind it are of no use. */
  #touch(hashes: readonly string[]): void {
    for (const hash of hashes.toReversed()) {
      const planes = this.#kept.get(hash)
      if (planes === undefined) continue
      this.#kept.delete(hash)
      this.#kept.set(hash, planes)
    }
  }
}
