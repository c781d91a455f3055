import { asMeshError, isErrorCode, MeshError } from '../../../protocols/errors.ts'
import type { GenerationEvent, GenerationRequest, SessionId } from '../../../protocols/generation.ts'
import type { Generations } from '../../../src/roles.ts'

const GENERATION_MS = 3_600_000

export type ChoiceEvent = { readonly index: number; readonly event: GenerationEvent }

/** The sessions that answer one request, a choice each. */
export class Choices {
  readonly sessions: readonly SessionId[]
  readonly #generations: Generations

  constructor(generations: Generations, sessions: readonly SessionId[]) {
    this.#generations = generations
    this.sessions = sessions
  }

  /** All or none. Throws what refused the first that was refused. */
  static async start(generations: Generations, requests: readonly GenerationRequest[], options: { readonly key: string | undefined; readonly signal: AbortSignal }): Promise<Choices> {
    const began = await Promise.allSettled(requests.map((request, at) => generations.start(request, { deadlineMs: GENERATION_MS, signal: options.signal, ...(options.key === undefined ? {} : { key: at === 0 ? options.key : `${options.key}#${at}` }) })))
    const sessions = began.flatMap(result => (result.status === 'fulfilled' ? [result.value] : []))
    const choices = new Choices(generations, sessions)
    const refused = began.find(result => result.status === 'rejected')
    if (refused === undefined) return choices
    await choices.cancel()
    throw asMeshError(refused.reason)
  }

  /** How clients call these answers, and ask for them again. */
  get id(): string {
    return this.sessions.join('.')
  }

  /** Events of all choices as they come, each from its first. Throws the failure that ended one. */
  async * events(signal: AbortSignal): AsyncGenerator<ChoiceEvent> {
    const stop = new AbortController()
    const following = AbortSignal.any([signal, stop.signal])
    const streams = this.sessions.map(session => this.#generations.follow(session, 0, following)[Symbol.asyncIterator]())
    const next = async (index: number): Promise<{ readonly index: number; readonly result: IteratorResult<GenerationEvent> }> => ({ index, result: await streams[index]!.next() })
    const waiting = new Map(streams.map((_, index) => [index, next(index)]))
    try {
      while (waiting.size > 0) {
        const { index, result } = await Promise.race(waiting.values())
        if (result.done === true) {
          waiting.delete(index)
          continue
        }
        waiting.set(index, next(index))
        const event = result.value
        if (event.kind === 'end' && event.reason === 'error') throw failureOf(event.failure)
        yield { index, event }
      }
    } finally {
      stop.abort(new MeshError('CANCELLED', 'nobody listens any more'))
      for (const left of waiting.values()) left.catch(() => undefined)
    }
  }

  /** Best effort: what is over, or away, is left alone. */
  async cancel(): Promise<void> {
    await Promise.allSettled(this.sessions.map(session => this.#generations.cancel(session)))
  }
}

function failureOf(failure: { readonly code: string; readonly message: string } | undefined): MeshError {
  if (failure === undefined) return new MeshError('INTERNAL', 'the answer failed')
  return new MeshError(isErrorCode(failure.code) ? failure.code : 'INTERNAL', failure.message)
}
