import { check } from '../../protocols/codec.ts'
import type { Cid, Json, PeerId } from '../../protocols/ids.ts'
import { policyRule, type PolicyRule, type Template } from '../../protocols/specs.ts'
import { isList, isObject } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { Problems } from './problems.ts'
import { judge } from './template-check.ts'
import { readTemplate } from './template-language.ts'
import { makeUri } from './uri.ts'

/**
 * A policy rule's metadata, in AIOS's snake_case or the one form; `code` is the CID of its published source. AIOS's
 * `code` URL and its archive kind are dropped. Throws SPEC_INVALID that lists what to fix.
 */
export function parsePolicyRule(document: unknown, { author, code }: { readonly author: PeerId; readonly code: Cid }): PolicyRule {
  const problems = new Problems('policy rule')
  const spec = new Fields(specValues(document, 'policy rule'), '', problems)
  const name = spec.part(['name', 'policyName', 'policy_name'], 'least-loaded')
  const version = spec.part(['version'], '1.0.0')
  const releaseTag = spec.part(['releaseTag', 'release_tag', 'release-tag'], 'stable')
  const policyRuleURI = makeUri({ name, version, releaseTag })
  const given = spec.text(['policyRuleURI', 'policy_rule_uri', 'policyRuleUri'])
  if (given !== undefined && given !== policyRuleURI && problems.count === 0) spec.wrong('policyRuleURI', given, `its name, version and tag make ${policyRuleURI}: leave it out or write that`)
  const rule = {
    policyRuleURI, name, version, releaseTag,
    description: spec.text(['description'], 2_000) ?? '',
    tags: [...spec.texts(['tags'])],
    code,
    codeType: readCodeType(spec),
    settings: spec.object('settings', 'policy_settings') ?? {},
    parameters: spec.object('parameters', 'policy_parameters') ?? {},
    inputSchema: readTemplate(spec.find('inputSchema', 'policy_input_schema'), 'inputSchema', problems),
    outputSchema: readTemplate(spec.find('outputSchema', 'policy_output_schema'), 'outputSchema', problems),
    managementCommands: readCommands(spec),
    ...schema('settingsSchema', readTemplate(spec.find('settingsSchema', 'policy_settings_schema'), 'settingsSchema', problems)),
    ...schema('parametersSchema', readTemplate(spec.find('parametersSchema', 'policy_parameters_schema'), 'parametersSchema', problems)),
    ...stated(spec, 'metadata', 'metadata'),
    ...stated(spec, 'functionalityData', 'functionality_data'),
    ...stated(spec, 'resourceEstimates', 'resource_estimates'),
    author,
  }
  if (problems.count === 0) checkDefaults(rule, problems)
  problems.settle()
  return check(policyRule, rule, 'policy rule', 'SPEC_INVALID')
}

/** What a rule says of itself must hold for what it sets itself. Required parameters may be left to whoever refers to it. */
function checkDefaults({ settings, parameters, settingsSchema = {}, parametersSchema = {} }: Pick<PolicyRule, 'settings' | 'parameters' | 'settingsSchema' | 'parametersSchema'>, problems: Problems): void {
  for (const [name, values, template] of [['settings', settings, settingsSchema], ['parameters', parameters, parametersSchema]] as const) {
    const set = Object.fromEntries(Object.entries(template).filter(([field]) => Object.hasOwn(values, field)))
    judge(set, values, name, problems)
  }
}

/** Left out where nothing is said, as in rules that were published before. */
function schema<Name extends string>(name: Name, template: Template): { readonly [K in Name]?: Template } | object {
  return Object.keys(template).length === 0 ? {} : { [name]: template }
}

function stated(spec: Fields, name: string, alias: string): object {
  const value = spec.object(name, alias)
  return value === undefined || Object.keys(value).length === 0 ? {} : { [name]: value }
}

/** AIOS's `type` names the contract of the class ("python_class_v1"), not the language of the code, which shows by itself; its documented sample has no `code_type`. */
function readCodeType(spec: Fields): PolicyRule['codeType'] {
  const said = spec.text(['codeType', 'code_type'])?.toLowerCase()
  const contract = spec.text(['type'])?.toLowerCase()
  if (said !== undefined && said.startsWith('python')) {
    spec.wrong('codeType', said, 'rules run as JavaScript here: write the class AIOSv1PolicyRule in a .js file and say "js_module_v1"')
    return 'js_module_v1'
  }
  if (isWasm(said) || (said === undefined && isWasm(contract))) return 'wasm_v1'
  if (said !== undefined && !SCRIPTS.includes(said)) spec.wrong('codeType', said, 'use "js_module_v1" or "wasm_v1"')
  return 'js_module_v1'
}

/** TypeScript is compiled when it is published; archives hold either. */
const SCRIPTS = ['js_module_v1', 'js', 'javascript', 'js_class_v1', 'ts', 'typescript', 'zip', 'tar.xz']

function isWasm(type: string | undefined): boolean {
  return type === 'wasm_v1' || type === 'wasm' || type === 'webassembly'
}

/** Commands by name; AIOS's documentation has them as a list of `{ name, description, schema }`. */
function readCommands(spec: Fields): Record<string, Json> {
  const value = spec.find('managementCommands', 'management_commands_schema', 'managementCommandsTemplate')
  if (isObject(value)) return { ...value }
  const commands: Record<string, Json> = {}
  if (!isList(value)) {
    if (value !== undefined) spec.wrong('managementCommands', value, 'give commands by name')
    return commands
  }
  for (const [index, item] of value.entries()) {
    const name = isObject(item) ? item['name'] : undefined
    if (!isObject(item) || typeof name !== 'string' || name === '') spec.wrong(`managementCommands[${index}]`, item, 'give { "name": …, "description": …, "schema": { … } }')
    else {
      const { name: _, ...rest } = item
      commands[name] = rest
    }
  }
  return commands
}
