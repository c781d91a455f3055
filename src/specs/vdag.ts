import { check } from '../../protocols/codec.ts'
import { blockId, type Json, type PeerId } from '../../protocols/ids.ts'
import { quote } from '../../protocols/refusal.ts'
import { vdagSpec, type Template, type VdagEdge, type VdagNode, type VdagSpec } from '../../protocols/specs.ts'
import { isList, isObject } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { parsePolicyRef } from './policy-refs.ts'
import { Problems } from './problems.ts'
import { readTemplate } from './template-language.ts'
import { makeUri } from './uri.ts'

export type VdagMode = 'create' | 'validate' | 'dry_run' | 'dry_run_assignment'

const MODES: Readonly<Record<VdagMode, readonly string[]>> = { create: [], validate: ['validateGraph', 'check'], dry_run: [], dry_run_assignment: ['dryRunAssign'] }
/** What AIOS's parser assumes where a vDAG has no version. */
const FIRST_VERSION = { version: '0.0.1', releaseTag: 'beta' } as const

/** What is to be done with the spec: create it, check its graph, or try its assignment. Throws SPEC_INVALID. */
export function vdagMode(document: unknown): VdagMode {
  const problems = new Problems('vDAG spec')
  const spec = new Fields(specValues(document, 'vDAG spec'), '', problems)
  spec.agree(['mode', 'apiMode'])
  const mode = spec.choice(['mode', 'apiMode', 'api_mode'], MODES, 'create')
  problems.settle()
  return mode
}

/**
 * A vDAG spec in any of AIOS's dialects as the one form. Reads the document only; whether the graph is acyclic, its
 * labels known and its nodes runnable is for `src/vdag` to say. Throws SPEC_INVALID that lists what to fix, by node.
 */
export function parseVdag(document: unknown, { author }: { readonly author?: PeerId } = {}): VdagSpec {
  const problems = new Problems('vDAG spec')
  const spec = new Fields(specValues(document, 'vDAG spec'), '', problems)
  const vdagName = spec.part(['vdagName', 'vdag_name'], 'tumour-triage')
  const vdagVersion = readVersion(spec)
  const nodes = spec.list('nodes').flatMap((item, index) => readNode(item, `nodes[${index}]`, problems))
  if (nodes.length === 0 && problems.count === 0) spec.wrong('nodes', spec.find('nodes'), 'give at least one node')
  const graph = spec.inside('graph')
  const edges = spec.find('edges') === undefined ? readConnections(graph) : readEdges(spec)
  const vdag = {
    vdagURI: makeUri({ name: vdagName, ...vdagVersion }),
    vdagName, vdagVersion,
    discoveryTags: [...spec.texts(['discoveryTags', 'tags'])],
    nodes, edges,
    inputs: readEnds(spec, graph, ['inputs', 'input']) ?? nodes.map(({ label }) => label).filter(label => !edges.some(({ to }) => to === label)),
    outputs: readEnds(spec, graph, ['outputs', 'output']) ?? nodes.map(({ label }) => label).filter(label => !edges.some(({ from }) => from === label)),
    controller: spec.object('controller') ?? {},
    ...(author === undefined ? {} : { author }),
  }
  spec.refuseUnknown(['vdagURI', 'mode', 'apiMode', 'author', 'edges', 'graph', 'inputs', 'input', 'outputs', 'output', 'assignmentInfo', 'compiledGraphData'])
  if (spec.find('edges') === undefined) graph.refuseUnknown()
  problems.settle()
  return check(vdagSpec, vdag, 'vDAG spec', 'SPEC_INVALID')
}

function readVersion(spec: Fields): VdagSpec['vdagVersion'] {
  const said = spec.find('vdagVersion', 'vdag_version')
  if (said === undefined) return FIRST_VERSION
  if (typeof said === 'string' && /^[\w.+-]+-[\w.+]+$/.test(said)) return { version: said.slice(0, said.lastIndexOf('-')), releaseTag: said.slice(said.lastIndexOf('-') + 1) }
  const version = spec.inside('vdagVersion', 'vdag_version')
  return {
    version: version.find('version') === undefined ? FIRST_VERSION.version : version.part(['version'], '1.0.0'),
    releaseTag: version.find('releaseTag', 'release-tag', 'release_tag', 'tag') === undefined ? FIRST_VERSION.releaseTag : version.part(['releaseTag', 'release-tag', 'release_tag', 'tag'], 'stable'),
  }
}

/** A node flat, or nested as `{ spec: { values }, IOMap }`. The IOMap is AIOS's own and carries nothing the graph does not. */
function readNode(item: Json, path: string, problems: Problems): readonly VdagNode[] {
  if (!isObject(item)) {
    problems.add(path, `${quote(item)} is not a node; give { "nodeLabel": …, "nodeType": "block", … }`)
    return []
  }
  const spec = item['spec']
  const inner = isObject(spec) ? (isObject(spec['values']) ? spec['values'] : spec) : isObject(item['values']) ? item['values'] : item
  const unlabelled = new Fields(inner, path, problems)
  const label = unlabelled.needed(['nodeLabel', 'label', 'node_label'], 'name the node, for example "classify"', 200)
  if (label === '') return []
  const node = new Fields(inner, `node "${label}"`, problems)
  const vdagURI = node.text(['vdagURI', 'vdagUri', 'vdag_uri'])
  const type = node.choice<'block' | 'vdag'>(['nodeType', 'type', 'node_type'], { block: [], vdag: ['vDAG'] }, vdagURI === undefined ? 'block' : 'vdag')
  node.agree(['manualBlockId', 'blockId'])
  node.agree(['componentURI', 'blockComponentURI'])
  const manual = node.text(['manualBlockId', 'blockId', 'manual_block_id'], 300)
  const componentURI = node.text(['componentURI', 'blockComponentURI', 'componentUri'])
  const assignmentPolicyRule = parsePolicyRef(node, 'assignmentPolicyRule')
  if (manual !== undefined && !blockId.safeParse(manual).success) node.wrong('manualBlockId', manual, 'use the id of a block: lower-case letters, digits and inner hyphens')
  const read = defined({
    label, type,
    vdagURI: type === 'vdag' ? vdagURI : undefined,
    blockId: type === 'block' ? manual : undefined,
    componentURI: type === 'block' ? componentURI : undefined,
    assignmentPolicyRule,
    preprocessingPolicyRule: parsePolicyRef(node, 'preprocessingPolicyRule'),
    postprocessingPolicyRule: parsePolicyRef(node, 'postprocessingPolicyRule'),
    modelParameters: { ...node.object('modelParameters') },
    inputProtocol: readProtocol(node, 'inputProtocol'),
    outputProtocol: readProtocol(node, 'outputProtocol'),
    fallbacks: [...node.texts(['fallbacks', 'fallback'])],
  })
  node.refuseUnknown(['nodeLabel', 'label', 'IOMap', 'name', 'vdag', 'block'])
  return [read]
}

/** AIOS's samples name schemas per port (`"output_0": "node.schemas.x"`), which its documentation says is ignored. */
function readProtocol(node: Fields, name: string): Template | undefined {
  const value = node.find(name)
  if (value === undefined || (isObject(value) && Object.values(value).every(inner => typeof inner === 'string' && /[.:/]/.test(inner)))) return undefined
  return readTemplate(value, node.path(name), node.problems)
}

/** `connections: [{ nodeLabel: destination, inputs: [{ nodeLabel: source, outputNames }] }]`. */
function readConnections(graph: Fields): VdagEdge[] {
  const edges = new Map<string, VdagEdge>()
  for (const [index, item] of graph.list('connections').entries()) {
    const at = `connections[${index}]`
    if (!isObject(item)) {
      graph.wrong(at, item, 'give { "nodeLabel": destination, "inputs": [{ "nodeLabel": source }] }')
      continue
    }
    const connection = new Fields(item, graph.path(at), graph.problems)
    const to = connection.needed(['nodeLabel', 'label'], 'name the node that receives', 200)
    for (const [position, source] of connection.list('inputs', 'input').entries()) {
      const from = typeof source === 'string' ? new Fields({ nodeLabel: source }, connection.path(`inputs[${position}]`), graph.problems) : isObject(source) ? new Fields(source, connection.path(`inputs[${position}]`), graph.problems) : undefined
      if (from === undefined) connection.wrong(`inputs[${position}]`, source, 'give { "nodeLabel": source }')
      else join(edges, readEdge(from, ['nodeLabel', 'label'], to))
    }
  }
  return [...edges.values()]
}

function readEdges(spec: Fields): VdagEdge[] {
  const edges = new Map<string, VdagEdge>()
  for (const [index, item] of spec.list('edges').entries()) {
    if (!isObject(item)) {
      spec.wrong(`edges[${index}]`, item, 'give { "from": …, "to": … }')
      continue
    }
    const edge = new Fields(item, spec.path(`edges[${index}]`), spec.problems)
    join(edges, readEdge(edge, ['from'], edge.needed(['to'], 'name the node that receives', 200)))
  }
  return [...edges.values()]
}

function readEdge(fields: Fields, names: readonly string[], to: string): VdagEdge {
  return defined({
    from: fields.needed(names, 'name the node that sends', 200),
    to,
    outputNames: [...fields.texts(['outputNames', 'outputs'])],
    converter: parsePolicyRef(fields, 'converter'),
  })
}

/** Two mentions of one pair are one edge that carries both. An edge with no names carries everything. */
function join(edges: Map<string, VdagEdge>, edge: VdagEdge): void {
  if (edge.from === '' || edge.to === '') return
  const key = JSON.stringify([edge.from, edge.to])
  const known = edges.get(key)
  const whole = known === undefined || known.outputNames.length === 0 || edge.outputNames.length === 0
  edges.set(key, known === undefined ? edge : { ...known, ...edge, outputNames: whole ? [] : [...new Set([...known.outputNames, ...edge.outputNames])] })
}

function readEnds(spec: Fields, graph: Fields, names: readonly string[]): string[] | undefined {
  const holder = graph.find(...names) === undefined ? spec : graph
  const value = holder.find(...names)
  if (value === undefined || (isList(value) && value.length === 0)) return undefined
  const labels = (isList(value) ? value : [value]).map(item => labelOf(item))
  if (labels.includes(undefined)) holder.wrong(names[0]!, value, 'give [{ "nodeLabel": … }] or a list of labels')
  return [...new Set(labels.filter(label => label !== undefined))]
}

function labelOf(item: Json): string | undefined {
  const label = isObject(item) ? (item['nodeLabel'] ?? item['label']) : item
  return typeof label === 'string' && label !== '' ? label : undefined
}

/** Without the fields that are undefined: the one form leaves them out. */
function defined<T extends object>(value: T): T {
  const out = { ...value }
  for (const key in out) if (out[key] === undefined) delete out[key]
  return out
}
