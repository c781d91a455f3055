import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../../../protocols/errors.ts'
import { ociDigest, repositoryName, tagName } from '../../../protocols/image.ts'
import { makeScratch } from '../scratch.ts'
import type { Engine } from './engine.ts'

/** Where images may come from: the mesh's own registry, what the engine has already, other registries. */
export type ImageSource = 'mesh' | 'local' | 'pull'

/** Our own registry door, and what the mesh knows by a name. */
export type MeshImages = {
  readonly door: () => { readonly address: string; readonly loopback: boolean; readonly token: string } | undefined
  /** The digest that a tag or digest of a repository stands for; undefined when nobody pushed it. */
  readonly digest: (repository: string, reference: string) => Promise<string | undefined>
}

/** `repository[:tag][@digest]`; the tag is `latest` when nothing is said. */
export function readImage(text: string): { readonly repository: string; readonly reference: string } {
  const [named = '', digest] = text.split('@')
  const at = named.lastIndexOf(':')
  const tagged = at > named.lastIndexOf('/')
  const repository = tagged ? named.slice(0, at) : named
  const reference = digest ?? (tagged ? named.slice(at + 1) : 'latest')
  // It becomes an argument: never an option.
  if (!/^[a-zA-Z0-9][a-zA-Z0-9._:/-]*$/.test(repository) || (digest === undefined ? !tagName.safeParse(reference).success : !ociDigest.safeParse(digest).success)) throw new MeshError('SPEC_INVALID', `containerRegistryInfo.containerImage: ${JSON.stringify(text.slice(0, 200))} is no image; write repository:tag or repository@sha256:…`)
  return { repository, reference }
}

/**
 * Makes a component's image present in the engine and answers the name it has there: from the mesh's registry, else as the
 * operator allows. Throws SPEC_INVALID, NOT_FOUND naming what is allowed, CONTENT_UNAVAILABLE.
 */
export async function bringImage(engine: Engine, text: string, sources: ReadonlySet<ImageSource>, mesh: MeshImages, signal: AbortSignal): Promise<string> {
  const { repository, reference } = readImage(text)
  // A name with a host in it is another registry's.
  const ours = repositoryName.safeParse(repository).success && !/[.:]/.test(repository.split('/')[0] ?? '')
  const digest = ours && sources.has('mesh') ? await mesh.digest(repository, reference) : undefined
  if (digest !== undefined) return fromMesh(engine, `${repository}@${digest}`, mesh, signal)
  const present = await engine.run(['image', 'inspect', '--format', '{{.Id}}', text], signal).then(() => true, () => false)
  if (present && (sources.has('local') || sources.has('pull'))) return text
  if (sources.has('pull')) {
    await engine.run(['pull', '--quiet', text], signal)
    return text
  }
  const more = present ? 'its engine has an image of that name, which its operator may allow with --containers mesh,local' : 'push it to any peer (`skopeo copy`, `podman push`), or start this one with --containers mesh,local,pull'
  throw new MeshError('NOT_FOUND', `no peer was given the image ${text}, and this host runs images of ${[...sources].join(', ')} only: ${more}`)
}

async function fromMesh(engine: Engine, name: string, mesh: MeshImages, signal: AbortSignal): Promise<string> {
  const door = mesh.door()
  if (door === undefined) throw new MeshError('CONTENT_UNAVAILABLE', 'the door for container tools is not open yet')
  const image = `${door.address}/${name}`
  if (await engine.run(['image', 'inspect', '--format', '{{.Id}}', image], signal).then(() => true, () => false)) return image
  if (door.loopback) await engine.run(engine.name === 'podman' ? ['pull', '--quiet', '--tls-verify=false', image] : ['pull', '--quiet', image], signal)
  else {
    if (engine.name === 'docker') throw new MeshError('RUNTIME_UNAVAILABLE', 'docker takes images from this peer over loopback only: open the door with --oci 127.0.0.1:0')
    // The token goes through a file: arguments are anybody's to read.
    const dir = makeScratch('auth')
    try {
      const file = join(dir, 'auth.json')
      await writeFile(file, JSON.stringify({ auths: { [door.address]: { auth: Buffer.from(`aios:${door.token}`).toString('base64') } } }), { mode: 0o600 })
      await engine.run(['pull', '--quiet', '--tls-verify=false', '--authfile', file, image], signal)
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  }
  return image
}
