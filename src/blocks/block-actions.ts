import { z } from 'zod'
import { asMeshError, MeshError, type Verdict } from '../../protocols/errors.ts'
import { blockId, instanceId, type BlockId, type InstanceId, type Json, type Millis } from '../../protocols/ids.ts'
import type { Right } from '../../protocols/membership.ts'
import { instanceInit } from '../../protocols/placement.ts'
import { refusalOf } from '../../protocols/refusal.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import type { BlockGovernance } from '../clusters/block-governance.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import type { Ports } from '../ports.ts'
import type { ArtefactCatalogue } from '../registries/catalogue.ts'
import type { Invoker, MeshView } from '../roles.ts'
import { unwrap } from '../specs/envelope.ts'
import { validate } from '../specs/template.ts'
import { readSpots } from './autoscale.ts'
import type { BlockControl } from './control.ts'
import type { ExecutorCommands } from './executor-commands.ts'

const COMMAND_MS: Millis = 30_000
const FETCH_MS: Millis = 30_000

const spot = z.looseObject({ node_id: z.string(), gpu_ids: z.array(z.coerce.string()).optional(), gpus: z.array(z.coerce.string()).optional() })
const scaleOrder = z.discriminatedUnion('operation', [
  z.looseObject({ operation: z.literal('scale'), block_id: blockId, instances_count: z.coerce.number().int().min(1).max(1_000), allocation_data: z.array(spot).max(256).nullish(), init_data: z.array(instanceInit).max(256).nullish() }),
  z.looseObject({ operation: z.literal('downscale'), block_id: blockId, instances_list: z.array(instanceId).min(1).max(1_000) }),
])

export type BlockCommand = { readonly block: BlockId; readonly instance?: InstanceId | undefined; readonly service: 'instances' | 'executor' | 'autoscaler' | 'health' | 'stability_checker'; readonly action: string; readonly data: Json }

/** What people and programs do with blocks that run, in AIOS's bodies, on any peer; the steward of the block acts. */
export class BlockActions {
  readonly #ports: Pick<Ports, 'clock' | 'identity'>
  readonly #may: (right: Right) => Verdict<true>
  readonly #view: MeshView
  readonly #catalogue: ArtefactCatalogue
  readonly #control: BlockControl
  readonly #invoker: Pick<Invoker, 'management' | 'update'>
  readonly #executor: ExecutorCommands
  readonly #governed: Pick<BlockGovernance, 'order' | 'command'>

  constructor(ports: Pick<Ports, 'clock' | 'identity'>, parts: { readonly may: (right: Right) => Verdict<true>; readonly view: MeshView; readonly catalogue: ArtefactCatalogue; readonly control: BlockControl; readonly invoker: Pick<Invoker, 'management' | 'update'>; readonly executor: ExecutorCommands; readonly governed: Pick<BlockGovernance, 'order' | 'command'> }) {
    this.#ports = ports
    this.#may = parts.may
    this.#view = parts.view
    this.#catalogue = parts.catalogue
    this.#control = parts.control
    this.#invoker = parts.invoker
    this.#executor = parts.executor
    this.#governed = parts.governed
  }

  /**
   * AIOS's scaling: `{ operation: "scale", block_id, instances_count, allocation_data?, init_data? }` for so many more, on those hosts and GPUs,
   * each with its own data over the block's;
   * `{ operation: "downscale", block_id, instances_list }` for those to go. Throws SPEC_INVALID, NOT_FOUND, POLICY_DENIED, and CONFLICT
   * where the block's bounds do not let it.
   */
  async scale(document: Json): Promise<Json> {
    this.#need('operate')
    const { values } = unwrap(document, 'scaling')
    const block = await this.known(named(values))
    const allowed = await this.#governed.order(block, { ...values, block_id: block.blockId })
    const parsed = scaleOrder.safeParse(allowed)
    if (!parsed.success) throw new MeshError('SPEC_INVALID', `scaling: ${refusalOf(parsed.error, allowed)}; give { "operation": "scale", "block_id", "instances_count" } or { "operation": "downscale", "block_id", "instances_list" }`)
    const order = parsed.data
    if (order.operation === 'downscale') return this.#control.order(block.blockId, { do: 'release', instances: order.instances_list })
    return this.#control.order(block.blockId, { do: 'scale', count: order.instances_count, at: readSpots(order.allocation_data ?? [], order.init_data ?? []).map(spot => ({ ...spot, gpus: [...spot.gpus] })) })
  }

  /** Throws NOT_FOUND, POLICY_DENIED, and CONFLICT where the block keeps no fewer. */
  removeInstance(block: BlockId, instance: InstanceId): Promise<Json> {
    return this.scale({ operation: 'downscale', block_id: block, instances_list: [instance] })
  }

  /** Another instance in the place of this one, elsewhere where there is elsewhere. Throws NOT_FOUND, POLICY_DENIED. */
  async reassign(block: BlockId, instance: InstanceId): Promise<Json> {
    this.#need('operate')
    await this.known(block)
    return this.#control.order(block, { do: 'reassign', instance: checked(instanceId, instance, 'instance_id') })
  }

  /**
   * AIOS's parameter update: `on_update` of every instance, and of those that come later, for it is part of the block from then on. Answers
   * what each instance said. Throws SPEC_INVALID where the component's protocol does not let it, COMPONENT_ERROR where every instance
   * refuses it: then nothing has changed.
   */
  async updateParameters(id: BlockId, patch: JsonObject, signal?: AbortSignal): Promise<{ readonly parameters: JsonObject; readonly instances: Readonly<Record<InstanceId, Json>> }> {
    this.#need('operate')
    const block = await this.known(id)
    const manifest = await this.#catalogue.componentByCid(block.component, this.#ports.clock.deadline(FETCH_MS, signal))
    const updates = { ...block.updates, ...patch }
    const parameters = { ...block.parameters, ...updates }
    const [problem] = validate(manifest.componentInitParametersProtocol, parameters)
    if (problem !== undefined) throw new MeshError('SPEC_INVALID', `parameter update: parameters.${problem}`)
    const instances = await this.#invoker.update(id, updates, { deadlineMs: COMMAND_MS, ...(signal === undefined ? {} : { signal }) }).catch((error: unknown) => {
      const failure = asMeshError(error)
      // Nobody runs: those that come will start with it.
      if (failure.code === 'NO_INSTANCE') return {}
      throw failure
    })
    const refusals = Object.values(instances).map(answer => (isJsonObject(answer) && isJsonObject(answer['error']) ? answer['error'] : undefined))
    // An instance that could not be reached is told by the block's record later; one that said no will say no again.
    if (refusals.length > 0 && refusals.every(refusal => refusal?.['code'] === 'COMPONENT_ERROR' || refusal?.['code'] === 'INSTANCE_FAILED')) throw new MeshError('COMPONENT_ERROR', `no instance of ${id} takes these parameters: ${String(refusals[0]?.['message'])}`)
    const now = await this.known(id)
    await this.#catalogue.putBlock({ ...now, updates: { ...now.updates, ...patch }, revision: now.revision + 1 })
    return { parameters, instances }
  }

  /** A command to each instance of a block (a map of their answers), to one of them, or to what runs around it. Throws NOT_FOUND, BAD_INPUT, POLICY_DENIED. */
  async command({ block: id, instance, service, action, data }: BlockCommand, signal?: AbortSignal): Promise<Json> {
    const block = await this.known(id)
    if (service === 'instances') return { ...await this.#invoker.management(id, instance, action, data, { deadlineMs: COMMAND_MS, ...(signal === undefined ? {} : { signal }) }) }
    this.#need('operate')
    const allowed = await this.#governed.command(block, { action, data })
    if (service === 'executor') return this.#executor.perform(block, allowed.action, allowed.data, signal)
    return this.#control.order(id, { do: 'command', service, ...allowed }, signal === undefined ? {} : { signal })
  }

  /** How a block is, as its steward sees it; what can be seen from here where that one does not answer. Throws NOT_FOUND. */
  async status(id: BlockId, signal?: AbortSignal): Promise<Json> {
    await this.known(id)
    try {
      return await this.#control.order(id, { do: 'status' }, { deadlineMs: 3_000, ...(signal === undefined ? {} : { signal }) })
    } catch (error) {
      const failure = asMeshError(error)
      return { blockId: id, state: 'unknown', because: `its steward does not answer: ${failure.message}`, ready: this.#view.instancesOf(id).filter(({ ad }) => ad.state === 'ready').length }
    }
  }

  /** Throws NOT_FOUND. */
  async known(id: BlockId): Promise<BlockRecord> {
    const block = await this.#catalogue.block(checked(blockId, id, 'block_id'))
    if (block === undefined) throw new MeshError('NOT_FOUND', `no block is called ${id}: \`aios block list\` shows those there are`)
    return block
  }

  #need(right: Right): void {
    const verdict = this.#may(right)
    if (!verdict.ok) throw new MeshError('FORBIDDEN', `this peer may not do that: ${verdict.because}`)
  }
}

function named(values: JsonObject): BlockId {
  return checked(blockId, values['block_id'] ?? values['blockId'], 'block_id')
}

function checked<T>(schema: z.ZodType<T>, value: unknown, field: string): T {
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw new MeshError('BAD_INPUT', `${field}: ${value === undefined ? 'missing' : `${JSON.stringify(value).slice(0, 80)} is none`}`)
  return parsed.data
}
