import { z } from 'zod'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import type { Packet } from '../../protocols/invoke.ts'
import type { VdagSpec } from '../../protocols/specs.ts'
import { Lru } from '../lib/lru.ts'
import { toJson } from '../lib/json.ts'
import type { Telemetry } from '../ports.ts'
import type { Catalogue, PolicyCalls } from '../roles.ts'
import type { PlanIndex, PlanInput, PlanPolicy } from './plan.ts'

/** A policy may return the packet itself or wrap it; it rewrites data, never the packet's place in its session. */
const inner = z.looseObject({ data: json })
const answerShape = z.looseObject({ packet: inner.optional(), data: json.optional(), route: z.array(z.string().max(400)).max(1_000).optional() })

type Opinion = { readonly data: Json; readonly route: readonly string[] | undefined }
type GraphFacts = { readonly vdag: Json; readonly nodes: Readonly<Record<string, Json>>; readonly graph: Json; readonly connections: Json }

const GRAPHS = 64

/** Calls the policies that stand before and after nodes, and on edges, with what AIOS tells them about their graph. */
export class NodePolicies {
  readonly #policies: PolicyCalls
  readonly #catalogue: Catalogue
  readonly #telemetry: Telemetry
  readonly #graphs = new Lru<string, Promise<GraphFacts | undefined>>(GRAPHS)

  constructor(policies: PolicyCalls, catalogue: Catalogue, telemetry: Telemetry) {
    this.#policies = policies
    this.#catalogue = catalogue
    this.#telemetry = telemetry
  }

  /** A policy that fails leaves the packet as it was. */
  async before(policies: readonly PlanPolicy[], packet: Packet, index: PlanIndex, block: string, signal: AbortSignal): Promise<Packet> {
    let changed = packet
    for (const policy of policies) changed = { ...changed, data: (await this.#ask('preprocessing', policy, changed, index, block, [], signal)).data }
    return changed
  }

  /**
   * Rewrites the output and may choose among the successors: `route` names those that run, as their graph calls them.
   * Absent when no policy chose.
   */
  async after(policies: readonly PlanPolicy[], label: string, packet: Packet, index: PlanIndex, block: string, signal: AbortSignal): Promise<{ readonly packet: Packet; readonly route: string[] | undefined }> {
    const leaving = (index.next.get(label) ?? []).flatMap(to => (index.nodes.get(to)?.inputs ?? []).filter(edge => edge.from === label).map(edge => ({ to, edge })))
    let changed = packet
    let open = leaving
    let chosen = false
    for (const policy of policies) {
      const mine = leaving.filter(({ edge }) => edge.scope === policy.scope)
      const { data, route } = await this.#ask('postprocessing', policy, changed, index, block, mine, signal)
      changed = { ...changed, data }
      if (route === undefined) continue
      chosen = true
      open = open.filter(({ to, edge }) => edge.scope !== policy.scope || route.includes(edge.as) || route.includes(to))
    }
    return { packet: changed, route: chosen ? open.map(({ to }) => to) : undefined }
  }

  /** Unlike a node's policies a converter must work: what it does not convert does not fit. Throws POLICY_FAILED. */
  async convert(packet: Packet, edge: PlanInput, to: string, vdag: string): Promise<Packet> {
    if (edge.converter === undefined) return packet
    const decision = await this.#policies.decide<Opinion | undefined>({
      hook: 'converter',
      rule: edge.converter,
      input: { packet: packetForm(packet), from: edge.from, to },
      scope: vdag,
      accept: answer => readAnswer(answer),
      fallback: () => undefined,
    })
    if (decision.value === undefined) throw new MeshError('POLICY_FAILED', `the converter ${edge.converter.policyRuleURI} on the edge ${edge.from} → ${to} did not convert: ${decision.because}`)
    return { ...packet, data: decision.value.data }
  }

  async #ask(hook: 'preprocessing' | 'postprocessing', policy: PlanPolicy, packet: Packet, index: PlanIndex, block: string, edges: readonly { readonly to: string; readonly edge: PlanInput }[], signal: AbortSignal): Promise<Opinion> {
    const facts = await this.#facts(policy.vdag, signal)
    const assigned = assignmentIn(policy.scope, index)
    const decision = await this.#policies.decide<Opinion>({
      hook,
      rule: policy.rule,
      input: { packet: packetForm(packet) },
      settings: {
        vdag: facts?.vdag ?? { vdagURI: policy.vdag },
        modelParameters: policy.modelParameters,
        block: toJson(await this.#catalogue.block(block)) ?? { blockId: block },
        block_id: block,
        node_label: policy.label,
        node: facts?.nodes[policy.label] ?? null,
        graph: facts?.graph ?? null,
        connections: facts?.connections ?? null,
        assignment_info: assigned,
        rev_mapping: Object.fromEntries(Object.entries(assigned).map(([label, id]) => [id, label])),
      },
      scope: policy.vdag,
      accept: answer => readAnswer(answer, edges, policy.label),
      fallback: () => ({ data: packet.data, route: undefined }),
    })
    if (decision.by === 'fallback') this.#telemetry.event('warn', 'run.node_policy_ignored', { vdag: policy.vdag, node: policy.label, rule: policy.rule.policyRuleURI, because: decision.because })
    return decision.value
  }

  /** A graph that cannot be read now costs a policy its context, not the run its node. */
  #facts(uri: string, signal: AbortSignal): Promise<GraphFacts | undefined> {
    const known = this.#graphs.get(uri)
    if (known !== undefined) return known
    const facts = this.#catalogue.vdag(uri, signal).then(({ spec }) => factsOf(spec), () => {
      this.#graphs.delete(uri)
      return undefined
    })
    this.#graphs.set(uri, facts)
    return facts
  }
}

function readAnswer(answer: Json, edges: readonly { readonly to: string; readonly edge: PlanInput }[] = [], label = ''): Verdict<Opinion> {
  const parsed = answerShape.safeParse(answer)
  if (!parsed.success) return refused('a policy on packets returns { packet: { data } }, or a packet')
  const { packet, data, route } = parsed.data
  const kept = packet?.data ?? data
  if (kept === undefined) return refused('the packet that came back has no data')
  const strange = route?.find(name => !edges.some(({ to, edge }) => edge.as === name || to === name))
  if (strange !== undefined) return refused(`it routes to "${strange}", which does not follow "${label}"`)
  return granted({ data: kept, route })
}

/** AIOS's names. Files stay behind: a policy decides on data. */
function packetForm(packet: Packet): Json {
  return { session_id: packet.sessionId, seq_no: packet.seqNo, ts: packet.ts, data: packet.data, files: packet.files.map(({ metadata }) => ({ metadata })) }
}

function factsOf(spec: VdagSpec): GraphFacts {
  const connections = new Map<string, Json[]>()
  for (const { from, to, outputNames } of spec.edges) connections.set(to, [...connections.get(to) ?? [], { nodeLabel: from, outputNames }])
  const listed = [...connections].map(([nodeLabel, inputs]) => ({ nodeLabel, inputs }))
  const ends = (labels: readonly string[]): Json => labels.map(nodeLabel => ({ nodeLabel }))
  return {
    vdag: toJson(spec),
    nodes: Object.fromEntries(spec.nodes.map(node => [node.label, toJson(node)])),
    graph: { connections: listed, inputs: ends(spec.inputs), outputs: ends(spec.outputs) },
    connections: listed,
  }
}

/** Label → block in the policy's own graph. */
function assignmentIn(scope: string, { plan }: PlanIndex): Readonly<Record<string, string>> {
  const here = plan.nodes.filter(({ label }) => label.startsWith(scope) && !label.slice(scope.length).includes('/'))
  return Object.fromEntries(here.map(({ label, players }) => [label.slice(scope.length), players[0]?.blocks[0] ?? '']))
}
