import { digest, hex, utf8 } from '../../protocols/codec.ts'
import type { BlockId, Cid, Millis, PeerId, RunId } from '../../protocols/ids.ts'
import type { RunEvent } from '../../protocols/runs.ts'
import type { PlanIndex, PlanInput, PlanNode, PlanPlayer, RunLimits } from './plan.ts'

export type Began = Extract<RunEvent, { type: 'began' }>
export type Ended = Extract<RunEvent, { type: 'completed' | 'aborted' }>

export type NodeState =
  | { readonly phase: 'pending' }
  /** `attempt` counts over all players, `tries` those of this one. */
  | { readonly phase: 'running'; readonly attempt: number; readonly player: number; readonly tries: number }
  | { readonly phase: 'done'; readonly output: Cid; readonly route: readonly string[] | undefined }
  | { readonly phase: 'skipped' }
  | { readonly phase: 'failed'; readonly code: string; readonly message: string }

/** One execution of a plan, as its events tell it. */
export type Run = {
  readonly id: RunId
  readonly index: PlanIndex
  readonly input: Cid
  readonly epoch: number
  readonly coordinator: PeerId | undefined
  readonly nodes: ReadonlyMap<string, NodeState>
  /** Nodes neither done nor skipped. */
  readonly open: number
  readonly retries: number
  readonly failure: { readonly code: string; readonly message: string } | undefined
  readonly end: Ended | undefined
}

/** What arrives at a node: the run's input (no `edge`), or the output of a predecessor. */
export type Arrival = { readonly output: Cid; readonly edge: PlanInput | undefined }

export type RunEffect =
  | { readonly type: 'invoke'; readonly label: string; readonly attempt: number; readonly player: PlanPlayer; readonly block: BlockId; readonly arrivals: readonly Arrival[]; readonly key: string; readonly delayMs: Millis }
  | { readonly type: 'skip'; readonly label: string; readonly because: string }
  | { readonly type: 'complete'; readonly outputs: Readonly<Record<string, Cid>> }
  | { readonly type: 'abort'; readonly code: string; readonly message: string }

/** Of a key that hosts remember calls by. */
const KEY_CHARACTERS = 200

export function beginRun(index: PlanIndex, began: Began): Run {
  const nodes = new Map<string, NodeState>(index.plan.nodes.map(({ label }) => [label, { phase: 'pending' }]))
  return { id: began.run, index, input: began.input, epoch: 0, coordinator: undefined, nodes, open: nodes.size, retries: 0, failure: undefined, end: undefined }
}

/**
 * The life of a run. Pure: the same events in the same order give the same run, on whichever peer. Events that do not
 * fit (a node that is done already, an unknown label, an old epoch) change nothing, so that a log may hold duplicates
 * and a node that is done is never asked for again. A `coordinator` event asks again for all that is under way.
 */
export function advanceRun(run: Run, event: RunEvent): readonly [Run, readonly RunEffect[]] {
  if (run.end !== undefined) return [run, []]
  switch (event.type) {
    case 'began':
    case 'started':
      return [run, []]
    case 'coordinator':
      return event.epoch > run.epoch ? takeUp({ ...run, epoch: event.epoch, coordinator: event.peer }) : [run, []]
    case 'finished':
      if (run.nodes.get(event.label)?.phase !== 'running') return [run, []]
      return settle(withNode(run, event.label, { phase: 'done', output: event.output, route: event.route }), event.label)
    case 'skipped': {
      const node = run.index.nodes.get(event.label)
      if (node === undefined || run.nodes.get(event.label)?.phase !== 'pending' || readiness(run, node) !== 'skip') return [run, []]
      return settle(withNode(run, event.label, { phase: 'skipped' }), event.label)
    }
    case 'failed':
      return fail(run, event)
    case 'completed':
    case 'aborted':
      return [{ ...run, end: event }, []]
  }
}

/** Everything due, asked for anew: what a new coordinator does first. */
function takeUp(run: Run): readonly [Run, readonly RunEffect[]] {
  if (run.failure !== undefined) return [run, [{ type: 'abort', ...run.failure }]]
  if (run.open === 0) return [run, [complete(run)]]
  const again = run.index.plan.nodes.flatMap(node => {
    const state = run.nodes.get(node.label)
    return state?.phase === 'running' ? [invoke(run, node, state, 0)] : []
  })
  const [next, effects] = open(run, run.index.plan.nodes)
  return [next, [...again, ...effects]]
}

/** After a node was done or skipped: what that opens, closes or completes. */
function settle(run: Run, label: string): readonly [Run, readonly RunEffect[]] {
  if (run.failure !== undefined) return [run, []]
  if (run.open === 0) return [run, [complete(run)]]
  const successors = run.index.next.get(label) ?? []
  return open(run, successors.flatMap(name => run.index.nodes.get(name) ?? []))
}

function open(run: Run, nodes: readonly PlanNode[]): readonly [Run, readonly RunEffect[]] {
  const effects: RunEffect[] = []
  const changed = new Map(run.nodes)
  for (const node of nodes) {
    if (run.nodes.get(node.label)?.phase !== 'pending') continue
    const ready = readiness(run, node)
    if (ready === 'skip') effects.push({ type: 'skip', label: node.label, because: skipReason(run, node) })
    if (ready !== 'go') continue
    const state = { phase: 'running', attempt: 1, player: 0, tries: 1 } as const
    changed.set(node.label, state)
    effects.push(invoke(run, node, state, 0))
  }
  return [{ ...run, nodes: changed }, effects]
}

function fail(run: Run, event: Extract<RunEvent, { type: 'failed' }>): readonly [Run, readonly RunEffect[]] {
  const node = run.index.nodes.get(event.label)
  const state = run.nodes.get(event.label)
  if (node === undefined || state?.phase !== 'running' || state.attempt !== event.attempt) return [run, []]
  const { limits } = run.index.plan
  const attempt = state.attempt + 1
  if (event.retryable && state.tries < limits.attempts && run.retries < limits.retries) {
    const again = { ...state, attempt, tries: state.tries + 1 }
    const retried = { ...withNode(run, node.label, again), retries: run.retries + 1 }
    return [retried, run.failure === undefined ? [invoke(run, node, again, backoffMs(run.id, node.label, state.tries, limits))] : []]
  }
  if (state.player + 1 < node.players.length) {
    const next = { phase: 'running', attempt, player: state.player + 1, tries: 1 } as const
    return [withNode(run, node.label, next), run.failure === undefined ? [invoke(run, node, next, 0)] : []]
  }
  const tried = state.attempt === 1 ? '' : ` after ${state.attempt} attempts`
  const failure = run.failure ?? { code: event.code, message: `node "${node.label}" failed${tried}: ${event.message}`.slice(0, 1_000) }
  const failed = { ...withNode(run, node.label, { phase: 'failed', code: event.code, message: event.message }), failure }
  return [failed, run.failure === undefined ? [{ type: 'abort', ...failure }] : []]
}

/** An edge is dead when its source was skipped or routed elsewhere: nothing will ever come over it. */
function edgeState(run: Run, edge: PlanInput, to: string): 'waiting' | 'alive' | 'dead' {
  const source = run.nodes.get(edge.from)
  if (source?.phase === 'skipped') return 'dead'
  if (source?.phase !== 'done') return 'waiting'
  return source.route === undefined || source.route.includes(to) ? 'alive' : 'dead'
}

function readiness(run: Run, node: PlanNode): 'go' | 'skip' | 'wait' {
  if (node.inputs.length === 0) return 'go'
  const edges = node.inputs.map(edge => edgeState(run, edge, node.label))
  if (edges.includes('waiting')) return 'wait'
  return edges.includes('alive') ? 'go' : 'skip'
}

function skipReason(run: Run, node: PlanNode): string {
  const routers = node.inputs.filter(edge => run.nodes.get(edge.from)?.phase === 'done').map(edge => edge.from)
  return (routers.length > 0 ? `${routers.join(', ')} routed elsewhere` : `${node.inputs.map(({ from }) => from).join(', ')} skipped`).slice(0, 300)
}

function invoke(run: Run, node: PlanNode, state: Extract<NodeState, { phase: 'running' }>, delayMs: Millis): RunEffect {
  const player = node.players[state.player]!
  const arrivals = node.inputs.length === 0
    ? [{ output: run.input, edge: undefined }]
    : node.inputs.flatMap(edge => {
        const source = run.nodes.get(edge.from)
        return source?.phase === 'done' && edgeState(run, edge, node.label) === 'alive' ? [{ output: source.output, edge }] : []
      })
  return { type: 'invoke', label: node.label, attempt: state.attempt, player, block: player.blocks[(state.tries - 1) % player.blocks.length]!, arrivals, key: keyOf(run.id, node, state.player), delayMs }
}

function complete(run: Run): RunEffect {
  const outputs = run.index.plan.outputs.flatMap(label => {
    const state = run.nodes.get(label)
    return state?.phase === 'done' ? [[label, state.output] as const] : []
  })
  return { type: 'complete', outputs: Object.fromEntries(outputs) }
}

/** The same for every attempt and every coordinator: a host that has run it answers from memory. */
function keyOf(run: RunId, node: PlanNode, player: number): string {
  const key = player === 0 ? `${run}/${node.label}` : `${run}/${node.label}|${node.players[player]!.label}`
  return key.length <= KEY_CHARACTERS ? key : `${run}/${hex(digest(utf8(key)))}`
}

/**
 * Doubling with equal jitter (M. Brooker, Exponential Backoff And Jitter, 2015). The draw is a hash of what is retried:
 * pure, yet different for each node.
 */
function backoffMs(run: RunId, label: string, failures: number, limits: RunLimits): Millis {
  const ceiling = Math.min(limits.maxMs, limits.firstMs * 2 ** Math.min(30, failures - 1))
  const [high = 0, low = 0] = digest(utf8(`${run}/${label}/${failures}`))
  return Math.max(1, Math.round(ceiling / 2 + ((high * 256 + low) / 65_536) * (ceiling / 2)))
}

function withNode(run: Run, label: string, state: NodeState): Run {
  return { ...run, nodes: new Map(run.nodes).set(label, state), open: state.phase === 'done' || state.phase === 'skipped' ? run.open - 1 : run.open }
}
