import { z } from 'zod'
import type { Millis } from '../../protocols/ids.ts'

/** What a holder must still know after a crash: a right given is given, a right taken is taken once. */
export const escrowState = z.object({
  rights: z.int().nonnegative(),
  /** By the id of the transfer, until its taker has said that it has it. */
  given: z.record(z.string().max(80), z.int().nonnegative()),
  /** Transfers asked for and not yet answered: id → whom. */
  asked: z.record(z.string().max(80), z.string().max(80)),
  /** Transfers taken that the giver may not know of: id → whom. */
  taken: z.record(z.string().max(80), z.string().max(80)),
})
export type EscrowState = z.infer<typeof escrowState>

/** Admissions are counted in this many parts of the window; one counts until the whole of its part has left the window. */
const PARTS = 60

/**
 * One holder's share of "at most so many in any window": rights are held, moved and never made, so that all holders
 * together admit at most their sum, whoever cannot hear whom. A bounded counter (Balegas et al., "Extending Eventually Consistent
 * Cloud Databases for Enforcing Numeric Invariants", SRDS 2015), here over a sliding window: a right used within the window can be neither
 * used again nor given away.
 */
export class Escrow {
  readonly #windowMs: Millis
  readonly #partMs: Millis
  readonly #uses: { start: Millis; count: number }[] = []
  #state: EscrowState
  #used = 0

  /** `resumed`: an earlier life held this state and may have used every right until just now. */
  constructor(windowMs: Millis, state: EscrowState, now: Millis, resumed: boolean) {
    this.#windowMs = windowMs
    this.#partMs = Math.max(1, Math.ceil(windowMs / PARTS))
    this.#state = state
    if (resumed && state.rights > 0) this.#use(state.rights, now)
  }

  get state(): EscrowState {
    return this.#state
  }

  /** Rights that neither were used within the window nor are somebody else's. */
  free(now: Millis): number {
    this.#forget(now)
    return this.#state.rights - this.#used
  }

  /** Uses a right if one is free. */
  admit(now: Millis): boolean {
    if (this.free(now) <= 0) return false
    this.#use(1, now)
    return true
  }

  /** When the next right becomes free again, if none is; undefined when this holder has none at all. */
  freeAt(): Millis | undefined {
    const [oldest] = this.#uses
    return oldest === undefined ? undefined : oldest.start + this.#partMs + this.#windowMs
  }

  /** Gives up to `want` rights away, at most half of what is free. The same id is the same transfer. */
  give(id: string, want: number, now: Millis): number {
    const known = this.#state.given[id]
    if (known !== undefined) return known
    const amount = Math.min(want, Math.ceil(this.free(now) / 2))
    if (amount <= 0) return 0
    this.#state = { ...this.#state, rights: this.#state.rights - amount, given: { ...this.#state.given, [id]: amount } }
    return amount
  }

  /** The takers of these transfers have them. */
  settle(ids: readonly string[]): void {
    this.#state = { ...this.#state, given: without(this.#state.given, ids) }
  }

  /** Must be durable before the question leaves: an answer that is lost is asked for again. */
  ask(id: string, of: string): void {
    this.#state = { ...this.#state, asked: { ...this.#state.asked, [id]: of } }
  }

  /** The answer to a question; one that nobody waits for any more is old news. */
  take(id: string, amount: number): void {
    const from = this.#state.asked[id]
    if (from === undefined) return
    this.#state = { ...this.#state, rights: this.#state.rights + amount, asked: without(this.#state.asked, [id]), taken: amount > 0 ? { ...this.#state.taken, [id]: from } : this.#state.taken }
  }

  /** The giver knows that these have arrived. */
  told(ids: readonly string[]): void {
    this.#state = { ...this.#state, taken: without(this.#state.taken, ids) }
  }

  #use(count: number, now: Millis): void {
    const start = now - (now % this.#partMs)
    const last = this.#uses.at(-1)
    if (last?.start === start) last.count += count
    else this.#uses.push({ start, count })
    this.#used += count
  }

  #forget(now: Millis): void {
    for (let oldest = this.#uses[0]; oldest !== undefined && oldest.start + this.#partMs + this.#windowMs <= now; oldest = this.#uses[0]) {
      this.#used -= oldest.count
      this.#uses.shift()
    }
  }
}

function without<T>(map: Readonly<Record<string, T>>, ids: readonly string[]): Record<string, T> {
  return Object.fromEntries(Object.entries(map).filter(([id]) => !ids.includes(id)))
}
