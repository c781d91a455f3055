import { createHash } from 'node:crypto'
import { z } from 'zod'
import { check, decode, encode } from '../../protocols/codec.ts'
import { imageEntry, imageRecord, ociDigest, type ImageEntry, type ImageRecord, type OciDigest } from '../../protocols/image.ts'
import { cid } from '../../protocols/ids.ts'
import type { ContentStore, Entry, Journal, Registry, RegistryStore } from '../../src/ports.ts'
import { OciError } from './failure.ts'

const MANIFEST_BYTES = 4 * 1_048_576
const stored = z.object({ cid, size: z.int().nonnegative() })
export type Stored = z.infer<typeof stored>

const descriptor = z.looseObject({ mediaType: z.string().max(200).default(''), digest: ociDigest, size: z.int().nonnegative(), urls: z.array(z.string()).optional(), artifactType: z.string().max(200).optional() })
/** What a registry reads of an image manifest or an index; the rest is the client's business. */
const manifestBody = z.looseObject({
  schemaVersion: z.literal(2, 'only schemaVersion 2 is kept here'),
  mediaType: z.string().max(200).optional(),
  artifactType: z.string().max(200).optional(),
  config: descriptor.optional(),
  layers: z.array(descriptor).max(4_096).default([]),
  blobs: z.array(descriptor).max(4_096).default([]),
  manifests: z.array(descriptor).max(4_096).default([]),
  subject: descriptor.optional(),
  annotations: z.record(z.string(), z.string()).default({}),
})

/** Holds the images of the mesh: names in the `images` registry, bytes in the content store, whoever pushed them. */
export class Images {
  readonly #content: ContentStore
  readonly #journal: Pick<Journal, 'get' | 'set'>
  readonly #entries: Registry<ImageEntry>
  /** Which of the blobs that others pushed were read here, and found to be what their digest says. */
  readonly #checked = new Map<OciDigest, Stored>()

  constructor(ports: { readonly content: ContentStore; readonly journal: Pick<Journal, 'get' | 'set'>; readonly registries: RegistryStore }) {
    this.#content = ports.content
    this.#journal = ports.journal
    this.#entries = ports.registries.open('images', imageEntry)
  }

  /** Keeps a blob that was checked against its digest. */
  async keepBlob(digest: OciDigest, bytes: AsyncIterable<Uint8Array>): Promise<Stored> {
    const known = await this.#local(digest)
    if (known !== undefined) return known
    const kept = await this.#content.add(bytes)
    await this.#journal.set(`oci/${digest}`, encode(kept))
    return kept
  }

  /** Where a blob is: pushed here, or named by an image of this repository or any other. */
  async blob(repository: string, digest: OciDigest): Promise<Stored | undefined> {
    const known = (await this.#local(digest)) ?? this.#checked.get(digest)
    if (known !== undefined) return known
    const own = await this.#records(`${repository}@`)
    for (const record of own) if (record.blobs[digest] !== undefined) return record.blobs[digest]
    return undefined
  }

  /** The bytes of a blob. A whole one is checked against its digest as it passes; the last piece is held back until it is right. */
  async * read(digest: OciDigest, { cid: from, size }: Stored, part?: { readonly offset: number; readonly length: number }): AsyncGenerator<Uint8Array> {
    if (part !== undefined) return yield * this.#content.cat(from, part)
    const hash = createHash('sha256')
    let held: Uint8Array | undefined
    for await (const piece of this.#content.cat(from)) {
      hash.update(piece)
      if (held !== undefined) yield held
      held = piece
    }
    if (`sha256:${hash.digest('hex')}` !== digest) throw new OciError('BLOB_UNKNOWN', `what the mesh holds for ${digest} is something else: its image was recorded wrongly`)
    if (this.#checked.size < 100_000) this.#checked.set(digest, { cid: from, size })
    if (held !== undefined) yield held
  }

  /** Records a manifest under its digest, and its tag. Throws MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN, DIGEST_INVALID, DENIED. */
  async putManifest(repository: string, reference: string, mediaType: string, bytes: Uint8Array): Promise<{ readonly digest: OciDigest; readonly subject: OciDigest | undefined }> {
    if (bytes.byteLength > MANIFEST_BYTES) throw new OciError('SIZE_INVALID', `a manifest has at most ${MANIFEST_BYTES} bytes`)
    const digest: OciDigest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    if (reference.includes(':') && reference !== digest) throw new OciError('DIGEST_INVALID', `the manifest is ${digest}, not ${reference}`)
    const body = readManifest(bytes)
    const blobs: Record<OciDigest, Stored> = {}
    for (const part of [...(body.config === undefined ? [] : [body.config]), ...body.layers, ...body.blobs]) {
      const found = await this.blob(repository, part.digest)
      // A foreign layer lies where its urls say; a client need not push it.
      if (found === undefined && part.urls === undefined) throw new OciError('MANIFEST_BLOB_UNKNOWN', `the manifest names ${part.digest}, which was not pushed to ${repository}`)
      if (found !== undefined) blobs[part.digest] = found
    }
    for (const part of body.manifests) if ((await this.#entries.get(`${repository}@${part.digest}`)) === undefined) throw new OciError('MANIFEST_BLOB_UNKNOWN', `the index names ${part.digest}, which was not pushed to ${repository}`)
    const manifest = await this.#content.add(once(bytes))
    const artifactType = body.artifactType ?? body.config?.mediaType
    const record = check(imageRecord, { repository, digest, mediaType: body.mediaType ?? mediaType, manifest, blobs, annotations: body.annotations, ...(body.subject === undefined ? {} : { subject: body.subject.digest }), ...(artifactType === undefined ? {} : { artifactType }) }, 'image', 'BAD_INPUT')
    const subject = body.subject?.digest
    await this.#entries.put(`${repository}@${digest}`, { record: await this.#content.putRecord(record), ...(subject === undefined ? {} : { subject }) })
    if (!reference.includes(':')) await this.#entries.put(`${repository}:${reference}`, { digest })
    return { digest, subject }
  }

  /** The record of a manifest, by tag or digest. */
  async manifest(repository: string, reference: string): Promise<ImageRecord | undefined> {
    const named = reference.includes(':') ? undefined : (await this.#entries.get(`${repository}:${reference}`))?.value
    if (!reference.includes(':') && (named === undefined || !('digest' in named))) return undefined
    const digest = named !== undefined && 'digest' in named ? named.digest : reference
    const entry = (await this.#entries.get(`${repository}@${digest}`))?.value
    return entry !== undefined && 'record' in entry ? this.#record(entry.record) : undefined
  }

  /** Deletes a tag, or a manifest by its digest. False when there is none. */
  async remove(repository: string, reference: string): Promise<boolean> {
    const key = reference.includes(':') ? `${repository}@${reference}` : `${repository}:${reference}`
    if ((await this.#entries.get(key)) === undefined) return false
    await this.#entries.withdraw(key)
    return true
  }

  /** Sorted; undefined when the repository has nothing. */
  async tags(repository: string): Promise<readonly string[] | undefined> {
    const tags = (await this.#entries.list(`${repository}:`)).map(({ key }) => key.slice(repository.length + 1))
    return tags.length > 0 || (await this.#entries.list(`${repository}@`)).length > 0 ? tags : undefined
  }

  async repositories(): Promise<readonly string[]> {
    return [...new Set((await this.#entries.list()).map(({ key }) => key.slice(0, key.search(/[@:]/))))].sort()
  }

  /** The manifests that are about `subject`. */
  async referrers(repository: string, subject: OciDigest): Promise<readonly ImageRecord[]> {
    const about = (await this.#entries.list(`${repository}@`)).filter(({ value }) => 'record' in value && value.subject === subject)
    return Promise.all(about.flatMap(({ value }) => ('record' in value ? [this.#record(value.record)] : [])))
  }

  async #records(prefix: string): Promise<readonly ImageRecord[]> {
    const entries: readonly Entry<ImageEntry>[] = await this.#entries.list(prefix)
    return Promise.all(entries.flatMap(({ value }) => ('record' in value ? [this.#record(value.record)] : [])))
  }

  #record(from: string): Promise<ImageRecord> {
    return this.#content.getRecord(from, imageRecord)
  }

  async #local(digest: OciDigest): Promise<Stored | undefined> {
    const bytes = await this.#journal.get(`oci/${digest}`)
    return bytes === undefined ? undefined : decode(stored, bytes, 4_096, 'blob')
  }
}

function readManifest(bytes: Uint8Array): z.infer<typeof manifestBody> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf8', { fatal: true }).decode(bytes))
  } catch {
    throw new OciError('MANIFEST_INVALID', 'the manifest is not JSON')
  }
  return check(manifestBody, value, 'manifest', 'BAD_INPUT')
}

async function * once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
