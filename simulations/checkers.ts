import type { BlockId, Cid, ContractId, InstanceId, PeerId, RunId } from '../protocols/ids.ts'
import type { Needs, Resources } from '../protocols/resources.ts'
import type { Execution } from './backend.ts'

/** A promise of resources that a host has made and not yet taken back. */
export type Promised = { readonly needs: Needs; readonly gpus: readonly string[] }

/** What checkers may see of one peer at the instant of a look; not to be kept. A peer fills in what it has; the rest stays empty. */
export type Inspection = {
  readonly total?: Resources
  /** Holds and contracts together, as the ledger counts them. */
  readonly promised: readonly Promised[]
  readonly contracts: readonly { readonly id: ContractId; readonly block: BlockId; readonly instance: InstanceId; readonly epoch: number; readonly steward: PeerId }[]
  /** Of each block, the highest epoch that the peer's disk was seen to hold. */
  readonly fenced?: ReadonlyMap<BlockId, number>
  /** Highest epoch seen of each block. */
  readonly epochs: ReadonlyMap<BlockId, number>
  readonly runs: readonly { readonly run: RunId; readonly key: string; readonly state: 'running' | 'completed' | 'aborted'; readonly outputs?: Readonly<Record<string, Cid>> }[]
  /** Peers this peer believes alive, itself included. */
  readonly live: readonly PeerId[]
  readonly queues: readonly { readonly name: string; readonly size: number; readonly limit: number }[]
  /** Instances ready of each block that this peer stewards, with the least wanted. */
  readonly stewarded: readonly { readonly block: BlockId; readonly ready: number; readonly least: number; /** Of an earlier record of the block. */ readonly outdated?: number }[]
  /** What this peer acknowledged to somebody as durable. */
  readonly acknowledged: readonly string[]
}

export const NOTHING_TO_SEE: Inspection = { promised: [], contracts: [], epochs: new Map(), runs: [], live: [], queues: [], stewarded: [], acknowledged: [] }

/** The world as checkers read it. */
export type Observed = {
  readonly now: number
  readonly running: ReadonlyMap<PeerId, Inspection>
  readonly executions: readonly Execution[]
}

export interface Checker {
  readonly name: string
  /** Undefined while nothing bad has happened, else what did. Called again and again during faults. */
  safety(world: Observed): string | undefined
  /** After faults stop: undefined once the good thing has happened, else what is still missing. */
  pending(world: Observed): string | undefined
}

/** Invariant 1: holds and contracts together never exceed the host, and no GPU is promised beyond its memory. */
export function ledgerNeverOverPromised(): Checker {
  return {
    name: 'ledger never over-promised',
    safety: ({ running }) => {
      for (const [peer, { total, promised }] of running) {
        if (total === undefined || promised.length === 0) continue
        const because = overPromised(total, promised)
        if (because !== undefined) return `${peer} ${because}`
      }
      return undefined
    },
    pending: nothingMissing,
  }
}

/** Invariant 2: what a host obeys only rises, and no contract outlives a newer epoch of its own instance. */
export function highestEpochObeyed(): Checker {
  const highest = new Map<string, number>()
  return {
    name: 'highest epoch obeyed',
    safety: ({ running }) => {
      for (const [peer, { epochs, fenced = epochs, contracts }] of running) {
        for (const [block, before] of fenced) {
          const epoch = epochs.get(block) ?? 0
          if (epoch < before) return `${peer} obeys epoch ${epoch} of ${block} after it saw ${before}`
        }
        for (const [block, epoch] of epochs) {
          const slot = `${peer} ${block}`
          const before = fenced === epochs ? highest.get(slot) ?? 0 : 0
          if (epoch < before) return `${peer} obeys epoch ${epoch} of ${block} after it saw ${before}`
          highest.set(slot, epoch)
        }
        for (const { id, block, epoch } of contracts) {
          if (epoch > (epochs.get(block) ?? epoch)) return `${peer} serves ${id} under epoch ${epoch} of ${block}, which it has not seen`
        }
      }
      return undefined
    },
    pending: nothingMissing,
  }
}

/** Invariant 4, first half: a node that began to run after it had been completed ran again. */
export function noCompletedNodeRunAgain(identify: (execution: Execution) => string | undefined, completedBefore: (execution: Execution) => number | undefined): Checker {
  let read = 0
  return {
    name: 'no completed vDAG node run again',
    safety: ({ executions }) => {
      for (; read < executions.length; read += 1) {
        const execution = executions[read]!
        const node = identify(execution)
        const completedAt = completedBefore(execution)
        if (node !== undefined && completedAt !== undefined && completedAt < execution.startedAt) return `${node} was completed at ${completedAt} ms and ran again at ${execution.startedAt} ms on ${execution.peer}`
      }
      return undefined
    },
    pending: nothingMissing,
  }
}

/**
 * Invariant 4, second half: whoever knows the result of a run knows the same one. Where a cut lets both sides finish it
 * (`apart`), they may differ until the cut has healed, and no longer.
 */
export function oneResultPerRun(apart: (run: RunId) => boolean = () => false): Checker {
  const results = new Map<string, string>()
  return {
    name: 'one result per run',
    safety: ({ running }) => {
      for (const [peer, { runs }] of running) {
        for (const { run, key, state, outputs } of runs) {
          if (state !== 'completed' || outputs === undefined || apart(run)) continue
          const result = resultOf(outputs)
          const known = results.get(key)
          if (known !== undefined && known !== result) return `${peer} has ${result} as the result of ${run} (key ${key}); another peer has ${known}`
          results.set(key, result)
        }
      }
      return undefined
    },
    pending: ({ running }) => {
      const agreed = new Map<RunId, string>()
      const unfinished = new Set<string>()
      for (const [peer, { runs }] of running) {
        for (const { run, state, outputs } of runs) {
          if (state === 'running') unfinished.add(run)
          if (state !== 'completed' || outputs === undefined) continue
          const result = resultOf(outputs)
          const known = agreed.get(run)
          if (known !== undefined && known !== result) return `${peer} has ${result} as the result of ${run}; another peer has ${known}`
          agreed.set(run, result)
        }
      }
      for (const { runs } of running.values()) for (const { run, state } of runs) if (state !== 'running') unfinished.delete(run)
      const [first] = unfinished
      return first === undefined ? undefined : `${unfinished.size} runs have not ended, ${first} among them`
    },
  }
}

const written = new WeakMap<Readonly<Record<string, Cid>>, string>()

/** Looked at very often, and never changed. */
function resultOf(outputs: Readonly<Record<string, Cid>>): string {
  const known = written.get(outputs)
  if (known !== undefined) return known
  const result = Object.entries(outputs).sort(([a], [b]) => (a < b ? -1 : 1)).map(([label, cid]) => `${label}=${cid}`).join(' ')
  written.set(outputs, result)
  return result
}

/** Invariant 3: whatever a peer acknowledged it still has, after any number of crashes. */
export function acknowledgedSurvives(): Checker {
  const owed = new Map<PeerId, Set<string>>()
  return {
    name: 'acknowledged survives',
    safety: ({ running }) => {
      for (const [peer, { acknowledged }] of running) {
        const before = owed.get(peer)
        if (before === undefined && acknowledged.length === 0) continue
        const now = new Set(acknowledged)
        for (const item of before ?? []) if (!now.has(item)) return `${peer} acknowledged ${item} and has lost it`
        owed.set(peer, now)
      }
      return undefined
    },
    pending: nothingMissing,
  }
}

/** Invariant 10. */
export function queuesBounded(): Checker {
  return {
    name: 'queues bounded',
    safety: ({ running }) => {
      for (const [peer, { queues }] of running) {
        for (const { name, size, limit } of queues) if (size > limit) return `${name} of ${peer} holds ${size}; its bound is ${limit}`
      }
      return undefined
    },
    pending: nothingMissing,
  }
}

/** After faults stop, every running peer believes exactly the running peers alive. */
export function viewsConverge(): Checker {
  return {
    name: 'views converge',
    safety: () => undefined,
    pending: ({ running }) => {
      const truth = [...running.keys()].sort()
      for (const [peer, { live }] of running) {
        if (live.length === truth.length && live.every((other, at) => other === truth[at])) continue
        const believed = new Set(live)
        const missing = truth.filter(other => !believed.has(other))
        const ghosts = live.filter(other => !running.has(other))
        if (missing.length > 0 || ghosts.length > 0) return `${peer} misses ${missing.length} of ${truth.length} live peers (${missing[0] ?? '-'}) and believes in ${ghosts.length} ghosts (${ghosts[0] ?? '-'})`
      }
      return undefined
    },
  }
}

/** After faults stop, every block runs at least as many instances as it wants, all of them with what it says now. */
export function blocksReachTheirLeast(): Checker {
  return {
    name: 'blocks reach their least instances',
    safety: () => undefined,
    pending: ({ running }) => {
      for (const [peer, { stewarded }] of running) {
        for (const { block, ready, least, outdated = 0 } of stewarded) {
          if (ready < least) return `${block}, stewarded by ${peer}, has ${ready} of ${least} instances`
          if (outdated > 0) return `${block}, stewarded by ${peer}, has ${outdated} instances of an earlier record`
        }
      }
      return undefined
    },
  }
}

/** Why these promises do not fit on this host, if they do not. */
export function overPromised(total: Resources, promised: readonly Promised[]): string | undefined {
  let cpuMilli = 0
  let memoryMb = 0
  let diskMb = 0
  const gpuMb = new Map<string, number>()
  for (const { needs, gpus } of promised) {
    cpuMilli += needs.cpuMilli
    memoryMb += needs.memoryMb
    diskMb += needs.diskMb
    for (const gpu of gpus) gpuMb.set(gpu, (gpuMb.get(gpu) ?? 0) + needs.gpuMemoryMb)
  }
  if (cpuMilli > total.cpuMilli) return `promised ${cpuMilli} of ${total.cpuMilli} milli-CPUs`
  if (memoryMb > total.memoryMb) return `promised ${memoryMb} of ${total.memoryMb} MiB memory`
  if (diskMb > total.diskMb) return `promised ${diskMb} of ${total.diskMb} MiB disk`
  for (const [id, mb] of gpuMb) {
    const gpu = total.gpus.find(other => other.id === id)
    if (gpu === undefined) return `promised a GPU ${id} it does not have`
    if (mb > gpu.memoryMb) return `promised ${mb} of ${gpu.memoryMb} MiB on ${id}`
  }
  return undefined
}

function nothingMissing(): undefined {
  return undefined
}
