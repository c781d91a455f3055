import { z } from 'zod'
import { check, hex } from '../../protocols/codec.ts'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Json, Millis, PeerId } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { policyCall, policyFunction, type PolicyCallRequest, type PolicyCallResponse, type PolicyFunction } from '../../protocols/policy.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import { Beat } from '../lib/beat.ts'
import { Backoff } from '../lib/backoff.ts'
import type { JsonObject } from '../lib/json.ts'
import { foremost } from '../lib/rendezvous.ts'
import type { Ports, Random, Registry } from '../ports.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import { functionDocument, ruleDocument } from './documents.ts'
import { allocatorOf, type Executors } from './executors.ts'
import { FunctionStates } from './function-states.ts'
import { startsWith } from './precedence.ts'
import { Replicas } from './replicas.ts'
import { planFunction } from './scale-functions.ts'

const LOOK_MS: Millis = 2_000
const CALL_MS: Millis = 10_000
const LOAD_MS: Millis = 1_500
const AGAIN = { firstMs: 50, maxMs: 1_000, retries: 12 }
/** Another copy may do: this one is not there, or its host is not. */
const ELSEWHERE: ReadonlySet<string> = new Set(['NO_INSTANCE', 'PEER_UNREACHABLE', 'OVERLOADED', 'UNAUTHENTICATED', 'PROTOCOL_UNSUPPORTED'])

const given = z.looseObject({
  name: z.string('name the function').min(1).max(200),
  policy_rule_uri: z.string('name the rule').min(1).max(300),
  policy_rule_parameters: z.record(z.string(), z.json()).nullish(),
  policy_rule_settings: z.record(z.string(), z.json()).nullish(),
  replicas: z.coerce.number().int().min(1).max(64).nullish(),
  autoscaling: z.looseObject({
    enabled: z.boolean().default(true), min_replicas: z.coerce.number().int().min(1).max(64).optional(), max_replicas: z.coerce.number().int().min(1).max(64).optional(),
    target_cpu_utilization_percentage: z.coerce.number().min(1).max(100).default(50),
  }).nullish(),
  node_selector: z.record(z.string(), z.coerce.string()).nullish(),
  stateless: z.boolean().nullish(),
  function_metadata: z.record(z.string(), z.json()).nullish(),
  function_tags: z.array(z.string()).nullish(),
  alloc: z.json().optional(),
})

type FunctionPorts = Pick<Ports, 'clock' | 'identity' | 'journal' | 'network' | 'random' | 'registries' | 'sandbox' | 'telemetry'>

/** AIOS's fourth kind of execution: rules that keep running somewhere, with their state, as many copies as their load asks for. */
export class Functions {
  readonly #ports: FunctionPorts
  readonly #random: Random
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'policy'>
  readonly #executors: Executors
  readonly #may: (peer: PeerId, right: Right) => Verdict<true>
  readonly #records: Registry<PolicyFunction>
  readonly #states: FunctionStates
  readonly #replicas: Replicas
  readonly #outstanding = new Map<string, number>()
  readonly #lowSince = new Map<string, Millis>()
  readonly #names = new Set<string>()
  #looking: Promise<void> | undefined
  readonly #beat: Beat
  #unhear: () => void = () => undefined
  #stopped = false

  constructor(ports: FunctionPorts, parts: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'policy'>; readonly executors: Executors; readonly may: (peer: PeerId, right: Right) => Verdict<true> }) {
    this.#ports = ports
    this.#random = ports.random.fork('functions')
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#executors = parts.executors
    this.#may = parts.may
    this.#records = ports.registries.open('functions', policyFunction)
    this.#states = new FunctionStates(ports, { view: parts.view, records: this.#records, may: parts.may })
    this.#replicas = new Replicas(ports, parts.catalogue, this.#states)
    this.#beat = new Beat(ports.clock, LOOK_MS, { needed: () => this.#names.size > 0, look: () => this.#look() })
  }

  async start(): Promise<void> {
    await this.#states.start()
    this.#ports.network.handle(policyCall, async (request, from) => {
      const verdict = this.#may(from, request.do === 'manage' ? 'operate' : 'join')
      if (!verdict.ok) throw new MeshError('FORBIDDEN', verdict.because)
      return this.#here(request)
    })
    this.#records.onChange((key, entry) => {
      if (entry === undefined) {
        this.#names.delete(key)
        this.#replicas.forget(key)
        this.#states.forget(key, [])
        return
      }
      this.#names.add(key)
      this.#states.forget(key, entry.value.replicas.map(({ replica }) => replica))
      this.#obey(entry.value)
      this.#beat.wake()
    })
    this.#unhear = this.#view.onLife((_, what) => {
      if (what === 'dead' || what === 'left') this.#look()
    })
    background(this.#ports.telemetry, 'policy.functions-not-read', this.#records.list().then(entries => {
      for (const { key, value } of entries) {
        this.#names.add(key)
        this.#obey(value)
      }
      this.#beat.wake()
    }), 'warn')
  }

  stop(): void {
    this.#stopped = true
    this.#beat.stop()
    this.#unhear()
    this.#replicas.closeAll()
  }

  /** AIOS's `/function/deployments/create`. Throws BAD_INPUT naming the field, NOT_FOUND, ALREADY_EXISTS, NO_CAPACITY, POLICY_DENIED, FORBIDDEN. */
  async create(document: Json, executor: string, options: { readonly estimate?: boolean } = {}): Promise<JsonObject> {
    this.#need('operate')
    const asked = check(given, document, 'function', 'BAD_INPUT')
    const rule = await this.#rule(asked.policy_rule_uri)
    const { autoscaling } = asked
    const scaled = autoscaling?.enabled === true ? autoscaling : undefined
    const nodeSelector = asked.node_selector ?? {}
    const { host, replicas } = await this.#executors.choose({ executor, nodeSelector, allocator: allocatorOf(asked.alloc), policy: rule.policyRuleURI, type: 'function' })
    const count = asked.replicas ?? replicas ?? 1
    const fn = check(policyFunction, {
      functionId: asked.name, policyRuleURI: rule.policyRuleURI, parameters: asked.policy_rule_parameters ?? {}, settings: asked.policy_rule_settings ?? {},
      minReplicas: scaled === undefined ? count : scaled.min_replicas ?? 1, maxReplicas: scaled === undefined ? count : scaled.max_replicas ?? Math.max(count, scaled.min_replicas ?? 1),
      targetUtilisation: scaled === undefined ? undefined : scaled.target_cpu_utilization_percentage / 100,
      executor, nodeSelector, metadata: asked.function_metadata ?? {}, tags: asked.function_tags ?? [], replicas: [],
      ...(asked.stateless === true ? { stateless: true } : {}),
    }, 'function', 'BAD_INPUT')
    if (fn.minReplicas > fn.maxReplicas) throw new MeshError('BAD_INPUT', `function: autoscaling.min_replicas: ${fn.minReplicas} is more than max_replicas (${fn.maxReplicas})`)
    startsWith(rule, fn)
    if ((await this.#records.get(fn.functionId)) !== undefined) throw new MeshError('ALREADY_EXISTS', `a function is called ${fn.functionId} already: choose another name, or remove it first`)
    if (options.estimate === true) await this.#executors.needEstimate(executor === '' ? host : executor, ruleDocument(rule), 'function')
    const hosts = executor === '' && asked.alloc === undefined ? this.#executors.hosts(nodeSelector) : [host]
    const first = Math.max(fn.minReplicas, Math.min(fn.maxReplicas, count))
    const { replicas: placed } = planFunction({ ...fn, minReplicas: first }, { hosts, live: new Set(hosts), busy: new Map(), lowSince: undefined, now: 0, newName: this.#newName })
    const placedFn = { ...fn, replicas: placed }
    await this.#records.put(fn.functionId, placedFn)
    this.#obey(placedFn)
    return functionDocument(placedFn, rule)
  }

  /** Throws NOT_FOUND, FORBIDDEN. */
  async remove(name: string): Promise<void> {
    this.#need('operate')
    await this.#known(name)
    await this.#records.withdraw(name)
    this.#replicas.forget(name)
  }

  /** AIOS's `call_function`, from any peer: whichever copy has least to do. Throws NOT_FOUND, NO_INSTANCE, BAD_INPUT, POLICY_FAILED, DEADLINE. */
  async call(name: string, input: Json, options: { readonly deadlineMs?: Millis; readonly signal?: AbortSignal } = {}): Promise<Json> {
    const signal = this.#ports.clock.deadline(options.deadlineMs ?? CALL_MS, options.signal)
    const backoff = new Backoff(this.#random, AGAIN)
    let failure = new MeshError('NO_INSTANCE', `function ${name} has no copies yet`)
    for (;;) {
      // The record is read again each round: copies move.
      for (const { replica, host } of this.#order(await this.#known(name))) {
        if (signal.aborted) break
        try {
          return await this.#counted(replica, () => this.#at(host, { do: 'call', function: name, replica, input }, signal))
        } catch (error) {
          failure = asMeshError(error)
          if (!ELSEWHERE.has(failure.code)) throw failure
        }
      }
      const pauseMs = backoff.next()
      if (pauseMs === undefined || signal.aborted) throw failure
      await this.#ports.clock.sleep(pauseMs, signal).catch(() => undefined)
    }
  }

  /** A management command to every copy: what each answered, or `{ error }`. Throws NOT_FOUND, FORBIDDEN. */
  async manage(name: string, action: string, data: Json): Promise<JsonObject> {
    const signal = this.#ports.clock.deadline(CALL_MS)
    return Object.fromEntries(await Promise.all((await this.#known(name)).replicas.map(async ({ replica, host }) => [replica, await this.#at(host, { do: 'manage', function: name, replica, action, data }, signal).catch(error => failed(error))] as const)))
  }

  /** The newest lines of every copy, newest last. Throws NOT_FOUND. */
  async logs(name: string, tail = 100): Promise<readonly string[]> {
    const hosts = [...new Set((await this.#known(name)).replicas.map(({ host }) => host))]
    const signal = this.#ports.clock.deadline(CALL_MS)
    const found = await Promise.all(hosts.map(host => this.#ask(host, { do: 'logs', function: name, tail }, signal).then(({ lines = [] }) => lines, () => [])))
    return found.flat().sort().slice(-tail)
  }

  /** Throws NOT_FOUND. */
  async get(name: string): Promise<JsonObject> {
    const fn = await this.#known(name)
    return functionDocument(fn, await this.#rule(fn.policyRuleURI).catch(() => undefined))
  }

  async list(): Promise<readonly JsonObject[]> {
    return Promise.all((await this.#records.list()).map(async ({ value }) => functionDocument(value, await this.#rule(value.policyRuleURI).catch(() => undefined))))
  }

  readonly #newName = (): string => `fr-${hex(this.#random.bytes(6))}`

  #obey(fn: PolicyFunction): void {
    if (this.#stopped) return
    this.#replicas.obey(fn, fn.replicas.filter(({ host }) => host === this.#view.self))
  }

  #look(): void {
    if (this.#looking !== undefined || this.#stopped || this.#names.size === 0) return
    this.#looking = this.#tend().finally(() => (this.#looking = undefined))
    background(this.#ports.telemetry, 'policy.functions-not-tended', this.#looking, 'warn')
  }

  /** Obeys every record, and looks after those this peer is first in line for. */
  async #tend(): Promise<void> {
    const records = await this.#records.list()
    // Peers go in crowds, and most networks have no functions.
    if (records.length === 0) return
    this.#states.tend()
    const able = this.#view.live().filter(peer => this.#may(peer, 'operate').ok)
    for (const { value: fn } of records) {
      this.#obey(fn)
      if (foremost(`function/${fn.functionId}`, able, 1)[0] !== this.#view.self) continue
      try {
        await this.#steward(fn)
      } catch (error) {
        this.#ports.telemetry.event('warn', 'policy.function-not-tended', { function: fn.functionId, because: asMeshError(error).message })
      }
    }
  }

  async #steward(fn: PolicyFunction): Promise<void> {
    const now = this.#ports.clock.monotonic()
    const wanted = fn.executor === '' ? undefined : (await this.#executors.choose({ executor: fn.executor, nodeSelector: {}, policy: fn.policyRuleURI, type: 'function' }).catch(() => undefined))?.host
    const plan = planFunction(fn, {
      hosts: wanted === undefined ? this.#executors.hosts(fn.nodeSelector) : [wanted], live: new Set(this.#view.live()), busy: await this.#busy(fn),
      lowSince: this.#lowSince.get(fn.functionId), now, newName: this.#newName,
    })
    if (plan.lowSince === undefined) this.#lowSince.delete(fn.functionId)
    else this.#lowSince.set(fn.functionId, plan.lowSince)
    if (plan.because === '' || (plan.replicas.length === fn.replicas.length && plan.replicas.every(({ replica, host }, at) => replica === fn.replicas[at]?.replica && host === fn.replicas[at].host))) return
    this.#ports.telemetry.event('info', 'policy.function-moved', { function: fn.functionId, copies: plan.replicas.length, because: plan.because })
    await this.#records.put(fn.functionId, { ...fn, replicas: plan.replicas })
    this.#obey({ ...fn, replicas: plan.replicas })
  }

  async #busy(fn: PolicyFunction): Promise<ReadonlyMap<string, number>> {
    if (fn.targetUtilisation === undefined) return new Map()
    const signal = this.#ports.clock.deadline(LOAD_MS)
    const hosts = [...new Set(fn.replicas.map(({ host }) => host))].filter(host => this.#view.live().includes(host))
    const loads = await Promise.all(hosts.map(host => this.#ask(host, { do: 'load', function: fn.functionId }, signal).then(({ replicas = [] }) => replicas, () => [])))
    return new Map(loads.flat().map(({ replica, busy }) => [replica, busy]))
  }

  /** Live copies, those with least of ours outstanding first; ties in any order. */
  #order(fn: PolicyFunction): PolicyFunction['replicas'] {
    const live = new Set(this.#view.live())
    return fn.replicas.filter(({ host }) => live.has(host)).map(one => ({ one, key: (this.#outstanding.get(one.replica) ?? 0) + this.#random.float() })).sort((a, b) => a.key - b.key).map(({ one }) => one)
  }

  async #counted<T>(replica: string, run: () => Promise<T>): Promise<T> {
    this.#outstanding.set(replica, (this.#outstanding.get(replica) ?? 0) + 1)
    try {
      return await run()
    } finally {
      const left = (this.#outstanding.get(replica) ?? 1) - 1
      if (left > 0) this.#outstanding.set(replica, left)
      else this.#outstanding.delete(replica)
    }
  }

  async #here(request: PolicyCallRequest): Promise<PolicyCallResponse> {
    switch (request.do) {
      case 'call': return { value: await this.#replicas.call(request.function, request.replica, request.input) }
      case 'manage': return { value: await this.#replicas.manage(request.function, request.replica, request.action, request.data) }
      case 'load': return { replicas: [...this.#replicas.load(request.function)] }
      case 'logs': return { lines: [...this.#replicas.logs(request.function, request.tail)] }
    }
  }

  async #at(host: PeerId, request: PolicyCallRequest, signal: AbortSignal): Promise<Json> {
    return (await this.#ask(host, request, signal)).value ?? null
  }

  #ask(host: PeerId, request: PolicyCallRequest, signal: AbortSignal): Promise<PolicyCallResponse> {
    return host === this.#view.self ? this.#here(request) : this.#ports.network.request(host, policyCall, request, signal)
  }

  async #rule(uri: string): Promise<PolicyRule> {
    return (await this.#catalogue.policy(uri, this.#ports.clock.deadline(CALL_MS))).rule
  }

  async #known(name: string): Promise<PolicyFunction> {
    const found = await this.#records.get(name)
    if (found === undefined) throw new MeshError('NOT_FOUND', `no function is called ${name}: \`aios function list\` shows those there are`)
    return found.value
  }

  #need(right: Right): void {
    const verdict = this.#may(this.#view.self, right)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }
}

function failed(error: unknown): Json {
  const { code, message } = asMeshError(error)
  return { error: { code, message } }
}
