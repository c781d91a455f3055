import type { MetricsAsked, MetricsTold } from '../../protocols/metrics.ts'
import type { Instances } from '../blocks/instances.ts'
import type { Gate } from '../controllers/gate.ts'
import type { JsonObject } from '../lib/json.ts'
import type { MachineReport, Ports } from '../ports.ts'
import { nodeResources } from './aggregate.ts'
import { exposition, type Exposed } from './exposition.ts'
import { instanceMetrics } from './instance-metrics.ts'
import { nodeMetrics } from './node-metrics.ts'

const INSTANCES = 512
const VDAGS = 256
const PROBE_MS = 30_000
/** Of an answer, counted as JSON; in DAG-CBOR it is half as long again at most, which is less than an answer may have. */
const ANSWER_BYTES = 524_288

export type Measured = { readonly instances: Pick<Instances, 'measured'>; readonly vdags: Pick<Gate, 'measured'> }

/** Says what this host measures of itself, its instances and the vDAGs it answered for. */
export class HostMetrics {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'machine'>
  readonly #measured: Measured
  readonly #cluster: () => string
  #report: MachineReport | undefined
  #probedAt = -Infinity

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'machine'>, measured: Measured, cluster: () => string) {
    this.#ports = ports
    this.#measured = measured
    this.#cluster = cluster
  }

  async start(): Promise<void> {
    await this.#probe()
  }

  /** Undefined before the start. */
  node(): JsonObject | undefined {
    const { clock, identity, machine } = this.#ports
    // What a GPU has is known only once its driver has been asked, seconds after the start.
    if (this.#report !== undefined && clock.monotonic() - this.#probedAt > PROBE_MS) void this.#probe()
    return this.#report === undefined ? undefined : nodeMetrics({ peer: identity.peer, cluster: this.#cluster(), at: clock.unix(), total: this.#report.total, usage: machine.usage(), counters: machine.counters?.() })
  }

  instances(blocks?: ReadonlySet<string>): MetricsTold['instances'] {
    return this.#exposed(blocks).slice(0, INSTANCES).map(({ block, instance, metrics }) => ({ block, instance, metrics: { ...metrics } }))
  }

  /** In Prometheus's text format. */
  exposition(): string {
    return exposition(this.#ports.identity.peer, nodeResources(this.node() ?? {}), this.#exposed())
  }

  async #probe(): Promise<void> {
    this.#probedAt = this.#ports.clock.monotonic()
    this.#report = await this.#ports.machine.probe()
  }

  #exposed(blocks?: ReadonlySet<string>): readonly Exposed[] {
    const { clock, identity, machine } = this.#ports
    const at = clock.unix()
    const all = this.#measured.instances.measured().filter(({ block }) => blocks?.has(block) ?? true)
    const loads = new Map(all.some(({ gpus }) => gpus.length > 0) ? machine.usage().gpus.map(({ id, utilisation }) => [id, utilisation]) : [])
    return all.map(({ record, gpus, ...measured }) => {
      const known = gpus.flatMap(id => loads.get(id) ?? [])
      const gpuPercent = known.length === 0 ? undefined : (100 * known.reduce((sum, load) => sum + load, 0)) / known.length
      return { block: measured.block, instance: measured.instance, reported: measured.reported, metrics: instanceMetrics({ ...measured, ...record, gpuPercent, host: identity.peer, at }) }
    })
  }

  /** As another peer asked for it. */
  answer({ node, blocks, vdags }: MetricsAsked): MetricsTold {
    const all = this.instances(blocks === undefined ? undefined : new Set(blocks)).map(entry => ({ entry, bytes: JSON.stringify(entry).length })).sort((a, b) => a.bytes - b.bytes || (a.entry.instance < b.entry.instance ? -1 : 1))
    let room = ANSWER_BYTES
    const told = all.filter(({ bytes }) => (room -= bytes) >= 0)
    return {
      at: Math.max(0, Math.floor(this.#ports.clock.unix())),
      ...(node ? { node: { ...this.node() } } : {}),
      instances: told.map(({ entry }) => entry),
      vdags: vdags ? this.#measured.vdags.measured().slice(0, VDAGS).map(({ vdag, metrics }) => ({ vdag, metrics: { ...metrics } })) : [],
      left: all.length - told.length,
    }
  }
}
