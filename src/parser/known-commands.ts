import type { Json } from '../../protocols/ids.ts'
import type { BlockRecord, PolicyRef } from '../../protocols/specs.ts'
import { EXECUTOR_COMMANDS } from '../blocks/executor-commands.ts'
import { UPKEEP_COMMANDS } from '../blocks/upkeep.ts'
import type { Catalogue } from '../roles.ts'
import { DEFAULT_RULE } from '../specs/policy-refs.ts'
import type { CommandService } from './command.ts'

type Commands = Readonly<Record<string, Json>>

/** Tells which commands there are: of a block's instances as its component declares them, of what runs around them, and of rules as they declare theirs. */
export class KnownCommands {
  readonly #catalogue: Pick<Catalogue, 'componentByCid' | 'policy'>

  constructor(catalogue: Pick<Catalogue, 'componentByCid' | 'policy'>) {
    this.#catalogue = catalogue
  }

  /** Name → `{ description, args }` as its author wrote it. Throws what fetching the component or the rule throws. */
  async ofBlock({ component, policies }: BlockRecord, service: CommandService, signal: AbortSignal): Promise<Commands> {
    if (service === 'instances') return (await this.#catalogue.componentByCid(component, signal)).componentManagementCommandsTemplate
    const [own, hook] = service === 'executor' ? [EXECUTOR_COMMANDS, 'loadBalancer'] : service === 'autoscaler' ? [UPKEEP_COMMANDS.autoscaler, 'autoscaler'] : [UPKEEP_COMMANDS.health, 'stabilityChecker']
    return { ...Object.fromEntries(own.map(name => [name, {}])), ...await this.ofRule(policies[hook], signal) }
  }

  async ofRule(rule: PolicyRef | undefined, signal: AbortSignal): Promise<Commands> {
    return rule === undefined || rule.policyRuleURI === DEFAULT_RULE ? {} : (await this.#catalogue.policy(rule.policyRuleURI, signal)).rule.managementCommands
  }
}
