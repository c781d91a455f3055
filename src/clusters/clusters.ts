import { clusterRecord, clusterTalk, node as nodeSchema, type ClusterNode, type ClusterRecord } from '../../protocols/cluster.ts'
import { check } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Cid, Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { hex } from '../../protocols/codec.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { nodeDocument } from '../placement/cluster-document.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, MeshView, MetricsSource } from '../roles.ts'
import { changedCluster, clusterNamed, objectOf, parseCluster, parseNode, readActions } from '../specs/cluster.ts'
import type { Admission } from '../trust/admission.ts'
import type { Belonging } from './belonging.ts'
import { isPeer, nodeKey, takesAnybody, type ClusterBook, type KnownCluster } from './cluster-book.ts'
import type { Prechecks } from './prechecks.ts'
import type { Stability } from './stability.ts'
import { checkTicket, readTicket, writeTicket } from './ticket.ts'

export type ClusterParts = {
  readonly admission: Pick<Admission, 'may'>
  readonly view: MeshView
  readonly catalogue: Pick<Catalogue, 'blocks'>
  readonly book: ClusterBook
  readonly belonging: Belonging
  readonly prechecks: Prechecks
  readonly stability: Stability
  readonly metrics: Pick<MetricsSource, 'known'>
}

/** What owners do with their clusters, and hosts with theirs. Every change is asked of the network's rules and the cluster's first. */
export class Clusters {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network'>
  readonly #random: Random
  readonly #network: Cid
  readonly #parts: ClusterParts

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'random'>, network: Cid, parts: ClusterParts) {
    this.#ports = ports
    this.#random = ports.random.fork('clusters')
    this.#network = network
    this.#parts = parts
  }

  start(): void {
    this.#ports.network.handle(clusterTalk, async (asked, from) => {
      if (asked.do === 'join') return { data: await this.#admit(asked.cluster, asked.node, asked.ticket, from) }
      if (asked.do === 'leave') {
        await this.removeNode(asked.cluster, from)
        return { data: null }
      }
      this.#need(from)
      return { data: await this.#managed(asked.cluster, asked.action, asked.data) }
    })
  }

  /** AIOS's `createCluster`; this peer is its owner. Throws SPEC_INVALID, ALREADY_EXISTS, POLICY_DENIED, FORBIDDEN. */
  async create(document: Json): Promise<JsonObject> {
    this.#need()
    const { nodes, ...given } = parseCluster(document)
    const id = given.id ?? `cluster-${hex(this.#random.bytes(4))}`
    // A lone host may say of itself what an owner says of a cluster, its rules above all.
    if (this.#parts.book.get(id) !== undefined || (isPeer(id) && id !== this.#self)) throw new MeshError('ALREADY_EXISTS', `a cluster is called ${id} already: choose another id`)
    const record = { ...given, id, status: 'live' }
    const allowed = demand(await this.#parts.prechecks.askWith(readActions(record.config), 'add_cluster', { cluster_data: toJson({ ...record, nodes }) }))
    const agreed = check(clusterRecord, { ...record, ...inner(allowed, 'cluster_data'), id }, 'cluster', 'SPEC_INVALID')
    await this.#parts.book.clusters.put(id, agreed)
    for (const node of nodes.nodeData) await this.addNode({ clusterId: id, nodeData: objectOf(node) })
    return this.get(id)
  }

  /** What it says anew, by dotted paths and Mongo's operators too; its owner alone may. Throws NOT_FOUND, FORBIDDEN, SPEC_INVALID, POLICY_DENIED. */
  async update(id: string | undefined, document: Json): Promise<JsonObject> {
    this.#need()
    const { record } = this.#owned(id ?? clusterNamed(document) ?? '')
    const next = changedCluster(record, document)
    const allowed = demand(await this.#parts.prechecks.ask({ action: 'update_cluster', cluster: record.id, input: { cluster_data: toJson(next) } }))
    await this.#parts.book.clusters.put(record.id, check(clusterRecord, { ...next, ...inner(allowed, 'cluster_data'), id: record.id }, 'cluster', 'SPEC_INVALID'))
    return this.get(record.id)
  }

  /** Its hosts become clusters of themselves, with what they run. Throws NOT_FOUND, FORBIDDEN, POLICY_DENIED. */
  async remove(id: string): Promise<void> {
    this.#need()
    const { record } = this.#owned(id)
    const cluster_blocks = this.#instancesOn(this.#ads(id).map(({ peer }) => peer))
    demand(await this.#parts.prechecks.ask({ action: 'remove_cluster', cluster: record.id, input: { ...this.#about(id), cluster_blocks } }))
    const nodes = this.#parts.book.nodesOf(id)
    await this.#parts.book.clusters.withdraw(id)
    for (const node of nodes) await this.#parts.book.nodes.withdraw(nodeKey(this.#self, id, node.id))
  }

  /** AIOS's document: what its owner said, its live hosts and what they add up to, and what is known of its stability. Also of a lone host, by its peer id. Throws NOT_FOUND. */
  get(id: string): JsonObject {
    const ads = this.#ads(id)
    if (this.#parts.book.get(id) === undefined && ads.length === 0) throw new MeshError('NOT_FOUND', `there is no cluster ${id}: \`aios cluster list\` shows those there are`)
    const { last } = this.#parts.stability
    return { ...this.#parts.book.document(id, ads), ...(last?.cluster === id ? { stability: toJson(last) } : {}) }
  }

  /** Those with an owner's record, and lone hosts. */
  list(): readonly JsonObject[] {
    const lone = this.#parts.view.ads().map(({ cluster }) => cluster)
    return [...new Set([...this.#parts.book.ids(), ...lone])].sort().map(id => this.get(id))
  }

  /** The rule of its stability checker, if it has one. Throws NOT_FOUND. */
  stabilityRule(id: string): PolicyRef | undefined {
    this.get(id)
    return this.#parts.book.get(id)?.stability
  }

  metrics(id: string): JsonObject {
    this.get(id)
    return this.#parts.metrics.known({ cluster: id }).cluster_metrics
  }

  /** AIOS's `addNode`, in both its forms. A host of the mesh is then on the list, and enters when it says so itself. */
  async addNode(document: Json): Promise<JsonObject> {
    this.#need()
    const { clusterId, node } = parseNode(document)
    await this.#list(clusterId, node)
    if (node.id === this.#self && !this.#parts.book.lists(this.#parts.belonging.cluster, this.#self)) await this.#parts.belonging.join(clusterId)
    return this.get(clusterId)
  }

  /** What `addNode` would be told, and nothing else. */
  async mayAddNode(document: Json): Promise<Verdict<JsonObject>> {
    const { clusterId, node } = parseNode(document)
    return this.#askToAdd(clusterId, node)
  }

  /** AIOS's removal: the host drains, and is a cluster of itself again. Throws NOT_FOUND, FORBIDDEN, POLICY_DENIED. */
  async removeNode(cluster: string, node: string): Promise<JsonObject> {
    this.#owned(cluster)
    if (!this.#parts.book.lists(cluster, node)) throw new MeshError('NOT_FOUND', `cluster ${cluster} has no node ${node}`)
    demand(await this.mayRemoveNode(cluster, node))
    await this.#parts.book.nodes.withdraw(nodeKey(this.#self, cluster, node))
    return this.get(cluster)
  }

  async mayRemoveNode(cluster: string, node: string): Promise<Verdict<JsonObject>> {
    this.get(cluster)
    const blocks = await this.#parts.catalogue.blocks()
    return this.#parts.prechecks.ask({
      action: 'remove_node', cluster,
      input: { node_id: node, ...this.#about(cluster), block_instances: this.#instancesOn([node]) },
      settings: { get_block_by_id: Object.fromEntries(blocks.map(block => [block.blockId, toJson(block)])), query_blocks: blocks.map(block => toJson(block)) },
    })
  }

  /** A text by which hosts may enter until it expires. Throws FORBIDDEN for anybody but the owner. */
  invite(cluster: string, validMs: Millis): { readonly invite: string; readonly expires: Millis } {
    const { record } = this.#owned(cluster)
    const expires = this.#ports.clock.unix() + validMs
    return { invite: writeTicket(this.#ports.identity, this.#random, { network: this.#network, cluster: record.id, expires }), expires }
  }

  /** Brings this host in, by an invite, or by the id of a cluster that lists it or takes anybody. Throws what its owner says. */
  async join(wanted: string): Promise<JsonObject> {
    const { book, belonging } = this.#parts
    if (belonging.cluster !== wanted && book.lists(belonging.cluster, this.#self)) throw new MeshError('CONFLICT', `this host is of cluster ${belonging.cluster}: leave that one first, with \`aios cluster leave\``)
    const invited = wanted.startsWith('aiosc') ? readTicket(this.#ports.identity, wanted) : undefined
    const cluster = invited?.cluster ?? wanted
    const owner = invited?.owner ?? book.get(cluster)?.owner
    if (owner === undefined) throw new MeshError('NOT_FOUND', `there is no cluster ${cluster} as far as this peer knows: join it by an invite of its owner`)
    const node = this.#ownNode()
    const document = book.lists(cluster, this.#self) ? this.get(cluster)
      : owner === this.#self ? await this.#admit(cluster, node, undefined, this.#self)
      : (await this.#ports.network.request(owner, clusterTalk, { do: 'join', cluster, node, ...(invited === undefined ? {} : { ticket: invited.ticket }) })).data
    await belonging.join(cluster)
    return isJsonObject(document) ? document : {}
  }

  /** Takes this host out of its cluster: it drains. `force`: also where the owner cannot be asked, or says no. */
  async leave(force: boolean): Promise<void> {
    const { book, belonging } = this.#parts
    const { cluster } = belonging
    const owner = book.get(cluster)?.owner
    if (cluster === this.#self) throw new MeshError('NOT_FOUND', 'this host is a cluster of itself: there is none to leave')
    try {
      if (owner === this.#self) await this.removeNode(cluster, this.#self)
      else if (owner !== undefined) await this.#ports.network.request(owner, clusterTalk, { do: 'leave', cluster })
    } catch (error) {
      if (!force || !(error instanceof MeshError)) throw error
    }
    await belonging.leave(true)
  }

  /** AIOS's command to a cluster's stability checker: to every live member, as each runs its own; what each answered, or how it failed. Throws where all of them did. */
  async manage(cluster: string, action: string, data: Json): Promise<Readonly<Record<PeerId, Json>>> {
    this.#need()
    this.get(cluster)
    const members = this.#ads(cluster).map(({ peer }) => peer)
    if (members.length === 0) throw new MeshError('NO_INSTANCE', `no host of cluster ${cluster} is alive`)
    const command = async (peer: PeerId): Promise<Json> => (peer === this.#self ? this.#managed(cluster, action, data) : (await this.#ports.network.request(peer, clusterTalk, { do: 'manage', cluster, action, data })).data)
    const answers = await Promise.allSettled(members.map(command))
    const failed = answers.flatMap(answer => (answer.status === 'rejected' ? [asMeshError(answer.reason)] : []))
    const [first] = failed
    if (first !== undefined && failed.length === members.length) throw first
    return Object.fromEntries(answers.map((answer, at) => [members[at]!, answer.status === 'fulfilled' ? answer.value : { error: toJson(asMeshError(answer.reason).toJSON()) }]))
  }

  async #managed(cluster: string, action: string, data: Json): Promise<Json> {
    if (cluster !== this.#parts.belonging.cluster) throw new MeshError('NOT_FOUND', `this host is not of cluster ${cluster}`)
    const allowed = demand(await this.#parts.prechecks.ask({ action: 'cluster_mgmt', cluster, input: { cluster_data: this.get(cluster), input: { action, payload: data } } }))
    const input = inner(allowed, 'input')
    return this.#parts.stability.manage(typeof input['action'] === 'string' ? input['action'] : action, input['payload'] ?? null)
  }

  /** A host asks to be taken in. */
  async #admit(cluster: string, node: ClusterNode, ticket: Parameters<typeof checkTicket>[1] | undefined, from: PeerId): Promise<JsonObject> {
    const { record } = this.#owned(cluster)
    if (from !== this.#self && !this.#parts.book.lists(cluster, from) && !takesAnybody(record)) {
      if (ticket === undefined) throw new MeshError('FORBIDDEN', `cluster ${cluster} takes hosts by invite only: ask its owner for \`aios cluster invite\``)
      const good = checkTicket(this.#ports.identity, ticket, { network: this.#network, cluster, now: this.#ports.clock.unix() })
      if (!good.ok) throw new MeshError('FORBIDDEN', good.because)
    }
    // It speaks for itself, and for no other host.
    await this.#list(cluster, { ...node, id: from })
    return this.get(cluster)
  }

  async #list(cluster: string, node: ClusterNode): Promise<void> {
    this.#owned(cluster)
    const allowed = demand(await this.#askToAdd(cluster, node))
    const agreed = check(nodeSchema, { ...node, ...inner(allowed, 'node_data'), id: node.id }, 'node', 'SPEC_INVALID')
    const peer = this.#parts.view.ad(node.id) !== undefined || node.id === this.#self
    await this.#parts.book.nodes.put(nodeKey(this.#self, cluster, node.id), { ...agreed, clusterId: cluster, nodeMetadata: { ...agreed.nodeMetadata, ...(peer ? { peer: true } : {}) } })
  }

  #askToAdd(cluster: string, node: ClusterNode): Promise<Verdict<JsonObject>> {
    this.get(cluster)
    return this.#parts.prechecks.ask({ action: 'add_node', cluster, input: { node_data: objectOf(node), ...this.#about(cluster) } })
  }

  #about(cluster: string): JsonObject {
    return { cluster_data: this.get(cluster), cluster_metrics: this.metrics(cluster) }
  }

  #ownNode(): ClusterNode {
    const ad = this.#parts.view.ad(this.#self)
    return nodeSchema.parse(ad === undefined ? { id: this.#self } : nodeDocument(ad))
  }

  #instancesOn(hosts: readonly string[]): readonly JsonObject[] {
    return hosts.flatMap(host => this.#parts.view.ad(host)?.instances.map(({ block, instance, state }) => ({ block_id: block, instance_id: instance, node_id: host, state })) ?? [])
  }

  #ads(id: string) {
    return this.#parts.view.ads().filter(({ cluster }) => cluster === id)
  }

  get #self(): PeerId {
    return this.#ports.identity.peer
  }

  #owned(id: string): KnownCluster & { readonly record: ClusterRecord } {
    const known = this.#parts.book.get(id)
    if (known === undefined) throw new MeshError('NOT_FOUND', `there is no cluster ${id}: create it first`)
    if (known.owner !== this.#self) throw new MeshError('FORBIDDEN', `cluster ${id} belongs to ${known.owner}: only its owner changes it`)
    return known
  }

  #need(peer: PeerId = this.#self): void {
    const verdict = this.#parts.admission.may(peer, 'operate')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `${peer === this.#self ? 'this peer' : peer} may not do that: ${verdict.because}`)
  }
}

/** Throws POLICY_DENIED with the rule's reason. */
export function demand(verdict: Verdict<JsonObject>): JsonObject {
  if (!verdict.ok) throw new MeshError('POLICY_DENIED', verdict.because, { retryable: verdict.retryable })
  return verdict.value
}

function inner(input: JsonObject, name: string): JsonObject {
  const value = input[name]
  return isJsonObject(value) ? value : {}
}
