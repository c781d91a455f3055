import { z } from 'zod'
import { MeshError } from '../protocols/errors.ts'
import type { Cid, Json, Millis } from '../protocols/ids.ts'
import type { ComponentManifest } from '../protocols/specs.ts'
import type { Actions } from './actions.ts'
import type { Clusters } from './clusters/clusters.ts'
import { toJson } from './lib/json.ts'
import { Lru } from './lib/lru.ts'
import type { Clock, Random } from './ports.ts'
import type { Inventory } from './inventory.ts'
import { layerObjects, splitJob } from './llm/serve/split-job.ts'
import type { ModelServing } from './llm/serve/serving.ts'
import type { Invoker } from './roles.ts'
import type { ArtefactCatalogue } from './registries/catalogue.ts'
import { specValues } from './specs/envelope.ts'
import { hex } from '../protocols/codec.ts'

const TASKS_BOUND = 10_000
const COMMAND_MS = 30_000
const READY_MS = 60_000
/** One step of a splitter. */
const SPLIT_MS = 600_000

export type Task = { readonly id: string; readonly action: string; readonly createdAt: Millis; status: 'in_progress' | 'completed' | 'failed'; result: Json }

const command = z.object({
  blockId: z.string().optional(), clusterId: z.string().optional(), instanceId: z.string().optional(),
  service: z.enum(['instances', 'executor', 'autoscaler', 'health', 'stability_checker']).default('instances'),
  mgmtCommand: z.string().min(1), mgmtData: z.json().default(null),
})

/** AIOS's one declarative door: an action name and a spec, in any of its dialects. Every action is a task with an id. */
export class Parser {
  readonly #clock: Clock
  readonly #random: Random
  readonly #actions: Actions
  readonly #clusters: Clusters
  readonly #invoker: Invoker
  readonly #inventory: Inventory
  readonly #models: ModelServing
  readonly #catalogue: ArtefactCatalogue
  readonly #tasks = new Lru<string, Task>(TASKS_BOUND)

  constructor(ports: { readonly clock: Clock; readonly random: Random }, parts: { readonly actions: Actions; readonly clusters: Clusters; readonly invoker: Invoker; readonly inventory: Inventory; readonly models: ModelServing; readonly catalogue: ArtefactCatalogue }) {
    this.#clock = ports.clock
    this.#random = ports.random.fork('parser')
    this.#actions = parts.actions
    this.#clusters = parts.clusters
    this.#invoker = parts.invoker
    this.#inventory = parts.inventory
    this.#models = parts.models
    this.#catalogue = parts.catalogue
  }

  /** Throws what the action throws; the task records it. NOT_FOUND names the actions there are. */
  async perform(action: string, document: Json, signal: AbortSignal): Promise<{ readonly taskId: string; readonly result: Json }> {
    const task: Task = { id: `task-${hex(this.#random.bytes(8))}`, action, createdAt: this.#clock.unix(), status: 'in_progress', result: null }
    this.#tasks.set(task.id, task)
    try {
      task.result = await this.#run(action, document, signal)
      task.status = 'completed'
      return { taskId: task.id, result: task.result }
    } catch (error) {
      task.status = 'failed'
      task.result = error instanceof MeshError ? toJson(error.toJSON()) : String(error)
      throw error
    }
  }

  tasks(): readonly Task[] {
    return [...this.#tasks].map(([, task]) => task)
  }

  async #run(action: string, document: Json, signal: AbortSignal): Promise<Json> {
    switch (action) {
      case 'createBlock': {
        const made = await this.#actions.createBlock(document)
        if (made.dryRun) return toJson({ blockId: made.block.blockId, dry_run: made.explanation })
        await this.#actions.waitReady(made.block, made.block.minInstances, this.#clock.deadline(READY_MS, signal))
        return toJson({ blockId: made.block.blockId, block: made.block })
      }
      case 'createvDAG':
      case 'createVDAG':
        return toJson(await this.#actions.createVdag(document))
      case 'addComponent':
        return toJson(await this.#actions.addComponent(document))
      case 'createCluster':
        return toJson(await this.#clusters.create(document))
      case 'addNode':
        return toJson(await this.#clusters.addNode(document))
      case 'search':
        return this.#inventory.search(document)
      case 'filter':
        return this.#inventory.filter(document)
      case 'executeMgmtCommand':
        return this.#command(document, signal)
      case 'startModelSplitJob':
      case 'start_model_split_job':
        return splitJob(this.#models, document, async (block, step, data) => Object.values(await this.#invoker.management(block, undefined, step, data, { deadlineMs: SPLIT_MS, signal }))[0] ?? null)
      case 'queryLayers':
        return toJson(layerObjects(await this.#stages(), document))
      default:
        throw new MeshError('NOT_FOUND', `there is no action ${action}: createBlock, createCluster, createvDAG, addComponent, addNode, search, filter, executeMgmtCommand, startModelSplitJob and queryLayers are`)
    }
  }

  /** Parts of models, from their names: no other component needs to be read. */
  async #stages(): Promise<readonly { readonly manifest: ComponentManifest; readonly cid: Cid }[]> {
    const signal = this.#clock.deadline(COMMAND_MS)
    const stages = (await this.#catalogue.components()).filter(({ uri }) => uri.startsWith('llm.'))
    return Promise.all(stages.map(async ({ cid }) => ({ cid, manifest: await this.#catalogue.componentByCid(cid, signal) })))
  }

  async #command(document: Json, signal: AbortSignal): Promise<Json> {
    const parsed = command.safeParse(specValues(document, 'management command'))
    if (!parsed.success) throw new MeshError('SPEC_INVALID', `management command: ${parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ')}`)
    const { blockId, clusterId, instanceId, service, mgmtCommand, mgmtData } = parsed.data
    if (clusterId !== undefined && blockId === undefined) {
      if (instanceId !== undefined) throw new MeshError('SPEC_INVALID', 'management command: instanceId: an instance is one of a block: name its blockId, not a clusterId')
      if (parsed.data.service !== 'stability_checker') throw new MeshError('SPEC_INVALID', 'management command: service: a cluster has one that takes commands, "stability_checker"')
      return this.#clusters.manage(clusterId, mgmtCommand, mgmtData)
    }
    if (blockId === undefined) throw new MeshError('SPEC_INVALID', 'management command: blockId: name the block, or a clusterId')
    if (service !== 'instances') throw new MeshError('SPEC_INVALID', `management command: service: ${service} takes no commands here; use "instances"`)
    return { ...(await this.#invoker.management(blockId, instanceId, mgmtCommand, mgmtData, { deadlineMs: COMMAND_MS, signal })) }
  }
}
