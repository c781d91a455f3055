import { z } from 'zod'
import { asMeshError, granted, refused } from '../../protocols/errors.ts'
import type { BlockId, Json, Millis } from '../../protocols/ids.ts'
import type { VdagSpec } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { Lru } from '../lib/lru.ts'
import type { Clock, Telemetry } from '../ports.ts'
import type { Catalogue, PolicyCalls } from '../roles.ts'
import type { Controllers } from './controllers.ts'
import type { Gate } from './gate.ts'
import { controllerSettings } from './settings.ts'

const TICK_MS: Millis = 1_000
const VDAGS_BOUND = 1_000
const REASSIGNED_BOUND = 100

type Assignment = Readonly<Record<string, readonly BlockId[]>>
export type Reassigned = { readonly label: string; readonly from: readonly BlockId[]; readonly to: readonly BlockId[]; readonly at: Millis }
export type VdagHealth = { readonly vdag: string; readonly at: Millis; readonly overall_healthy: boolean; readonly health_check_data: Json; readonly assignment: Assignment; readonly because: string; readonly reassigned: readonly Reassigned[] }
type Watched = { dueAt: Millis; misses: number; health: VdagHealth | undefined }

const overall = z.looseObject({ overall_healthy: z.boolean() })

/**
 * Looks after the vDAGs that this peer is a controller of, every `healthChecker.interval`: asks the health rule about all their blocks,
 * and has the nodes assigned anew whose blocks are gone (AIOS's re-assignment). Requests find the new ones at once: each run is
 * assigned when it begins.
 */
export class HealthWatch {
  readonly #ports: { readonly clock: Clock; readonly telemetry: Telemetry }
  readonly #controllers: Pick<Controllers, 'own' | 'configOf' | 'onChange'>
  readonly #catalogue: Pick<Catalogue, 'vdag'>
  readonly #policies: PolicyCalls
  readonly #gate: Gate
  readonly #assign: (spec: VdagSpec) => Promise<Assignment>
  readonly #watched = new Lru<string, Watched>(VDAGS_BOUND)
  #cancel: (() => void) | undefined
  #armed = false
  #stopped = false

  /** `assign`: the blocks each node would run on now. */
  constructor(ports: { readonly clock: Clock; readonly telemetry: Telemetry }, parts: { readonly controllers: Pick<Controllers, 'own' | 'configOf' | 'onChange'>; readonly catalogue: Pick<Catalogue, 'vdag'>; readonly policies: PolicyCalls; readonly gate: Gate; readonly assign: (spec: VdagSpec) => Promise<Assignment> }) {
    this.#ports = ports
    this.#controllers = parts.controllers
    this.#catalogue = parts.catalogue
    this.#policies = parts.policies
    this.#gate = parts.gate
    this.#assign = parts.assign
  }

  start(): void {
    this.#controllers.onChange(() => this.#arm())
    this.#arm()
  }

  #arm(): void {
    if (this.#armed || this.#stopped) return
    this.#armed = true
    this.#cancel = this.#ports.clock.after(TICK_MS, () => background(this.#ports.telemetry, 'vdag.not-checked', this.#round(), 'warn'))
  }

  stop(): void {
    this.#stopped = true
    this.#cancel?.()
  }

  /** What the last look found; undefined before the first, and where this peer does not look. */
  last(uri: string): VdagHealth | undefined {
    return this.#watched.peek(uri)?.health
  }

  /** Looks now. Throws NOT_FOUND. */
  async check(uri: string): Promise<VdagHealth> {
    const { spec } = await this.#catalogue.vdag(uri)
    const custom = await this.#controllers.configOf(spec.vdagURI)
    const { healthChecker } = controllerSettings(spec.controller, isJsonObject(custom) ? custom : {})
    const watched = this.#watched.get(spec.vdagURI) ?? { dueAt: 0, misses: 0, health: undefined }
    this.#watched.set(spec.vdagURI, watched)
    watched.dueAt = this.#ports.clock.monotonic() + (healthChecker?.intervalMs ?? Infinity)
    const before = watched.health
    const { assignment, because: unassigned } = await this.#assigned(spec, before?.assignment ?? {})
    this.#gate.assigned(spec.vdagURI, Object.values(assignment).flat())
    const health_check_data = this.#gate.health(spec)
    const allReady = Object.entries(assignment).every(([, blocks]) => blocks.some(block => readyIn(health_check_data, block)))
    const { value, because } = await this.#policies.decide<boolean>({
      hook: 'healthChecker',
      rule: healthChecker?.rule,
      input: { mode: 'health_check', vdag: toJson(spec), health_check_data },
      scope: spec.vdagURI,
      accept: answer => {
        const parsed = overall.safeParse(answer)
        // AIOS reads the answer of a fast check only; what another says of the whole is taken, where it says it.
        return parsed.success ? granted(parsed.data.overall_healthy) : answer === null || isJsonObject(answer) ? granted(allReady) : refused('a health rule must return an object')
      },
      fallback: () => allReady,
    })
    const well = value && unassigned === ''
    watched.misses = well ? 0 : watched.misses + 1
    const at = this.#ports.clock.unix()
    const moved = before === undefined ? [] : Object.entries(assignment).flatMap(([label, to]) => {
      const from = before.assignment[label] ?? to
      return from[0] === to[0] ? [] : [{ label, from, to, at }]
    })
    for (const { label, from, to } of moved) this.#ports.telemetry.event('info', 'vdag.reassigned', { vdag: spec.vdagURI, label, from: from.join(), to: to.join() })
    const health: VdagHealth = {
      vdag: spec.vdagURI, at, health_check_data, assignment, because: unassigned === '' ? because : unassigned,
      // One bad look may be an accident; `maxRetries` of them are not.
      overall_healthy: well || (unassigned === '' && watched.misses <= (healthChecker?.maxRetries ?? 0)),
      reassigned: [...before?.reassigned ?? [], ...moved].slice(-REASSIGNED_BOUND),
    }
    watched.health = health
    this.#ports.telemetry.gauge('vdag_healthy', health.overall_healthy ? 1 : 0, { vdag: spec.vdagURI })
    return health
  }

  /** A peer that controls nothing looks after nothing, and waits for that to change. */
  async #round(): Promise<void> {
    this.#armed = false
    const now = this.#ports.clock.monotonic()
    const own = await this.#controllers.own()
    if (own.length > 0) this.#arm()
    for (const uri of own) if ((this.#watched.peek(uri)?.dueAt ?? 0) <= now) await this.check(uri)
  }

  /** Nodes that cannot be assigned now keep the blocks they had, so that one can tell which are missed. */
  async #assigned(spec: VdagSpec, before: Assignment): Promise<{ readonly assignment: Assignment; readonly because: string }> {
    try {
      return { assignment: await this.#assign(spec), because: '' }
    } catch (error) {
      return { assignment: before, because: asMeshError(error).message }
    }
  }
}

function readyIn(health: JsonObject, block: BlockId): boolean {
  const found = health[block]
  return isJsonObject(found) && found['healthy'] === true
}
