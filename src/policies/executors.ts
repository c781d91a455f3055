import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { policyExecute, policyExecutor, type PolicyExecutor } from '../../protocols/policy.ts'
import { policyRef, type PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { clusterMetrics } from '../placement/cluster-document.ts'
import type { Ports, Registry } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { amend } from '../specs/amend.ts'
import { specValues } from '../specs/envelope.ts'
import type { Policies } from './calls.ts'
import { executorDocument, executorFacts } from './documents.ts'
import type { Members } from './precedence.ts'

/** Evaluations for others at once, waiting included; a sandbox works through them one after the other. */
const AT_ONCE = 128
const HOST = /^(?:aios:\/\/)?([A-Za-z0-9]{8,80})\/?$/

const given = z.looseObject({
  executor_id: z.string('name the executor').min(1).max(200),
  executor_host_uri: z.string().max(300).optional(),
  executor_metadata: z.record(z.string(), z.json()).default({}),
  executor_hardware_info: z.record(z.string(), z.json()).default({}),
  resource_estimator: policyRef.optional(),
})
const chosen = z.looseObject({ executor_id: z.string().optional(), node_id: z.string().optional(), cluster_id: z.string().optional(), replicas: z.coerce.number().int().min(1).max(64).optional() })
const allowed = z.looseObject({ allowed: z.boolean(), node_id: z.string().optional() })

export type ExecuteRequest = { readonly policy: string; readonly input: Json; readonly parameters: Members; readonly settings: Members }
/** Where work should go: an executor by name ("" for any), labels its host must carry, a rule that chooses among those. */
export type Wanted = { readonly executor: string; readonly nodeSelector: Readonly<Record<string, string>>; readonly allocator?: PolicyRef | undefined; readonly policy: string; readonly type: 'job' | 'function' | 'execute' }
export type Chosen = { readonly host: PeerId; readonly replicas: number | undefined }

/** Names the peers that run policies for others, chooses among them, and asks them to. */
export class Executors {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly #view: MeshView
  readonly #policies: Policies
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #records: Registry<PolicyExecutor>
  /** What this peer has sent to each and not heard back of: ads are seconds old. */
  readonly #outstanding = new Map<PeerId, number>()
  #running = 0

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'telemetry' | 'registries'>, parts: { readonly view: MeshView; readonly policies: Policies; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#view = parts.view
    this.#policies = parts.policies
    this.#may = parts.may
    this.#records = ports.registries.open('executors', policyExecutor)
  }

  start(): void {
    this.#ports.network.handle(policyExecute, async (request, from) => {
      const verdict = this.#may(from, 'join')
      if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
      return this.#here(request)
    })
  }

  /**
   * Evaluates a rule once at an executor; "" takes whichever has least to do. Throws what the rule's schemas and the rule say
   * (BAD_INPUT, POLICY_FAILED), NOT_FOUND, and what keeps the executor from answering.
   */
  async execute(executor: string, request: ExecuteRequest, signal?: AbortSignal): Promise<{ readonly value: Json; readonly fuel: number; readonly host: PeerId }> {
    const { host } = await this.choose({ executor, nodeSelector: {}, policy: request.policy, type: 'execute' })
    this.#outstanding.set(host, (this.#outstanding.get(host) ?? 0) + 1)
    try {
      const answer = host === this.#view.self ? await this.#here(request) : await this.#ports.network.request(host, policyExecute, request, signal)
      return { ...answer, host }
    } finally {
      const left = (this.#outstanding.get(host) ?? 1) - 1
      if (left > 0) this.#outstanding.set(host, left)
      else this.#outstanding.delete(host)
    }
  }

  /** The host of an executor, or of the one that suits best. Throws NOT_FOUND, PEER_UNREACHABLE, NO_CAPACITY. */
  async choose(wanted: Wanted): Promise<Chosen> {
    if (wanted.executor !== '') {
      const record = await this.#known(wanted.executor)
      if (!this.#alive(record.host)) throw new MeshError('PEER_UNREACHABLE', `the host of executor ${wanted.executor}, ${record.host}, is not alive: name another, or none to have one chosen`)
      return { host: record.host, replicas: undefined }
    }
    const suited = this.#suited(wanted.nodeSelector)
    const [first] = suited
    if (first === undefined) throw new MeshError('NO_CAPACITY', `no live executor carries ${labelled(wanted.nodeSelector)}`)
    if (wanted.allocator === undefined) return { host: first, replicas: undefined }
    const documents = (await this.list()).filter(document => suited.some(peer => peer === document['node_id']))
    const decision = await this.#policies.decide<Chosen>({
      hook: 'executorAllocator',
      rule: wanted.allocator,
      input: { cluster_data: Object.fromEntries(documents.map(document => [String(document['executor_id']), executorFacts(document, this.#view.ad(String(document['node_id'])))])), inputs: { policy_rule_uri: wanted.policy, type_: wanted.type } },
      accept: answer => {
        const parsed = chosen.safeParse(answer)
        if (!parsed.success) return refused('it must return { executor_id }, { node_id } or { cluster_id }, and how many replicas')
        const { executor_id, node_id, cluster_id, replicas } = parsed.data
        const found = documents.find(document => document['executor_id'] === executor_id || document['node_id'] === (node_id ?? cluster_id) || document['executor_id'] === cluster_id)
        const host = suited.find(peer => peer === found?.['node_id'])
        return host === undefined ? refused(`it chose ${executor_id ?? node_id ?? cluster_id ?? 'nothing'}, which is none of the executors it was given`) : granted({ host, replicas })
      },
      fallback: () => ({ host: first, replicas: undefined }),
    })
    return decision.value
  }

  /** Live hosts with these labels, the idlest first. */
  hosts(nodeSelector: Readonly<Record<string, string>>): readonly PeerId[] {
    return this.#suited(nodeSelector)
  }

  /** AIOS's estimator of an executor: would it take this? Where it has none, yes. Throws NOT_FOUND. */
  async estimate(executor: string, policy: Json, type: 'job' | 'function'): Promise<{ readonly allowed: boolean; readonly node_id: string; readonly because: string }> {
    const { host, resourceEstimator } = await this.#known(executor)
    const ad = this.#view.ad(host)
    const { value, because } = await this.#policies.decide<{ readonly allowed: boolean; readonly node_id: string }>({
      hook: 'resourceEstimator',
      rule: resourceEstimator,
      input: { policy, type_: type },
      settings: { get_metrics: { cluster_metrics: ad === undefined ? {} : clusterMetrics([ad]) } },
      scope: `executor/${executor}`,
      accept: answer => {
        const parsed = allowed.safeParse(answer)
        return parsed.success ? granted({ allowed: parsed.data.allowed, node_id: parsed.data.node_id ?? host }) : refused('an estimator must return { allowed, node_id }')
      },
      fallback: failure => ({ allowed: failure === undefined, node_id: host }),
    })
    return { ...value, because }
  }

  /** As `estimate`, for who will not go on without. Throws POLICY_DENIED with the estimator's reason. */
  async needEstimate(executor: string, policy: Json, type: 'job' | 'function'): Promise<void> {
    const { allowed, because } = await this.estimate(executor, policy, type)
    if (!allowed) throw new MeshError('POLICY_DENIED', `executor ${executor} does not take it: ${because}`)
  }

  /** AIOS's executor document; without a host it is this peer. Throws SPEC_INVALID, ALREADY_EXISTS, FORBIDDEN. */
  async create(document: Json): Promise<JsonObject> {
    const record = this.#parse(document)
    if ((await this.#records.get(record.executorId)) !== undefined) throw new MeshError('ALREADY_EXISTS', `an executor is called ${record.executorId} already: choose another executor_id`)
    return this.#put(record)
  }

  /** Mongo's update operators, or fields to set. Throws as `create`, and NOT_FOUND. */
  async update(executor: string, document: Json): Promise<JsonObject> {
    const known = await this.#known(executor)
    return this.#put(this.#parse({ ...amend(executorDocument(known, undefined, true), document), executor_id: executor }))
  }

  /** Throws NOT_FOUND, FORBIDDEN. */
  async remove(executor: string): Promise<void> {
    if ((await this.#records.get(executor)) === undefined) throw unknown(executor)
    await this.#records.withdraw(executor)
  }

  /** Throws NOT_FOUND. */
  async get(executor: string): Promise<JsonObject> {
    return this.#document(await this.#known(executor))
  }

  /** Named executors, then every live peer under its own id. */
  async list(): Promise<readonly JsonObject[]> {
    const named = (await this.#records.list()).map(({ value }) => value)
    return [...named, ...this.#view.live().map(nameless)].map(record => this.#document(record))
  }

  async #here({ policy, parameters, settings, input }: ExecuteRequest): Promise<{ readonly value: Json; readonly fuel: number }> {
    if (this.#running >= AT_ONCE) throw new MeshError('OVERLOADED', `${AT_ONCE} evaluations run or wait here: ask another executor`)
    this.#running += 1
    this.#ports.telemetry.count('policy_executions_total')
    try {
      const { value, fuel } = await this.#policies.execute({ policyRuleURI: policy, parameters: {}, settings: {} }, { input, parameters, settings })
      return { value, fuel }
    } catch (error) {
      throw explained(error, Object.keys(settings))
    } finally {
      this.#running -= 1
    }
  }

  #suited(nodeSelector: Readonly<Record<string, string>>): readonly PeerId[] {
    const load = (peer: PeerId): number => (this.#view.ad(peer)?.cpuLoad ?? 1) + (this.#outstanding.get(peer) ?? 0)
    return this.#view.live().filter(peer => Object.entries(nodeSelector).every(([key, value]) => this.#view.ad(peer)?.labels[key] === value)).sort((a, b) => load(a) - load(b) || (a < b ? -1 : 1))
  }

  #alive(peer: PeerId): boolean {
    return peer === this.#view.self || this.#view.live().includes(peer)
  }

  #document(record: PolicyExecutor): JsonObject {
    return executorDocument(record, this.#view.ad(record.host), this.#alive(record.host))
  }

  async #known(executor: string): Promise<PolicyExecutor> {
    const record = (await this.#records.get(executor))?.value
    if (record !== undefined) return record
    if (this.#alive(executor)) return nameless(executor)
    throw unknown(executor)
  }

  #parse(document: Json): PolicyExecutor {
    const { executor_id, executor_host_uri, executor_metadata, executor_hardware_info, resource_estimator } = check(given, specValues(document, 'executor'), 'executor', 'SPEC_INVALID')
    const host = executor_host_uri === undefined || executor_host_uri === '' ? this.#view.self : HOST.exec(executor_host_uri)?.[1]
    if (host === undefined) throw new MeshError('SPEC_INVALID', `executor: executor_host_uri: "${executor_host_uri?.slice(0, 100)}" is not a peer; write aios://PEER, or leave it out for this peer`)
    return check(policyExecutor, { executorId: executor_id, host, metadata: executor_metadata, hardware: executor_hardware_info, resourceEstimator: resource_estimator }, 'executor', 'SPEC_INVALID')
  }

  async #put(record: PolicyExecutor): Promise<JsonObject> {
    const verdict = this.#may(this.#view.self, 'operate')
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
    await this.#records.put(record.executorId, record)
    return this.#document(record)
  }
}

/** A rule that calls what nobody sent is told so: functions do not travel, only their answers do. */
function explained(error: unknown, sent: readonly string[]): unknown {
  if (!(error instanceof MeshError) || error.code !== 'POLICY_FAILED' || !/not a function|of undefined|reading '/.test(error.message)) return error
  return new MeshError('POLICY_FAILED', `${error.message}; live callables answer from what the asker sends in settings, and it sent ${sent.length === 0 ? 'nothing' : sent.slice(0, 20).join(', ')}`, { details: error.details, cause: error })
}

function nameless(peer: PeerId): PolicyExecutor {
  return { executorId: peer, host: peer, metadata: {}, hardware: {} }
}

function unknown(executor: string): MeshError {
  return new MeshError('NOT_FOUND', `no executor is called ${executor}: \`aios policy executors\` shows those there are`)
}

function labelled(selector: Readonly<Record<string, string>>): string {
  const labels = Object.entries(selector).map(([key, value]) => `${key}=${value}`)
  return labels.length === 0 ? 'anything' : `the labels ${labels.join(', ')}`
}

/** The `alloc` of a request: which rule chooses its executor. */
export function allocatorOf(alloc: Json | undefined): PolicyRef | undefined {
  const uri = isJsonObject(alloc) ? alloc['resource_allocator_policy_uri'] : undefined
  if (!isJsonObject(alloc) || typeof uri !== 'string' || uri === '') return undefined
  const members = (value: Json | undefined): Members => (isJsonObject(value) ? value : {})
  return check(policyRef, { policyRuleURI: uri, parameters: toJson(members(alloc['parameters'])), settings: toJson(members(alloc['settings'])) }, 'alloc', 'BAD_INPUT')
}
