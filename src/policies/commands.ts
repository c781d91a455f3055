import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRule } from '../../protocols/specs.ts'
import { isJsonObject } from '../lib/json.ts'
import { parseTemplate, validate } from '../specs/template.ts'

/**
 * May this management command be given, with this data? A rule that declares no commands takes any. Throws BAD_INPUT that
 * names the commands there are, or the field that does not fit.
 */
export function checkCommand({ policyRuleURI, managementCommands }: PolicyRule, action: string, data: Json): void {
  const declared = Object.keys(managementCommands)
  if (declared.length === 0) return
  const found = Object.hasOwn(managementCommands, action) ? managementCommands[action] : undefined
  if (found === undefined) throw new MeshError('BAD_INPUT', `${policyRuleURI} has no command ${action}: it has ${declared.join(', ')}`)
  // `schema` in AIOS's rules, `args` in its components.
  const fields = isJsonObject(found) ? found['schema'] ?? found['args'] : undefined
  if (fields === undefined || fields === null) return
  const problems = validate(parseTemplate(fields, `the schema of ${action}`), data)
  if (problems.length > 0) throw new MeshError('BAD_INPUT', `${policyRuleURI}: ${action}: ${problems.slice(0, 3).join('; ')}`, { details: { field: (problems[0] ?? '').split(':')[0] ?? '' } })
}
