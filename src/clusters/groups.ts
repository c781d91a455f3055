import { clusterGroup, type ClusterGroup } from '../../protocols/cluster.ts'
import { hex } from '../../protocols/codec.ts'
import { check } from '../../protocols/codec.ts'
import { MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import type { JsonObject } from '../lib/json.ts'
import type { Ports, Random, Registry } from '../ports.ts'
import { unwrap } from '../specs/envelope.ts'

/** Holds AIOS's groups of clusters: names for several, in a hierarchy that nothing else reads. Whoever makes one changes it. */
export class ClusterGroups {
  readonly #random: Random
  readonly #self: PeerId
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #groups: Registry<ClusterGroup>

  constructor(ports: Pick<Ports, 'random' | 'identity' | 'registries'>, may: (peer: PeerId, right: Right) => Verdict<true>) {
    this.#random = ports.random.fork('groups')
    this.#self = ports.identity.peer
    this.#may = may
    this.#groups = ports.registries.open('groups', clusterGroup)
  }

  async list(): Promise<readonly ClusterGroup[]> {
    return (await this.#groups.list()).map(({ value }) => value)
  }

  /** Throws NOT_FOUND. */
  async get(id: string): Promise<ClusterGroup> {
    const found = await this.#groups.get(id)
    if (found === undefined) throw new MeshError('NOT_FOUND', `no group of clusters is called ${id}`)
    return found.value
  }

  /** Throws SPEC_INVALID, ALREADY_EXISTS, FORBIDDEN. */
  async create(document: Json): Promise<ClusterGroup> {
    const { values } = unwrap(document, 'group')
    const group = read({ group_id: `group-${hex(this.#random.bytes(4))}`, ...values })
    if ((await this.#groups.get(group.group_id)) !== undefined) throw new MeshError('ALREADY_EXISTS', `a group is called ${group.group_id} already: choose another group_id`)
    return this.#put(group)
  }

  /** What it says anew; the rest stays. Throws NOT_FOUND, SPEC_INVALID, FORBIDDEN. */
  async update(id: string, document: Json): Promise<ClusterGroup> {
    return this.#put(read({ ...await this.get(id), ...unwrap(document, 'group').values, group_id: id }))
  }

  /** Throws NOT_FOUND, FORBIDDEN. */
  async remove(id: string): Promise<void> {
    await this.get(id)
    this.#need()
    await this.#groups.withdraw(id)
  }

  async #put(group: ClusterGroup): Promise<ClusterGroup> {
    this.#need()
    await this.#groups.put(group.group_id, group)
    return group
  }

  #need(): void {
    const verdict = this.#may(this.#self, 'operate')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }
}

function read(values: JsonObject): ClusterGroup {
  return check(clusterGroup, values, 'group', 'SPEC_INVALID')
}
