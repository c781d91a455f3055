import { z } from 'zod'
import { MeshError } from '../protocols/errors.ts'
import { json, type Json } from '../protocols/ids.ts'
import type { PolicyRuleClass } from './policy.ts'

const answered = z.looseObject({ success: z.literal(true), data: json })
const refused = z.looseObject({ error: z.looseObject({ code: z.string(), message: z.string() }) })

export type PolicyEvaluatorOptions = {
  readonly policy_rule_uri?: string
  readonly parameters?: Readonly<Record<string, Json>>
  readonly settings?: Readonly<Record<string, Json>>
  /** A rule that is not published: constructed and evaluated in this very program. */
  readonly custom_class?: PolicyRuleClass
  /** `local`: at the peer of `url`, where its state stays; `remote`: at an executor, without state. */
  readonly mode?: 'local' | 'remote'
  /** Of `remote`: a peer id or a name; the idlest where none is given. */
  readonly executor_id?: string
  /** The HTTP door of any peer. */
  readonly url?: string
  readonly token?: string
}

/** AIOS's `LocalPolicyEvaluator` for programs: evaluates a published rule through any peer, or a class of one's own. Throws MeshError with the peer's words. */
export class LocalPolicyEvaluator {
  readonly #options: PolicyEvaluatorOptions
  readonly #custom: InstanceType<PolicyRuleClass> | undefined
  /** Whose state it is at the peer. */
  readonly #scope = `evaluator-${globalThis.crypto.randomUUID()}`

  constructor(options: PolicyEvaluatorOptions) {
    this.#options = options
    const { custom_class: Custom, policy_rule_uri = 'custom', settings = {}, parameters = {} } = options
    this.#custom = Custom === undefined ? undefined : new Custom(policy_rule_uri, settings, parameters)
    if (Custom === undefined && (options.policy_rule_uri === undefined || options.url === undefined)) throw new MeshError('BAD_INPUT', 'an evaluator takes { policy_rule_uri, url }, or a custom_class')
  }

  async execute_policy_rule(input_data: Readonly<Record<string, Json>>): Promise<Json> {
    const { policy_rule_uri = '', parameters = {}, settings = {}, mode = 'local', executor_id = '' } = this.#options
    if (this.#custom !== undefined) return this.#custom.eval(parameters, input_data, {})
    const body = { policy_rule_uri, input_data, parameters, settings }
    if (mode === 'remote') return this.#post(`/executor/${executor_id === '' ? '' : `${encodeURIComponent(executor_id)}/`}execute_policy`, body)
    return this.#post(`/policy/${encodeURIComponent(policy_rule_uri)}/evaluate`, { ...body, scope: this.#scope })
  }

  /** Only where there is state to manage: not in mode `remote`. */
  async execute_mgmt_command(action: string, data: Json = {}): Promise<Json> {
    const { policy_rule_uri = '', parameters = {}, settings = {}, mode } = this.#options
    if (this.#custom !== undefined) return this.#custom.management(action, data)
    if (mode === 'remote') throw new MeshError('BAD_INPUT', 'a rule at an executor keeps no state to manage: use mode "local", or deploy it as a function')
    return this.#post(`/policy/${encodeURIComponent(policy_rule_uri)}/management`, { action, data, parameters, settings, scope: this.#scope, adhoc: true })
  }

  async #post(path: string, body: Json): Promise<Json> {
    const { url = '', token } = this.#options
    let response: Response
    try {
      response = await fetch(`${url.replace(/\/+$/, '')}${path}`, { method: 'POST', headers: { 'content-type': 'application/json', ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) }, body: JSON.stringify(body) })
    } catch (cause) {
      throw new MeshError('PEER_UNREACHABLE', `the peer at ${url} does not answer`, { cause })
    }
    const said: unknown = await response.json().catch(() => undefined)
    if (response.ok) return answered.parse(said).data
    const { error } = refused.safeParse(said).data ?? { error: undefined }
    throw new MeshError(response.status === 404 ? 'NOT_FOUND' : response.status === 400 ? 'BAD_INPUT' : 'POLICY_FAILED', error?.message ?? `the peer answered ${response.status}`)
  }
}
