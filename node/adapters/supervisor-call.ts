import { MeshError } from '../../protocols/errors.ts'

/** One call under way in an instance: a bounded queue between the pipe and whoever asked. */
export class InstanceCall {
  readonly id: number
  readonly #window: number
  readonly #taken: () => void
  readonly #bodies: Uint8Array[] = []
  #wake: (() => void) | undefined
  #end: { readonly error: Error | undefined } | undefined

  constructor(id: number, window: number, taken: () => void) {
    this.id = id
    this.#window = window
    this.#taken = taken
  }

  get ended(): boolean {
    return this.#end !== undefined
  }

  /** False when the instance sent more than it had credit for. */
  push(body: Uint8Array): boolean {
    if (this.#end !== undefined) return true
    if (this.#bodies.length >= this.#window) return false
    this.#bodies.push(body)
    this.#wake?.()
    return true
  }

  /** The first end counts. */
  finish(error?: Error): void {
    this.#end ??= { error }
    this.#wake?.()
  }

  /** Ends at once, whatever waits. */
  abandon(error: Error): void {
    this.#bodies.length = 0
    this.finish(error)
  }

  /** The next answer, or undefined at the end. Throws what the call failed with. */
  async next(): Promise<Uint8Array | undefined> {
    for (;;) {
      const body = this.#bodies.shift()
      if (body !== undefined) {
        this.#taken()
        return body
      }
      if (this.#end !== undefined) {
        if (this.#end.error !== undefined) throw this.#end.error
        return undefined
      }
      await new Promise<void>(resolve => { this.#wake = resolve })
      this.#wake = undefined
    }
  }
}

/** An abort's reason as the caller should see it. */
export function abortError(signal: AbortSignal): MeshError {
  const reason: unknown = signal.reason
  if (reason instanceof MeshError) return reason
  return new MeshError('CANCELLED', reason instanceof Error ? reason.message : 'the caller gave up', { cause: reason })
}
