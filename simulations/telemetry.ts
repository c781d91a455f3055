import type { PeerId } from '../protocols/ids.ts'
import type { Telemetry } from '../src/ports.ts'

export type Event = { readonly at: number; readonly peer: PeerId; readonly level: 'debug' | 'info' | 'warn' | 'error'; readonly name: string; readonly fields: Readonly<Record<string, unknown>> }

const KEPT_EVENTS = 2_000

/** Counts metrics of all peers together and keeps the newest events, for the story of a failing seed. */
export class TelemetryRecorder {
  readonly counters = new Map<string, number>()
  readonly #events: Event[] = []
  readonly #now: () => number

  constructor(now: () => number) {
    this.#now = now
  }

  /** Newest last. */
  events(): readonly Event[] {
    return this.#events.slice(-KEPT_EVENTS)
  }

  port(peer: PeerId): Telemetry {
    return {
      count: (metric, labels, by = 1) => {
        const key = labels === undefined ? metric : `${metric}{${Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(',')}}`
        this.counters.set(key, (this.counters.get(key) ?? 0) + by)
      },
      gauge: () => {},
      observe: () => {},
      event: (level, name, fields) => {
        if (level === 'debug') return
        this.#events.push({ at: this.#now(), peer, level, name, fields })
        if (this.#events.length > KEPT_EVENTS * 2) this.#events.splice(0, KEPT_EVENTS)
      },
    }
  }
}
