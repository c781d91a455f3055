import type { Millis } from '../../protocols/ids.ts'

export type LivenessConfig = {
  /** Every peer we watch is probed once in this time. */
  readonly periodMs: Millis
  readonly probeMs: Millis
  /** A probe of a peer that is not connected gets this much more: three round trips and a handshake. */
  readonly dialMs: Millis
  /** A relay's own probe must end before the asker gives the relay up. */
  readonly relayMs: Millis
  readonly suspectMs: Millis
  /** Ring successors probed each period, besides one peer at random. */
  readonly watched: number
  readonly relays: number
  /** Every so many periods one peer given up is tried again: a partition may have healed. */
  readonly retryDeadPeriods: number
  /** Whoever lost a connection to a peer that others watch leaves it to them for about this long. */
  readonly deferMs: Millis
  readonly skewMs: Millis
}

/**
 * A silent death is noticed within period + probe + relay + suspicion + a last probe: 2.35 s. A broken connection starts the same
 * sequence a moment later, and a refused redial that every relay confirms ends it at once.
 */
export const LIVENESS: LivenessConfig = { periodMs: 900, probeMs: 400, dialMs: 800, relayMs: 300, suspectMs: 250, watched: 3, relays: 3, retryDeadPeriods: 5, deferMs: 250, skewMs: 60_000 }
