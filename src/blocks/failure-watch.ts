import type { InstanceAd } from '../../protocols/capacity.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockId, InstanceId, Json, PeerId } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { comesFirst } from '../lib/rendezvous.ts'
import { Lru } from '../lib/lru.ts'
import type { FailureExecutor } from '../policies/failures.ts'
import type { Ports } from '../ports.ts'
import type { Catalogue, HookName, MeshView } from '../roles.ts'
import { failureRef } from '../specs/failure-ref.ts'
import type { BlockDesk } from './upkeep.ts'

export type FailureWatchParts = {
  readonly view: MeshView
  readonly desk: Pick<BlockDesk, 'tended'>
  readonly stewarded: () => readonly { readonly block: BlockId }[]
  readonly catalogue: Pick<Catalogue, 'block' | 'vdag'>
  readonly executor: Pick<FailureExecutor, 'report'>
  /** What the owner of a cluster, and that of the network, wrote where failure policies are named. */
  readonly clusterConfig: (cluster: string) => Json | undefined
  readonly networkConfig: () => Json
}

const SEEN_BOUND = 4_096
const FETCH_MS = 3_000

/**
 * Hears what fails (an instance, a host, a run, a policy, a block) and brings it before the failure policy that is nearest: the
 * block's, the vDAG's, else the cluster's, else the network's. Each failure is reported by one peer: the steward of the block, the
 * coordinator of the run, the peer that asked the policy, and for a host the first of the living in its order.
 */
export class FailureWatch {
  readonly #ports: Pick<Ports, 'clock'>
  readonly #parts: FailureWatchParts
  readonly #seen = new Lru<InstanceId, true>(SEEN_BOUND)
  #stop: () => void = () => undefined

  constructor(ports: Pick<Ports, 'clock'>, parts: FailureWatchParts) {
    this.#ports = ports
    this.#parts = parts
  }

  start(): void {
    const { view } = this.#parts
    this.#stop = view.onChange((peer, what) => {
      if (what === 'ad') for (const ad of view.ad(peer)?.instances ?? []) if (ad.state === 'failed') this.#crashed(peer, ad)
      if (what === 'dead') this.#died(peer)
    })
  }

  stop(): void {
    this.#stop()
  }

  unhealthy(block: BlockId, instance: InstanceId, because: string): void {
    const host = this.#parts.view.instancesOf(block).find(({ ad }) => ad.instance === instance)?.host
    this.#parts.executor.report({ kind: 'instance', subject: instance, because, about: { block_id: block, instance_id: instance, node_id: host ?? null, reason: 'unhealthy' } }, () => this.#ofBlock(block, host))
  }

  failing(block: BlockId, because: string): void {
    this.#parts.executor.report({ kind: 'block', subject: block, because, about: { block_id: block, reason: 'failing' } }, () => this.#ofBlock(block))
  }

  /** `scope`: the block or the vDAG that the rule answers for. A failure policy that fails is not reported. */
  policy(hook: HookName, rule: PolicyRef, scope: string | undefined, because: string): void {
    if (hook === 'failure') return
    this.#parts.executor.report({ kind: 'policy', subject: `${rule.policyRuleURI} ${scope ?? ''}`.trim(), because, about: { hook, policy_rule_uri: rule.policyRuleURI, scope: scope ?? null } }, async () => (scope === undefined ? undefined : await this.#ofBlock(scope.replace(/\/instances$/, '')) ?? await this.#ofVdag(scope)) ?? this.#ofNetwork())
  }

  run(run: string, vdag: string, because: string): void {
    this.#parts.executor.report({ kind: 'run', subject: run, because, about: { run_id: run, vdag_uri: vdag } }, async () => await this.#ofVdag(vdag) ?? this.#ofNetwork())
  }

  #crashed(host: PeerId, { block, instance, because = 'it failed' }: InstanceAd): void {
    if (this.#parts.desk.tended(block) === undefined || this.#seen.has(instance)) return
    this.#seen.set(instance, true)
    this.#parts.executor.report({ kind: 'instance', subject: instance, because, about: { block_id: block, instance_id: instance, node_id: host, reason: 'pod_failed' } }, () => this.#ofBlock(block, host))
  }

  #died(peer: PeerId): void {
    const { view, desk, stewarded, executor } = this.#parts
    const because = `node_lost: ${peer} does not answer`
    for (const { block } of stewarded()) {
      const instances = desk.tended(block)?.observed.filter(({ host }) => host === peer).map(({ instance }) => instance) ?? []
      if (instances.length > 0) executor.report({ kind: 'node', subject: `${peer} ${block}`, because, about: { node_id: peer, block_id: block, instances, reason: 'node_lost' } }, () => this.#own(block))
    }
    if (!comesFirst(peer, view.self, view.live())) return
    executor.report({ kind: 'node', subject: peer, because, about: { node_id: peer, reason: 'node_lost' } }, async () => this.#ofCluster(peer))
  }

  async #ofBlock(block: BlockId, host?: PeerId): Promise<PolicyRef | undefined> {
    return await this.#own(block) ?? (host === undefined ? this.#ofNetwork() : this.#ofCluster(host))
  }

  #own(block: BlockId): Promise<PolicyRef | undefined> {
    return this.#rule(async () => {
      const record = await this.#parts.catalogue.block(block)
      return record === undefined ? undefined : failureRef(record.policies) ?? failureRef(record.initData)
    })
  }

  #ofVdag(vdag: string): Promise<PolicyRef | undefined> {
    return this.#rule(async () => failureRef((await this.#parts.catalogue.vdag(vdag, this.#ports.clock.deadline(FETCH_MS))).spec.controller))
  }

  #ofCluster(host: PeerId): PolicyRef | undefined {
    const cluster = this.#parts.view.ad(host)?.cluster
    return (cluster === undefined ? undefined : failureRef(this.#parts.clusterConfig(cluster))) ?? this.#ofNetwork()
  }

  #ofNetwork(): PolicyRef | undefined {
    return failureRef(this.#parts.networkConfig())
  }

  async #rule(read: () => Promise<PolicyRef | undefined>): Promise<PolicyRef | undefined> {
    try {
      return await read()
    } catch (error) {
      // Gone, or its document is held by the peer that failed: the next level is asked.
      if (error instanceof MeshError) return undefined
      throw error
    }
  }
}
