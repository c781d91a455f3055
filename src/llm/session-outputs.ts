import { MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { StageFrame } from '../../protocols/stage.ts'
import type { Clock } from '../ports.ts'
import { StepTimes } from './step-times.ts'

export type Output = Extract<StageFrame, { kind: 'output' }>

/** What the chain of a session has answered and nobody has taken yet, and what speaks against waiting for more. */
export class SessionOutputs {
  readonly #clock: Pick<Clock, 'monotonic' | 'after'>
  readonly #life: AbortSignal
  readonly #times = new StepTimes()
  readonly #waiting: Output[] = []
  #wake: (() => void) | undefined
  #interruption: MeshError | undefined
  /** Positions that the chain has answered for, at any time. */
  reached = 0
  /** How long the last step that nobody answered was waited for. */
  waitedMs: Millis = 0

  constructor(clock: Pick<Clock, 'monotonic' | 'after'>, life: AbortSignal) {
    this.#clock = clock
    this.#life = life
    life.addEventListener('abort', () => this.#wake?.(), { once: true })
  }

  push(output: Output): void {
    this.#waiting.push(output)
    this.reached = Math.max(this.reached, output.position + output.count)
    this.#wake?.()
  }

  /** Whoever waits is told why it waits in vain. */
  interrupt(because: MeshError): void {
    this.#interruption ??= because
    this.#wake?.()
  }

  /** What was said of an older chain is of no interest any more. */
  clear(): void {
    this.#interruption = undefined
    this.#waiting.length = 0
  }

  /** The output of the step that ends at `end`. */
  async take(end: number, positions: number): Promise<Output> {
    const since = this.#clock.monotonic()
    for (;;) {
      const output = await this.next(positions)
      if (output.position + output.count !== end || output.result === undefined) continue
      this.#times.took(positions, this.#clock.monotonic() - since)
      return output
    }
  }

  /** The next output of any step. Throws what interrupts, the life's reason, and DEADLINE when a step of so many positions takes too long. */
  async next(positions: number): Promise<Output> {
    const patience = this.#times.patience(positions)
    let late = false
    const cancel = this.#clock.after(patience, () => {
      late = true
      this.#wake?.()
    })
    try {
      for (;;) {
        this.#life.throwIfAborted()
        if (this.#interruption !== undefined) throw this.#interruption
        const output = this.#waiting.shift()
        if (output !== undefined) return output
        if (late) {
          this.#times.strike()
          this.waitedMs = patience
          throw new MeshError('DEADLINE', `no output within ${patience} ms`)
        }
        await new Promise<void>(resolve => {
          this.#wake = resolve
        })
      }
    } finally {
      cancel()
    }
  }
}
