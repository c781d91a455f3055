import { MeshError, type Verdict } from '../../protocols/errors.ts'
import type { Template, VdagEdge, VdagNode, VdagSpec } from '../../protocols/specs.ts'
import { nearestName } from '../lib/nearest-name.ts'
import { compatibleFanIn } from '../specs/template.ts'

export type Compatible = (output: Template, input: Template) => Verdict<true>

/** What is wrong with a graph, and what its author can do about it. */
export type GraphProblem = { readonly code: 'GRAPH_INVALID' | 'PROTOCOL_MISMATCH'; readonly because: string }

const SHOWN = 20
/** Nesting puts a slash between labels, idempotency keys a bar. */
const UNUSABLE_LABEL = /[/|\p{Cc}]|^__proto__$/u

/** Throws GRAPH_INVALID, or PROTOCOL_MISMATCH when only protocols disagree, listing every problem with node and fix. */
export function checkGraph(spec: VdagSpec, compatible: Compatible): void {
  const problems = [...structureProblems(spec), ...protocolProblems(spec, compatible)]
  if (problems.length > 0) throw graphError(spec.vdagURI, problems)
}

export function graphError(vdag: string, problems: readonly GraphProblem[]): MeshError {
  const code = problems.some(problem => problem.code === 'GRAPH_INVALID') ? 'GRAPH_INVALID' : 'PROTOCOL_MISMATCH'
  const more = problems.length > SHOWN ? `; and ${problems.length - SHOWN} more` : ''
  return new MeshError(code, `${vdag}: ${problems.slice(0, SHOWN).map(({ because }) => because).join('; ')}${more}`, { details: { problems: problems.length } })
}

/** Labels that only stand in for others when those fail; they take part in no edge. */
export function standbys(spec: VdagSpec): ReadonlySet<string> {
  return new Set(spec.nodes.flatMap(node => node.fallbacks))
}

/** The labels that take the run's input, in order. */
export function entriesOf(spec: VdagSpec): readonly string[] {
  if (spec.inputs.length > 0) return spec.inputs.filter(label => !standbys(spec).has(label))
  return ends(spec, edge => edge.to)
}

/** The labels whose outputs are the run's result, in order. */
export function tailsOf(spec: VdagSpec): readonly string[] {
  if (spec.outputs.length > 0) return spec.outputs.filter(label => !standbys(spec).has(label))
  return ends(spec, edge => edge.from)
}

/** Labels, edges, cycles, ends and fallbacks. */
export function structureProblems(spec: VdagSpec): readonly GraphProblem[] {
  const problems: string[] = []
  const labels = new Set<string>()
  for (const node of spec.nodes) {
    if (labels.has(node.label)) problems.push(`two nodes are labelled "${node.label}": rename one of them`)
    labels.add(node.label)
    problems.push(...nodeProblems(node, spec.vdagURI))
  }
  const known = (label: string, where: string): boolean => {
    if (labels.has(label)) return true
    const near = nearestName(label, labels)
    problems.push(`${where} names "${label}", which is no node: ${near === undefined ? 'add it to the nodes, or name one of them' : `did you mean "${near}"?`}`)
    return false
  }
  const pairs = new Set<string>()
  const edges = spec.edges.filter(edge => {
    const ok = [known(edge.from, `the edge ${edge.from} → ${edge.to}`), edge.from === edge.to || known(edge.to, `the edge ${edge.from} → ${edge.to}`)].every(Boolean)
    if (edge.from === edge.to) problems.push(`node "${edge.from}" has an edge to itself: remove it`)
    const pair = JSON.stringify([edge.from, edge.to])
    if (pairs.has(pair)) problems.push(`the edge ${edge.from} → ${edge.to} is listed twice: remove one, a node gets each source once`)
    pairs.add(pair)
    return ok && edge.from !== edge.to
  })
  problems.push(...fallbackProblems(spec, known), ...endProblems(spec, edges, known))
  const cycle = findCycle(labels, edges)
  if (cycle !== undefined) problems.push(`the nodes ${[...cycle, cycle[0]].map(label => `"${label}"`).join(' → ')} form a cycle: remove one of these edges`)
  else problems.push(...reachProblems({ ...spec, edges }, labels))
  return problems.map(because => ({ code: 'GRAPH_INVALID', because }))
}

/** What every node gives against what its successors take, fallbacks in their node's place, converters trusted. */
export function protocolProblems(spec: VdagSpec, compatible: Compatible): readonly GraphProblem[] {
  const byLabel = new Map(spec.nodes.map(node => [node.label, node]))
  const playing = (label: string): readonly VdagNode[] => [label, ...(byLabel.get(label)?.fallbacks ?? [])].flatMap(name => byLabel.get(name) ?? [])
  const sources = new Map<string, VdagEdge[]>()
  for (const edge of spec.edges) {
    const known = sources.get(edge.to)
    if (known === undefined) sources.set(edge.to, [edge])
    else known.push(edge)
  }
  return [...sources].flatMap(([label, edges]) => playing(label).flatMap(to => {
    const said = edges.length === 1 ? edges.flatMap(edge => playing(edge.from).flatMap(from => edgeMismatch(edge, from, to, compatible))) : joinMismatch(edges, playing, to)
    return said.map(because => ({ code: 'PROTOCOL_MISMATCH' as const, because }))
  }))
}

/** Edges with one source whose ends do not fit one another and that have no converter. */
export function unfitEdges(spec: VdagSpec, compatible: Compatible): readonly { readonly edge: VdagEdge; readonly from: Template; readonly to: Template }[] {
  const byLabel = new Map(spec.nodes.map(node => [node.label, node]))
  return spec.edges.flatMap(edge => {
    const [from, to] = [byLabel.get(edge.from)?.outputProtocol, byLabel.get(edge.to)?.inputProtocol]
    if (edge.converter !== undefined || from === undefined || to === undefined || compatible(from, to).ok) return []
    return [{ edge, from, to }]
  })
}

function edgeMismatch(edge: VdagEdge, from: VdagNode, to: VdagNode, compatible: Compatible): readonly string[] {
  if (edge.converter !== undefined || from.outputProtocol === undefined || to.inputProtocol === undefined) return []
  const verdict = compatible(from.outputProtocol, to.inputProtocol)
  return verdict.ok ? [] : [`node "${to.label}" cannot take what "${from.label}" gives (edge ${edge.from} → ${edge.to}): ${verdict.because}; change a protocol or put a converter on the edge`]
}

function joinMismatch(edges: readonly VdagEdge[], playing: (label: string) => readonly VdagNode[], to: VdagNode): readonly string[] {
  const input = to.inputProtocol
  if (input === undefined) return []
  const given = edges.map(edge => playing(edge.from).map(({ label, outputProtocol }) => ({ label, output: edge.converter === undefined ? outputProtocol ?? {} : {} })))
  const usual = given.flatMap(players => players.slice(0, 1))
  // As planned, and once with each fallback in its node's place.
  const casts = [usual, ...given.flatMap((players, at) => players.slice(1).map(player => usual.with(at, player)))]
  const reasons = casts.map(cast => compatibleFanIn(cast, input)).flatMap(verdict => (verdict.ok ? [] : [verdict.because]))
  return [...new Set(reasons)].map(because => `node "${to.label}" cannot take what ${edges.map(({ from }) => `"${from}"`).join(' and ')} give together: ${because}; change a protocol or put a converter on the edge`)
}

function nodeProblems(node: VdagNode, within: string): readonly string[] {
  const problems: string[] = []
  if (UNUSABLE_LABEL.test(node.label)) problems.push(`node "${node.label}" has a label that cannot be used: leave out "/", "|" and control characters`)
  if (node.type === 'vdag') {
    if (node.vdagURI === undefined) problems.push(`node "${node.label}" is a vDAG without a vdagURI: name the vDAG it runs`)
    else if (node.vdagURI === within) problems.push(`node "${node.label}" runs ${within}, the vDAG that it is part of: name another, or remove it`)
    if (node.fallbacks.length > 0) problems.push(`node "${node.label}" is a vDAG and has fallbacks: give them to nodes inside ${node.vdagURI ?? 'it'}`)
  } else if (node.blockId === undefined && node.componentURI === undefined && node.assignmentPolicyRule === undefined) {
    problems.push(`node "${node.label}" names no block: give manualBlockId, componentURI or assignmentPolicyRule`)
  }
  return problems
}

function fallbackProblems(spec: VdagSpec, known: (label: string, where: string) => boolean): readonly string[] {
  const problems: string[] = []
  const byLabel = new Map(spec.nodes.map(node => [node.label, node]))
  const wired = new Set(spec.edges.flatMap(edge => [edge.from, edge.to]))
  for (const node of spec.nodes) {
    for (const label of new Set(node.fallbacks)) {
      if (!known(label, `node "${node.label}" has a fallback that`)) continue
      if (label === node.label) problems.push(`node "${label}" is its own fallback: remove it`)
      else if (wired.has(label)) problems.push(`node "${label}" is a fallback of "${node.label}" and has edges: remove them, it takes over those of "${node.label}"`)
      if (byLabel.get(label)?.type === 'vdag') problems.push(`node "${label}" is a fallback and a vDAG: a fallback must be a block`)
      if (label !== node.label && (byLabel.get(label)?.fallbacks.length ?? 0) > 0) problems.push(`node "${label}" is a fallback with fallbacks: list them all at "${node.label}", in order`)
    }
  }
  return problems
}

function endProblems(spec: VdagSpec, edges: readonly VdagEdge[], known: (label: string, where: string) => boolean): readonly string[] {
  const problems: string[] = []
  const fed = new Set(edges.map(({ to }) => to))
  for (const [name, said] of [['inputs', spec.inputs], ['outputs', spec.outputs]] as const) {
    if (new Set(said).size < said.length) problems.push(`${name} lists a node twice`)
    for (const label of new Set(said)) {
      if (known(label, name) && name === 'inputs' && fed.has(label)) problems.push(`inputs names "${label}", which gets its input from ${edges.filter(({ to }) => to === label).map(({ from }) => `"${from}"`).join(', ')}: remove it from inputs, or those edges`)
    }
  }
  return problems
}

function reachProblems(spec: VdagSpec, labels: ReadonlySet<string>): readonly string[] {
  const next = successors(spec.edges)
  const reached = new Set(entriesOf(spec).filter(label => labels.has(label)))
  for (const label of reached) for (const { to } of next.get(label) ?? []) reached.add(to)
  const aside = standbys(spec)
  const problems = [...labels].filter(label => !reached.has(label) && !aside.has(label)).map(label => `node "${label}" cannot be reached from the inputs ${entriesOf(spec).map(name => `"${name}"`).join(', ')}: connect it, list it in inputs, or remove it`)
  if (tailsOf(spec).length === 0) problems.push('no node is left to be an output: name one in outputs')
  return problems
}

function findCycle(labels: ReadonlySet<string>, edges: readonly VdagEdge[]): readonly string[] | undefined {
  const next = successors(edges)
  const done = new Set<string>()
  for (const root of labels) {
    // Depth first without recursion: `path` holds the labels on the way, `at` the edge to try next at each.
    const path = [root]
    const at = [0]
    const on = new Set(path)
    while (path.length > 0 && !done.has(root)) {
      const label = path[path.length - 1]!
      const edge = next.get(label)?.[at[at.length - 1]!]
      at[at.length - 1]! += 1
      if (edge === undefined) {
        done.add(label)
        on.delete(label)
        path.pop()
        at.pop()
      } else if (on.has(edge.to)) return path.slice(path.indexOf(edge.to))
      else if (!done.has(edge.to)) {
        path.push(edge.to)
        at.push(0)
        on.add(edge.to)
      }
    }
  }
  return undefined
}

function successors(edges: readonly VdagEdge[]): ReadonlyMap<string, readonly VdagEdge[]> {
  const next = new Map<string, VdagEdge[]>()
  for (const edge of edges) {
    const known = next.get(edge.from)
    if (known === undefined) next.set(edge.from, [edge])
    else known.push(edge)
  }
  return next
}

function ends(spec: VdagSpec, side: (edge: VdagEdge) => string): readonly string[] {
  const taken = new Set(spec.edges.map(side))
  const aside = standbys(spec)
  return spec.nodes.map(({ label }) => label).filter(label => !taken.has(label) && !aside.has(label))
}
