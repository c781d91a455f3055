import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { BlockId, InstanceId, Json, Millis } from '../../protocols/ids.ts'
import type { BlockOrder } from '../../protocols/block-control.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { Beat } from '../lib/beat.ts'
import { toJson } from '../lib/json.ts'
import type { Placement } from '../placement/placement.ts'
import { whyNobody } from '../placement/why-nobody.ts'
import type { Ports, Random } from '../ports.ts'
import type { ClusterDocuments, HookName, MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import { DEFAULT_RULE } from '../specs/policy-refs.ts'
import { Autoscaler, scalingJson } from './autoscaler.ts'
import type { Scaling } from './autoscale.ts'
import { BlockDocuments } from './block-documents.ts'
import { HealthChecker } from './health-checker.ts'
import { healthSettings } from './health-round.ts'
import type { BlockInvoker } from './invoker.ts'

/** What the steward of a block lets others do with it. */
export type BlockDesk = Pick<Placement, 'tended' | 'setDesired' | 'send' | 'onRole' | 'lastPlacement'>
export type Kept = NonNullable<ReturnType<BlockDesk['tended']>>

export type UpkeepParts = {
  readonly desk: BlockDesk
  readonly view: MeshView
  readonly invoker: Pick<BlockInvoker, 'load' | 'health'>
  readonly policies: PolicyCalls & { management(rule: PolicyRef, action: string, data: Json, hook: HookName, scope?: string): Promise<Json> }
  readonly metrics: MetricsSource
  readonly clusters: ClusterDocuments
  readonly onUnhealthy: (block: BlockId, instance: InstanceId, because: string) => void
  readonly onFailing: (block: BlockId, because: string) => void
}

type Watch = { scaleAt: Millis; healthAt: Millis; scaling: boolean; checking: boolean; failing: boolean; last: { readonly at: Millis; readonly scaling: Scaling } | undefined }

const BEAT_MS = 500
const CANDIDATES_TOLD = 32
/** What each takes besides what its policy declares. */
export const UPKEEP_COMMANDS = { autoscaler: ['status', 'run'], health: ['status', 'check'] } as const

/**
 * Looks after the blocks that this peer stewards, beyond keeping their instances alive: how many there should be, and how each of them
 * is. It ends with the stewardship; the next steward has what was asked for from its mirror, and starts its own rounds.
 */
export class Upkeep {
  readonly #ports: Pick<Ports, 'clock' | 'telemetry'>
  readonly #random: Random
  readonly #parts: UpkeepParts
  readonly #autoscaler: Autoscaler
  readonly #health: HealthChecker
  readonly #watched = new Map<BlockId, Watch>()
  readonly #beat: Beat

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'telemetry'>, parts: UpkeepParts) {
    this.#ports = ports
    this.#random = ports.random.fork('upkeep')
    this.#parts = parts
    const documents = new BlockDocuments(parts.view, parts.clusters)
    this.#autoscaler = new Autoscaler(ports, { ...parts, documents })
    this.#health = new HealthChecker(ports.telemetry, { ...parts, documents })
    this.#beat = new Beat(ports.clock, BEAT_MS, { needed: () => this.#watched.size > 0, look: () => this.#lookAll() })
    parts.desk.onRole(block => this.#role(block))
  }

  stop(): void {
    this.#beat.stop()
  }

  /** Does what somebody asks of a block that this peer stewards. Throws EPOCH_FENCED where it does not, CONFLICT, NOT_FOUND, BAD_INPUT, POLICY_FAILED. */
  async perform(block: BlockId, order: BlockOrder): Promise<Json> {
    const kept = this.#parts.desk.tended(block)
    if (kept === undefined) throw new MeshError('EPOCH_FENCED', `this peer does not steward ${block}`)
    switch (order.do) {
      case 'scale':
        return scalingJson(this.#noted(block, this.#autoscaler.scale(block, order.count, order.at)))
      case 'release':
        return scalingJson(this.#noted(block, this.#autoscaler.release(block, order.instances)))
      case 'reassign':
        if (!kept.observed.some(({ instance }) => instance === order.instance)) throw new MeshError('NOT_FOUND', `${order.instance} is not an instance of ${block}`)
        this.#parts.desk.send(block, [order.instance], 'replaced', 'somebody wants it elsewhere')
        return { instance_id: order.instance, reassigned: true }
      case 'wake':
        return { woken: this.#autoscaler.wake(block) }
      case 'status':
        return this.status(block)
      case 'command':
        return this.#command(block, kept, order)
    }
  }

  /** How a block is, as its steward sees it. */
  status(block: BlockId): Json {
    const kept = this.#parts.desk.tended(block)
    if (kept === undefined) return { blockId: block, state: 'unknown', because: 'this peer does not steward it' }
    const { record, want, observed, failing, failed, desired } = kept
    const health = this.#health.of(block)
    const ready = observed.filter(({ state }) => state === 'ready')
    const well = ready.filter(({ instance }) => health.get(instance)?.healthy !== false)
    const last = this.#watched.get(block)?.last
    const placement = this.#parts.desk.lastPlacement(block)
    const nobody = ready.length < want ? whyNobody(placement) : undefined
    const unplaced = nobody === undefined ? undefined : `no host takes one (${nobody})`
    return {
      blockId: block, ...stateOf({ want, ready: ready.length, well: well.length, failing, failed: failed ?? unplaced, sick: [...health].find(([, { healthy }]) => !healthy)?.[1].because }),
      minInstances: record.minInstances, maxInstances: record.maxInstances, want, desired: desired ?? null, ready: ready.length,
      instances: Object.fromEntries(observed.map(({ instance, host, state, leaving }) => [instance, { nodeId: host, state, healthy: health.get(instance)?.healthy ?? null, misses: health.get(instance)?.misses ?? 0, because: leaving?.because ?? health.get(instance)?.because ?? '' }])),
      lastPlacement: placement === undefined ? null : toJson({ ...placement, candidates: placement.candidates.slice(-CANDIDATES_TOLD) }),
      lastScaling: last === undefined ? null : { ...last.scaling, agoMs: Math.round(this.#ports.clock.monotonic() - last.at), spots: [], instances: [] },
    }
  }

  #role(block: BlockId): void {
    const kept = this.#parts.desk.tended(block)
    if (kept === undefined) {
      this.#watched.delete(block)
      this.#autoscaler.forget(block)
      this.#health.forget(block)
      return
    }
    if (this.#watched.has(block)) return
    const now = this.#ports.clock.monotonic()
    const rhythm = this.#autoscaler.rhythm(kept)
    // A peer that takes up many blocks at once does not ask all of them at once.
    this.#watched.set(block, { scaleAt: now + (rhythm?.firstMs ?? 0), healthAt: now + healthSettings(kept.record).intervalMs * (0.5 + this.#random.float() / 2), scaling: false, checking: false, failing: false, last: undefined })
    this.#beat.wake()
  }

  #lookAll(): void {
    for (const [block, watch] of this.#watched) this.#look(block, watch)
  }

  #look(block: BlockId, watch: Watch): void {
    const kept = this.#parts.desk.tended(block)
    // Withdrawn: its steward has only to release what is left.
    if (kept === undefined) return
    this.#health.look(block)
    const now = this.#ports.clock.monotonic()
    const rhythm = this.#autoscaler.rhythm(kept)
    if (rhythm !== undefined && !watch.scaling && now >= watch.scaleAt) {
      watch.scaleAt = now + rhythm.intervalMs
      watch.scaling = true
      this.#background(block, this.#autoscaler.run(block).then(scaling => this.#noted(block, scaling)).finally(() => (watch.scaling = false)))
    }
    if (!watch.checking && now >= watch.healthAt) {
      watch.healthAt = now + healthSettings(kept.record).intervalMs
      watch.checking = true
      this.#background(block, this.#health.round(block).finally(() => (watch.checking = false)))
    }
    if (kept.failing !== undefined && !watch.failing) this.#parts.onFailing(block, kept.failing)
    watch.failing = kept.failing !== undefined
  }

  #noted(block: BlockId, scaling: Scaling): Scaling {
    const watch = this.#watched.get(block)
    if (watch !== undefined && (scaling.do !== 'nothing' || watch.last === undefined || watch.last.scaling.do === 'nothing')) watch.last = { at: this.#ports.clock.monotonic(), scaling }
    return scaling
  }

  /** Built-in commands answer where no rule is set; a rule's own come first. */
  async #command(block: BlockId, { record }: Kept, { service, action, data }: Extract<BlockOrder, { do: 'command' }>): Promise<Json> {
    const hook = service === 'autoscaler' ? 'autoscaler' : 'stabilityChecker'
    if (action === 'status') return this.status(block)
    if (service === 'autoscaler' && action === 'run') return scalingJson(this.#noted(block, await this.#autoscaler.run(block)))
    if (service !== 'autoscaler' && action === 'check') return Object.fromEntries([...await this.#health.round(block)].map(([instance, health]) => [instance, { ...health }]))
    const rule = record.policies[hook]
    if (rule === undefined || rule.policyRuleURI === DEFAULT_RULE) throw new MeshError('BAD_INPUT', `${service} has no command ${action} here: it has ${UPKEEP_COMMANDS[service === 'autoscaler' ? 'autoscaler' : 'health'].join(' and ')}, and those of a ${hook} policy where the block names one`)
    return this.#parts.policies.management(rule, action, data, hook, block)
  }

  #background(block: BlockId, work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      const failure = asMeshError(error)
      if (failure.code === 'INTERNAL') throw error
      this.#ports.telemetry.event('debug', 'upkeep.failed', { block, because: failure.message })
    })
  }
}

function stateOf({ want, ready, well, failing, failed, sick }: { readonly want: number; readonly ready: number; readonly well: number; readonly failing: string | undefined; readonly failed: string | undefined; readonly sick: string | undefined }): { readonly state: string; readonly because: string } {
  if (want === 0) return { state: 'asleep', because: 'nobody calls it: the next call wakes it' }
  if (failing !== undefined) return { state: 'failing', because: failing }
  if (well === 0) return { state: 'unhealthy', because: ready === 0 ? `no instance is ready${failed === undefined ? '' : `: ${failed}`}` : sick ?? 'every instance says so' }
  const why = sick ?? failed
  if (well < want) return { state: 'degraded', because: `${well} of ${want} instances are ready and well${why === undefined ? '' : `: ${why}`}` }
  if (failed !== undefined) return { state: 'degraded', because: `an instance failed within the last minute: ${failed}` }
  return { state: 'healthy', because: '' }
}
