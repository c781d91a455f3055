import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef, PolicyRule } from '../../protocols/specs.ts'
import { validate } from '../specs/template.ts'

export type Members = Readonly<Record<string, Json>>
export type Said = { readonly parameters: Members; readonly settings: Members }

/**
 * What a rule starts with, member by member: its author's defaults < the component's < the block's. A block's record has the
 * last two laid over one another already, and so has `ref`. Throws BAD_INPUT that names the member that breaks the rule's schema.
 */
export function startsWith(published: PolicyRule, ref: Pick<PolicyRef, 'parameters' | 'settings'>): Said {
  const said = { parameters: { ...published.parameters, ...ref.parameters }, settings: { ...published.settings, ...ref.settings } }
  refuse(published, 'settings', published.settingsSchema, said.settings)
  refuse(published, 'parameters', published.parametersSchema, said.parameters)
  return said
}

/** The parameters of one call: its own over what the rule started with. Throws as `startsWith`. */
export function calledWith(published: PolicyRule, started: Members, own: Members | undefined): Members {
  if (own === undefined || Object.keys(own).length === 0) return started
  const parameters = { ...started, ...own }
  refuse(published, 'parameters', published.parametersSchema, parameters)
  return parameters
}

function refuse({ policyRuleURI }: PolicyRule, what: keyof Said, schema: PolicyRule['settingsSchema'], values: Members): void {
  const problems = schema === undefined ? [] : validate(schema, values)
  if (problems.length > 0) throw new MeshError('BAD_INPUT', `${policyRuleURI}: ${problems.slice(0, 3).map(problem => `${what}.${problem}`).join('; ')}`, { details: { field: `${what}.${(problems[0] ?? '').split(':')[0] ?? ''}` } })
}
