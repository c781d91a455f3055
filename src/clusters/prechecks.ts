import { z } from 'zod'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import type { PolicyCalls, Precheck, PrecheckCalls } from '../roles.ts'

/** Actions with a pre-check of the network, as AIOS lists them. */
export const NETWORK_PRECHECKS = ['add_node', 'remove_node', 'add_cluster', 'remove_cluster', 'add_block', 'remove_block', 'update_cluster', 'scale_block', 'block_mgmt', 'cluster_mgmt'] as const
/** A cluster has the same, and two more. */
export const CLUSTER_PRECHECKS = [...NETWORK_PRECHECKS, 'add_vdag_controller', 'remove_vdag_controller'] as const

/** Where the rules are kept. */
export type PrecheckRules = {
  readonly network: (action: string) => PolicyRef | undefined
  readonly cluster: (cluster: string, action: string) => PolicyRef | undefined
}

const allowed = z.looseObject({ allowed: z.boolean(), input_data: z.json().optional() })

/** Asks the network's rule and then the cluster's before an action. Each may rewrite what the next one and the action see. */
export class Prechecks implements PrecheckCalls {
  readonly #policies: PolicyCalls
  readonly #rules: PrecheckRules

  constructor(policies: PolicyCalls, rules: PrecheckRules) {
    this.#policies = policies
    this.#rules = rules
  }

  concerns(action: string, cluster?: string): boolean {
    return this.#rules.network(action) !== undefined || (cluster !== undefined && this.#rules.cluster(cluster, action) !== undefined)
  }

  async ask({ action, input, cluster, networkAsked = false, settings = {} }: Precheck): Promise<Verdict<JsonObject>> {
    const network = networkAsked ? granted(input) : await this.#one('the network', action, this.#rules.network(action), input, settings, 'network')
    if (!network.ok || cluster === undefined) return network
    const metrics = network.value['cluster_metrics']
    const known = metrics === undefined ? settings : { get_metrics: { cluster_metrics: metrics }, ...settings }
    return this.#one(`cluster ${cluster}`, action, this.#rules.cluster(cluster, action), network.value, known, `cluster ${cluster}`)
  }

  /** For a cluster that is not in the registry yet: its own rules, after the network's. */
  async askWith(rules: Readonly<Record<string, PolicyRef>>, action: string, input: JsonObject): Promise<Verdict<JsonObject>> {
    const network = await this.ask({ action, input })
    return network.ok ? this.#one('the cluster itself', action, rules[action], network.value, {}, 'new cluster') : network
  }

  async #one(whose: string, action: string, rule: PolicyRef | undefined, input: JsonObject, settings: Readonly<Record<string, Json>>, scope: string): Promise<Verdict<JsonObject>> {
    const { value } = await this.#policies.decide<Verdict<JsonObject>>({
      hook: 'precheck',
      rule,
      input,
      settings,
      scope: `precheck ${action} ${scope}`,
      accept: answer => {
        const parsed = allowed.safeParse(answer)
        if (!parsed.success) return refused('a pre-check must return { allowed, input_data }')
        const { allowed: yes, input_data: said } = parsed.data
        if (!yes) return granted(refused(`the ${action} policy of ${whose}, ${rule?.policyRuleURI ?? ''}, does not allow it${said === undefined || said === null ? '' : `: ${words(said)}`}`))
        // A rule may give back the whole input or the part that it changed.
        return granted(granted(isJsonObject(said) ? { ...input, ...said } : input))
      },
      fallback: failure => (failure === undefined ? granted(input) : refused(`the ${action} policy of ${whose} failed: ${failure}`, true)),
    })
    return value
  }
}

/** For those who have no rules over them. */
export const NO_PRECHECKS: PrecheckCalls = { ask: async ({ input }) => granted(input), concerns: () => false }

function words(value: Json): string {
  return (typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 200)
}
