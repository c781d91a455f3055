import { z } from 'zod'
import { cid, millis } from './ids.ts'
import { uri } from './specs.ts'

/** What the author of an asset asks of the mesh: so many live hosts that hold all of it. Value of the `replicas` registry, by `URI/author`. */
export const replicaWish = z.object({
  assetURI: uri,
  content: cid,
  size: z.int().nonnegative(),
  replicas: z.int().min(1).max(64),
  /** Only hosts that carry these labels may hold it: data stays in its region. */
  labels: z.record(z.string().max(60), z.string().max(200)).default({}),
})
export type ReplicaWish = z.infer<typeof replicaWish>

/**
 * An author takes a version back. Value of the `yanks` registry; its key is `registry/uri/author`, and it counts only where
 * the author of the version wrote it.
 */
export const yank = z.object({ because: z.string().max(300), issuedAt: z.int() })
export type Yank = z.infer<typeof yank>

/** A host's own note, in its journal, that it holds a replica for others, and until when at least. */
export const pinLease = z.object({ content: cid, until: millis })
