import { z } from 'zod'
import { MeshError } from '../protocols/errors.ts'

const stored = z.looseObject({ success: z.literal(true), data: z.looseObject({ asset_uri: z.string() }) })
const refused = z.looseObject({ error: z.looseObject({ message: z.string() }) })

/**
 * AIOS's `AssetsRegistry` for programs: files of the network by their URI (`name:version-tag`), over the door of any peer. A block
 * reads the files of its bundle with `context.assets`. Throws MeshError with the peer's own words.
 */
export class AssetsRegistry {
  readonly #url: string
  readonly #token: string | undefined

  constructor({ url, token }: { readonly url: string; readonly token?: string }) {
    this.#url = url.replace(/\/+$/, '')
    this.#token = token
  }

  /** Publishes bytes under `object_id`; a version never changes. Resolves to its URI. */
  async upload_file_by_bytes(object_id: string, file_bytes: Uint8Array): Promise<string> {
    const { name, version, tag } = named(object_id)
    const form = new FormData()
    form.set('asset', new Blob([new Uint8Array(file_bytes)]), name)
    form.set('asset_metadata', JSON.stringify({ asset_name: name, asset_version: { version, tag }, asset_metadata: {}, asset_tags: [] }))
    const response = await this.#fetch('/upload_asset', { method: 'POST', body: form })
    return stored.parse(await response.json()).data.asset_uri
  }

  async upload_file_by_buffer(object_id: string, file_buffer: Blob | ArrayBuffer | Uint8Array): Promise<string> {
    return this.upload_file_by_bytes(object_id, file_buffer instanceof Blob ? await file_buffer.bytes() : new Uint8Array(file_buffer))
  }

  async upload_file_by_path(object_id: string, file_path: string): Promise<string> {
    return this.upload_file_by_bytes(object_id, await files().readFile(file_path))
  }

  async download_file_as_bytes(object_id: string): Promise<Uint8Array> {
    return (await this.#fetch(`/asset-object/${encodeURIComponent(object_id)}`)).bytes()
  }

  async download_file_as_buffer(object_id: string): Promise<Blob> {
    return (await this.#fetch(`/asset-object/${encodeURIComponent(object_id)}`)).blob()
  }

  async download_file_to_path(object_id: string, file_path: string): Promise<void> {
    await files().writeFile(file_path, await this.download_file_as_bytes(object_id))
  }

  async #fetch(path: string, init: RequestInit = {}): Promise<Response> {
    let response: Response
    try {
      response = await fetch(`${this.#url}${path}`, { ...init, headers: this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` } })
    } catch (cause) {
      throw new MeshError('PEER_UNREACHABLE', `the peer at ${this.#url} does not answer`, { cause })
    }
    if (response.ok) return response
    const said = refused.safeParse(await response.json().catch(() => undefined))
    throw new MeshError(response.status === 404 ? 'NOT_FOUND' : response.status === 409 ? 'IMMUTABLE' : 'BAD_INPUT', said.data?.error.message ?? `the peer answered ${response.status}`)
  }
}

function named(uri: string): { readonly name: string; readonly version: string; readonly tag: string } {
  const [, name = '', version = '', tag = ''] = /^([^:]+):(.+)-([^-]+)$/.exec(uri) ?? []
  if (name === '') throw new MeshError('BAD_INPUT', `an asset is called name:version-tag, not ${uri}`)
  return { name, version, tag }
}

/** Browsers have no files; everything else here works there, too. */
function files(): Pick<ReturnType<typeof process.getBuiltinModule<'node:fs/promises'>>, 'readFile' | 'writeFile'> {
  return process.getBuiltinModule('node:fs/promises')
}
