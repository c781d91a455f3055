import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { bytes, cid, epoch, json, peerId, runId } from './ids.ts'
import { signed } from './signed.ts'
import { traceparent } from './trace.ts'

/** What a coordinator journals, before it acts. Replaying a run's events rebuilds the run. */
export const runEvent = z.discriminatedUnion('type', [
  z.object({ type: z.literal('began'), run: runId, key: z.string().max(200), vdag: z.string().max(300), plan: cid, input: cid, submitter: peerId, at: z.int(),
    /** Fingerprint of what was submitted, to tell a key that is used again for something else. */
    asked: z.string().max(80).optional(),
    /** The trace it is part of. */
    trace: traceparent.optional() }),
  z.object({ type: z.literal('coordinator'), peer: peerId, epoch, at: z.int() }),
  z.object({ type: z.literal('started'), label: z.string().max(400), attempt: z.int(), block: z.string().max(300), instance: z.string().max(80), host: peerId, at: z.int() }),
  z.object({ type: z.literal('finished'), label: z.string().max(400), attempt: z.int(), output: cid, host: peerId, ms: z.number(), at: z.int(),
    /** Conditional routing: the only successors that run, by their label in the plan. Absent: all of them. */
    route: z.array(z.string().max(400)).max(1_000).optional() }),
  z.object({ type: z.literal('skipped'), label: z.string().max(400), because: z.string().max(300), at: z.int() }),
  z.object({ type: z.literal('failed'), label: z.string().max(400), attempt: z.int(), code: z.string().max(40), message: z.string().max(1_000), retryable: z.boolean(), at: z.int() }),
  z.object({ type: z.literal('completed'), outputs: z.record(z.string().max(400), cid), at: z.int() }),
  z.object({ type: z.literal('aborted'), code: z.string().max(40), message: z.string().max(1_000), at: z.int() }),
])
export type RunEvent = z.infer<typeof runEvent>

/** Signed by the claimer, domain `run-claim`. A registrar grants a run to one coordinator; a higher epoch takes it over. */
export const runClaimBody = z.object({ run: runId, coordinator: peerId, epoch, issuedAt: z.int() })
export const runClaim = defineProtocol({
  id: '/aios/run-claim/1',
  request: signed,
  /** `events` and `lastEpoch`: how long the registrar's copy of the run is, and the epoch its last event was written in. */
  response: z.object({ granted: z.boolean(), coordinator: peerId, epoch, finished: z.boolean(), events: z.int(), lastEpoch: epoch.optional() }),
  limits: { requestBytes: 4_096, responseBytes: 1_024, perPeerPerSecond: 500, deadlineMs: 2_000 },
})

/**
 * Signed by the coordinator, domain `run-mirror`: events `from`.. of its journal. Durable before it is answered.
 * `previous` is the epoch in which event `from - 1` was written: a mirror whose own copy differs there answers with the
 * number of events it can vouch for (as Raft's AppendEntries). `records` are the small DAG-CBOR records these events
 * name; a mirror fetches those that are missing before it accepts.
 */
export const runMirrorBody = z.object({
  run: runId, epoch, from: z.int().nonnegative(), events: z.array(runEvent).max(256), issuedAt: z.int(),
  previous: epoch.optional(),
  records: z.array(bytes).max(512).optional(),
})
export const runMirror = defineProtocol({
  id: '/aios/run-mirror/1',
  request: signed,
  response: z.object({ accepted: z.boolean(), have: z.int().nonnegative(), epoch }),
  limits: { requestBytes: 1_048_576, responseBytes: 512, perPeerPerSecond: 2_000, deadlineMs: 3_000 },
})

/** Reads a run from whoever holds it: its events from `from` on. */
export const runRead = defineProtocol({
  id: '/aios/run-read/1',
  request: z.object({ run: runId, from: z.int().nonnegative(), waitMs: z.int().nonnegative().max(20_000) }),
  /** `coordinator` is absent where the run is known and nobody is known to drive it. */
  response: z.object({ found: z.boolean(), coordinator: peerId.optional(), epoch: epoch.optional(), events: z.array(runEvent).max(1_024), output: json.optional() }),
  limits: { requestBytes: 512, responseBytes: 4_194_304, perPeerPerSecond: 100, deadlineMs: 25_000 },
})
