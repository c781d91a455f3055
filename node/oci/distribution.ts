import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import { ociDigest, repositoryName, tagName, type OciDigest } from '../../protocols/image.ts'
import { asOciError, OciError } from './failure.ts'
import type { Images } from './images.ts'
import { range, type Uploads } from './uploads.ts'

const MANIFEST_BYTES = 4 * 1_048_576
const PAGE = 10_000
const INDEX = 'application/vnd.oci.image.index.v1+json'
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'

type Asked = { readonly request: IncomingMessage; readonly response: ServerResponse; readonly url: URL; readonly repository: string; readonly reference: string }
type Route = { readonly method: string; readonly path: RegExp; readonly serve: (asked: Asked) => Promise<void> }

/**
 * The OCI distribution API (spec v1.1.0) over the images of the mesh: `podman pull`, `skopeo copy` and `docker push` speak it.
 * `admit` throws when the request may not enter.
 */
export class Distribution {
  readonly #images: Images
  readonly #uploads: Uploads
  readonly #admit: (request: IncomingMessage) => void
  readonly #routes: readonly Route[] = [
    { method: 'GET', path: /^\/v2\/?$/, serve: asked => this.#answer(asked, 200, {}, '{}') },
    { method: 'GET', path: /^\/v2\/_catalog$/, serve: asked => this.#catalog(asked) },
    { method: 'GET', path: /^\/v2\/(?<repository>.+)\/tags\/list$/, serve: asked => this.#tags(asked) },
    { method: 'GET', path: /^\/v2\/(?<repository>.+)\/referrers\/(?<reference>[^/]+)$/, serve: asked => this.#referrers(asked) },
    { method: 'GET', path: /^\/v2\/(?<repository>.+)\/manifests\/(?<reference>[^/]+)$/, serve: asked => this.#getManifest(asked) },
    { method: 'PUT', path: /^\/v2\/(?<repository>.+)\/manifests\/(?<reference>[^/]+)$/, serve: asked => this.#putManifest(asked) },
    { method: 'DELETE', path: /^\/v2\/(?<repository>.+)\/manifests\/(?<reference>[^/]+)$/, serve: asked => this.#deleteManifest(asked) },
    { method: 'POST', path: /^\/v2\/(?<repository>.+)\/blobs\/uploads\/?$/, serve: asked => this.#beginUpload(asked) },
    { method: 'GET', path: /^\/v2\/(?<repository>.+)\/blobs\/uploads\/(?<reference>[^/]+)$/, serve: asked => this.#uploadStatus(asked) },
    { method: 'PATCH', path: /^\/v2\/(?<repository>.+)\/blobs\/uploads\/(?<reference>[^/]+)$/, serve: asked => this.#addToUpload(asked) },
    { method: 'PUT', path: /^\/v2\/(?<repository>.+)\/blobs\/uploads\/(?<reference>[^/]+)$/, serve: asked => this.#finishUpload(asked) },
    { method: 'DELETE', path: /^\/v2\/(?<repository>.+)\/blobs\/uploads\/(?<reference>[^/]+)$/, serve: asked => this.#cancelUpload(asked) },
    { method: 'GET', path: /^\/v2\/(?<repository>.+)\/blobs\/(?<reference>[^/]+)$/, serve: asked => this.#getBlob(asked) },
  ]

  constructor(images: Images, uploads: Uploads, admit: (request: IncomingMessage) => void) {
    this.#images = images
    this.#uploads = uploads
    this.#admit = admit
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      this.#admit(request)
      const url = new URL(request.url ?? '/', 'http://registry')
      const method = request.method === 'HEAD' ? 'GET' : request.method
      for (const route of this.#routes) {
        const found = route.method === method ? route.path.exec(url.pathname) : null
        if (found === null) continue
        const repository = found.groups?.['repository'] ?? ''
        if (found.groups !== undefined && 'repository' in found.groups && !repositoryName.safeParse(repository).success) throw new OciError('NAME_INVALID', `${repository} is no name of a repository`)
        return await route.serve({ request, response, url, repository, reference: decodeURIComponent(found.groups?.['reference'] ?? '') })
      }
      throw new OciError('UNSUPPORTED', `there is no ${request.method} ${url.pathname} here`)
    } catch (error) {
      // Half of an answer cannot be taken back: the client sees that it breaks off.
      if (response.headersSent) return void response.destroy(error instanceof Error ? error : undefined)
      const { status, code, message, headers } = asOciError(error)
      request.resume()
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify({ errors: [{ code, message, detail: null }] }))
    }
  }

  async #answer({ request, response }: Asked, status: number, headers: Readonly<Record<string, string>>, text = ''): Promise<void> {
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)), ...headers })
    response.end(request.method === 'HEAD' ? undefined : text)
  }

  async #catalog(asked: Asked): Promise<void> {
    const { items, headers } = page(await this.#images.repositories(), asked.url)
    await this.#answer(asked, 200, headers, JSON.stringify({ repositories: items }))
  }

  async #tags(asked: Asked): Promise<void> {
    const tags = await this.#images.tags(asked.repository)
    if (tags === undefined) throw new OciError('NAME_UNKNOWN', `nothing was pushed to ${asked.repository}`)
    const { items, headers } = page(tags, asked.url)
    await this.#answer(asked, 200, headers, JSON.stringify({ name: asked.repository, tags: items }))
  }

  async #referrers(asked: Asked): Promise<void> {
    const wanted = asked.url.searchParams.get('artifactType')
    const all = await this.#images.referrers(asked.repository, digestOf(asked.reference))
    const manifests = all.filter(({ artifactType }) => wanted === null || artifactType === wanted)
      .map(({ mediaType, digest, manifest, artifactType, annotations }) => ({ mediaType, digest, size: manifest.size, ...(artifactType === undefined ? {} : { artifactType }), annotations }))
    await this.#answer(asked, 200, { 'content-type': INDEX, ...(wanted === null ? {} : { 'oci-filters-applied': 'artifactType' }) }, JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }))
  }

  async #getManifest({ request, response, repository, reference }: Asked): Promise<void> {
    const found = await this.#images.manifest(repository, reference)
    if (found === undefined) throw new OciError('MANIFEST_UNKNOWN', `${repository} has no ${reference}`)
    response.writeHead(200, { 'content-type': found.mediaType, 'content-length': String(found.manifest.size), 'docker-content-digest': found.digest, etag: `"${found.digest}"` })
    if (request.method === 'HEAD') response.end()
    else await pipeline(Readable.from(this.#images.read(found.digest, found.manifest)), response)
  }

  async #putManifest(asked: Asked): Promise<void> {
    const { request, repository, reference } = asked
    if (!reference.includes(':') && !tagName.safeParse(reference).success) throw new OciError('MANIFEST_INVALID', `${reference} is neither a tag nor a digest`)
    const { digest, subject } = await this.#images.putManifest(repository, reference, request.headers['content-type'] ?? MANIFEST, await whole(request))
    await this.#answer(asked, 201, { location: `/v2/${repository}/manifests/${digest}`, 'docker-content-digest': digest, ...(subject === undefined ? {} : { 'oci-subject': subject }) })
  }

  async #deleteManifest(asked: Asked): Promise<void> {
    if (!(await this.#images.remove(asked.repository, asked.reference))) throw new OciError('MANIFEST_UNKNOWN', `${asked.repository} has no ${asked.reference}`)
    await this.#answer(asked, 202, {})
  }

  async #getBlob(asked: Asked): Promise<void> {
    const { request, response, repository, reference } = asked
    const digest = digestOf(reference)
    const found = await this.#images.blob(repository, digest)
    if (found === undefined) throw new OciError('BLOB_UNKNOWN', `${repository} has no ${digest}`)
    const part = partOf(request.headers.range, found.size)
    const headers = { 'content-type': 'application/octet-stream', 'docker-content-digest': digest, 'accept-ranges': 'bytes', etag: `"${digest}"` }
    if (part === undefined) response.writeHead(200, { ...headers, 'content-length': String(found.size) })
    else response.writeHead(206, { ...headers, 'content-length': String(part.length), 'content-range': `bytes ${part.offset}-${part.offset + part.length - 1}/${found.size}` })
    if (request.method === 'HEAD') response.end()
    else await pipeline(Readable.from(this.#images.read(digest, found, part)), response)
  }

  async #beginUpload(asked: Asked): Promise<void> {
    const { request, repository, url } = asked
    const mount = url.searchParams.get('mount')
    const from = url.searchParams.get('from')
    if (mount !== null) {
      const found = await this.#images.blob(from ?? repository, digestOf(mount))
      // Any repository's blob is the same content: nothing moves. The bytes are known here only once they were read.
      if (found !== undefined) {
        const digest = digestOf(mount)
        await this.#images.keepBlob(digest, this.#images.read(digest, found))
        return this.#answer(asked, 201, placed(repository, digest))
      }
    }
    const id = await this.#uploads.begin(repository)
    const digest = url.searchParams.get('digest')
    if (digest === null) return this.#answer(asked, 202, progress(repository, id, 0))
    await this.#uploads.add(repository, id, request)
    return this.#finish(asked, id, digestOf(digest))
  }

  async #uploadStatus(asked: Asked): Promise<void> {
    await this.#answer(asked, 204, progress(asked.repository, asked.reference, this.#uploads.size(asked.repository, asked.reference)))
  }

  async #addToUpload(asked: Asked): Promise<void> {
    const { request, repository, reference } = asked
    const size = await this.#uploads.add(repository, reference, request, startOf(request.headers['content-range']))
    await this.#answer(asked, 202, progress(repository, reference, size))
  }

  async #finishUpload(asked: Asked): Promise<void> {
    const { request, repository, reference, url } = asked
    const digest = digestOf(url.searchParams.get('digest') ?? '')
    if (Number(request.headers['content-length'] ?? 0) > 0 || request.headers['transfer-encoding'] !== undefined) await this.#uploads.add(repository, reference, request, startOf(request.headers['content-range']))
    await this.#finish(asked, reference, digest)
  }

  async #finish(asked: Asked, id: string, digest: OciDigest): Promise<void> {
    await this.#uploads.finish(asked.repository, id, digest, bytes => this.#images.keepBlob(digest, bytes))
    await this.#answer(asked, 201, placed(asked.repository, digest))
  }

  async #cancelUpload(asked: Asked): Promise<void> {
    await this.#uploads.cancel(asked.repository, asked.reference)
    await this.#answer(asked, 204, {})
  }
}

function digestOf(text: string): OciDigest {
  const parsed = ociDigest.safeParse(text)
  if (!parsed.success) throw new OciError('DIGEST_INVALID', `${text === '' ? 'nothing' : text} is no digest: ${parsed.error.issues[0]?.message ?? 'use sha256:…'}`)
  return parsed.data
}

function placed(repository: string, digest: OciDigest): Readonly<Record<string, string>> {
  return { location: `/v2/${repository}/blobs/${digest}`, 'docker-content-digest': digest }
}

function progress(repository: string, id: string, size: number): Readonly<Record<string, string>> {
  return { location: `/v2/${repository}/blobs/uploads/${id}`, 'docker-upload-uuid': id, range: range(size) }
}

function startOf(header: string | undefined): number | undefined {
  if (header === undefined) return undefined
  const found = /^(?:bytes )?(\d+)-\d+/.exec(header)
  if (found === null) throw new OciError('RANGE_INVALID', `Content-Range is <first>-<last>, not ${header}`)
  return Number(found[1])
}

/** One range of a `Range` header; undefined asks for everything. Throws RANGE_INVALID. */
function partOf(header: string | undefined, size: number): { readonly offset: number; readonly length: number } | undefined {
  const found = header === undefined ? null : /^bytes=(\d*)-(\d*)$/.exec(header)
  if (found === null || (found[1] === '' && found[2] === '')) return undefined
  const offset = found[1] === '' ? Math.max(0, size - Number(found[2])) : Number(found[1])
  const last = found[1] === '' || found[2] === '' ? size - 1 : Math.min(size - 1, Number(found[2]))
  if (offset >= size || last < offset) throw new OciError('RANGE_INVALID', `the blob has ${size} bytes`, { 'content-range': `bytes */${size}` })
  return { offset, length: last - offset + 1 }
}

/** `n` items after `last`, and the Link to the next ones. */
function page(items: readonly string[], url: URL): { readonly items: readonly string[]; readonly headers: Readonly<Record<string, string>> } {
  const last = url.searchParams.get('last')
  const asked = url.searchParams.get('n')
  const limit = Math.min(PAGE, asked !== null && /^\d+$/.test(asked) ? Number(asked) : PAGE)
  const rest = last === null ? items : items.filter(item => item > last)
  const shown = rest.slice(0, limit)
  const next = shown.at(-1)
  return { items: shown, headers: next === undefined || rest.length <= limit ? {} : { link: `<${url.pathname}?n=${limit}&last=${encodeURIComponent(next)}>; rel="next"` } }
}

async function whole(request: IncomingMessage): Promise<Uint8Array> {
  const pieces: Uint8Array[] = []
  let size = 0
  for await (const piece of request) {
    const bytes: unknown = piece
    if (!(bytes instanceof Uint8Array)) continue
    size += bytes.byteLength
    if (size > MANIFEST_BYTES) throw new OciError('SIZE_INVALID', `a manifest has at most ${MANIFEST_BYTES} bytes`)
    pieces.push(bytes)
  }
  return Buffer.concat(pieces)
}
