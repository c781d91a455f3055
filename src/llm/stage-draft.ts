import { MeshError } from '../../protocols/errors.ts'
import { abortable } from '../lib/abortable.ts'
import type { StageRunner } from '../ports.ts'
import type { Draft } from './draft.ts'

const CHUNK = 128

/** Guesses with a small model whose only stage runs on this host: greedily, as far ahead as it is asked. */
export class StageDraft implements Draft {
  readonly #runner: StageRunner
  readonly #session: string
  readonly #reserve: number
  /** Tokens whose KV it has. */
  #held: number[] = []
  #open = false
  #silent = false

  /** `session`: a name of its own at that instance. */
  constructor(runner: StageRunner, session: string, reserve: number) {
    this.#runner = runner
    this.#session = session
    this.#reserve = reserve
  }

  /** Proposes nothing when its instance fails or is full; from the time that it did not answer before `signal`, never again. */
  async propose(tokens: readonly number[], most: number, signal: AbortSignal): Promise<readonly number[]> {
    if (this.#silent || tokens.length + most > this.#reserve) return []
    try {
      if (!this.#open) {
        this.#held = []
        await abortable(this.#runner.open(this.#session, this.#reserve, []), signal)
        this.#open = true
      }
      let position = 0
      while (position < this.#held.length && position < tokens.length - 1 && this.#held[position] === tokens[position]) position += 1
      this.#held.length = position
      const guesses: number[] = []
      let next = tokens.slice(position)
      while (guesses.length < most) {
        const token = await this.#say(next, signal)
        if (token === undefined) break
        guesses.push(token)
        next = [token]
      }
      return guesses
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      this.#open = false
      this.#silent = error.code === 'DEADLINE'
      return []
    }
  }

  close(): void {
    if (!this.#open) return
    this.#open = false
    try {
      this.#runner.close(this.#session, false)
    } catch (error) {
      // The instance is gone, and the session with it.
      if (!(error instanceof MeshError)) throw error
    }
  }

  /** Feeds tokens; gives what it thinks comes next. */
  async #say(tokens: readonly number[], signal: AbortSignal): Promise<number | undefined> {
    let token: number | undefined
    for (let at = 0; at < tokens.length; at += CHUNK) {
      const chunk = tokens.slice(at, at + CHUNK)
      const last = at + CHUNK >= tokens.length
      const out = await this.#runner.step({ session: this.#session, position: this.#held.length, count: chunk.length, input: { tokens: chunk }, want: last ? 'greedy' : 'none', rows: 'last', kv: false }, signal)
      this.#held.push(...chunk)
      token = out.ids?.at(-1)
    }
    return token
  }
}
