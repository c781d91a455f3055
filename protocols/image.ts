import { z } from 'zod'
import { cid } from './ids.ts'

/** An OCI content digest. */
export const ociDigest = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'use sha256: and 64 hexadecimal digits')
export type OciDigest = z.infer<typeof ociDigest>

/** A repository's name (OCI distribution spec 1.1, "Pulling manifests"). */
export const repositoryName = z.string().max(255).regex(/^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$/, 'a repository is lower-case letters, digits and separators')
export const tagName = z.string().regex(/^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/, 'a tag is letters, digits, ".", "_" and "-", at most 128')

const stored = z.object({ cid, size: z.int().nonnegative() })

/**
 * One manifest of a repository with where its bytes are: the DAG-CBOR block that an `images` record names. What a digest
 * stands for is checked by whoever reads it, so that a wrong entry can mislead nobody.
 */
export const imageRecord = z.object({
  repository: repositoryName,
  digest: ociDigest,
  mediaType: z.string().max(200),
  manifest: stored,
  /** Blobs that the manifest names; those it names elsewhere (foreign layers) are not here. */
  blobs: z.record(ociDigest, stored),
  /** What this manifest is about (referrers). */
  subject: ociDigest.optional(),
  artifactType: z.string().max(200).optional(),
  annotations: z.record(z.string().max(200), z.string().max(4_096)).default({}),
})
export type ImageRecord = z.infer<typeof imageRecord>

/** Values of the `images` registry: `repository@digest` names an image record, `repository:tag` a digest. */
export const imageEntry = z.union([z.object({ record: cid, subject: ociDigest.optional() }), z.object({ digest: ociDigest })])
export type ImageEntry = z.infer<typeof imageEntry>
