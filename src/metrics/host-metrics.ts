import type { MetricsAsked, MetricsTold } from '../../protocols/metrics.ts'
import type { Instances } from '../blocks/instances.ts'
import type { Gate } from '../controllers/gate.ts'
import type { JsonObject } from '../lib/json.ts'
import type { MachineReport, Ports } from '../ports.ts'
import { nodeResources } from './aggregate.ts'
import { exposition } from './exposition.ts'
import { instanceMetrics } from './instance-metrics.ts'
import { nodeMetrics } from './node-metrics.ts'

const INSTANCES = 512
const VDAGS = 256
/** Of an answer's bytes, as JSON; DAG-CBOR needs no more. */
const ANSWER_BYTES = 786_432

export type Measured = { readonly instances: Pick<Instances, 'measured'>; readonly vdags: Pick<Gate, 'measured'> }

/** Says what this host measures of itself, its instances and the vDAGs it answered for. */
export class HostMetrics {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'machine'>
  readonly #measured: Measured
  readonly #cluster: () => string
  #report: MachineReport | undefined

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'machine'>, measured: Measured, cluster: () => string) {
    this.#ports = ports
    this.#measured = measured
    this.#cluster = cluster
  }

  async start(): Promise<void> {
    this.#report = await this.#ports.machine.probe()
  }

  /** Undefined before the start. */
  node(): JsonObject | undefined {
    const { clock, identity, machine } = this.#ports
    return this.#report === undefined ? undefined : nodeMetrics({ peer: identity.peer, cluster: this.#cluster(), at: clock.unix(), total: this.#report.total, usage: machine.usage(), counters: machine.counters?.() })
  }

  instances(blocks?: ReadonlySet<string>): MetricsTold['instances'] {
    const { clock, identity } = this.#ports
    return this.#measured.instances.measured().filter(({ block }) => blocks?.has(block) ?? true).slice(0, INSTANCES).map(({ record, ...measured }) => ({
      block: measured.block,
      instance: measured.instance,
      metrics: instanceMetrics({ ...measured, ...record, host: identity.peer, at: clock.unix() }),
    }))
  }

  /** In Prometheus's text format. */
  exposition(): string {
    const { clock, identity } = this.#ports
    const at = clock.unix()
    const instances = this.#measured.instances.measured().map(({ record, ...measured }) => ({ block: measured.block, instance: measured.instance, reported: measured.reported, metrics: instanceMetrics({ ...measured, ...record, host: identity.peer, at }) }))
    return exposition(identity.peer, nodeResources(this.node() ?? {}), instances)
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
