import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { askId, blockId, contractId, epoch, instanceId, json, millis, peerId } from './ids.ts'
import { needs } from './resources.ts'
import { blockRecord } from './specs.ts'
import { signed } from './signed.ts'

const INIT_BYTES = 1_024

/** What one instance is started with over its block's own `initData`. It travels in contracts, of which a steward tells hundreds at once: 1 KiB as JSON. */
export const instanceInit = z.record(z.string().max(200), json).refine(init => JSON.stringify(init).length <= INIT_BYTES, `give at most ${INIT_BYTES} characters of JSON an instance; keep what is larger as an asset`)
export type InstanceInit = z.infer<typeof instanceInit>

/** "Could you run one instance of this, on these terms?" */
export const ask = z.object({
  id: askId,
  block: blockRecord,
  needs,
  steward: peerId,
  epoch,
  /** How long the bidder must keep what it offers. */
  holdMs: millis,
  action: z.enum(['dry_run', 'allocation', 'scale', 'reassignment']),
  /** Only explain; reserve nothing. */
  dryRun: z.boolean(),
  /** These very GPUs, where the steward was told which. */
  gpus: z.array(z.string().max(80)).max(64).optional(),
})
export type Ask = z.infer<typeof ask>

/** The signed payload of domain `bid`: a promise, backed by a reservation until `holdUntil` on the bidder's clock. */
export const bid = z.object({
  ask: askId,
  host: peerId,
  hold: z.string().max(80),
  /** 0..1, higher is better: the `selection_score_data.score` of AIOS. */
  score: z.number(),
  gpus: z.array(z.string().max(80)).max(64),
  holdMs: millis,
  readyInMs: millis,
  because: z.string().max(300),
})
export type Bid = z.infer<typeof bid>

export const refusal = z.object({ ask: askId, because: z.string().max(300), retryable: z.boolean() })
export type Refusal = z.infer<typeof refusal>

export const askForBid = defineProtocol({
  id: '/aios/ask/1',
  request: ask,
  response: z.union([z.object({ bid: signed }), z.object({ refusal })]),
  // A steward asks about 16 hosts per instance; the block record with its component is some KiB.
  limits: { requestBytes: 131_072, responseBytes: 8_192, perPeerPerSecond: 50, deadlineMs: 2_000 },
})

/** The signed payload of domain `contract`, made by the host: it will run this until the lease ends. */
export const contract = z.object({
  id: contractId,
  block: blockId,
  instance: instanceId,
  component: z.string().max(300),
  steward: peerId,
  host: peerId,
  needs,
  gpus: z.array(z.string().max(80)).max(64),
  epoch,
  leaseMs: millis,
  issuedAt: z.int(),
  /** Fingerprint of what the instance was started with: a steward replaces those of an earlier record of the block. */
  terms: z.string().max(64).optional(),
  /** Of this instance alone; whoever comes in its place has it, too. */
  init: instanceInit.optional(),
})
export type Contract = z.infer<typeof contract>

/** Signed by the steward, domain `award`. Idempotent: the same hold awarded twice answers the same contract. */
export const awardBody = z.object({ ask: askId, hold: z.string().max(80), block: blockRecord, instance: instanceId, epoch, leaseMs: millis, issuedAt: z.int(), init: instanceInit.optional() })
export const award = defineProtocol({
  id: '/aios/award/1',
  request: signed,
  response: z.union([z.object({ contract: signed }), z.object({ refusal })]),
  limits: { requestBytes: 131_072, responseBytes: 8_192, perPeerPerSecond: 50, deadlineMs: 5_000 },
})

/** Signed by the steward, domain `lease`: renew, or take over with a higher epoch; release drains and stops. */
export const leaseBody = z.object({
  do: z.enum(['renew', 'release']),
  block: blockId,
  contract: contractId,
  epoch,
  leaseMs: millis,
  because: z.string().max(300),
  issuedAt: z.int(),
})
export const lease = defineProtocol({
  id: '/aios/lease/1',
  request: signed,
  response: z.union([z.object({ contract: signed }), z.object({ refusal: z.object({ because: z.string().max(300), retryable: z.boolean(), highestEpoch: epoch.optional() }) })]),
  limits: { requestBytes: 8_192, responseBytes: 8_192, perPeerPerSecond: 200, deadlineMs: 3_000 },
})

/**
 * What a steward tells the next two in line, so that a successor starts where it stopped. Signed, domain `steward`. `desired`: instances an
 * autoscaler or a person asked for, where they did; `scaledAgoMs`: how long ago that changed.
 */
export const stewardBody = z.object({ block: blockId, epoch, contracts: z.array(signed).max(512), issuedAt: z.int(), desired: z.int().min(0).max(1_000).optional(), scaledAgoMs: millis.optional() })
export const stewardMirror = defineProtocol({
  id: '/aios/steward/1',
  request: signed,
  response: z.object({ highestEpoch: epoch }),
  limits: { requestBytes: 1_048_576, responseBytes: 512, perPeerPerSecond: 50, deadlineMs: 3_000 },
})

/** One line of `--dry-run`: who was asked, what they said. */
export const explanation = z.object({
  block: blockId,
  chosen: peerId.optional(),
  candidates: z.array(z.object({
    peer: peerId,
    step: z.enum(['filter', 'selection', 'ask', 'bid', 'post_dry_run', 'award']),
    ok: z.boolean(),
    score: z.number().optional(),
    because: z.string(),
    data: json.optional(),
  })),
})
export type Explanation = z.infer<typeof explanation>
