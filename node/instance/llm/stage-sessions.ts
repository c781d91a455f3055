import { MeshError } from '../../../protocols/errors.ts'
import { KvSession, type KvStore } from './kv-store.ts'
import { PrefixCache } from './prefix-cache.ts'
import type { StepOrder } from './stage-frames.ts'
import type { StepOutput } from './stage-output.ts'

/** A step under way; `outputs` are those of the chunks that are done. */
export type Step = { readonly order: StepOrder; done: number; readonly outputs: StepOutput[] }
/** Times as `performance.now()` gives them. */
export type Session = { readonly id: number; readonly kv: KvSession; readonly prefix: readonly string[]; readonly steps: Step[]; readonly openedAt: number; answeredAt: number | undefined }

/** Holds the sessions of a stage and admits new ones: what all together may hold is fixed, prompts kept from closed ones give way. */
export class StageSessions {
  readonly #store: KvStore
  readonly #cache: PrefixCache
  readonly #limits: { readonly kvTokens: number; readonly contextTokens: number }
  readonly #sessions = new Map<number, Session>()
  #reserved = 0

  constructor(store: KvStore, limits: { readonly kvTokens: number; readonly contextTokens: number }) {
    this.#store = store
    this.#cache = new PrefixCache(store)
    this.#limits = limits
  }

  /** Positions reserved for sessions and kept for prompts to come. */
  room(): { readonly sessions: number; readonly reserved: number; readonly cached: number; readonly memoryBytes: number } {
    return { sessions: this.#sessions.size, reserved: this.#reserved, cached: this.#cache.tokens, memoryBytes: this.#store.memoryBytes + this.#cache.memoryBytes }
  }

  get(id: number): Session | undefined {
    return this.#sessions.get(id)
  }

  /** Some session waits for its origin that had an answer since `time`. */
  someAnsweredSince(time: number): boolean {
    for (const { steps, answeredAt } of this.#sessions.values()) if (steps.length === 0 && answeredAt !== undefined && answeredAt >= time) return true
    return false
  }

  /** A new session with what is known of its prompt, which is there once `fill` was called, or more room for one there is. Throws BAD_INPUT, NO_CAPACITY, RangeError. */
  open(id: number, tokens: number, prefix: readonly string[], now: number): { readonly kv: KvSession; readonly fill: () => void } {
    const { kvTokens, contextTokens } = this.#limits
    const before = this.#sessions.get(id)
    const more = Math.max(0, tokens - (before?.kv.reserved ?? 0))
    if (tokens > contextTokens) throw new MeshError('BAD_INPUT', `the model knows contexts of ${contextTokens} tokens, not ${tokens}`)
    if (this.#reserved + more > kvTokens) throw new MeshError('NO_CAPACITY', `${tokens} positions were asked for; ${kvTokens - this.#reserved} of ${kvTokens} are free`)
    const { kv, fill } = before === undefined ? this.#begun(tokens, prefix) : { kv: before.kv, fill: () => undefined }
    kv.reserved = Math.max(kv.reserved, tokens)
    this.#reserved += more
    this.#cache.shrink(kvTokens - this.#reserved)
    if (before === undefined) {
      this.#cache.offer(kv, prefix)
      this.#sessions.set(id, { id, kv, prefix, steps: [], openedAt: now, answeredAt: undefined })
    }
    return { kv, fill }
  }

  /** Takes rows computed elsewhere; positions held then. Throws NOT_FOUND, BAD_INPUT, RangeError. */
  write(id: number, position: number, count: number, rows: Uint8Array): number {
    const session = this.#known(id)
    this.makeRoom(session, position, count)
    this.#store.write(session.kv, position, rows)
    session.kv.held = position + count
    return session.kv.held
  }

  /** Throws NOT_FOUND, BAD_INPUT, RangeError. */
  read(id: number, position: number, count: number): { readonly rows: Uint8Array; readonly held: number } {
    const { kv } = this.#known(id)
    if (position + count > kv.held) throw new MeshError('BAD_INPUT', `positions up to ${position + count} were asked for; ${kv.held} are held`)
    return { rows: this.#store.read(kv, position, count), held: kv.held }
  }

  close({ id, kv, prefix }: Session, keep: boolean): void {
    this.#sessions.delete(id)
    this.#reserved -= kv.reserved
    this.#cache.retire(kv, prefix, keep, this.#limits.kvTokens - this.#reserved)
  }

  /** Positions [position, position + count) may be computed or written now; later ones are forgotten. Throws BAD_INPUT, RangeError. */
  makeRoom({ kv }: Session, position: number, count: number): void {
    if (position > kv.held) throw new MeshError('BAD_INPUT', `position ${position} is beyond the ${kv.held} that are held`)
    if (position + count > kv.reserved) throw new MeshError('BAD_INPUT', `position ${position + count} is beyond the ${kv.reserved} that were reserved`)
    this.#store.reach(kv, position + count)
    kv.held = Math.min(kv.held, position)
  }

  #begun(tokens: number, prefix: readonly string[]): { readonly kv: KvSession; readonly fill: () => void } {
    const kv = new KvSession(tokens)
    try {
      return { kv, fill: this.#cache.restore(kv, prefix) }
    } catch (error) {
      this.#store.forget(kv)
      throw error
    }
  }

  #known(id: number): Session {
    const session = this.#sessions.get(id)
    if (session === undefined) throw new MeshError('NOT_FOUND', 'no such session is open in this instance')
    return session
  }
}
