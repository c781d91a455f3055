import { z } from 'zod'
import { asMeshError, granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import { blockId, type BlockId, type Json } from '../../protocols/ids.ts'
import type { BlockRecord, VdagNode } from '../../protocols/specs.ts'
import { isJsonObject, toJson } from '../lib/json.ts'
import type { Catalogue, MeshView, PolicyCalls } from '../roles.ts'
import { compileCondition, parseQueries } from '../specs/filter.ts'

/** Blocks of one component that a node may turn to when its first one does not answer. */
const SPARES = 7
/** Candidates shown to an assignment policy. */
const CANDIDATES = 500
const blockDocument = z.looseObject({ blockId })

export type Assignment = { readonly blocks: readonly BlockId[]; readonly record: BlockRecord }
export type AssignmentParts = { readonly catalogue: Catalogue; readonly policies: PolicyCalls; readonly view: Pick<MeshView, 'instancesOf'> }

/**
 * The block a node runs on: the one it names, any of its component (those with ready instances first), or the one its
 * assignment policy picks. The reason of a refusal reads on after `node "x" `.
 */
export async function assignBlock(node: VdagNode, vdag: string, parts: AssignmentParts, signal: AbortSignal): Promise<Verdict<Assignment>> {
  const { catalogue } = parts
  const record = node.blockId === undefined ? undefined : await catalogue.block(node.blockId)
  const spare = node.componentURI !== undefined || node.assignmentPolicyRule !== undefined
  // A block that is gone, or answers nowhere, is stood in for where its author said how.
  const dead = record === undefined || isDead(record, parts)
  if (node.blockId !== undefined && (!spare || !dead)) {
    return record === undefined ? refused(`runs on block ${node.blockId}, which does not exist: create it, or name a componentURI or an assignmentPolicyRule beside it, by which another stands in`, true) : granted({ blocks: [record.blockId], record })
  }
  const all = node.componentURI === undefined ? await catalogue.blocks() : await blocksOf(node.componentURI, catalogue, signal)
  const filtered = fitting(node, all)
  if (!filtered.ok) return filtered
  const ordered = filtered.value
    .map(record => ({ record, ready: parts.view.instancesOf(record.blockId).filter(({ ad }) => ad.state === 'ready').length }))
    .sort((a, b) => b.ready - a.ready || (a.record.blockId < b.record.blockId ? -1 : 1))
  // Blocks that should answer and do so nowhere are nobody's choice while others do.
  const answering = ordered.filter(({ record: one }) => !isDead(one, parts))
  const alive = answering.length === 0 ? ordered : answering
  if (node.assignmentPolicyRule !== undefined) return byPolicy(node, vdag, alive.slice(0, CANDIDATES), parts)
  const [first] = ordered
  if (first === undefined) return refused(`runs component ${node.componentURI ?? ''}, of which there is no block: create one with \`aios block create\``, true)
  return granted({ blocks: ordered.slice(0, 1 + SPARES).map(({ record }) => record.blockId), record: first.record })
}

/** One that keeps no instances sleeps: a call wakes it. */
function isDead({ blockId, minInstances }: BlockRecord, { view }: AssignmentParts): boolean {
  return minInstances > 0 && !view.instancesOf(blockId).some(({ ad }) => ad.state === 'ready')
}

/** AIOS's `parameters.filter` of an assignment rule: its `blockQuery`, over the documents of blocks. */
function fitting(node: VdagNode, blocks: readonly BlockRecord[]): Verdict<readonly BlockRecord[]> {
  const filter = node.assignmentPolicyRule?.parameters['filter']
  if (filter === undefined) return granted(blocks)
  try {
    const { blockQuery } = parseQueries(filter, 'blockQuery')
    if (blockQuery === undefined) return granted(blocks)
    const test = compileCondition(blockQuery)
    return granted(blocks.filter(record => test({ ...documentOf(record), id: record.blockId })))
  } catch (error) {
    if (error instanceof MeshError) return refused(`has an assignment filter that cannot be read: ${error.message}`)
    throw error
  }
}

async function blocksOf(component: string, catalogue: Catalogue, signal: AbortSignal): Promise<readonly BlockRecord[]> {
  // `name` and `name:latest` stand for a version; a component nobody can find has no blocks either.
  const exact = await catalogue.component(component, signal).then(({ manifest }) => manifest.componentURI, error => {
    if (asMeshError(error).code === 'INTERNAL') throw error
    return component
  })
  return (await catalogue.blocks()).filter(({ componentURI }) => componentURI === exact)
}

async function byPolicy(node: VdagNode, vdag: string, candidates: readonly { readonly record: BlockRecord; readonly ready: number }[], { policies }: AssignmentParts): Promise<Verdict<Assignment>> {
  const byId = new Map(candidates.map(({ record }) => [record.blockId, record]))
  const decision = await policies.decide<Verdict<BlockRecord>>({
    hook: 'assignment',
    rule: node.assignmentPolicyRule,
    input: candidates.map(({ record, ready }) => ({ ...documentOf(record), id: record.blockId, readyInstances: ready })),
    settings: { node_label: node.label },
    scope: vdag,
    accept: answer => {
      const picked = Array.isArray(answer) ? answer : [answer]
      if (picked.length !== 1) return refused(`returned ${picked.length} blocks`)
      const [one] = picked
      const named = blockDocument.safeParse(typeof one === 'string' ? { blockId: one } : one)
      const record = named.success ? byId.get(named.data.blockId) : undefined
      return record === undefined ? refused('returned something that is none of the blocks it was given') : granted(granted(record))
    },
    fallback: () => refused('gave no answer'),
  })
  if (decision.value.ok) return granted({ blocks: [decision.value.value.blockId], record: decision.value.value })
  return refused(`could not be assigned: ${node.assignmentPolicyRule?.policyRuleURI ?? 'its policy'} must return exactly one of the ${candidates.length} blocks it is given (${decision.because === '' ? decision.value.because : decision.because})`)
}

function documentOf(record: BlockRecord): Readonly<Record<string, Json>> {
  const document = toJson(record)
  return isJsonObject(document) ? document : {}
}
