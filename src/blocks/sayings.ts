import { z } from 'zod'
import { asMeshError, granted, MeshError } from '../../protocols/errors.ts'
import { blockId, type Json, type Millis } from '../../protocols/ids.ts'
import type { BlockRecord, PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject } from '../lib/json.ts'
import type { Ports } from '../ports.ts'
import type { Invoker, PolicyCalls } from '../roles.ts'
import { Fields } from '../specs/fields.ts'
import { parsePolicyRef } from '../specs/policy-refs.ts'
import { Problems } from '../specs/problems.ts'
import type { Hearsay } from './instances.ts'

type Said = Parameters<Hearsay>[0]
/** Carries a message to a URL outside the mesh. Throws FORBIDDEN where the operator of this host did not allow it. */
export type Outside = (url: string, message: Json, signal: AbortSignal) => Promise<void>

/** What waits for one event of a block, or for one side-car. */
const WAITING_BOUND = 1_000
const AT_ONCE = 4
/** Blocks, events and side-cars that this host has anything waiting for. */
const LINES_BOUND = 10_000
const DELIVER_MS: Millis = 30_000

const sideCar = z.union([
  z.string().transform(said => ({ to: said })),
  z.looseObject({ blockId: z.string().optional(), block_id: z.string().optional(), external: z.boolean().optional(), external_url: z.string().optional(), url: z.string().optional(), external_redis_url: z.string().optional() })
    .transform(said => ({ to: said.url ?? said.external_url ?? said.external_redis_url ?? said.blockId ?? said.block_id })),
])

/**
 * Carries what instances say to those it is for: an event to the block's rule for it, a message to the block or the URL that is its
 * side-car. All of it happens afterwards: whoever says it waits for nothing, and what comes faster than it is taken is counted and dropped.
 */
export class Sayings {
  readonly #ports: Pick<Ports, 'clock' | 'telemetry'>
  readonly #policies: PolicyCalls
  readonly #invoker: Pick<Invoker, 'infer'>
  readonly #outside: Outside | undefined
  readonly #lines = new Map<string, { readonly waiting: Said[]; running: number }>()
  readonly #life = new AbortController()

  constructor(ports: Pick<Ports, 'clock' | 'telemetry'>, parts: { readonly policies: PolicyCalls; readonly invoker: Pick<Invoker, 'infer'>; readonly outside: Outside | undefined }) {
    this.#ports = ports
    this.#policies = parts.policies
    this.#invoker = parts.invoker
    this.#outside = parts.outside
  }

  stop(): void {
    this.#life.abort(new MeshError('CANCELLED', 'the peer is stopping'))
    this.#lines.clear()
  }

  /** Returns at once. */
  take(said: Said): void {
    const { block, sideCar, name } = said
    const what = sideCar ? 'side_car_messages' : 'block_events'
    const key = `${block.blockId}\0${sideCar ? 'to' : 'event'}\0${name}`
    const line = this.#lines.get(key) ?? { waiting: [], running: 0 }
    if (this.#life.signal.aborted || line.waiting.length >= WAITING_BOUND || (this.#lines.size >= LINES_BOUND && !this.#lines.has(key))) {
      this.#ports.telemetry.count(`${what}_total`, { block: block.blockId, outcome: 'dropped' })
      return
    }
    this.#lines.set(key, line)
    line.waiting.push(said)
    if (line.running < AT_ONCE) void this.#work(key, line)
  }

  async #work(key: string, line: { readonly waiting: Said[]; running: number }): Promise<void> {
    line.running += 1
    for (let said = line.waiting.shift(); said !== undefined; said = line.waiting.shift()) await this.#deliver(said)
    line.running -= 1
    if (line.running === 0) this.#lines.delete(key)
  }

  async #deliver(said: Said): Promise<void> {
    const { block: { blockId: block }, sideCar, name } = said
    const { clock, telemetry } = this.#ports
    const what = sideCar ? 'side_car_messages_total' : 'block_events_total'
    try {
      const taken = sideCar ? await this.#toSideCar(said, clock.deadline(DELIVER_MS, this.#life.signal)) : await this.#toRule(said)
      telemetry.count(what, { block, outcome: taken ? 'delivered' : 'unheard' })
    } catch (error) {
      const failure = asMeshError(error)
      telemetry.count(what, { block, outcome: 'failed' })
      telemetry.event('warn', sideCar ? 'side-car.not-reached' : 'block-event.failed', { block, name, code: failure.code, because: failure.message })
    }
  }

  /** False where nobody asked to hear of it. */
  async #toRule({ block, name, data }: Said): Promise<boolean> {
    const rule = eventRule(block, name)
    if (rule === undefined) return false
    const { by, because } = await this.#policies.decide<true>({
      hook: 'blockEvent', rule, scope: block.blockId,
      input: { block_id: block.blockId, event_name: name, event_data: data },
      accept: () => granted(true),
      fallback: () => true,
    })
    if (by === 'fallback') throw new MeshError('POLICY_FAILED', because)
    return true
  }

  async #toSideCar({ block, instance, name, data }: Said, signal: AbortSignal): Promise<boolean> {
    const cars: Json | undefined = block.initData['side_cars']
    const parsed = sideCar.safeParse(isJsonObject(cars) ? cars[name] : undefined)
    const to = parsed.success ? parsed.data.to : undefined
    if (to === undefined) throw new MeshError('NOT_FOUND', `blockInitData.side_cars has no ${name} with a blockId or a url`)
    if (/^[a-z][a-z0-9+.-]*:\/\//i.test(to)) {
      if (this.#outside === undefined) throw new MeshError('FORBIDDEN', `this host sends nothing to ${to}: its operator allows servers with --external`)
      await this.#outside(to, { block_id: block.blockId, instance_id: instance, side_car: name, data }, signal)
      return true
    }
    if (!blockId.safeParse(to).success) throw new MeshError('BAD_INPUT', `${to} is neither a block nor a URL`)
    if (to === block.blockId) throw new MeshError('BAD_INPUT', `${to} is its own side-car`)
    const packet = { sessionId: `sidecar::${block.blockId}::${instance}`, seqNo: 0, ts: this.#ports.clock.unix() / 1_000, data, files: [] }
    // What a side-car answers is for nobody.
    for await (const _ of this.#invoker.infer(to, packet, { deadlineMs: DELIVER_MS, signal })) continue
    return true
  }
}

/** `blockInitData.events[name]`: a rule's URI, or a rule with parameters. */
function eventRule(block: BlockRecord, name: string): PolicyRef | undefined {
  const events: Json | undefined = block.initData['events']
  if (!isJsonObject(events) || !Object.hasOwn(events, name)) return undefined
  return parsePolicyRef(new Fields(events, 'blockInitData.events', new Problems('block events')), name)
}
