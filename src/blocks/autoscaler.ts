import { MeshError, granted } from '../../protocols/errors.ts'
import type { BlockId, InstanceId, Json, Millis } from '../../protocols/ids.ts'
import type { Clock, Telemetry } from '../ports.ts'
import type { MetricsSource, PolicyCalls } from '../roles.ts'
import { DEFAULT_RULE } from '../specs/policy-refs.ts'
import { autoscaleSettings, cooledDown, defaultScale, demandSince, grow, readScaling, shrink, type Demand, type Scaling, type Spots } from './autoscale.ts'
import type { BlockDocuments } from './block-documents.ts'
import type { InstanceLoad } from './instance-load.ts'
import type { BlockInvoker } from './invoker.ts'
import type { BlockDesk, Kept } from './upkeep.ts'

const LOAD_MS: Millis = 3_000

/** Asks how many instances a block needs, the block's own rule or the built-in one, and has the steward keep that many. */
export class Autoscaler {
  readonly #clock: Clock
  readonly #telemetry: Telemetry
  readonly #desk: BlockDesk
  readonly #invoker: Pick<BlockInvoker, 'load'>
  readonly #policies: PolicyCalls
  readonly #documents: BlockDocuments
  readonly #metrics: MetricsSource
  /** By block: what its instances had done when they were last asked. */
  readonly #before = new Map<BlockId, ReadonlyMap<InstanceId, { readonly at: Millis; readonly load: InstanceLoad }>>()

  constructor(ports: { readonly clock: Clock; readonly telemetry: Telemetry }, parts: { readonly desk: BlockDesk; readonly invoker: Pick<BlockInvoker, 'load'>; readonly policies: PolicyCalls; readonly documents: BlockDocuments; readonly metrics: MetricsSource }) {
    this.#clock = ports.clock
    this.#telemetry = ports.telemetry
    this.#desk = parts.desk
    this.#invoker = parts.invoker
    this.#policies = parts.policies
    this.#documents = parts.documents
    this.#metrics = parts.metrics
  }

  forget(block: BlockId): void {
    this.#before.delete(block)
  }

  /** When a block is looked at first and after that; undefined where nothing scales it. */
  rhythm({ record }: Pick<Kept, 'record'>): { readonly firstMs: Millis; readonly intervalMs: Millis } | undefined {
    const rule = record.policies['autoscaler']
    const builtIn = rule === undefined || rule.policyRuleURI === DEFAULT_RULE
    // The stages of a split model are planned together; one alone has no use for another instance.
    if (builtIn && (record.maxInstances <= record.minInstances || record.runtime.name === 'llm')) return undefined
    return autoscaleSettings(record, builtIn)
  }

  /** One look. Says what came of it. */
  async run(block: BlockId): Promise<Scaling> {
    const tended = this.#desk.tended(block)
    if (tended === undefined) return { do: 'nothing', because: 'another peer stewards it' }
    const { record, want, observed } = tended
    const rule = record.policies['autoscaler']
    const builtIn = rule === undefined || rule.policyRuleURI === DEFAULT_RULE
    const settings = autoscaleSettings(record, builtIn)
    const loads = observed.some(({ state }) => state === 'ready') ? await this.#invoker.load(block, { deadlineMs: LOAD_MS }) : {}
    const demands = this.#demands(block, loads)
    const instances = observed.filter(({ leaving }) => leaving === undefined).map(({ instance }) => instance)
    const { minInstances: min, maxInstances: max } = record
    const own = (): Scaling => {
      const next = defaultScale({ min, max, want, demands, settings })
      if (next.want > want) return { do: 'up', want: next.want, spots: [], because: next.because }
      return next.want < want ? { do: 'down', want: next.want, instances: [], because: next.because } : { do: 'nothing', because: next.because }
    }
    const { value } = await this.#policies.decide<Scaling>({
      hook: 'autoscaler', rule, scope: block,
      input: { block_data: this.#documents.block(record), cluster_data: this.#documents.cluster(), current_instances: [...instances] },
      settings: { get_metrics: builtIn ? {} : await this.#metrics.fresh({ block }) },
      accept: said => {
        const read = readScaling(said, { want, min, max, instances })
        return read.ok ? granted(read.value) : read
      },
      fallback: failure => (failure === undefined ? own() : { do: 'nothing', because: failure }),
    })
    const now = this.#desk.tended(block)
    // Somebody may have scaled it while the rule thought.
    if (now === undefined || now.want !== want) return { do: 'nothing', because: 'it changed meanwhile' }
    if (!cooledDown(value, now.scaledAt === undefined ? undefined : this.#clock.monotonic() - now.scaledAt, settings)) return { do: 'nothing', because: `so soon after the last change it is not changed again: ${value.because}` }
    this.#apply(block, value)
    return value
  }

  /** Somebody asks for more. Throws CONFLICT when the block may not have more, NOT_FOUND where this peer does not steward it. */
  scale(block: BlockId, count: number, spots: Spots): Scaling {
    const { record, want } = this.#tended(block)
    return this.#order(block, grow(want, record.maxInstances, count, spots), `${block} may have ${record.maxInstances} instances at most: raise maxInstances with \`aios block update\``)
  }

  /** Somebody wants these instances gone. Throws CONFLICT when the block keeps no fewer. */
  release(block: BlockId, instances: readonly InstanceId[]): Scaling {
    const { record, want, observed } = this.#tended(block)
    const known = observed.map(({ instance }) => instance)
    const strange = instances.find(instance => !known.includes(instance))
    if (strange !== undefined) throw new MeshError('NOT_FOUND', `${strange} is not an instance of ${block}`)
    return this.#order(block, shrink(want, record.minInstances, instances, known), `${block} keeps ${record.minInstances} instances at least: lower minInstances with \`aios block update\`, or reassign an instance to have another in its place`)
  }

  /** A block of none is called: one comes up. */
  wake(block: BlockId): boolean {
    const tended = this.#desk.tended(block)
    if (tended === undefined || tended.want > 0 || tended.record.maxInstances === 0) return false
    const { spare } = autoscaleSettings(tended.record, true)
    this.#telemetry.event('info', 'block.woken', { block })
    return this.#desk.setDesired(block, Math.min(tended.record.maxInstances, 1 + spare))
  }

  #tended(block: BlockId): NonNullable<ReturnType<BlockDesk['tended']>> {
    const tended = this.#desk.tended(block)
    if (tended === undefined) throw new MeshError('EPOCH_FENCED', `this peer does not steward ${block}`)
    return tended
  }

  #order(block: BlockId, scaling: Scaling, otherwise: string): Scaling {
    if (scaling.do === 'nothing') throw new MeshError('CONFLICT', `${scaling.because}: ${otherwise}`)
    this.#apply(block, scaling)
    return scaling
  }

  #apply(block: BlockId, scaling: Scaling): void {
    if (scaling.do === 'nothing') return
    this.#telemetry.event('info', 'block.scaled', { block, want: scaling.want, because: scaling.because })
    this.#telemetry.count('block_scalings_total', { direction: scaling.do })
    this.#desk.setDesired(block, scaling.want, scaling.do === 'up' ? scaling.spots : [])
    if (scaling.do === 'down' && scaling.instances.length > 0) this.#desk.send(block, scaling.instances, 'released', scaling.because)
  }

  #demands(block: BlockId, loads: Readonly<Record<InstanceId, InstanceLoad>>): readonly Demand[] {
    const now = this.#clock.monotonic()
    const before = this.#before.get(block)
    this.#before.set(block, new Map(Object.entries(loads).map(([instance, load]) => [instance, { at: now, load }])))
    return Object.entries(loads).map(([instance, load]) => demandSince(before?.get(instance), load, now))
  }
}

export function scalingJson(scaling: Scaling): Json {
  return scaling.do === 'nothing' ? { operation: 'none', because: scaling.because } : { operation: scaling.do === 'up' ? 'upscale' : 'downscale', instances: scaling.want, because: scaling.because }
}
