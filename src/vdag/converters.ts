import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRule, Template, VdagSpec } from '../../protocols/specs.ts'
import { isJsonObject } from '../lib/json.ts'
import { Problems } from '../specs/problems.ts'
import { compatible } from '../specs/template.ts'
import { readTemplate } from '../specs/template-language.ts'
import { unfitEdges } from './graph.ts'

/** The tag by which a published rule says that it is one, beside `settings.converts: { from, to }`: the protocols it stands between. */
const TAG = 'converter'
/** Rules looked through for one edge's sake. */
const LOOKED_AT = 1_000

export type ConverterShelf = {
  policies(): Promise<readonly { readonly uri: string }[]>
  policy(uri: string, signal?: AbortSignal): Promise<{ readonly rule: PolicyRule }>
}

/**
 * Puts a registered converter on each edge whose ends do not fit one another (AIOS's `schema_convertors`): one that takes what the
 * edge carries and gives what its end takes. Of several the first by name, so that the same graph is always the same. Edges for
 * which there is none stay as they are, for the check that follows. `typed`: the graph with the protocols of its blocks.
 */
export async function insertConverters(spec: VdagSpec, typed: VdagSpec, shelf: ConverterShelf, signal: AbortSignal): Promise<VdagSpec> {
  const unfit = unfitEdges(typed, compatible)
  if (unfit.length === 0) return spec
  const converters = await registered(shelf, signal)
  const chosen = new Map(unfit.flatMap(({ edge, from, to }) => {
    const found = converters.find(converter => compatible(from, converter.from).ok && compatible(converter.to, to).ok)
    return found === undefined ? [] : [[`${edge.from}\0${edge.to}`, found.uri] as const]
  }))
  return { ...spec, edges: spec.edges.map(edge => {
    const uri = chosen.get(`${edge.from}\0${edge.to}`)
    return uri === undefined ? edge : { ...edge, converter: { policyRuleURI: uri, parameters: {}, settings: {} } }
  }) }
}

async function registered(shelf: ConverterShelf, signal: AbortSignal): Promise<readonly { readonly uri: string; readonly from: Template; readonly to: Template }[]> {
  const uris = (await shelf.policies()).map(({ uri }) => uri).sort().slice(0, LOOKED_AT)
  const rules = await Promise.all(uris.map(uri => shelf.policy(uri, signal).then(({ rule }) => rule, (error: unknown) => {
    // One that cannot be had now stands between nothing.
    if (error instanceof MeshError) return undefined
    throw error
  })))
  return rules.flatMap(rule => {
    const converts: Json | undefined = rule?.tags.includes(TAG) === true ? rule.settings['converts'] : undefined
    if (rule === undefined || !isJsonObject(converts)) return []
    const [from, to] = [read(converts['from']), read(converts['to'])]
    return from === undefined || to === undefined ? [] : [{ uri: rule.policyRuleURI, from, to }]
  })
}

function read(given: Json | undefined): Template | undefined {
  const problems = new Problems('converter')
  const template = given === undefined ? undefined : readTemplate(given, 'converts', problems)
  return problems.count === 0 ? template : undefined
}
