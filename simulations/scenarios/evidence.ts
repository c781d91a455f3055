import { z } from 'zod'
import { decode } from '../../protocols/codec.ts'
import type { BlockId, Millis, RunId } from '../../protocols/ids.ts'
import { runEvent } from '../../protocols/runs.ts'
import type { Journal } from '../../src/ports.ts'
import type { Execution } from '../backend.ts'
import type { Checker } from '../checkers.ts'
import type { SimulatedHost } from '../host.ts'

const RUN_STREAM = 'run/'
const FENCE = 'placement/fence/'
const ENTRY_BYTES = 1_048_576
const entry = z.object({ at: z.int(), event: runEvent })
const context = z.object({ run: z.string(), label: z.string() })
/** Two copies are what a coordinator waits for before anything follows from an event. */
const COPIES = 2
/** After a cut has healed it takes some seconds until everybody believes in everybody again. */
const HEALING_MS = 5_000

type Copy = { readonly host: SimulatedHost; readonly life: number; readonly at: Millis }
type Completed = { readonly copies: Copy[]; at: Millis }

/** What the mesh has acknowledged and completed, seen from outside: on its disks and in its answers. */
export class Evidence {
  readonly #now: () => Millis
  readonly #whole: () => boolean
  readonly #nodes = new Map<string, Completed>()
  readonly #began = new Map<RunId, Millis>()
  readonly #holders = new Map<RunId, Set<SimulatedHost>>()
  /** Begun anew while everybody who had them was down: one death is survived, not that of all copies. */
  readonly #orphaned = new Set<RunId>()
  readonly #runs = new Set<RunId>()
  readonly #fences = new Map<SimulatedHost, Map<BlockId, number>>()
  readonly #blocks = new Set<BlockId>()
  #lastCut = -Infinity

  constructor(now: () => Millis, whole: () => boolean) {
    this.#now = now
    this.#whole = whole
  }

  get runs(): number {
    return this.#runs.size
  }

  /** A peer said that this run will be finished whatever happens to it. */
  runAcknowledged(run: RunId): void {
    this.#runs.add(run)
  }

  blockAcknowledged(block: BlockId): void {
    this.#blocks.add(block)
  }

  /** The highest epoch of each block that this host's disk has acknowledged, ever. */
  fences(host: SimulatedHost): ReadonlyMap<BlockId, number> {
    return this.#fences.get(host) ?? new Map()
  }

  /** A journal that notes which completed nodes and epochs have become durable on this host. */
  watch(journal: Journal, host: SimulatedHost): Journal {
    return {
      ...journal,
      append: async (stream, entries) => {
        const life = host.lives
        await journal.append(stream, entries)
        if (stream.startsWith(RUN_STREAM)) for (const bytes of entries) this.#written(stream.slice(RUN_STREAM.length), bytes, { host, life, at: this.#now() })
      },
      set: async (key, value) => {
        await journal.set(key, value)
        if (!key.startsWith(FENCE) || value === undefined) return
        const held = this.#fences.get(host) ?? new Map<BlockId, number>()
        const block = key.slice(FENCE.length)
        this.#fences.set(host, held.set(block, Math.max(held.get(block) ?? 0, decode(z.int(), value, 64, 'an epoch on a disk'))))
      },
    }
  }

  /** Names the node an execution belongs to; undefined where a cut lets both sides run it. */
  node(execution: Execution): string | undefined {
    const found = context.safeParse(execution.vdag)
    if (!found.success) return undefined
    return this.apart(found.data.run) ? undefined : `${found.data.run} ${found.data.label}`
  }

  /** May two have had this run each to himself: on the sides of a cut, or because all who had it were down? */
  apart(run: RunId): boolean {
    this.#look()
    return this.#orphaned.has(run) || (this.#began.get(run) ?? -Infinity) < this.#lastCut + HEALING_MS
  }

  /** When a node was completed, as far as somebody who knows it has been there ever since. */
  completedAt(execution: Execution): Millis | undefined {
    const found = context.safeParse(execution.vdag)
    const completed = found.success ? this.#nodes.get(`${found.data.run} ${found.data.label}`) : undefined
    if (completed === undefined || completed.copies.length < COPIES) return undefined
    return completed.copies.some(({ host, life, at }) => at < execution.startedAt && host.running && host.lives === life) ? completed.at : undefined
  }

  /** Invariant 3: a run that was acknowledged comes to an end that somebody knows, whoever died. */
  acknowledgedRunsEnd(): Checker {
    return {
      name: 'acknowledged runs end',
      safety: () => {
        this.#look()
        return undefined
      },
      pending: ({ running }) => {
        const ended = new Set<RunId>()
        for (const { runs } of running.values()) for (const { run, state } of runs) if (state !== 'running') ended.add(run)
        const open = [...this.#runs].filter(run => !ended.has(run))
        return open.length === 0 ? undefined : `${open.length} of ${this.#runs.size} acknowledged runs have not ended, ${open[0]} among them`
      },
    }
  }

  /** Invariant 3: a block that was acknowledged is stewarded by somebody. */
  acknowledgedBlocksAreKept(): Checker {
    return {
      name: 'acknowledged blocks are kept',
      safety: () => undefined,
      pending: ({ running }) => {
        const kept = new Set<BlockId>()
        for (const { stewarded } of running.values()) for (const { block } of stewarded) kept.add(block)
        const lost = [...this.#blocks].find(block => !kept.has(block))
        return lost === undefined ? undefined : `nobody stewards ${lost}`
      },
    }
  }

  #begun(run: RunId, host: SimulatedHost): void {
    if (!this.#began.has(run)) this.#began.set(run, this.#now())
    const holders = this.#holders.get(run) ?? new Set()
    if (holders.size > 0 && [...holders].every(({ running }) => !running)) this.#orphaned.add(run)
    this.#holders.set(run, holders.add(host))
  }

  /** Before anybody is judged by it: a cut may be younger than the last look. */
  #look(): void {
    if (!this.#whole()) this.#lastCut = this.#now()
  }

  #written(run: RunId, bytes: Uint8Array, copy: Copy): void {
    const { event } = decode(entry, bytes, ENTRY_BYTES, 'an event on a disk')
    if (event.type === 'began') this.#begun(run, copy.host)
    if (event.type !== 'finished') return
    const node = `${run} ${event.label}`
    const known = this.#nodes.get(node) ?? { copies: [], at: Infinity }
    this.#nodes.set(node, known)
    if (known.copies.some(({ host }) => host === copy.host)) return
    known.copies.push(copy)
    if (known.copies.length === COPIES) known.at = this.#now()
  }
}

