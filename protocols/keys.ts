import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { epoch, peerId } from './ids.ts'
import { signed } from './signed.ts'

/** What a key is called between peers: a hash of its kind and itself. */
const keyName = z.string().regex(/^[0-9a-f]{32}$/, 'a key is named by 32 hex digits')
/** What its holder does under it: the id of a task, or what was decided. */
const purpose = z.string().min(1).max(200)

/** Signed by who wants the key, domain `key-claim`. */
export const keyClaimBody = z.object({ key: keyName, holder: peerId, epoch, what: purpose, issuedAt: z.int() })
export type KeyClaimBody = z.infer<typeof keyClaimBody>

/** Something that is to be done once: three peers promise each key to one holder, and tell whose it is. */
export const keyClaim = defineProtocol({
  id: '/aios/key-claim/1',
  request: z.discriminatedUnion('do', [
    z.object({ do: z.literal('claim'), claim: signed }),
    /** To its holder: do you do that, or have you done it? */
    z.object({ do: z.literal('ask'), key: keyName, what: purpose }),
  ]),
  /** `held`: whose it is, after a claim. `stands`: what the holder says. */
  response: z.object({ granted: z.boolean().optional(), held: z.object({ holder: peerId, epoch, what: purpose }).optional(), stands: z.boolean().optional() }),
  limits: { requestBytes: 4_096, responseBytes: 1_024, perPeerPerSecond: 200, deadlineMs: 2_000 },
})
