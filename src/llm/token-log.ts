import type { GenerationEvent } from '../../protocols/generation.ts'
import { assert } from '../lib/assert.ts'

/** The events of one session, as its origin or a mirror has them. Readers are given those that more than one peer has. */
export class TokenLog {
  readonly #events: GenerationEvent[]
  #safe: number
  #closed = false
  #waiting: (() => void)[] = []

  /** `events`: known to be held elsewhere, too. */
  constructor(events: readonly GenerationEvent[] = []) {
    this.#events = [...events]
    this.#safe = events.length
  }

  get length(): number {
    return this.#events.length
  }

  get safe(): number {
    return this.#safe
  }

  get ended(): boolean {
    return this.#events.at(-1)?.kind === 'end'
  }

  /** Ids of the answer so far. */
  tokens(): readonly number[] {
    return this.#events.flatMap(event => (event.kind === 'token' ? [event.token] : []))
  }

  slice(from: number, most?: number): readonly GenerationEvent[] {
    return this.#events.slice(from, most === undefined ? undefined : from + most)
  }

  append(...events: readonly GenerationEvent[]): void {
    for (const event of events) {
      if (this.ended) return
      assert(event.kind === 'end' || event.index === this.#events.length, 'a token log has no gap and nothing twice')
      this.#events.push(event)
    }
  }

  /** Takes what a newer origin says: its events from number `from` on replace ours. False where that leaves a gap. */
  replace(from: number, events: readonly GenerationEvent[]): boolean {
    if (from > this.#events.length) return false
    this.#events.length = from
    this.#events.push(...events)
    this.#safe = Math.min(this.#safe, this.#events.length)
    return true
  }

  /** The first `count` events may be given out. */
  release(count: number): void {
    if (count <= this.#safe) return
    this.#safe = Math.min(count, this.#events.length)
    this.#wake()
  }

  /** Nothing will be added here any more: who reads looks elsewhere. */
  close(): void {
    this.#closed = true
    this.#wake()
  }

  /** Events from number `from` on as they become safe; ends after the end, when closed, or when `signal` says so. */
  async * read(from: number, signal: AbortSignal): AsyncGenerator<GenerationEvent> {
    const wake = (): void => this.#wake()
    signal.addEventListener('abort', wake, { once: true })
    try {
      let next = this.ended ? Math.min(from, this.#events.length - 1) : from
      while (!signal.aborted) {
        const event = next < this.#safe ? this.#events[next] : undefined
        if (event !== undefined) {
          next += 1
          yield event
          if (event.kind === 'end') return
        } else if (this.#closed) return
        else await new Promise<void>(resolve => this.#waiting.push(resolve))
      }
    } finally {
      signal.removeEventListener('abort', wake)
    }
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake()
  }
}
