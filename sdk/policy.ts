import type { Json } from '../protocols/ids.ts'

type Fields = Readonly<Record<string, Json>>

/** What a rule keeps between calls, made once from what it was published and referred to with. */
export type PolicyStart = { readonly ruleId: string; readonly settings: Fields; readonly parameters: Fields }

/** A policy rule: pure, synchronous, without host, clock, network or randomness. */
export interface PolicyDefinition<State = unknown> {
  init?(start: PolicyStart): State
  /** AIOS's `eval(parameters, input_data, context)`: the opinion at the rule's hook. JSON in, JSON out. */
  eval(parameters: Fields, input: Fields, context: Fields, rule: PolicyStart & { readonly state: State }): Json
  management?(action: string, data: Json, rule: PolicyStart & { readonly state: State }): Json
}

/** The shape the sandbox constructs: AIOS's `AIOSv1PolicyRule`. */
export type PolicyRuleClass = new (ruleId: string, settings: Fields, parameters: Fields) => {
  eval(parameters: Fields, input: Fields, context: Fields): Json
  management(action: string, data: Json): Json
}

/**
 * Declares a policy rule. The default export of a policy's entry file.
 *
 * ```ts
 * export default definePolicy({ eval: (parameters, input) => ({ allowed: Number(input.gpus) <= Number(parameters.most) }) })
 * ```
 */
export function definePolicy<State = undefined>(definition: PolicyDefinition<State>): PolicyRuleClass {
  return class AIOSv1PolicyRule {
    readonly #rule: PolicyStart & { readonly state: State }

    constructor(ruleId: string, settings: Fields, parameters: Fields) {
      const start = { ruleId, settings, parameters }
      // Without `init` the state is undefined, which is what State then is.
      this.#rule = { ...start, state: definition.init?.(start) as State }
    }

    eval(parameters: Fields, input: Fields, context: Fields): Json {
      return definition.eval(parameters, input, context, this.#rule)
    }

    management(action: string, data: Json): Json {
      if (definition.management === undefined) throw new Error(`this rule has no management commands, so it does not know "${action}"`)
      return definition.management(action, data, this.#rule)
    }
  }
}
