import { imageEntry, repositoryName, type ImageEntry } from '../../protocols/image.ts'
import type { ComponentManifest } from '../../protocols/specs.ts'
import { isJsonObject } from '../lib/json.ts'
import type { Registry, RegistryStore } from '../ports.ts'

type Named = Pick<ComponentManifest, 'containerRegistryInfo'>

/** Holds a component to the image that its tag stands for when it is published: a tag moves, a component's version never changes. */
export class ImagePins {
  readonly #images: Registry<ImageEntry>

  constructor(registries: RegistryStore) {
    this.#images = registries.open('images', imageEntry)
  }

  /** With `containerImageDigest` beside each image that the mesh knows by a tag. Others (foreign ones, digests) stay as they are written. */
  async pinned<T extends Named>(component: T): Promise<T> {
    const info = await this.#one(component.containerRegistryInfo)
    const { initContainer: init } = info
    return { ...component, containerRegistryInfo: isJsonObject(init) ? { ...info, initContainer: await this.#one(init) } : info }
  }

  async #one(info: Named['containerRegistryInfo']): Promise<Named['containerRegistryInfo']> {
    const { containerImage: image, containerImageDigest: known } = info
    if (typeof image !== 'string' || image.includes('@') || known !== undefined) return info
    const at = image.lastIndexOf(':')
    const tagged = at > image.lastIndexOf('/')
    const repository = tagged ? image.slice(0, at) : image
    if (!repositoryName.safeParse(repository).success) return info
    const entry = (await this.#images.get(`${repository}:${tagged ? image.slice(at + 1) : 'latest'}`))?.value
    return entry !== undefined && 'digest' in entry ? { ...info, containerImageDigest: entry.digest } : info
  }
}
