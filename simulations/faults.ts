import type { Millis } from '../protocols/ids.ts'
import type { SimulatedHost } from './host.ts'
import type { Weather } from './links.ts'
import type { SeededRandom } from './random.ts'
import type { SimPeer, World } from './world.ts'

/** What goes wrong in one run. Drawn from the seed and printed before anything happens. */
export type FaultPlan = {
  readonly weather: Weather
  /** Mean time between crashes anywhere in the mesh. */
  readonly crashEveryMs: Millis
  readonly downMs: readonly [least: Millis, most: Millis]
  /** Part of the crashes that are power cuts: nobody is told. */
  readonly silent: number
  /** Part of the crashes that wait for a write under way. */
  readonly spiteful: number
  /** The first cut comes at this time, never if infinite; those after it as chance has it. */
  readonly firstPartitionMs?: Millis
  readonly partitionEveryMs: Millis
  readonly partitionMs: readonly [least: Millis, most: Millis]
  /** Chance that an inference kills its instance. */
  readonly instanceCrash: number
}

/** A plan from a seed; `loss` and `churn` (part of the peers that crash each ten seconds) may be set by hand. */
export function drawFaults(random: SeededRandom, peers: number, fixed: { readonly loss?: number; readonly churn?: number } = {}): FaultPlan {
  const churn = fixed.churn ?? 0.02 + random.float() * 0.08
  const least = 1 + random.below(5)
  return {
    weather: { delayMs: [least, least + 10 + random.below(90)], loss: fixed.loss ?? random.float() * 0.1, duplicate: random.float() * 0.05 },
    crashEveryMs: Math.max(20, Math.round(10_000 / Math.max(0.001, peers * churn))),
    downMs: [200, 1_000 + random.below(6_000)],
    silent: random.float() * 0.5,
    spiteful: random.float(),
    partitionEveryMs: 5_000 + random.below(15_000),
    partitionMs: [500, 2_000 + random.below(8_000)],
    instanceCrash: random.float() < 0.5 ? 0 : random.float() * 0.02,
  }
}

/** Inflicts a plan on a world until it is told to stop. */
export class Faults<P extends SimPeer> {
  readonly counts = { crashes: 0, partitions: 0 }
  readonly #world: World<P>
  readonly #plan: FaultPlan
  readonly #random: SeededRandom
  #stopped = false

  constructor(world: World<P>, plan: FaultPlan) {
    this.#world = world
    this.#plan = plan
    this.#random = world.kernel.random.fork('faults')
  }

  start(): void {
    this.#world.backendWeather = { ...this.#world.backendWeather, crash: this.#plan.instanceCrash }
    this.#again(this.#plan.crashEveryMs, () => this.#crashSomebody())
    if (this.#plan.firstPartitionMs === undefined) this.#again(this.#plan.partitionEveryMs, () => this.#splitMesh())
    else if (this.#plan.firstPartitionMs < Infinity) this.#world.kernel.after(this.#plan.firstPartitionMs, () => {
      if (this.#stopped) return
      this.#splitMesh()
      this.#again(this.#plan.partitionEveryMs, () => this.#splitMesh())
    })
  }

  stop(): void {
    this.#stopped = true
  }

  #again(meanMs: Millis, run: () => void): void {
    // Exponential gaps: faults come in clusters, as they do.
    const gap = Math.min(meanMs * 8, Math.round(-Math.log(1 - this.#random.float()) * meanMs))
    this.#world.kernel.after(gap, () => {
      if (this.#stopped) return
      run()
      this.#again(meanMs, run)
    })
  }

  #crashSomebody(): void {
    const running = this.#world.hosts.filter(host => host.running)
    // Half of the mesh stays up at any time: more would be an outage, not churn.
    if (running.length * 2 <= this.#world.hosts.length) return
    const victim = this.#random.pick(running)
    const silent = this.#random.float() < this.#plan.silent
    if (this.#random.float() < this.#plan.spiteful) this.#crashWhileWriting(victim, silent, 500)
    else this.#crash(victim, silent)
  }

  #crashWhileWriting(victim: SimulatedHost, silent: boolean, patience: number): void {
    if (this.#stopped || !victim.running) return
    if (victim.disk.busy || patience === 0) this.#crash(victim, silent)
    else this.#world.kernel.after(1, () => this.#crashWhileWriting(victim, silent, patience - 1))
  }

  #crash(victim: SimulatedHost, silent: boolean): void {
    this.counts.crashes += 1
    this.#world.crash(victim, silent)
    const [least, most] = this.#plan.downMs
    this.#world.kernel.after(least + this.#random.below(most - least + 1), () => this.#world.restart(victim))
  }

  #splitMesh(): void {
    this.counts.partitions += 1
    const share = 0.1 + this.#random.float() * 0.4
    const one: SimulatedHost[] = []
    const other: SimulatedHost[] = []
    for (const host of this.#world.hosts) (this.#random.float() < share ? one : other).push(host)
    const heal = this.#world.partition(one, other)
    const [least, most] = this.#plan.partitionMs
    this.#world.kernel.after(least + this.#random.below(most - least + 1), heal)
  }
}
