import type { KvPlane } from './kv-layout.ts'
import type { KvSession, KvStore } from './kv-store.ts'

/** Positions that one prefix hash covers beyond the one before it. */
export const PREFIX_BLOCK = 64

/**
 * Keys and values of prompt blocks, by the chained hash that stands for a block and all before it: those of sessions that are
 * open, and of closed ones until the room is needed. What is reused are the very rows that were computed once.
 */
export class PrefixCache {
  readonly #store: KvStore
  /** Closed sessions' blocks, least recently used first. */
  readonly #kept = new Map<string, readonly KvPlane[]>()
  readonly #open = new Map<string, { readonly session: KvSession; readonly block: number }>()

  constructor(store: KvStore) {
    this.#store = store
  }

  /** Positions kept for nobody in particular. */
  get tokens(): number {
    return this.#kept.size * PREFIX_BLOCK
  }

  get memoryBytes(): number {
    return this.tokens * this.#store.layout.kvBytes
  }

  /**
   * Gives a new session what is known of its prompt: it holds that at once, and has it once the returned function was called,
   * which may wait until whoever opens it has heard. Throws RangeError when memory is short.
   */
  restore(session: KvSession, prefix: readonly string[]): () => void {
    let blocks = 0
    while (blocks < prefix.length && (blocks + 1) * PREFIX_BLOCK <= session.reserved && this.#has(prefix[blocks]!)) blocks++
    if (blocks === 0) return () => undefined
    this.#store.reach(session, blocks * PREFIX_BLOCK)
    const known = prefix.slice(0, blocks)
    const planes = known.map(hash => this.#planes(hash))
    session.held = blocks * PREFIX_BLOCK
    this.#touch(known)
    return () => {
      for (const [block, of] of planes.entries()) this.#store.append(session, of.map(plane => plane.bytes), 0, block * PREFIX_BLOCK, PREFIX_BLOCK)
    }
  }

  /** An open session whose prompt has these hashes: what it computes of them may be copied. */
  offer(session: KvSession, prefix: readonly string[]): void {
    for (const [block, hash] of prefix.entries()) {
      const other = this.#open.get(hash)
      if (other === undefined || other.session.held < (other.block + 1) * PREFIX_BLOCK) this.#open.set(hash, { session, block })
    }
  }

  /** A session closes; `room` positions are free for what it leaves. */
  retire(session: KvSession, prefix: readonly string[], keep: boolean, room: number): void {
    const left: string[] = []
    for (const [block, hash] of prefix.entries()) {
      if (this.#open.get(hash)?.session === session) this.#open.delete(hash)
      if (!keep || (block + 1) * PREFIX_BLOCK > session.held || (block + 1) * PREFIX_BLOCK > room) continue
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
    this.shrink(room)
  }

  /** Forgets the longest unused until at most `tokens` positions are kept. */
  shrink(tokens: number): void {
    for (const hash of this.#kept.keys()) {
      if (this.tokens <= tokens) return
      this.#kept.delete(hash)
    }
  }

  #has(hash: string): boolean {
    const open = this.#open.get(hash)
    return this.#kept.has(hash) || (open !== undefined && open.session.held >= (open.block + 1) * PREFIX_BLOCK)
  }

  #planes(hash: string): readonly KvPlane[] {
    const kept = this.#kept.get(hash)
    if (kept !== undefined) return kept
    const open = this.#open.get(hash)!
    return this.#store.copyOut(open.session, open.block * PREFIX_BLOCK, PREFIX_BLOCK)
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
