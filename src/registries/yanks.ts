import { yank, type Yank } from '../../protocols/asset.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { REGISTRIES, type RegistryName } from '../../protocols/registry.ts'
import type { Entry, Registry, RegistryStore } from '../ports.ts'

/** Registries whose names never change: a version can only be taken back. */
export type Yankable = { [Name in RegistryName]: (typeof REGISTRIES)[Name] extends 'write-once' ? Name : never }[RegistryName]

type Named = Pick<Entry<unknown>, 'key' | 'writer'>

/** Versions their authors have taken back. What anybody else says of a version is not heard. */
export class Yanks {
  readonly #entries: Registry<Yank>

  constructor(registries: RegistryStore) {
    this.#entries = registries.open('yanks', yank)
  }

  async has(kind: Yankable, { key, writer }: Named): Promise<boolean> {
    return (await this.#entries.get(keyOf(kind, key, writer)))?.writer === writer
  }

  /** The entries that stand. */
  async standing<E extends Named>(kind: Yankable, entries: readonly E[], prefix = ''): Promise<readonly E[]> {
    const yanked = new Set((await this.#entries.list(`${kind}/${prefix}`)).filter(({ key, writer }) => key.endsWith(`/${writer}`)).map(({ key }) => key))
    return yanked.size === 0 ? entries : entries.filter(({ key, writer }) => !yanked.has(keyOf(kind, key, writer)))
  }

  /** Throws FORBIDDEN when `by` is not its author. */
  async add(kind: Yankable, { key, writer }: Named, by: PeerId, reason: Yank): Promise<void> {
    if (writer !== by) throw new MeshError('FORBIDDEN', `${key} was published by ${writer}, and only they may take it back`, { details: { uri: key, author: writer } })
    await this.#entries.put(keyOf(kind, key, writer), reason)
  }

  onChange(hear: (kind: string, uri: string) => void): () => void {
    return this.#entries.onChange(key => {
      const [kind = '', ...rest] = key.split('/')
      hear(kind, rest.slice(0, -1).join('/'))
    })
  }

  /** It was published again, by its author. */
  async lift(kind: Yankable, named: Named): Promise<void> {
    if (await this.has(kind, named)) await this.#entries.withdraw(keyOf(kind, named.key, named.writer))
  }
}

function keyOf(kind: Yankable, uri: string, writer: PeerId): string {
  return `${kind}/${uri}/${writer}`
}
