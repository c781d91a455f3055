import { z } from 'zod'
import { cid, json, peerId } from './ids.ts'

export const taskStatus = z.enum(['pending', 'in_progress', 'completed', 'failed'])
export type TaskStatus = z.infer<typeof taskStatus>

/** Registry `tasks`, key `peer/slot`: something that was asked of a peer, and what became of it. */
export const taskRecord = z.object({
  task_id: z.string().min(1).max(100),
  /** AIOS's kinds (`block_allocation`, …); what others keep tasks for, in their own words. */
  task_type: z.string().max(100),
  /** The parser's action. Absent for tasks that others keep here. */
  action: z.string().max(100).optional(),
  task_status: taskStatus,
  task_create_timestamp: z.int(),
  task_update_timestamp: z.int(),
  /** What is said of its state: the error, or a result that is small. */
  task_status_data: json.default(null),
  task_data: json.default(null),
  progress: z.object({ done: z.int().nonnegative(), total: z.int().positive(), what: z.string().max(200) }).optional(),
  /** The peer that was asked. */
  owner: peerId,
  /** Lineage: the document that was asked with, and what came of it. */
  input: cid.optional(),
  output: cid.optional(),
  /** What it makes, so that others can see whether it was made: `block NAME`, `vdag URI`, `component URI`. */
  subject: z.string().max(320).optional(),
  key: z.string().max(200).optional(),
  /** The task this one does again. */
  replays: z.string().max(100).optional(),
})
export type TaskRecord = z.infer<typeof taskRecord>

/** Of what a task says, more than this is behind its CID only. */
export const TASK_DATA_BYTES = 4_096
/** Tasks a peer keeps; the next one takes the place of the oldest that has ended. */
export const TASK_SLOTS = 512
