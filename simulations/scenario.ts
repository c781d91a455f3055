import type { Millis } from '../protocols/ids.ts'
import { Faults, type FaultPlan } from './faults.ts'
import { Violation, type SimPeer, type World } from './world.ts'

export type ScenarioOptions = { readonly seed: number; readonly peers: number; readonly seconds: number; readonly loss?: number; readonly churn?: number; /** Without: links are never cut. */ readonly cuts?: boolean; /** Mean time between two changes of a block; without, none is changed. */ readonly changeEveryMs?: Millis; readonly bug?: string }

/** A world about to live, with everything that was drawn for it. */
export type Scenario<P extends SimPeer> = {
  readonly drawn: { readonly faults: FaultPlan; readonly [choice: string]: unknown }
  readonly world: World<P>
  /** Lets the mesh find itself before anything goes wrong. */
  readonly prepare?: () => Promise<void>
  /** Runs acknowledged so far. */
  readonly runs?: () => number
  /** Anything else that was measured. */
  readonly figures?: () => Readonly<Record<string, number>>
  /** Starts the work that the mesh is given. */
  readonly work: () => void
  /** Fault-free time after which everything must be well again. */
  readonly settleMs: Millis
}

export type Outcome = {
  readonly seed: number
  readonly fingerprint: string
  readonly delivered: number
  readonly virtualMs: Millis
  /** Calls that instances have answered. */
  readonly executions: number
  /** Runs that the mesh has answered for. */
  readonly runs: number
  readonly crashes: number
  readonly partitions: number
  readonly settledInMs: Millis | undefined
  /** What was missing last, after faults had stopped. */
  readonly waitedFor: string | undefined
  readonly drawn: unknown
  readonly figures?: Readonly<Record<string, number>>
  readonly violation: string | undefined
}

/** Lives one seed: start, work under faults, settle. A violation is part of the outcome; other errors are thrown. */
export async function live<P extends SimPeer>(scenario: Scenario<P>, seconds: number): Promise<Outcome> {
  const { world, drawn } = scenario
  const faults = new Faults(world, drawn.faults)
  let violation: string | undefined
  let settledInMs: Millis | undefined
  try {
    await world.startAll(Math.max(1, Math.min(10, Math.round(1_000 / world.hosts.length))))
    if (scenario.prepare !== undefined) await world.drive(scenario.prepare(), 120_000)
    scenario.work()
    faults.start()
    await world.run(world.now + seconds * 1_000)
    faults.stop()
    settledInMs = await world.settle(scenario.settleMs)
  } catch (error) {
    if (!(error instanceof Violation)) throw error
    violation = error.message
  }
  return { seed: world.seed, fingerprint: world.fingerprint(), delivered: world.network.counts.delivered, virtualMs: world.now, executions: world.executions.count, runs: scenario.runs?.() ?? 0, ...faults.counts, settledInMs, waitedFor: world.waitedFor, drawn, ...(scenario.figures === undefined ? {} : { figures: scenario.figures() }), violation }
}
