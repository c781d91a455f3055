import type { BlockId, Json, Millis } from '../../protocols/ids.ts'

/** One request as it was asked and how it ended. Files are never kept. */
export type LoggedRequest = {
  readonly request: string
  readonly session: string
  readonly seqNo: number
  readonly target: string
  readonly blocks: readonly BlockId[]
  readonly at: Millis
  readonly data: Json
  outcome: 'running' | 'ok' | string
  ms: Millis
}

/** Longer inputs are cut to what they begin with. */
const DATA_CHARACTERS = 2_000

/** Holds the newest requests of this peer's inference server, and finds them by request, session or block. */
export class RequestLog {
  readonly #limit: number
  readonly #requests: LoggedRequest[] = []

  constructor(limit: number) {
    this.#limit = limit
  }

  begin(entry: Omit<LoggedRequest, 'outcome' | 'ms'>): LoggedRequest {
    const text = JSON.stringify(entry.data)
    const logged: LoggedRequest = { ...entry, data: text.length > DATA_CHARACTERS ? text.slice(0, DATA_CHARACTERS) : entry.data, outcome: 'running', ms: 0 }
    this.#requests.push(logged)
    // Twice the bound before cutting, so that cutting is rare.
    if (this.#requests.length >= 2 * this.#limit) this.#requests.splice(0, this.#requests.length - this.#limit)
    return logged
  }

  /** Newest first. */
  find(asked: { readonly request?: string; readonly session?: string; readonly block?: string }, limit = 100): readonly LoggedRequest[] {
    const found = this.#requests.filter(({ request, session, blocks, target }) =>
      (asked.request === undefined || asked.request === request) && (asked.session === undefined || asked.session === session) && (asked.block === undefined || asked.block === target || blocks.includes(asked.block)))
    return found.slice(-limit).reverse()
  }
}
