import type { BlockId, PeerId } from '../../protocols/ids.ts'
import { Lru } from '../lib/lru.ts'
import { foremost } from '../lib/rendezvous.ts'

/** The steward of a block and the two that mirror it. */
const LINE = 3
const LINES_BOUND = 50_000
/** More newcomers than this at once are cheaper to rank with everybody. */
const MANY = 32

/** Who stewards a block, and who is next: the same for all who believe in the same peers. Kept, so that one peer's coming or going costs little per block. */
export class Succession {
  readonly #lines = new Lru<BlockId, readonly PeerId[]>(LINES_BOUND)
  readonly #noted = new Map<PeerId, boolean>()
  readonly #able = new Set<PeerId>()

  /** Was it able to steward when we last settled? */
  has(peer: PeerId): boolean {
    return this.#able.has(peer)
  }

  /** Hears whether a peer may steward; counts from the next `settle` on. True when that is news. */
  note(peer: PeerId, able: boolean): boolean {
    if (able === this.#able.has(peer) && !this.#noted.has(peer)) return false
    this.#noted.set(peer, able)
    return true
  }

  /** Takes what was noted, all at once. True when it changed who may steward. */
  settle(): boolean {
    const added: PeerId[] = []
    let gone = 0
    for (const [peer, may] of this.#noted) {
      if (may === this.#able.has(peer)) continue
      if (may) {
        this.#able.add(peer)
        added.push(peer)
      } else {
        this.#able.delete(peer)
        gone += 1
      }
    }
    this.#noted.clear()
    return this.#changed(added, gone)
  }

  /** Takes the peers that may steward now. True when they changed. */
  update(able: Iterable<PeerId>): boolean {
    const now = new Set(able)
    for (const peer of this.#able) if (!now.has(peer)) this.#noted.set(peer, false)
    for (const peer of this.#noted.keys()) this.#noted.set(peer, now.has(peer))
    for (const peer of now) if (!this.#able.has(peer)) this.#noted.set(peer, true)
    return this.settle()
  }

  #changed(added: readonly PeerId[], gone: number): boolean {
    if (added.length === 0 && gone === 0) return false
    if (added.length > MANY) {
      this.#lines.clear()
      return true
    }
    // A copy: setting a line moves it to the end of what is walked.
    const lines = [...this.#lines]
    for (const [block, line] of lines) {
      // Whoever left a line is followed by somebody who was not in it: rank everybody again when asked.
      if (line.some(peer => !this.#able.has(peer)) || line.length < LINE) this.#lines.delete(block)
      else if (added.length > 0) this.#lines.set(block, foremost(block, [...line, ...added], LINE))
    }
    return true
  }

  /** First the steward, then who would follow it. Empty while nobody may steward. */
  line(block: BlockId): readonly PeerId[] {
    const known = this.#lines.get(block)
    if (known !== undefined) return known
    const line = foremost(block, this.#able, LINE)
    this.#lines.set(block, line)
    return line
  }
}
