import type { CapacityAd } from '../../protocols/capacity.ts'
import { clusterRecord, node, nodeRecord, type ClusterNode, type ClusterRecord, type NodeRecord } from '../../protocols/cluster.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import type { JsonObject } from '../lib/json.ts'
import { clusterDocument, nodeDocument } from '../placement/cluster-document.ts'
import type { Registry, RegistryStore } from '../ports.ts'
import type { ClusterDocuments } from '../roles.ts'
import { objectOf, readStabilityChecker, rulesOf, sumOfNodes } from '../specs/cluster.ts'

/** A cluster as this peer knows it, its rules read. */
export type KnownCluster = { readonly record: ClusterRecord; readonly owner: PeerId; readonly rules: Readonly<Record<string, PolicyRef>>; readonly stability: PolicyRef | undefined }
type Change = { readonly cluster: string; readonly node?: string; readonly gone: boolean }

const CLUSTERS_BOUND = 50_000
const NODES_BOUND = 200_000

/** What owners say of their clusters, and so which cluster a host is taken to be of. Reads are local and at once. */
export class ClusterBook implements ClusterDocuments {
  readonly clusters: Registry<ClusterRecord>
  readonly nodes: Registry<NodeRecord>
  readonly #known = new Map<string, KnownCluster>()
  /** Cluster → its nodes, by what its owner listed; of nobody else's word. */
  readonly #listed = new Map<string, Map<string, { readonly node: NodeRecord; readonly by: PeerId }>>()
  readonly #resolved = new WeakMap<CapacityAd, { readonly version: number; readonly ad: CapacityAd }>()
  readonly #hearers = new Set<(change: Change) => void>()
  #version = 0
  #nodeCount = 0

  constructor(registries: RegistryStore) {
    this.clusters = registries.open('clusters', clusterRecord)
    this.nodes = registries.open('nodes', nodeRecord)
    this.clusters.onChange((id, entry) => this.#heard(id, entry?.value, entry?.writer))
    this.nodes.onChange((key, entry) => this.#heardNode(key, entry?.value, entry?.writer))
  }

  /** Reads what the registries hold already. */
  async open(): Promise<void> {
    for (const { key, value, writer } of await this.clusters.list()) this.#heard(key, value, writer)
    for (const { key, value, writer } of await this.nodes.list()) this.#heardNode(key, value, writer)
  }

  onChange(hear: (change: Change) => void): () => void {
    this.#hearers.add(hear)
    return () => this.#hearers.delete(hear)
  }

  get(id: string): KnownCluster | undefined {
    return this.#known.get(id)
  }

  /** Sorted. */
  ids(): readonly string[] {
    return [...this.#known.keys()].sort()
  }

  /** What its owner lists, sorted by id. */
  nodesOf(id: string): readonly NodeRecord[] {
    const owner = this.#known.get(id)?.owner
    return [...this.#listed.get(id)?.values() ?? []].filter(({ by }) => by === owner).map(({ node: each }) => each).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  lists(id: string, node: string): boolean {
    const owner = this.#known.get(id)?.owner
    return owner !== undefined && this.#listed.get(id)?.get(node)?.by === owner
  }

  /**
   * The ad as it counts: its cluster only where that one's owner lists the host, which is a cluster of itself otherwise; and
   * with the region and the countries of its cluster among its labels. Where host and cluster say different things,
   * whoever wants one of them alone gets neither.
   */
  resolve(ad: CapacityAd): CapacityAd {
    if (ad.cluster === ad.peer) return ad
    const before = this.#resolved.get(ad)
    if (before?.version === this.#version) return before.ad
    const known = this.lists(ad.cluster, ad.peer) ? this.#known.get(ad.cluster) : undefined
    const resolved = known === undefined ? { ...ad, cluster: ad.peer } : { ...ad, labels: withPlaces(ad.labels, known.record) }
    this.#resolved.set(ad, { version: this.#version, ad: resolved })
    return resolved
  }

  document(id: string, ads: readonly CapacityAd[]): JsonObject {
    const known = this.#known.get(id)
    const live = clusterDocument(ads, id)
    if (known === undefined) return live
    const here = new Set(ads.map(({ peer }) => peer))
    const listed = this.nodesOf(id)
    // A host of the mesh that is not heard of has nothing to give now; what never was one is taken at its owner's word.
    const absent = listed.filter(one => !here.has(one.id))
    const declared = absent.filter(({ nodeMetadata }) => nodeMetadata['peer'] !== true)
    const nodes: readonly ClusterNode[] = [...ads.map(ad => asNode(ad, listed.find(one => one.id === ad.peer))), ...declared]
    const { record } = known
    return {
      ...live, ...recordJson(record), owner: known.owner, ...sumOfNodes(nodes),
      labels: withPlaces({}, record),
      nodes: { count: nodes.length, nodeData: nodes.map(one => ({ ...objectOf(one), clusterId: id })), unreachable: absent.filter(one => !declared.includes(one)).map(one => one.id) },
    }
  }

  #heard(id: string, record: ClusterRecord | undefined, writer: PeerId | undefined): void {
    // Nobody makes rules for a lone host under its name.
    if (isPeer(id) && writer !== undefined && writer !== id) return
    if (record === undefined || writer === undefined) this.#known.delete(id)
    else if (this.#known.has(id) || this.#known.size < CLUSTERS_BOUND) this.#known.set(id, { record, owner: writer, rules: rulesOf(record.config['actionsPolicyMap']), stability: stabilityOf(record) })
    this.#tell({ cluster: id, gone: record === undefined })
  }

  #heardNode(key: string, value: NodeRecord | undefined, writer: PeerId | undefined): void {
    const { owner, cluster, node: id } = readNodeKey(key)
    if (value === undefined || writer === undefined) {
      if (this.#listed.get(cluster)?.get(id)?.by === owner && this.#listed.get(cluster)?.delete(id) === true) this.#nodeCount -= 1
    } else {
      // The key says who may list; a record under somebody else's is nobody's word.
      if (writer !== owner || value.id !== id || value.clusterId !== cluster) return
      const listed = this.#listed.get(cluster) ?? new Map<string, { readonly node: NodeRecord; readonly by: PeerId }>()
      const known = listed.get(id)
      if (known === undefined && this.#nodeCount >= NODES_BOUND) return
      // Two peers may call a cluster of theirs the same; the registry says whose it is.
      if (known !== undefined && known.by !== owner && known.by === this.#known.get(cluster)?.owner) return
      if (known === undefined) this.#nodeCount += 1
      this.#listed.set(cluster, listed.set(id, { node: value, by: owner }))
    }
    this.#tell({ cluster, node: id, gone: value === undefined })
  }

  #tell(change: Change): void {
    this.#version += 1
    for (const hear of this.#hearers) hear(change)
  }
}

/** Peer ids of this mesh are Ed25519 keys in base58btc. */
export function isPeer(id: string): boolean {
  return id.startsWith('12D3KooW')
}

export function nodeKey(owner: PeerId, cluster: string, id: string): string {
  return `${owner}/${cluster}/${id}`
}

export function readNodeKey(key: string): { readonly owner: string; readonly cluster: string; readonly node: string } {
  const [owner = '', cluster = '', ...rest] = key.split('/')
  return { owner, cluster, node: rest.join('/') }
}

/** A live host in the words of AIOS's node, with what its cluster's owner added. */
function asNode(ad: CapacityAd, listed: NodeRecord | undefined): ClusterNode {
  const said = node.parse(nodeDocument(ad))
  return listed === undefined ? said : { ...said, swap: listed.swap, network: listed.network, tags: listed.tags, nodeMetadata: listed.nodeMetadata }
}

/** Residency: `clusterMetadata.countries` and `regionId`, as labels by which blocks choose hosts. */
function withPlaces(labels: CapacityAd['labels'], { regionId, clusterMetadata }: ClusterRecord): Record<string, string> {
  const given = clusterMetadata['countries']
  const countries = Array.isArray(given) ? given.filter(one => typeof one === 'string') : []
  const places: readonly (readonly [string, readonly string[]])[] = [['region', regionId === '' ? [] : [regionId]], ['country', countries]]
  const all: Record<string, string> = { ...labels }
  for (const [label, said] of places) if (said.length > 0) all[label] = [...new Set([...(all[label] ?? '').split(',').filter(part => part !== ''), ...said])].join(',')
  return all
}

function recordJson(record: ClusterRecord): JsonObject {
  const { reputation, ...rest } = record
  return { ...rest, ...(reputation === undefined ? {} : { reputation }) }
}

/** A checker that cannot be read judges nothing. */
function stabilityOf({ config }: ClusterRecord): PolicyRef | undefined {
  try {
    return readStabilityChecker(config)
  } catch (error) {
    if (error instanceof MeshError) return undefined
    throw error
  }
}

/** Does a cluster's document say that hosts may enter without a ticket? */
export function takesAnybody({ config }: ClusterRecord): boolean {
  return config['allowExternalNodes'] === true
}
