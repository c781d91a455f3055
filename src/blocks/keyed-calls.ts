import { encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import { Lru } from '../lib/lru.ts'
import type { Clock } from '../ports.ts'
import { unlessAborted } from './span.ts'

export type KeyedLimits = {
  /** Answers kept, and for how long. */
  readonly answers: number
  readonly rememberMs: Millis
  /** Of all answers kept together. A larger one is given to who waits for it and kept for nobody. */
  readonly keptBytes: number
  /** Of one answer. */
  readonly packets: number
  readonly answerBytes: number
}

export const KEYED: KeyedLimits = { answers: 2_048, rememberMs: 600_000, keptBytes: 64 * 1_048_576, packets: 10_000, answerBytes: 256 * 1_048_576 }

type Running = { readonly asked: string | undefined; readonly outputs: Promise<readonly Packet[]>; readonly extend: (deadlineMs: Millis) => void }
type Answer = { readonly at: Millis; readonly asked: string | undefined; readonly bytes: number; readonly outputs: readonly Packet[] }

/**
 * Runs each key once and remembers the answer: a caller that lost it asks again and gets the same one. A run lasts as
 * long as the most patient of its callers, whether they are still there or not: somebody may come for the answer.
 */
export class KeyedCalls {
  readonly #clock: Pick<Clock, 'after' | 'monotonic'>
  readonly #limits: KeyedLimits
  /** Bounded by the admission queues: each of these runs or waits in one. */
  readonly #running = new Map<string, Running>()
  readonly #answers: Lru<string, Answer>
  #keptBytes = 0

  constructor(clock: Pick<Clock, 'after' | 'monotonic'>, limits: Partial<KeyedLimits> = {}) {
    this.#clock = clock
    this.#limits = { ...KEYED, ...limits }
    this.#answers = new Lru(this.#limits.answers, (_, { bytes }) => (this.#keptBytes -= bytes))
  }

  get keptBytes(): number {
    return this.#keptBytes
  }

  /**
   * The remembered answer, that of the run under way, or that of a new one. `asked` tells one input from another, where
   * the key is the caller's own choice. Throws CONFLICT when the key was used for another, what the run throws, or the signal's reason.
   */
  async answer(key: string, asked: string | undefined, deadlineMs: Millis, signal: AbortSignal, run: (signal: AbortSignal) => AsyncIterable<Packet>): Promise<readonly Packet[]> {
    const remembered = this.#answers.get(key)
    const known = remembered !== undefined && this.#clock.monotonic() - remembered.at < this.#limits.rememberMs ? remembered : undefined
    const before = known ?? this.#running.get(key)
    if (before !== undefined && before.asked !== asked) throw new MeshError('CONFLICT', 'this key was used for another input: use a new key for new input, or send the same input again')
    if (known !== undefined) return known.outputs
    const running = this.#running.get(key) ?? this.#begin(key, asked, run)
    running.extend(deadlineMs)
    return unlessAborted(running.outputs, signal)
  }

  #begin(key: string, asked: string | undefined, run: (signal: AbortSignal) => AsyncIterable<Packet>): Running {
    const life = new AbortController()
    let ends = 0
    let cancel = (): void => undefined
    const outputs = this.#collect(key, asked, run(life.signal)).finally(() => {
      cancel()
      this.#running.delete(key)
    })
    // Everybody who waited may have left.
    outputs.catch(() => undefined)
    const extend = (deadlineMs: Millis): void => {
      const until = this.#clock.monotonic() + deadlineMs
      if (until <= ends) return
      ends = until
      cancel()
      cancel = this.#clock.after(deadlineMs, () => life.abort(new MeshError('DEADLINE', `the call was not done within ${deadlineMs} ms`)))
    }
    const running = { asked, outputs, extend }
    this.#running.set(key, running)
    return running
  }

  async #collect(key: string, asked: string | undefined, packets: AsyncIterable<Packet>): Promise<readonly Packet[]> {
    const outputs: Packet[] = []
    let bytes = 0
    for await (const output of packets) {
      outputs.push(output)
      bytes += encode(output).byteLength
      if (outputs.length > this.#limits.packets || bytes > this.#limits.answerBytes) throw new MeshError('COMPONENT_ERROR', `a call with a key may answer ${this.#limits.packets} packets and ${this.#limits.answerBytes} bytes: call without one to stream more`)
    }
    this.#keep(key, { at: this.#clock.monotonic(), asked, bytes, outputs })
    return outputs
  }

  #keep(key: string, answer: Answer): void {
    this.#keptBytes += answer.bytes - (this.#answers.peek(key)?.bytes ?? 0)
    this.#answers.set(key, answer)
    for (const [oldest, { bytes }] of this.#answers) {
      if (this.#keptBytes <= this.#limits.keptBytes) return
      this.#answers.delete(oldest)
      this.#keptBytes -= bytes
    }
  }
}
