import type { MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'

/** A chain of so many stages may break so often more than it has stages, and get no further, before its session ends. */
const TRIES = 3
/** The same for steps that nobody answers and nobody calls failed: the machine may be busy, or asleep. */
const SILENT_MS: Millis = 60_000

/** Says of a session that broke whether it goes on, or ends with what broke it: one that fails wherever it goes would try for ever, and take instances with it. */
export class Recoveries {
  #furthest = 0
  #tries = 0
  #silentSince: Millis | undefined

  /** Steps in a row that nobody answered. */
  silences = 0

  /**
   * `reached`: positions that the chain has answered for so far; `waitedMs`: how long the step that broke was waited for. Gives
   * why to end the session; undefined where it may try again.
   */
  broke(failure: MeshError, reached: number, stages: number, now: Millis, waitedMs: Millis): MeshError | undefined {
    // The same everywhere, and at any time.
    if (failure.code === 'INTERNAL' || failure.code === 'BAD_INPUT') return failure
    if (reached > this.#furthest) {
      this.#furthest = reached
      this.#tries = 0
      this.silences = 0
      this.#silentSince = undefined
    }
    if (failure.code !== 'DEADLINE') {
      this.#tries += 1
      return this.#tries < TRIES + stages ? undefined : failure
    }
    this.silences += 1
    this.#silentSince ??= now - waitedMs
    return now - this.#silentSince < SILENT_MS ? undefined : failure
  }
}
