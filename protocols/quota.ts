import { z } from 'zod'
import { defineProtocol } from './codec.ts'

const transfer = z.string().min(1).max(64)

/** "Give me some of your share": rights of one quota move between its holders; none are made on the way. */
export const quotaShare = defineProtocol({
  id: '/aios/quota/1',
  request: z.object({
    quota: z.string().min(1).max(400),
    /** The same transfer asked again is the same transfer. */
    transfer,
    want: z.int().positive().max(1_000_000_000),
    /** Earlier transfers that have arrived. */
    arrived: z.array(transfer).max(256),
  }),
  response: z.object({ amount: z.int().nonnegative(), free: z.int().nonnegative() }),
  // A holder that runs dry asks a few others, and then not for half a second.
  limits: { requestBytes: 32_768, responseBytes: 256, perPeerPerSecond: 50, deadlineMs: 1_000 },
})

/** At most `limit` admissions in any `windowMs`, by all holders together. */
export const quotaTerms = z.object({
  limit: z.int().nonnegative().max(1_000_000_000),
  windowMs: z.int().positive().max(31 * 86_400_000).default(60_000),
})
export type QuotaTerms = z.infer<typeof quotaTerms>
