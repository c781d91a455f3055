import type { Millis } from '../../protocols/ids.ts'
import type { BlockRecord, PolicyRef, VdagSpec } from '../../protocols/specs.ts'
import { lookedFor } from '../lib/looked-for.ts'
import type { Clock } from '../ports.ts'
import { BLOCK_POLICIES, DEFAULT_RULE } from '../specs/policy-refs.ts'

type Named = readonly [where: string, rule: PolicyRef | undefined]

/** Says which policies of a block or a vDAG nobody has published: they are taken, for they may be published later, and what is built in stands in for them. */
export class Unpublished {
  readonly #clock: Pick<Clock, 'monotonic' | 'sleep'>
  readonly #published: (uri: string) => Promise<boolean>

  /** `published`: whether a policy has that name, as this peer knows it now. */
  constructor(clock: Pick<Clock, 'monotonic' | 'sleep'>, published: (uri: string) => Promise<boolean>) {
    this.#clock = clock
    this.#published = published
  }

  /** One warning a policy that is asked and not there, naming hook and URI. `forMs`: how long word of one that was published elsewhere may take. */
  async ofBlock({ policies }: Pick<BlockRecord, 'policies'>, forMs: Millis = 0): Promise<readonly string[]> {
    return this.#warnings(BLOCK_POLICIES.map(name => [name, policies[name]]), forMs)
  }

  async ofVdag({ nodes }: Pick<VdagSpec, 'nodes'>, forMs: Millis = 0): Promise<readonly string[]> {
    return this.#warnings(nodes.flatMap(node => (['assignmentPolicyRule', 'preprocessingPolicyRule', 'postprocessingPolicyRule'] as const).map((name): Named => [`node "${node.label}".${name}`, node[name]])), forMs)
  }

  async #warnings(named: readonly Named[], forMs: Millis): Promise<readonly string[]> {
    const warnings = await Promise.all(named.map(async ([where, rule]) => {
      if (rule === undefined || rule.policyRuleURI === DEFAULT_RULE) return []
      const there = await lookedFor(async () => await this.#published(rule.policyRuleURI) || undefined, this.#clock, { forMs, everyMs: 150 })
      return there === true ? [] : [`${where}: nobody has published ${rule.policyRuleURI}, so what is built in stands in for it until somebody does`]
    }))
    return warnings.flat()
  }
}
