import { z } from 'zod'
import { defineProtocol, defineTopic } from './codec.ts'
import { blockId, bytes, cid, contractId, epoch, instanceId, millis, peerId } from './ids.ts'
import { resources, runtime } from './resources.ts'
import { signed } from './signed.ts'

/** One instance as its host advertises it: enough to route to it and for a new steward to adopt it. */
export const instanceAd = z.object({
  block: blockId,
  instance: instanceId,
  contract: contractId,
  component: z.string().max(300),
  epoch,
  steward: peerId,
  state: z.enum(['starting', 'ready', 'draining', 'failed']),
  inFlight: z.int().nonnegative(),
  queued: z.int().nonnegative(),
  /** Exponentially weighted mean of recent service times. */
  latencyMs: z.number().nonnegative(),
  /** As in its contract. */
  terms: z.string().max(64).optional(),
  /** Why it failed. */
  because: z.string().max(300).optional(),
  /** How often it crashed of late and was started again. */
  crashes: z.int().nonnegative().optional(),
  /** True while its last health check said so: whoever has another instance to call calls that. */
  unhealthy: z.boolean().optional(),
})
export type InstanceAd = z.infer<typeof instanceAd>

/** Everything a peer says of itself. Replaces what it said before; (incarnation, sequence) orders its own ads. */
export const capacityAd = z.object({
  peer: peerId,
  cluster: z.string().max(120),
  incarnation: z.int().nonnegative(),
  sequence: z.int().nonnegative(),
  issuedAt: z.int(),
  ttlMs: millis,
  protocolMajor: z.int(),
  labels: z.record(z.string().max(60), z.string().max(200)),
  total: resources,
  free: resources,
  runtimes: z.array(runtime).max(16),
  memoryGBs: z.number().nonnegative(),
  cpuLoad: z.number().nonnegative(),
  instances: z.array(instanceAd).max(512),
  /** Root CIDs of bundles and shards held, newest first, so that placement can prefer warm hosts. */
  holds: z.array(cid).max(64),
  /** The peer's HTTP door where it is reachable by others. */
  http: z.string().max(200).optional(),
  /** False until the peer has caught up with the mesh after a start: nobody expects it to steward blocks yet. */
  stewards: z.boolean().optional(),
})
export type CapacityAd = z.infer<typeof capacityAd>

/** What changed since ad `base` of the same incarnation. A receiver without `base` asks for the whole. */
export const capacityDelta = z.object({
  peer: peerId,
  incarnation: z.int().nonnegative(),
  base: z.int().nonnegative(),
  sequence: z.int().nonnegative(),
  issuedAt: z.int(),
  changed: capacityAd.omit({ peer: true, incarnation: true, sequence: true, issuedAt: true }).partial(),
})
export type CapacityDelta = z.infer<typeof capacityDelta>

/** Signed `capacity` (whole ad) or `capacity-delta` envelopes. */
export const capacityTopic = defineTopic({
  id: '/aios/capacity/1',
  message: signed,
  // A whole ad with 100 instances is about 20 KiB. A busy host sends a delta at most twice a second.
  limits: { messageBytes: 131_072, perPeerPerSecond: 10 },
})

/** Asks a peer for its own whole ad, and for the signed ads it holds of others (join, or a missed base). */
export const capacityPull = defineProtocol({
  id: '/aios/capacity-pull/1',
  /** `held`: 4-byte marks of the words the asker holds, wholes under a delta besides (FNV-1a of peer id, incarnation, sequence); what it holds is left out. */
  request: z.object({ of: z.array(peerId).max(256).optional(), held: bytes.refine(bytes => bytes.byteLength <= 16_384, 'longer than 4096 marks').optional() }),
  /** `knows`: of so many peers the answerer holds a word. */
  response: z.object({ ads: z.array(signed).max(256), knows: z.int().nonnegative().optional() }),
  limits: { requestBytes: 32_768, responseBytes: 8_388_608, perPeerPerSecond: 10, deadlineMs: 5_000 },
})

/** SWIM: a direct probe, or a request to probe `of` on the asker's behalf. */
export const probe = defineProtocol({
  id: '/aios/probe/1',
  /** `believed`: what the asker holds of the peer it asks, so that one wrongly given up hears of it and can refute. */
  request: z.object({ of: peerId.optional(), incarnation: z.int().nonnegative(), believed: z.enum(['suspect', 'dead']).optional() }),
  /** `sequence` of the answerer's newest ad: a prober that lost it pulls it. */
  response: z.object({ alive: z.boolean(), incarnation: z.int().nonnegative(), sequence: z.int().nonnegative().optional() }),
  limits: { requestBytes: 512, responseBytes: 512, perPeerPerSecond: 50, deadlineMs: 1_000 },
})

/** How far is it from you to these? A round trip in milliseconds, null where none was measured. Who divides work over hosts asks. */
export const distances = defineProtocol({
  id: '/aios/distances/1',
  request: z.object({ of: z.array(peerId).max(64) }),
  response: z.object({ rttMs: z.array(z.number().nonnegative().nullable()).max(64) }),
  limits: { requestBytes: 8_192, responseBytes: 1_024, perPeerPerSecond: 10, deadlineMs: 1_000 },
})

/** SWIM rumours: who is suspected, dead, left of its own will, or alive again with a higher incarnation. */
export const rumour = z.object({
  about: peerId,
  incarnation: z.int().nonnegative(),
  state: z.enum(['alive', 'suspect', 'dead', 'left']),
})
export type Rumour = z.infer<typeof rumour>

/** Signed `liveness` envelopes, payload `{ rumours, issuedAt }`. `left` counts only when signed by the peer itself. */
export const livenessTopic = defineTopic({
  id: '/aios/liveness/1',
  message: signed,
  limits: { messageBytes: 8_192, perPeerPerSecond: 50 },
})
export const livenessBody = z.object({ rumours: z.array(rumour).max(32), issuedAt: z.int() })
