import { z } from 'zod'
import { blockId, json } from '../../protocols/ids.ts'
import { policyRef, uri } from '../../protocols/specs.ts'

/** A node label, prefixed by the labels of the vDAGs it is nested in: `outer/inner`. */
export const planLabel = z.string().min(1).max(400)

/** A pre or post policy and where its author wrote it: routes and settings are in the terms of that graph. */
const planPolicy = z.object({
  rule: policyRef,
  vdag: uri,
  /** Prefix of that graph's labels in the plan: empty, or ends in a slash. */
  scope: z.string().max(400),
  /** The label of the node there. */
  label: z.string().max(200),
  modelParameters: z.record(z.string(), json),
})
export type PlanPolicy = z.infer<typeof planPolicy>

/** One who can play a node: its own block, or a fallback's. */
const planPlayer = z.object({
  label: planLabel,
  /** Tried in turn; more than one only where the author left the choice among a component's blocks. */
  blocks: z.array(blockId).min(1).max(8),
  pre: z.array(planPolicy).max(32),
  post: z.array(planPolicy).max(32),
  /**
   * What several inputs become. `list`: always `{"inputs": […]}`. `merge`: one object with the fields of all.
   * `auto`: a list, or the packet itself when only one arrives.
   */
  join: z.enum(['list', 'merge', 'auto']),
})
export type PlanPlayer = z.infer<typeof planPlayer>

const planInput = z.object({
  from: planLabel,
  /** Whose graph drew this edge, and what a route calls its end there. */
  scope: z.string().max(400),
  as: z.string().max(200),
  converter: policyRef.optional(),
})
export type PlanInput = z.infer<typeof planInput>

const planNode = z.object({
  label: planLabel,
  /** In the author's order. Empty: the node takes the run's input. */
  inputs: z.array(planInput).max(1_000),
  players: z.array(planPlayer).min(1).max(16),
})
export type PlanNode = z.infer<typeof planNode>

/** What bounds a run, fixed when it begins so that whoever finishes it decides the same. */
export const runLimits = z.object({
  /** Per player of a node. */
  attempts: z.int().min(1).max(20),
  /** Over the whole run. */
  retries: z.int().min(0).max(100_000),
  firstMs: z.int().min(1),
  maxMs: z.int().min(1),
  /** One attempt of one node. */
  deadlineMs: z.int().min(1).max(86_400_000),
})
export type RunLimits = z.infer<typeof runLimits>

/** A compiled vDAG: flat, assigned, in topological order. A DAG-CBOR record that the run's first event names. */
export const plan = z.object({
  vdag: uri,
  nodes: z.array(planNode).min(1).max(10_000),
  outputs: z.array(planLabel).max(1_000),
  limits: runLimits,
})
export type Plan = z.infer<typeof plan>

/** A plan with the look-ups a run needs. */
export type PlanIndex = {
  readonly plan: Plan
  readonly nodes: ReadonlyMap<string, PlanNode>
  /** Successors by label, in topological order. */
  readonly next: ReadonlyMap<string, readonly string[]>
}

export function indexPlan(plan: Plan): PlanIndex {
  const next = new Map<string, string[]>(plan.nodes.map(({ label }) => [label, []]))
  for (const node of plan.nodes) for (const { from } of node.inputs) next.get(from)?.push(node.label)
  return { plan, nodes: new Map(plan.nodes.map(node => [node.label, node])), next }
}
