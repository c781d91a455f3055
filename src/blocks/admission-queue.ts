import { MeshError } from '../../protocols/errors.ts'

const RETRY_AFTER_LEAST_MS = 100
const RETRY_AFTER_MOST_MS = 60_000

/** Lets `width` calls run and `depth` wait; says no at once to the rest, so that a caller can go elsewhere. */
export class AdmissionQueue {
  readonly #width: number
  readonly #depth: number
  readonly #waiting: (() => void)[] = []
  #running = 0

  constructor(width: number, depth: number) {
    this.#width = width
    this.#depth = depth
  }

  get width(): number {
    return this.#width
  }

  get running(): number {
    return this.#running
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /**
   * Resolves when the call may run; the function it gives must be called once when the call is over. Throws OVERLOADED at once when the
   * queue is full, with `retryAfterMs`: when a place should be free, by what a call takes of late.
   */
  async enter(signal: AbortSignal, who: string, callMs = 0): Promise<() => void> {
    if (signal.aborted) throw signal.reason
    if (this.#running < this.#width) {
      this.#running += 1
      return this.#leave()
    }
    if (this.#waiting.length >= this.#depth) {
      const retryAfterMs = Math.min(RETRY_AFTER_MOST_MS, Math.max(RETRY_AFTER_LEAST_MS, Math.ceil(callMs / this.#width)))
      throw new MeshError('OVERLOADED', `QUEUE_FULL: ${who} runs ${this.#running} calls and has ${this.#waiting.length} waiting: try another instance or later`, { details: { reason: 'QUEUE_FULL', retryAfterMs } })
    }
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        const at = this.#waiting.indexOf(go)
        if (at >= 0) this.#waiting.splice(at, 1)
        reject(signal.reason)
      }
      const go = (): void => {
        signal.removeEventListener('abort', abort)
        resolve()
      }
      this.#waiting.push(go)
      signal.addEventListener('abort', abort, { once: true })
    })
    return this.#leave()
  }

  #leave(): () => void {
    let left = false
    return () => {
      if (left) return
      left = true
      const next = this.#waiting.shift()
      // The place passes straight on, so `running` never dips while somebody waits.
      if (next === undefined) this.#running -= 1
      else next()
    }
  }
}
