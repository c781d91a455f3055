import { z } from 'zod'
import { blockId, json, millis, peerId } from './ids.ts'

export const lifecycleStage = z.enum(['begin', 'main', 'finish'])
export type LifecycleStage = z.infer<typeof lifecycleStage>

/** AIOS's InitContainerEntry: how far a block's init lifecycle is, and what each stage said. Value of the `lifecycles` registry, by block id. */
export const initContainerEntry = z.object({
  id: blockId,
  /** The stage that has begun, and `finish` also when all is done; `failed` with the reason in `status_data`. */
  status: z.enum(['begin', 'main', 'finish', 'failed']),
  block_data: z.record(z.string(), json),
  status_data: z.object({
    operating_mode: z.enum(['create', 'remove']),
    done: z.boolean(),
    stages: z.array(z.object({ operating_mode: z.enum(['create', 'remove']), stage: lifecycleStage, ok: z.boolean(), data: json, at: millis })).max(12),
    because: z.string().max(1_000).optional(),
    /** After a failure: whether the lifecycle ran in remove mode to its end. */
    rolled_back: z.boolean().optional(),
  }),
  /** The peer that runs it. */
  node_id: peerId,
})
export type InitContainerEntry = z.infer<typeof initContainerEntry>
