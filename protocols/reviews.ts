import { z } from 'zod'
import { cid, json, peerId } from './ids.ts'

export const decision = z.enum(['approved', 'rejected'])
export type ReviewDecision = z.infer<typeof decision>

/** Registry `reviews`, key `peer/slot`: something that waits for a person, and what was said of it. */
export const reviewRecord = z.object({
  id: z.string().min(1).max(100),
  /** Whose answer it is; "" for a failure that no rule settled. */
  vdag: z.string().max(300),
  at: z.int(),
  /** null where they are too large to stand here: then `whole` has them. */
  request: json,
  response: json,
  opinion: json,
  /** `{ request, response, opinion }`, kept by the peer that asks and two others. */
  whole: cid.optional(),
  /** The peer that asks. */
  peer: peerId,
  decided: z.enum(['open', ...decision.options]),
  decidedBy: peerId.optional(),
  decidedAt: z.int().optional(),
})
export type ReviewRecord = z.infer<typeof reviewRecord>

/** Reviews of one peer; the next one takes the place of the oldest that was decided, else of the oldest. */
export const REVIEW_SLOTS = 256
/** Of what a review shows, so many bytes each stand in its record. */
export const REVIEW_BYTES = 6_000
