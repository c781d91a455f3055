/** What the rooms of `src` promise one another. Types only: each is implemented by one class in the room it names. */
import type { Verdict } from '../protocols/errors.ts'
import type { CapacityAd, InstanceAd } from '../protocols/capacity.ts'
import type { BlockId, Cid, ContractId, InstanceId, Json, Millis, PeerId } from '../protocols/ids.ts'
import type { GenerationEvent, GenerationRequest, SessionId } from '../protocols/generation.ts'
import type { Packet } from '../protocols/invoke.ts'
import type { ModelManifest, ServedModel } from '../protocols/model.ts'
import type { Contract } from '../protocols/placement.ts'
import type { AssetRecord, BlockRecord, ComponentManifest, PolicyRef, PolicyRule, VdagSpec } from '../protocols/specs.ts'
import type { JsonObject } from './lib/json.ts'
import type { Health } from './ports.ts'

/** capacity/: what this peer believes of the mesh. Reads are synchronous and local. */
export interface MeshView {
  readonly self: PeerId
  /** Latest ads of live peers, own included, sorted by peer id. */
  ads(): readonly CapacityAd[]
  ad(peer: PeerId): CapacityAd | undefined
  /** Peers believed alive, own included, sorted by id. */
  live(): readonly PeerId[]
  state(peer: PeerId): 'alive' | 'suspect' | 'dead' | 'left' | 'unknown'
  /** Instances of a block on live peers, sorted by host then instance. */
  instancesOf(block: BlockId): readonly { readonly host: PeerId; readonly ad: InstanceAd }[]
  onChange(hear: (peer: PeerId, what: 'ad' | 'alive' | 'suspect' | 'dead' | 'left') => void): () => void
  /** The same without the ads, of which a large mesh brings very many: for those who care only who is there. */
  onLife(hear: (peer: PeerId, what: 'alive' | 'suspect' | 'dead' | 'left') => void): () => void
}

/** blocks/: the instances that run on this host. */
export interface InstanceHost {
  /** Fetches the bundle, starts, resolves when ready. Idempotent per instance. */
  start(contract: Contract, block: BlockRecord, signal: AbortSignal): Promise<void>
  /** Stops taking work, waits up to `drainMs` for what runs, then stops. */
  stop(instance: InstanceId, drainMs: Millis, because: string): Promise<void>
  /** As advertised; the contract book fills in epoch and steward. */
  running(): readonly { readonly instance: InstanceId; readonly contract: ContractId; readonly state: InstanceAd['state']; readonly inFlight: number; readonly queued: number; readonly latencyMs: number; readonly unhealthy?: boolean }[]
  onChange(hear: () => void): () => void
  onExit(hear: (instance: InstanceId, because: string, crashed: boolean) => void): () => void
}

/** placement/: the contracts this host has signed. */
export interface ContractBook {
  contracts(): readonly { readonly contract: Contract; readonly block: BlockRecord; readonly leaseEnds: Millis }[]
  /** May a call that believes in `epoch` enter? Refuses with the reason when the contract is gone or newer. */
  fence(instance: InstanceId, epoch: number): Verdict<Contract>
}

export type CallOptions = {
  readonly deadlineMs: Millis
  readonly signal?: AbortSignal
  readonly key?: string
  readonly trace?: string
  readonly vdag?: { readonly uri: string; readonly label: string; readonly run: string }
  /** Instances not to try again. */
  readonly avoid?: readonly InstanceId[]
  readonly onInstance?: (instance: InstanceId, host: PeerId) => void
  /** Give nothing out before all of it is there: then a host may die in the middle of its answer, too. */
  readonly whole?: boolean
}

/** blocks/: calls an instance of a block wherever it runs, by the block's balancing policy, retrying what may be retried. */
export interface Invoker {
  infer(block: BlockId, packet: Packet, options: CallOptions): AsyncIterable<Packet>
  management(block: BlockId, instance: InstanceId | undefined, action: string, data: Json, options: CallOptions): Promise<Readonly<Record<InstanceId, Json>>>
  update(block: BlockId, parameters: Json, options: CallOptions): Promise<Readonly<Record<InstanceId, Json>>>
  health(block: BlockId, options: CallOptions): Promise<Readonly<Record<InstanceId, Health>>>
  logs(block: BlockId, instance: InstanceId | undefined, tail: number, options: CallOptions): Promise<Readonly<Record<InstanceId, readonly string[]>>>
}

export type HookName =
  | 'template' | 'precheck' | 'clusterAllocator' | 'resourceAllocator' | 'loadBalancer' | 'autoscaler' | 'stabilityChecker'
  | 'preprocessing' | 'postprocessing' | 'assignment' | 'quotaChecker' | 'qualityChecker' | 'healthChecker' | 'clusterStability'
  | 'blockEvent' | 'failure' | 'ranking' | 'converter' | 'splitPlacement' | 'adhocAllocator'
  | 'resourceEstimator' | 'executorAllocator'

export type Decision<T> = { readonly value: T; readonly by: 'policy' | 'default' | 'fallback'; readonly because: string }

/** One question to a rule. The answer is an opinion: `accept` clamps it, `fallback` stands in when there is none. */
export type PolicyCall<T> = {
  readonly hook: HookName
  readonly rule: PolicyRef | undefined
  /** AIOS's `input_data` (for allocators `{ action, … }`). */
  readonly input: Json
  /** Values AIOS injects through `settings` (block_data, metrics snapshots…). */
  readonly settings?: Readonly<Record<string, Json>>
  /** This call's own parameters: they have the last word over those of the rule, the component and the block. */
  readonly parameters?: Readonly<Record<string, Json>>
  /** Rules keep state for as long as this scope lives (a block id, a vDAG URI). */
  readonly scope?: string
  readonly accept: (answer: Json) => Verdict<T>
  /** `failure` says why a configured rule gave no opinion; absent when none is configured. */
  readonly fallback: (failure?: string) => T
}

/** What AIOS's `get_metrics()` gives a rule. */
export type PolicyMetrics = { readonly block_metrics: JsonObject; readonly cluster_metrics: JsonObject }

/** A block, and a cluster: by default the one that the block's first instance runs in, else this peer's. */
export type MetricsAbout = { readonly block?: BlockId; readonly cluster?: string }

/** metrics/: what the hosts of the mesh measure, in AIOS's documents, from anywhere. */
export interface MetricsSource {
  /** The newest that is known, at once, for rules that are asked often. What is older than a second is asked for meanwhile. */
  known(about: MetricsAbout): PolicyMetrics
  /** The same, asked of the hosts first unless it is younger than a second. Never throws; takes two seconds at most. */
  fresh(about: MetricsAbout): Promise<PolicyMetrics>
  /** AIOS's metrics document of every cluster, asked of its hosts unless it is younger than a second. Never throws. */
  clusters(): Promise<readonly JsonObject[]>
}

/** policies/: calls a rule at a hook. */
export interface PolicyCalls {
  decide<T>(call: PolicyCall<T>): Promise<Decision<T>>
}

/** clusters/: AIOS's documents of clusters. */
export interface ClusterDocuments {
  /** What its owner said of a cluster, its live hosts (those whose `ads` these are), and what they add up to. */
  document(id: string, ads: readonly CapacityAd[]): JsonObject
}

/** What AIOS asks before an action: the network's rule, then the cluster's. */
export type Precheck = {
  readonly action: string
  /** AIOS's `input_data`. */
  readonly input: JsonObject
  /** Whose rule is asked after the network's. Absent: the network's alone. */
  readonly cluster?: string | undefined
  /** The network's rule has been asked already, about another cluster that the same action concerns. */
  readonly networkAsked?: boolean
  /** What rules may look up besides. */
  readonly settings?: Readonly<Record<string, Json>>
}

/** clusters/: asks the rules of the network and of the cluster before an action. */
export interface PrecheckCalls {
  /** The input as the rules left it, or why not. */
  ask(asked: Precheck): Promise<Verdict<JsonObject>>
  /** Is there any rule for this action? Where none is, nothing needs to be prepared. */
  concerns(action: string, cluster?: string): boolean
}

/** registries/: typed reads of the replicated names, artefacts resolved from the content store. */
export interface Catalogue {
  component(uri: string, signal?: AbortSignal): Promise<{ readonly manifest: ComponentManifest; readonly cid: Cid }>
  componentByCid(cid: Cid, signal?: AbortSignal): Promise<ComponentManifest>
  components(): Promise<readonly { readonly uri: string; readonly cid: Cid; readonly writer: PeerId }[]>
  policy(uri: string, signal?: AbortSignal): Promise<{ readonly rule: PolicyRule; readonly source: string }>
  vdag(uri: string, signal?: AbortSignal): Promise<{ readonly spec: VdagSpec; readonly cid: Cid }>
  vdags(): Promise<readonly { readonly uri: string; readonly cid: Cid }[]>
  asset(uri: string, signal?: AbortSignal): Promise<AssetRecord>
  block(id: BlockId): Promise<BlockRecord | undefined>
  blocks(): Promise<readonly BlockRecord[]>
  onBlock(hear: (id: BlockId, block: BlockRecord | undefined) => void): () => void
}

/** registries/: imported models, and which of them are served by which blocks. */
export interface Models {
  /** By URI; `name` or `name:latest` for the newest. Throws NOT_FOUND, CONTENT_UNAVAILABLE, CONTENT_CORRUPT. */
  model(uri: string, signal?: AbortSignal): Promise<{ readonly manifest: ModelManifest; readonly cid: Cid }>
  modelByCid(cid: Cid, signal?: AbortSignal): Promise<ModelManifest>
  models(): Promise<readonly { readonly uri: string; readonly cid: Cid; readonly writer: PeerId }[]>
  /** By service name, else by model URI (`name` for the newest that is served): the first service of that model. Stages come in layer order. */
  served(name: string): Promise<ServedModel | undefined>
  services(): Promise<readonly ServedModel[]>
  onService(hear: (service: string, served: ServedModel | undefined) => void): () => void
}

/** llm/: generates tokens with a served model, wherever its stages run. Any peer may ask, follow and cancel. */
export interface Generations {
  /** Resolves once the session is admitted and mirrored: from then on it survives any one peer. Throws NO_CAPACITY, NOT_FOUND, BAD_INPUT. */
  start(request: GenerationRequest, options: { readonly key?: string; readonly deadlineMs: Millis; readonly signal?: AbortSignal }): Promise<SessionId>
  /** Events from token `after` on, each once, whoever coordinates the session now; ends after the end event. Throws NOT_FOUND. */
  follow(session: SessionId, after: number, signal: AbortSignal): AsyncIterable<GenerationEvent>
  cancel(session: SessionId): Promise<void>
}
