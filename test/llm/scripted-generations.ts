import { MeshError } from '../../protocols/errors.ts'
import type { GenerationEvent, GenerationRequest, SessionId } from '../../protocols/generation.ts'
import type { ModelText } from '../../src/llm/text/model-text.ts'
import { TextAnswer } from '../../src/llm/text/text-answer.ts'
import type { Generations } from '../../src/roles.ts'

type Session = { readonly request: GenerationRequest; readonly events: GenerationEvent[]; readonly heard: Set<() => void>; cancelled: boolean }

/**
 * Generations of a model that has its answers from a script: its logits prefer the next token of what the script says, then the
 * end. Choosing, forms, stop strings and text are the real ones; there are no stages and no peers.
 */
export class ScriptedGenerations implements Generations {
  readonly sessions = new Map<SessionId, Session>()
  /** Awaited before each token: a test may hold an answer here. */
  gate: (index: number) => Promise<void> = async () => undefined
  readonly #text: ModelText
  readonly #script: (prompt: string, request: GenerationRequest) => string

  constructor(text: ModelText, script: (prompt: string, request: GenerationRequest) => string) {
    this.#text = text
    this.#script = script
  }

  async start(request: GenerationRequest, { signal }: { readonly signal?: AbortSignal }): Promise<SessionId> {
    signal?.throwIfAborted()
    if (request.model !== 'parrot') throw new MeshError('NOT_FOUND', `no service is called ${request.model}`)
    const id = `gen-${(this.sessions.size + 1).toString(36).padStart(8, '0')}`
    const session: Session = { request, events: [], heard: new Set(), cancelled: false }
    const answer = new TextAnswer(this.#text, request)
    this.sessions.set(id, session)
    void this.#run(session, answer)
    return id
  }

  async * follow(id: SessionId, after: number, signal: AbortSignal): AsyncGenerator<GenerationEvent> {
    const session = this.sessions.get(id)
    if (session === undefined) throw new MeshError('NOT_FOUND', `no live peer knows ${id}`)
    for (let at = after; ; at += 1) {
      while (session.events.length <= at) {
        signal.throwIfAborted()
        const more = Promise.withResolvers<void>()
        session.heard.add(more.resolve)
        signal.addEventListener('abort', () => more.reject(signal.reason), { once: true })
        await more.promise
      }
      const event = session.events[at]
      if (event === undefined) return
      yield event
      if (event.kind === 'end') return
    }
  }

  async cancel(id: SessionId): Promise<void> {
    const session = this.sessions.get(id)
    if (session !== undefined) session.cancelled = true
  }

  async #run(session: Session, answer: TextAnswer): Promise<void> {
    const { request } = session
    const shown = request.prompt.map(token => this.#text.decode([token]) || this.#text.token(token) || '').join('')
    const wanted = [...this.#text.encode(this.#script(shown, request), false), this.#text.ends[0] ?? 0]
    for (let index = 0; ; index += 1) {
      await this.gate(index)
      if (session.cancelled) return this.#end(session, 'cancelled', index, '')
      const drawn = answer.draw(Float32Array.from({ length: this.#text.size }, (_, id) => (id === wanted[index] ? 20 : id % 7 / 7)), request.prompt.length + index)
      if (drawn === undefined || this.#text.ends.includes(drawn.token)) return this.#end(session, 'stop', index, answer.rest())
      const piece = answer.tell(drawn.token)
      this.#tell(session, { kind: 'token', index, token: drawn.token, text: piece.text, ...(drawn.logprob === undefined ? {} : { logprob: drawn.logprob }), ...(drawn.top === undefined ? {} : { top: [...drawn.top] }) })
      if (piece.stopped) return this.#end(session, 'stop', index + 1, '')
      if (index + 1 >= request.maxTokens) return this.#end(session, 'length', index + 1, answer.rest())
    }
  }

  #end(session: Session, reason: 'stop' | 'length' | 'cancelled', tokens: number, text: string): void {
    this.#tell(session, { kind: 'end', reason, text, promptTokens: session.request.prompt.length, cachedTokens: 0, tokens })
  }

  #tell(session: Session, event: GenerationEvent): void {
    session.events.push(event)
    for (const hear of session.heard) hear()
    session.heard.clear()
  }
}
