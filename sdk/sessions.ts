import type { BlockClock } from './clock.ts'
import { StateDict } from './state.ts'

type Session = { object: unknown; readonly data: Record<string, unknown> }

/** What a block remembers between the packets of one session. At most 10,000 sessions, each forgotten after an idle hour. */
export class SessionsManager {
  readonly #sessions: StateDict<Session>

  constructor(clock: Pick<BlockClock, 'monotonic'>, limits: { readonly entries?: number; readonly idleMs?: number } = {}) {
    this.#sessions = new StateDict(clock, { entries: limits.entries ?? 10_000, idleMs: limits.idleMs ?? 3_600_000 })
  }

  get size(): number {
    return this.#sessions.size
  }

  /** Starts a session, replacing one of the same id. */
  create(id: string, object: unknown = undefined): void {
    this.#sessions.set(id, { object, data: {} })
  }

  has(id: string): boolean {
    return this.#sessions.has(id)
  }

  /** The session's object; undefined for an unknown session. */
  object(id: string): unknown {
    return this.#sessions.get(id)?.object
  }

  setObject(id: string, object: unknown): void {
    const session = this.#sessions.get(id)
    if (session === undefined) this.create(id, object)
    else session.object = object
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

  // AIOS's names for the same.
  create_session(id: string, object?: unknown): void { this.create(id, object) }
  get_session_object(id: string): unknown { return this.object(id) }
  get_session_data(id: string): Record<string, unknown> { return this.data(id) }
  get_dict_ref(id: string): Record<string, unknown> { return this.data(id) }
  update_session_object(id: string, object: unknown): void { this.setObject(id, object) }
  remove_sessions_data(ids: readonly string[] | string): void {
    for (const id of typeof ids === 'string' ? [ids] : ids) this.remove(id)
  }
}
