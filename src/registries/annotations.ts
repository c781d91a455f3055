import { MeshError } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import type { RegistryName } from '../../protocols/registry.ts'
import { annotation, type Annotation } from '../../protocols/stores.ts'
import type { Registry, RegistryStore } from '../ports.ts'

const NOTHING: Annotation = { fields: {} }

/** What authors say of their artefacts after publishing them. Only what an artefact's own author says is ever found. */
export class Annotations {
  readonly #registry: Registry<Annotation>

  constructor(registries: RegistryStore) {
    this.#registry = registries.open('annotations', annotation)
  }

  async of(registry: RegistryName, uri: string, author: PeerId): Promise<Annotation> {
    return (await this.#registry.get(keyOf(registry, uri, author)))?.value ?? NOTHING
  }

  /** Lays `fields` over what was said before. Throws FORBIDDEN when somebody else published it. */
  async describe(self: PeerId, registry: RegistryName, uri: string, author: PeerId, fields: Readonly<Record<string, Json>>): Promise<void> {
    const before = await this.#own(self, registry, uri, author)
    await this.#registry.put(keyOf(registry, uri, self), { ...before, fields: { ...before.fields, ...fields } })
  }

  onChange(hear: (registry: string, uri: string) => void): () => void {
    return this.#registry.onChange(key => {
      const [, registry = '', ...uri] = key.split('/')
      hear(registry, uri.join('/'))
    })
  }

  async #own(self: PeerId, registry: RegistryName, uri: string, author: PeerId): Promise<Annotation> {
    if (author !== self) throw new MeshError('FORBIDDEN', `${uri} was published by ${author}: only that peer may change what is said of it, or withdraw it`, { details: { uri, author } })
    return this.of(registry, uri, author)
  }
}

function keyOf(registry: RegistryName, uri: string, author: PeerId): string {
  return `${author}/${registry}/${uri}`
}
