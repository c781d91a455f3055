import { check } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json, PeerId } from '../../protocols/ids.ts'
import { policyGraph, type PolicyGraph } from '../../protocols/policy.ts'
import { quote } from '../../protocols/refusal.ts'
import { isList } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { Problems } from './problems.ts'
import { readTemplate } from './template-language.ts'
import { makeUri } from './uri.ts'

/**
 * A graph of policy functions in AIOS's snake_case or the one form: which functions, who feeds whom, schemas of what goes in
 * and comes out. Throws SPEC_INVALID for a field, GRAPH_INVALID for a cycle, a strange name, or anything but one leaf.
 */
export function parsePolicyGraph(document: unknown, author: PeerId): PolicyGraph {
  const problems = new Problems('policy graph')
  const spec = new Fields(specValues(document, 'policy graph'), '', problems)
  const name = spec.part(['graphName', 'name'], 'risk-analysis')
  const version = spec.part(['graphVersion', 'version'], '1.0.0')
  const releaseTag = spec.part(['graphReleaseTag', 'releaseTag'], 'stable')
  const graph = {
    graphURI: makeUri({ name, version, releaseTag }), name, version, releaseTag,
    functionIds: [...spec.texts(['graphFunctionIds', 'functionIds'], 200)],
    connections: readConnections(spec, problems),
    searchTags: [...spec.texts(['graphSearchTags', 'searchTags', 'tags'])],
    description: spec.text(['graphDescription', 'description'], 2_000) ?? '',
    metadata: spec.object('graphMetadata', 'metadata') ?? {},
    inputSchema: readTemplate(spec.find('graphInputSchema', 'inputSchema'), 'graphInputSchema', problems),
    outputSchema: readTemplate(spec.find('graphOutputSchema', 'outputSchema'), 'graphOutputSchema', problems),
    author,
  }
  problems.settle()
  const parsed = check(policyGraph, graph, 'policy graph', 'SPEC_INVALID')
  orderOf(parsed)
  return parsed
}

function readConnections(spec: Fields, problems: Problems): Record<string, string[]> {
  const connections: Record<string, string[]> = {}
  for (const [from, to] of Object.entries(spec.object('graphConnectionData', 'connections') ?? {})) {
    const listed: readonly Json[] = isList(to) ? to : [to]
    const names = listed.filter(name => typeof name === 'string')
    if (names.length < listed.length) problems.add(`graphConnectionData.${from}`, `${quote(to)} must be a list of functions that take what ${from} gives`)
    connections[from] = [...new Set(names)]
  }
  return connections
}

export type GraphStep = { readonly name: string; readonly after: readonly string[] }

/**
 * The functions in an order in which each comes after those that feed it; the last one is the leaf. Throws GRAPH_INVALID that
 * names the function and the fix.
 */
export function orderOf({ functionIds, connections }: Pick<PolicyGraph, 'functionIds' | 'connections'>): readonly GraphStep[] {
  const names = new Set(functionIds)
  if (names.size < functionIds.length) throw invalid(`graphFunctionIds names ${functionIds.find((name, at) => functionIds.indexOf(name) !== at)} twice`)
  const feeds = new Map<string, string[]>([...names].map(name => [name, []]))
  for (const [from, to] of Object.entries(connections)) {
    const strange = [from, ...to].find(name => !names.has(name))
    if (strange !== undefined) throw invalid(`${strange} is connected but not listed in graphFunctionIds (${functionIds.join(', ')})`)
    for (const name of to) feeds.get(name)?.push(from)
  }
  const leaves = functionIds.filter(name => (connections[name] ?? []).length === 0)
  const order: GraphStep[] = []
  const done = new Set<string>()
  while (order.length < names.size) {
    const ready = functionIds.filter(name => !done.has(name) && (feeds.get(name) ?? []).every(from => done.has(from)))
    if (ready.length === 0) throw invalid(`${functionIds.filter(name => !done.has(name)).join(', ')} wait for one another: break the cycle`)
    for (const name of ready) {
      done.add(name)
      order.push({ name, after: feeds.get(name) ?? [] })
    }
  }
  if (leaves.length !== 1) throw invalid(`it ends in ${leaves.join(' and ')}: exactly one function may feed no other, for its output is the graph's`)
  return order
}

function invalid(because: string): MeshError {
  return new MeshError('GRAPH_INVALID', `policy graph: ${because}`)
}
