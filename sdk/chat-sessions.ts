import { HERE, type BlockClock } from './clock.ts'
import type { ChatTurn, Generated, GenerateOptions, LanguageModel } from './language-model.ts'

export type ChatSessionOptions = { readonly system?: string; /** Tokens that a conversation may have before its oldest turns are left out; default: the model's context less a quarter. */ readonly contextTokens?: number }

/** Conversations with one model, by id; those that nobody used for an hour are forgotten, the longest unused first when there are too many. */
export class ChatSessions {
  readonly #model: LanguageModel
  readonly #limit: number
  readonly #idleMs: number
  readonly #clock: Pick<BlockClock, 'monotonic'>
  readonly #sessions = new Map<string, { readonly system: string | undefined; readonly contextTokens: number | undefined; turns: ChatTurn[]; usedAt: number }>()

  constructor(model: LanguageModel, limit = 1_000, idle: { readonly idleMs?: number; readonly clock?: Pick<BlockClock, 'monotonic'> } = {}) {
    this.#model = model
    this.#limit = limit
    this.#idleMs = idle.idleMs ?? 3_600_000
    this.#clock = idle.clock ?? HERE
  }

  get ids(): readonly string[] {
    this.#forgetIdle()
    return [...this.#sessions.keys()]
  }

  /** Begins a conversation, or begins it again. */
  create(id: string, options: ChatSessionOptions = {}): void {
    this.#forgetIdle()
    this.#sessions.delete(id)
    this.#sessions.set(id, { system: options.system, contextTokens: options.contextTokens, turns: [], usedAt: this.#clock.monotonic() })
    const [oldest] = this.#sessions.keys()
    if (this.#sessions.size > this.#limit && oldest !== undefined) this.#sessions.delete(oldest)
  }

  /** Throws RangeError where there is no such conversation. */
  add(id: string, role: string, content: string): void {
    this.#get(id).turns.push({ role, content })
  }

  remove(id: string): boolean {
    return this.#sessions.delete(id)
  }

  turns(id: string): readonly ChatTurn[] {
    const { system, turns } = this.#get(id)
    return [...(system === undefined ? [] : [{ role: 'system', content: system }]), ...turns]
  }

  /** The model's next turn, which becomes part of the conversation. */
  async run(id: string, options: GenerateOptions = {}, signal?: AbortSignal): Promise<Generated> {
    await this.#trim(id, signal)
    const answer = await this.#model.chat(this.turns(id), options, signal)
    this.add(id, 'assistant', answer.text)
    return answer
  }

  /** As `run`, in pieces. */
  async * stream(id: string, options: GenerateOptions = {}, signal?: AbortSignal): AsyncGenerator<string> {
    await this.#trim(id, signal)
    let said = ''
    for await (const piece of this.#model.streamChat(this.turns(id), options, signal)) {
      said += piece
      yield piece
    }
    this.add(id, 'assistant', said)
  }

  #get(id: string): { readonly system: string | undefined; readonly contextTokens: number | undefined; turns: ChatTurn[] } {
    this.#forgetIdle()
    const session = this.#sessions.get(id)
    if (session === undefined) throw new RangeError(`there is no conversation ${id}`)
    // Used now: the last to be forgotten.
    this.#sessions.delete(id)
    this.#sessions.set(id, session)
    session.usedAt = this.#clock.monotonic()
    return session
  }

  #forgetIdle(): void {
    const before = this.#clock.monotonic() - this.#idleMs
    // In order of last use.
    for (const [id, { usedAt }] of this.#sessions) {
      if (usedAt > before) return
      this.#sessions.delete(id)
    }
  }

  /** Leaves out the oldest turns until the rest leaves room for an answer; the last turn always stays. */
  async #trim(id: string, signal: AbortSignal | undefined): Promise<void> {
    const session = this.#get(id)
    const most = session.contextTokens ?? Math.floor(((await this.#model.info(signal)).max_model_len ?? Infinity) * 0.75)
    if (most === Infinity) return
    while (session.turns.length > 1 && (await this.#model.countChat(this.turns(id), signal)) > most) session.turns = session.turns.slice(1)
  }
}
