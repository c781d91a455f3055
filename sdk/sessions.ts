import { HERE, type BlockClock } from './clock.ts'
import { StateDict } from './state.ts'

/** AIOS's session: an id and what a block remembers with it. */
export class Session {
  readonly session_id: string
  /** Whatever the block keeps. */
  session_data: unknown
  /** A dictionary of the session's own; writes to it stay. */
  readonly data: Record<string, unknown> = {}

  constructor(id: string, data: unknown) {
    this.session_id = id
    this.session_data = data
  }

  get_id(): string {
    return this.session_id
  }

  get_data(): unknown {
    return this.session_data
  }
}

type Answer<T> = readonly [ok: true, value: T] | readonly [ok: false, message: string]

/** What a block remembers between the packets of one session. At most 10,000 sessions, each forgotten after an idle hour. */
export class SessionsManager {
  readonly #sessions: StateDict<Session>

  constructor(clock: Pick<BlockClock, 'monotonic'> = HERE, limits: { readonly entries?: number; readonly idleMs?: number } = {}) {
    this.#sessions = new StateDict(clock, { entries: limits.entries ?? 10_000, idleMs: limits.idleMs ?? 3_600_000 })
  }

  get size(): number {
    return this.#sessions.size
  }

  /** Starts a session, replacing one of the same id. */
  create(id: string, object: unknown = undefined): void {
    this.#sessions.set(id, new Session(id, object))
  }

  has(id: string): boolean {
    return this.#sessions.has(id)
  }

  /** The session's object; undefined for an unknown session. */
  object(id: string): unknown {
    return this.#sessions.get(id)?.session_data
  }

  setObject(id: string, object: unknown): void {
    const session = this.#sessions.get(id)
    if (session === undefined) this.create(id, object)
    else session.session_data = object
  }

  /** The session's own dictionary, made on first use; writes to it stay. */
  data(id: string): Record<string, unknown> {
    if (!this.#sessions.has(id)) this.create(id)
    return this.#sessions.get(id)?.data ?? {}
  }

  remove(id: string): boolean {
    return this.#sessions.delete(id)
  }

  clear(): void {
    this.#sessions.clear()
  }

  // AIOS's own calls, which answer `[ok, value]`.
  create_session(id: string, init_data: unknown = undefined): void { this.create(id, init_data) }
  get_session_object(id: string): Answer<Session> {
    const session = this.#sessions.get(id)
    return session === undefined ? unknown(id) : [true, session]
  }
  get_session_data(id: string): Answer<unknown> {
    const session = this.#sessions.get(id)
    return session === undefined ? unknown(id) : [true, session.session_data]
  }
  update_session_object(id: string, data: unknown): Answer<string> {
    const session = this.#sessions.get(id)
    if (session === undefined) return unknown(id)
    session.session_data = data
    return [true, 'session data updated']
  }
  remove_sessions_data(ids: readonly string[] | string): Answer<string> {
    const gone = (typeof ids === 'string' ? [ids] : ids).map(id => [id, this.remove(id)] as const)
    const missing = gone.find(([, removed]) => !removed)
    return missing === undefined ? [true, 'session data removed'] : unknown(missing[0])
  }
  /** All sessions by id: what is written into one of them stays. With an id: that session's own dictionary. */
  get_dict_ref(): Readonly<Record<string, Session>>
  get_dict_ref(id: string): Record<string, unknown>
  get_dict_ref(id?: string): Readonly<Record<string, Session>> | Record<string, unknown> {
    return id === undefined ? Object.fromEntries(this.#sessions.items()) : this.data(id)
  }
}

function unknown(id: string): readonly [ok: false, message: string] {
  return [false, `session ${id} not found`]
}
