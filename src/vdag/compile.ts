import { MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Template, VdagNode, VdagSpec } from '../../protocols/specs.ts'
import { assert } from '../lib/assert.ts'
import { isJsonObject } from '../lib/json.ts'
import { MUXED_INPUTS } from '../specs/template.ts'
import { assignBlock, type Assignment, type AssignmentParts } from './assign.ts'
import { entriesOf, graphError, protocolProblems, standbys, structureProblems, tailsOf, type Compatible, type GraphProblem } from './graph.ts'
import type { Plan, PlanInput, PlanNode, PlanPlayer, PlanPolicy, RunLimits } from './plan.ts'

export type CompileParts = AssignmentParts & { readonly compatible: Compatible; readonly limits: RunLimits }

const DEEPEST = 8
const MOST_NODES = 10_000
const LONGEST_LABEL = 400

/** Where the labels of one graph go in the plan, once it is flat. */
type Ends = { readonly entries: readonly string[]; readonly tails: readonly string[]; readonly input: Template | undefined; readonly output: Template | undefined }
type Draft = { readonly label: string; readonly inputs: PlanInput[]; players: readonly (PlanPlayer & { readonly input: Template | undefined })[] }

/**
 * Checks a vDAG, assigns its nodes and flattens what is nested. Throws NOT_FOUND, CONTENT_UNAVAILABLE,
 * GRAPH_INVALID or PROTOCOL_MISMATCH with every problem of the graph where they were found.
 */
export async function compilePlan(spec: VdagSpec, parts: CompileParts, signal: AbortSignal): Promise<Plan> {
  const compiler = new Compiler(parts, signal)
  const { tails } = await compiler.expand(spec, '', [])
  const nodes = inOrder(compiler.drafts)
  const deadlineMs = outputWaitMs(spec) ?? parts.limits.deadlineMs
  return { vdag: spec.vdagURI, nodes, outputs: [...tails], limits: { ...parts.limits, deadlineMs, retries: parts.limits.retries + 2 * nodes.length } }
}

class Compiler {
  readonly drafts = new Map<string, Draft>()
  readonly #parts: CompileParts
  readonly #signal: AbortSignal

  constructor(parts: CompileParts, signal: AbortSignal) {
    this.#parts = parts
    this.#signal = signal
  }

  /** Adds the nodes of `spec` under `scope`; `path` are the vDAGs it is nested in. */
  async expand(spec: VdagSpec, scope: string, path: readonly string[]): Promise<Ends> {
    const here = [...path, spec.vdagURI]
    if (path.includes(spec.vdagURI)) throw graphError(path[0] ?? spec.vdagURI, [invalid(`the vDAGs ${here.slice(path.indexOf(spec.vdagURI)).join(' → ')} contain one another: remove one of these nodes`)])
    if (here.length > DEEPEST) throw graphError(path[0] ?? spec.vdagURI, [invalid(`${here.join(' → ')} is nested deeper than ${DEEPEST} vDAGs: flatten some of them`)])
    const broken = structureProblems(spec)
    if (broken.length > 0) throw graphError(spec.vdagURI, broken)
    const assigned = await this.#assign(spec)
    const ends = new Map<string, Ends>()
    const aside = standbys(spec)
    for (const node of spec.nodes) if (!aside.has(node.label)) ends.set(node.label, await this.#place(node, spec, scope, here, assigned))
    const typed = { ...spec, nodes: spec.nodes.map(node => withProtocols(node, ends.get(node.label), assigned.get(node.label))) }
    const mismatches = protocolProblems(typed, this.#parts.compatible)
    if (mismatches.length > 0) throw graphError(spec.vdagURI, mismatches)
    for (const edge of spec.edges) {
      for (const to of endsOf(ends, edge.to).entries) {
        for (const from of endsOf(ends, edge.from).tails) this.#draft(to).inputs.push({ from, scope, as: edge.to, ...(edge.converter === undefined ? {} : { converter: edge.converter }) })
      }
    }
    const [entries, tails] = [entriesOf(spec), tailsOf(spec)]
    return {
      entries: entries.flatMap(label => endsOf(ends, label).entries),
      tails: tails.flatMap(label => endsOf(ends, label).tails),
      input: entries.length === 1 ? endsOf(ends, entries[0]!).input : undefined,
      output: tails.length === 1 ? endsOf(ends, tails[0]!).output : undefined,
    }
  }

  async #assign(spec: VdagSpec): Promise<ReadonlyMap<string, Assignment>> {
    const blocks = spec.nodes.filter(({ type }) => type === 'block')
    const verdicts = await Promise.all(blocks.map(node => assignBlock(node, spec.vdagURI, this.#parts, this.#signal)))
    const problems = blocks.flatMap((node, at) => {
      const verdict: Verdict<Assignment> = verdicts[at] ?? refused('was not assigned')
      return verdict.ok ? [] : [invalid(`node "${node.label}" ${verdict.because}`)]
    })
    if (problems.length > 0) throw graphError(spec.vdagURI, problems)
    return new Map(blocks.flatMap((node, at) => {
      const verdict = verdicts[at]
      return verdict?.ok === true ? [[node.label, verdict.value] as const] : []
    }))
  }

  async #place(node: VdagNode, spec: VdagSpec, scope: string, here: readonly string[], assigned: ReadonlyMap<string, Assignment>): Promise<Ends> {
    const label = `${scope}${node.label}`
    if (node.type === 'vdag') return this.#nest(node, spec, label, scope, here)
    if (label.length > LONGEST_LABEL) throw graphError(here[0]!, [invalid(`the label "${label.slice(0, 60)}…" is longer than ${LONGEST_LABEL} characters: shorten the labels around it`)])
    if (this.drafts.size >= MOST_NODES) throw graphError(here[0]!, [invalid(`the vDAG has more than ${MOST_NODES} nodes once its vDAGs are unfolded: split it`)])
    const byLabel = new Map(spec.nodes.map(other => [other.label, other]))
    const players = [node, ...node.fallbacks.flatMap(name => byLabel.get(name) ?? [])].map(player => {
      const found = assigned.get(player.label)
      assert(found !== undefined, `every block of a checked graph is assigned, "${player.label}" too`)
      const wrap = (rule: VdagNode['preprocessingPolicyRule']): PlanPolicy[] => (rule === undefined ? [] : [policyOf(rule, player, spec, scope)])
      return { label: `${scope}${player.label}`, blocks: [...found.blocks], pre: wrap(player.preprocessingPolicyRule), post: wrap(player.postprocessingPolicyRule), join: 'auto' as const, input: player.inputProtocol ?? said(found.record.inputProtocol) }
    })
    this.drafts.set(label, { label, inputs: [], players })
    return { entries: [label], tails: [label], input: players[0]!.input, output: node.outputProtocol ?? said(assigned.get(node.label)?.record.outputProtocol) }
  }

  /** A nested graph: its inputs take the node's place at the front, its outputs at the back, the node's policies with them. */
  async #nest(node: VdagNode, spec: VdagSpec, label: string, scope: string, here: readonly string[]): Promise<Ends> {
    assert(node.vdagURI !== undefined, 'a checked vDAG node has a URI')
    const inner = await this.#inner(node.vdagURI, node, here)
    const ends = await this.expand(inner, `${label}/`, here)
    for (const entry of ends.entries) this.#wrap(entry, node.preprocessingPolicyRule, player => ({ ...player, pre: [policyOf(node.preprocessingPolicyRule!, node, spec, scope), ...player.pre] }))
    for (const tail of ends.tails) this.#wrap(tail, node.postprocessingPolicyRule, player => ({ ...player, post: [...player.post, policyOf(node.postprocessingPolicyRule!, node, spec, scope)] }))
    return { ...ends, input: node.inputProtocol ?? ends.input, output: node.outputProtocol ?? ends.output }
  }

  async #inner(uri: string, node: VdagNode, here: readonly string[]): Promise<VdagSpec> {
    try {
      return (await this.#parts.catalogue.vdag(uri, this.#signal)).spec
    } catch (error) {
      if (error instanceof MeshError && error.code === 'NOT_FOUND') throw graphError(here[here.length - 1]!, [invalid(`node "${node.label}" runs the vDAG ${uri}, which does not exist: publish it, or name one that \`aios vdag list\` shows`)])
      throw error
    }
  }

  #wrap(label: string, rule: VdagNode['preprocessingPolicyRule'], change: (player: Draft['players'][number]) => Draft['players'][number]): void {
    if (rule === undefined) return
    const draft = this.#draft(label)
    draft.players = draft.players.map(change)
  }

  #draft(label: string): Draft {
    const draft = this.drafts.get(label)
    assert(draft !== undefined, `the plan has a node "${label}"`)
    return draft
  }
}

function policyOf(rule: NonNullable<VdagNode['preprocessingPolicyRule']>, node: VdagNode, spec: VdagSpec, scope: string): PlanPolicy {
  return { rule, vdag: spec.vdagURI, scope, label: node.label, modelParameters: node.modelParameters }
}

function endsOf(ends: ReadonlyMap<string, Ends>, label: string): Ends {
  const found = ends.get(label)
  assert(found !== undefined, `a checked graph has no edge to "${label}"`)
  return found
}

function withProtocols(node: VdagNode, ends: Ends | undefined, assignment: Assignment | undefined): VdagNode {
  const input = node.inputProtocol ?? ends?.input ?? said(assignment?.record.inputProtocol)
  const output = node.outputProtocol ?? ends?.output ?? said(assignment?.record.outputProtocol)
  return { ...node, ...(input === undefined ? {} : { inputProtocol: input }), ...(output === undefined ? {} : { outputProtocol: output }) }
}

/** An empty template says nothing. */
function said(template: Template | undefined): Template | undefined {
  return template === undefined || Object.keys(template).length === 0 ? undefined : template
}

/** Kahn's algorithm; ties keep the author's order. */
function inOrder(drafts: ReadonlyMap<string, Draft>): PlanNode[] {
  const waits = new Map([...drafts].map(([label, { inputs }]) => [label, inputs.length]))
  const next = new Map<string, string[]>([...drafts.keys()].map(label => [label, []]))
  for (const { label, inputs } of drafts.values()) for (const { from } of inputs) next.get(from)?.push(label)
  const ready = [...drafts.keys()].filter(label => waits.get(label) === 0)
  for (const label of ready) {
    for (const to of next.get(label) ?? []) {
      const left = (waits.get(to) ?? 0) - 1
      waits.set(to, left)
      if (left === 0) ready.push(to)
    }
  }
  assert(ready.length === drafts.size, 'a checked graph has no cycle')
  return ready.map(label => {
    const draft = drafts.get(label)!
    return { label, inputs: draft.inputs, players: draft.players.map(({ input, ...player }) => ({ ...player, join: joinOf(draft.inputs.length, input) })) }
  })
}

function joinOf(sources: number, input: Template | undefined): PlanPlayer['join'] {
  if (sources < 2 || input === undefined || Object.keys(input).length === 0) return 'auto'
  return Object.hasOwn(input, MUXED_INPUTS) ? 'list' : 'merge'
}

/** AIOS's controller setting: how long a caller waits for an output at most. */
function outputWaitMs(spec: VdagSpec): Millis | undefined {
  const settings = spec.controller['initSettings']
  const seconds = isJsonObject(settings) ? settings['maxOutputWaitTimeSeconds'] : undefined
  return typeof seconds === 'number' && seconds > 0 && seconds <= 86_400 ? Math.max(1, Math.round(seconds * 1_000)) : undefined
}

function invalid(because: string): GraphProblem {
  return { code: 'GRAPH_INVALID', because }
}
