import { z } from 'zod'
import { json, peerId } from './ids.ts'
import { uri } from './specs.ts'

/** AIOS's vDAG controller: a door of one vDAG on one or more peers. Value of the `controllers` registry, by its id. */
export const vdagController = z.object({
  vdag_controller_id: z.string().min(1).max(200),
  vdag_uri: uri,
  /** The peers that answer for it. */
  hosts: z.array(peerId).min(1).max(1_000),
  config: z.record(z.string(), json),
  search_tags: z.array(z.string().max(100)).max(200),
  metadata: z.record(z.string(), json),
})
export type VdagController = z.infer<typeof vdagController>
