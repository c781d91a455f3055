import type { Millis } from '../../protocols/ids.ts'
import type { Clock } from '../ports.ts'

/** Looks after something every `everyMs` for as long as it is `needed`, and rests where it is not, until it is woken. */
export class Beat {
  readonly #clock: Pick<Clock, 'after'>
  readonly #everyMs: Millis
  readonly #needed: () => boolean
  readonly #look: () => void
  #cancel: (() => void) | undefined
  #stopped = false

  constructor(clock: Pick<Clock, 'after'>, everyMs: Millis, parts: { readonly needed: () => boolean; readonly look: () => void }) {
    this.#clock = clock
    this.#everyMs = everyMs
    this.#needed = parts.needed
    this.#look = parts.look
  }

  /** There may be something to look after. Changes nothing where a look is on its way. */
  wake(): void {
    if (this.#stopped || this.#cancel !== undefined || !this.#needed()) return
    this.#cancel = this.#clock.after(this.#everyMs, () => {
      this.#cancel = undefined
      this.#look()
      this.wake()
    })
  }

  stop(): void {
    this.#stopped = true
    this.#cancel?.()
  }
}
