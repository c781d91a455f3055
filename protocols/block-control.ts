import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { blockId, instanceId, json, peerId } from './ids.ts'
import { instanceInit } from './placement.ts'

/** What a block's steward is asked to do. Doing it twice does harm only to `scale`, whose count is of more instances. */
export const blockOrder = z.discriminatedUnion('do', [
  /** So many more instances; the first of them on these hosts and GPUs, started with these data, where any are said. */
  z.object({ do: z.literal('scale'), count: z.int().min(1).max(1_000), at: z.array(z.object({ host: peerId.optional(), gpus: z.array(z.string().max(80)).max(64), init: instanceInit.optional() })).max(256) }),
  /** These instances go, and nothing comes in their place. */
  z.object({ do: z.literal('release'), instances: z.array(instanceId).min(1).max(1_000) }),
  /** This instance goes once another has come in its place, on another host if there is one. */
  z.object({ do: z.literal('reassign'), instance: instanceId }),
  /** Somebody calls a block that was scaled to zero. */
  z.object({ do: z.literal('wake') }),
  z.object({ do: z.literal('status') }),
  /** A command to what the steward runs for the block, or to the policy rule behind it. */
  z.object({ do: z.literal('command'), service: z.enum(['autoscaler', 'health', 'stability_checker']), action: z.string().min(1).max(200), data: json }),
])
export type BlockOrder = z.infer<typeof blockOrder>

/** Whoever is asked and does not steward the block says EPOCH_FENCED: look again who does. */
export const blockControl = defineProtocol({
  id: '/aios/block-control/1',
  request: z.object({ block: blockId, order: blockOrder }),
  response: z.object({ answer: json }),
  // A command may carry what a policy rule is to know; 30 s is for a rule that is fetched and opened first.
  limits: { requestBytes: 262_144, responseBytes: 1_048_576, perPeerPerSecond: 100, deadlineMs: 30_000 },
})
