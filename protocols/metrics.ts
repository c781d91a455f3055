import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { blockId, instanceId, json } from './ids.ts'

const document = z.record(z.string().max(120), json)

const asked = z.object({ node: z.boolean(), blocks: z.array(blockId).max(64).optional(), vdags: z.boolean() })
export type MetricsAsked = z.infer<typeof asked>

const told = z.object({
  /** Milliseconds since 1970, by the answerer's clock. */
  at: z.int().nonnegative(),
  node: document.optional(),
  instances: z.array(z.object({ block: blockId, instance: instanceId, metrics: document })).max(512),
  vdags: z.array(z.object({ vdag: z.string().max(300), metrics: document })).max(256),
  /** Instances whose metrics found no room in this answer: name their blocks. */
  left: z.int().nonnegative(),
})
export type MetricsTold = z.infer<typeof told>

/** What does your host measure: of itself, of the instances of these blocks (of all, where none is named), of the vDAGs it answered for? */
export const metricsPull = defineProtocol({
  id: '/aios/metrics-pull/1',
  request: asked,
  response: told,
  // An instance's document has 32 KiB at most, and 3 in a usual case. A peer asks another at most once a second for each thing that its own callers want, and puts together what they want of one host.
  limits: { requestBytes: 32_768, responseBytes: 1_048_576, perPeerPerSecond: 50, deadlineMs: 2_000 },
})
