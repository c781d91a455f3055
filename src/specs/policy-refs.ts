import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { quote } from '../../protocols/refusal.ts'
import { isList, isObject, type JsonObject } from './document.ts'
import { Fields, plainName } from './fields.ts'

/** The URI that stands for a hook's built-in rule, with the parameters and settings given beside it. */
export const DEFAULT_RULE = 'default'

export type PolicySet = {
  readonly rules: Readonly<Record<string, PolicyRef>>
  /** Entries that are not rules at all (`resource_affinity: { nodeType }`): kept, never called. */
  readonly hints: Readonly<Record<string, Json>>
}

/** Policies of a block that are asked, under the names by which they are; other names are AIOS's of old or an author's own, and kept. */
export const BLOCK_POLICIES = ['clusterAllocator', 'resourceAllocator', 'loadBalancer', 'stabilityChecker', 'autoscaler', 'pre_processing', 'post_processing', 'failurePolicy']
const BY_SPELLING = new Map(BLOCK_POLICIES.map(name => [plainName(name), name]))

/** Wrappers in AIOS's samples nest at most four deep. */
const WRAPPERS = 6

/**
 * One policy as a spec refers to it: a URI, `{policyRuleURI, parameters, settings}`, `{values: {…}}`, or nested once
 * more under its own name. No URI but parameters or settings, or the word `default`, means the built-in rule; nothing
 * at all means no policy. `executionMode` is dropped: here every rule runs in the sandbox of the peer that asks.
 */
export function parsePolicyRef(parent: Fields, name: string, ...aliases: readonly string[]): PolicyRef | undefined {
  const value = parent.find(name, ...aliases)
  if (value === undefined) return undefined
  if (typeof value === 'string') return value === '' ? undefined : { policyRuleURI: value, parameters: {}, settings: {} }
  if (!isObject(value)) {
    parent.wrong(name, value, 'give a policy: { "policyRuleURI": "name:version-tag", "parameters": {}, "settings": {} }')
    return undefined
  }
  const inner = bare(value, name)
  if (isHint(inner) && !Object.hasOwn(inner, 'assignmentType')) {
    parent.wrong(name, inner, 'a policy names a published rule: { "policyRuleURI": "name:version-tag", "parameters": {}, "settings": {} }; publish code of your own with `aios policy publish DIR`')
    return undefined
  }
  return readRef(new Fields(inner, parent.path(name), parent.problems))
}

/** Policies by name: an object of them, or AIOS's `policyRulesSpec` list whose items carry their `name`. */
export function parsePolicySet(parent: Fields, ...names: readonly string[]): PolicySet {
  const rules: Record<string, PolicyRef> = {}
  const hints: Record<string, Json> = {}
  const [first = 'policies'] = names
  const value = parent.find(...names)
  if (isList(value)) {
    for (const [index, item] of value.entries()) {
      const at = `${first}[${index}]`
      if (!isObject(item)) {
        parent.wrong(at, item, 'give { "values": { "name": …, "policyRuleURI": … } }')
        continue
      }
      const fields = new Fields(bare(item, ''), parent.path(at), parent.problems)
      const name = fields.needed(['name'], 'say which policy this is, for example "loadBalancer"', 100)
      const ref = readRef(fields)
      if (name === '' || ref === undefined) continue
      const known = BY_SPELLING.get(plainName(name)) ?? name
      if (Object.hasOwn(rules, known) && rules[known]?.policyRuleURI !== ref.policyRuleURI) fields.wrong('policyRuleURI', ref.policyRuleURI, `${known} is ${quote(rules[known]?.policyRuleURI)} by an earlier item: keep one of them`)
      rules[known] = ref
    }
  } else if (isObject(value)) {
    const fields = new Fields(value, parent.path(first), parent.problems)
    for (const [name, item] of Object.entries(value)) {
      if (name.length > 100) parent.wrong(`${first}.${name.slice(0, 40)}…`, name, 'use a name of at most 100 characters')
      else if (isHint(item)) hints[name] = item
      else {
        const ref = parsePolicyRef(fields, name)
        if (ref !== undefined) rules[BY_SPELLING.get(plainName(name)) ?? name] = ref
      }
    }
  } else if (value !== undefined) parent.wrong(first, value, 'give policies by name, or a list of { "values": { "name": … } }')
  return { rules, hints }
}

/**
 * The component's policies under the block's: by name, and where both name the same rule, member by member, so that a block
 * may set one parameter and keep the others.
 */
export function laidOver(component: Readonly<Record<string, PolicyRef>>, block: Readonly<Record<string, PolicyRef>>): Record<string, PolicyRef> {
  const rules: Record<string, PolicyRef> = { ...component }
  for (const [name, over] of Object.entries(block)) {
    const under = Object.hasOwn(component, name) ? component[name] : undefined
    rules[name] = under?.policyRuleURI === over.policyRuleURI ? { ...over, parameters: { ...under.parameters, ...over.parameters }, settings: { ...under.settings, ...over.settings } } : over
  }
  return rules
}

function readRef(fields: Fields): PolicyRef | undefined {
  const names = ['policyRuleURI', 'policy_rule_uri', 'policyRuleUri']
  const said = fields.find(...names)
  const uri = typeof said === 'number' ? undefined : fields.text(names)
  if (typeof said === 'number') fields.wrong('policyRuleURI', said, 'give the name of a published rule, for example "least-loaded:1.0-stable"')
  const parameters = fields.object('parameters') ?? {}
  const settings = fields.object('settings') ?? {}
  if (uri !== undefined) return { policyRuleURI: uri, parameters, settings }
  const asksForDefault = fields.find('rankingPolicyRule') === DEFAULT_RULE || Object.keys(parameters).length > 0 || Object.keys(settings).length > 0
  return asksForDefault ? { policyRuleURI: DEFAULT_RULE, parameters, settings } : undefined
}

function bare(value: JsonObject, name: string): JsonObject {
  let inner = value
  for (let depth = 0; depth < WRAPPERS; depth += 1) {
    const next: Json | undefined = inner['values'] ?? inner['value'] ?? (name === '' ? undefined : inner[name])
    if (!isObject(next)) break
    inner = next
  }
  return inner
}

const RULE_FIELDS = ['policyRuleURI', 'policy_rule_uri', 'policyRuleUri', 'parameters', 'settings', 'values', 'value', 'rankingPolicyRule', 'executionMode']

function isHint(value: Json): boolean {
  return isObject(value) && Object.keys(value).length > 0 && !RULE_FIELDS.some(field => Object.hasOwn(value, field))
}
