import { encode, hex, digest, utf8 } from '../protocols/codec.ts'
import { asMeshError, MeshError } from '../protocols/errors.ts'
import type { Cid, Json, Millis } from '../protocols/ids.ts'
import type { ComponentManifest } from '../protocols/specs.ts'
import type { StoredSpec } from '../protocols/stores.ts'
import type { TaskRecord } from '../protocols/tasks.ts'
import type { Actions } from './actions.ts'
import type { BlockActions } from './blocks/block-actions.ts'
import type { Clusters } from './clusters/clusters.ts'
import type { Inventory } from './inventory.ts'
import { background } from './lib/background.ts'
import { Backoff, retry, type BackoffPolicy } from './lib/backoff.ts'
import { toJson } from './lib/json.ts'
import { nearestName } from './lib/nearest-name.ts'
import { layerObjects, splitJob } from './llm/serve/split-job.ts'
import type { ModelServing } from './llm/serve/serving.ts'
import { ACTIONS, actionNamed, type ActionName } from './parser/action-names.ts'
import { checkCommand, parseCommand } from './parser/command.ts'
import { KnownCommands } from './parser/known-commands.ts'
import { createLlm, joinLlm } from './parser/models.ts'
import { parseUpdate } from './parser/parameters.ts'
import type { Ports, Random } from './ports.ts'
import type { ArtefactCatalogue } from './registries/catalogue.ts'
import type { Artefacts } from './registries/artefacts.ts'
import type { Invoker } from './roles.ts'
import { unwrap } from './specs/envelope.ts'
import type { Templates } from './stores/templates.ts'
import { keyName } from './lib/key-name.ts'
import type { Keys } from './tasks/keys.ts'
import { isOpen, type TaskBook } from './tasks/task-book.ts'

const COMMAND_MS: Millis = 30_000
const READY_MS: Millis = 60_000
const FETCH_MS: Millis = 30_000
/** What nobody waits for may take this long. */
const BACKGROUND_MS: Millis = 900_000
/** One step of a splitter. */
const SPLIT_MS: Millis = 600_000
const ONCE: BackoffPolicy = { firstMs: 1, maxMs: 1, retries: 0 }
/** Who lost a key waits so long for the winner's task to be heard of, and tries so often to take its place. */
const APPEARS_MS: Millis = 3_000
const CLAIMS: BackoffPolicy = { firstMs: 100, maxMs: 2_000, retries: 6 }
const RESUME: BackoffPolicy = { firstMs: 2_000, maxMs: 15_000, retries: 8 }

export type PerformOptions = {
  /** The same key is the same task, from whichever peer; after a failure it may be used again. */
  readonly key?: string | undefined
  /** False: answer with the task's id at once, and go on. `made`: answer once what is asked for is on record, and wait for its instances in the background. */
  readonly wait?: boolean | 'made'
  readonly replays?: string | undefined
}
export type Performed = { readonly taskId: string; readonly status: TaskRecord['task_status']; readonly result: Json; readonly existing: boolean }

type Parts = {
  readonly actions: Actions; readonly clusters: Clusters; readonly blocks: Pick<BlockActions, 'command' | 'updateParameters'>; readonly invoker: Invoker; readonly inventory: Inventory; readonly models: ModelServing; readonly catalogue: ArtefactCatalogue
  readonly templates: Templates; readonly specs: Artefacts<StoredSpec>; readonly tasks: TaskBook; readonly keys: Keys
}

/** AIOS's one declarative door: an action name and a spec, in any of its dialects. Every action is a task with an id. */
export class Parser {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'telemetry'>
  readonly #random: Random
  readonly #parts: Parts
  /** Requests with one key follow one another. */
  readonly #keyed = new Map<string, Promise<void>>()

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'telemetry' | 'random'>, parts: Parts) {
    this.#ports = ports
    this.#random = ports.random.fork('parser')
    this.#parts = parts
    parts.keys.answerBy(async what => {
      const task = await parts.tasks.get(what).catch(() => undefined)
      return task !== undefined && task.task_status !== 'failed'
    })
  }

  /**
   * Throws what the action throws, with the task's id in its details; the task records it. NOT_FOUND names the actions there are;
   * CONFLICT: the key was used for something else.
   */
  async perform(asked: string, document: Json, signal: AbortSignal, options: PerformOptions = {}): Promise<Performed> {
    const action = actionNamed(asked)
    if (action === undefined) {
      const near = nearestName(asked, ACTIONS.keys())
      throw new MeshError('NOT_FOUND', `there is no action ${asked.slice(0, 60)}${near === undefined ? '' : `; did you mean ${near}?`}: the actions are ${[...ACTIONS.keys()].join(', ')}`)
    }
    const { key } = options
    if (key === undefined) return this.#begin(action, document, signal, options, await this.#task(action, document, options))
    const before = this.#keyed.get(key)
    const doing = (before ?? Promise.resolve()).then(() => this.#once(key, action, document, signal, options))
    const settled = doing.then(() => undefined, () => undefined)
    this.#keyed.set(key, settled)
    void settled.then(() => {
      if (this.#keyed.get(key) === settled) this.#keyed.delete(key)
    })
    return doing
  }

  async #once(key: string, action: ActionName, document: Json, signal: AbortSignal, options: PerformOptions): Promise<Performed> {
    const { tasks, keys } = this.#parts
    const backoff = new Backoff(this.#random, CLAIMS)
    const id = tasks.newId()
    for (let epoch = 1; ; ) {
      const before = await tasks.keyed(key)
      if (before !== undefined && before.task_status !== 'failed') return this.#same(before, action, document, signal)
      if (ACTIONS.get(action)?.looks === true) return this.#begin(action, document, signal, options, await this.#task(action, document, options))
      // Of all who ask for it now, wherever, one begins it; nobody else gets the key before its task is on disk.
      const claim = await keys.claim(keyName('task', key), id, epoch, () => this.#task(action, document, { ...options, replays: before?.task_id, id }))
      if (claim.won) return this.#begin(action, document, signal, options, claim.value)
      const theirs = await this.#appears(claim.what, signal)
      if (theirs !== undefined && theirs.task_status !== 'failed') return this.#same(theirs, action, document, signal)
      epoch = claim.epoch + 1
      const pauseMs = backoff.next()
      if (pauseMs === undefined || signal.aborted) throw new MeshError('CONFLICT', `the key ${key} is ${claim.holder}'s, whose task ${claim.what} is not heard of: ask again`, { retryable: true })
      await this.#ports.clock.sleep(pauseMs, signal).catch(() => undefined)
    }
  }

  /** A task that another peer has just begun, once this one hears of it. */
  async #appears(id: string, signal: AbortSignal): Promise<TaskRecord | undefined> {
    const ends = this.#ports.clock.monotonic() + APPEARS_MS
    for (;;) {
      const task = await this.#parts.tasks.get(id).catch(() => undefined)
      if (task !== undefined || signal.aborted || this.#ports.clock.monotonic() >= ends) return task
      await this.#ports.clock.sleep(50, signal).catch(() => undefined)
    }
  }

  /** Runs an action with a spec of the spec store; fields of `over` stand in for the spec's own. Throws NOT_FOUND, SPEC_INVALID. */
  async performStored(asked: string, uri: string, over: Json, signal: AbortSignal, options: PerformOptions = {}): Promise<Performed> {
    const { document: spec } = await this.#parts.specs.get(uri, this.#ports.clock.deadline(FETCH_MS, signal))
    const action = actionNamed(asked)
    const takes = action === undefined ? undefined : ACTIONS.get(action)?.spec
    if (takes !== undefined && takes !== spec.specType) throw new MeshError('SPEC_INVALID', `${spec.specURI} is a ${spec.specType} spec, and ${asked} takes a ${takes} spec: name another specUri, or use ${[...ACTIONS].find(([, { spec: kind }]) => kind === spec.specType)?.[0] ?? 'another action'}`)
    const changed = over !== null && typeof over === 'object' && !Array.isArray(over) && Object.keys(over).length > 0
    return this.perform(asked, changed ? { ...unwrap(spec.data).values, ...unwrap(over).values } : spec.data, signal, options)
  }

  /** Does a task again, with the document it was asked with. Throws NOT_FOUND, CONTENT_UNAVAILABLE, BAD_INPUT. */
  async again(id: string, signal: AbortSignal, options: PerformOptions = {}): Promise<Performed> {
    const { tasks } = this.#parts
    const task = await tasks.get(id)
    if (task.action === undefined) throw new MeshError('BAD_INPUT', `task ${id} was not asked of the parser: whoever keeps it must do it again`)
    return this.perform(task.action, await tasks.input(task, this.#ports.clock.deadline(FETCH_MS, signal)), signal, { ...options, replays: id })
  }

  /** Takes up a task of this peer that was open when its process ended. */
  async resume(id: string): Promise<void> {
    const { tasks } = this.#parts
    const task = await tasks.get(id)
    const action = actionNamed(task.action ?? '')
    if (action === undefined || ACTIONS.get(action)?.resumes !== true) {
      await tasks.change(id, { status: 'failed', data: { error: { code: 'CANCELLED', message: `the peer stopped while it ran, and it may have been carried out: look, and ask again if it was not`, retryable: false } } })
      return
    }
    const signal = this.#ports.clock.deadline(BACKGROUND_MS)
    // The mesh may only be coming up around it: what may be tried again is, before the task is told to have failed.
    await this.#finish(action, task, await tasks.input(task, signal), signal, RESUME)
  }

  #task(action: ActionName, document: Json, { key, replays, id }: PerformOptions & { readonly id?: string }): Promise<TaskRecord> {
    const { type = action, looks } = ACTIONS.get(action) ?? {}
    return this.#parts.tasks.begin({ type, action, input: document, key, replays, id, looks: looks === true })
  }

  async #begin(action: ActionName, document: Json, signal: AbortSignal, { wait = true }: PerformOptions, task: TaskRecord): Promise<Performed> {
    if (wait === true) return this.#finish(action, task, document, signal)
    const made = Promise.withResolvers<Performed>()
    const finished = this.#finish(action, task, document, this.#ports.clock.deadline(BACKGROUND_MS), ONCE, result => made.resolve({ taskId: task.task_id, status: 'in_progress', result, existing: false }))
    background(this.#ports.telemetry, 'task.failed', finished)
    if (wait === false) return { taskId: task.task_id, status: task.task_status, result: null, existing: false }
    finished.then(made.resolve, made.reject)
    return made.promise
  }

  async #finish(action: ActionName, task: TaskRecord, document: Json, signal: AbortSignal, again: BackoffPolicy = ONCE, made: (result: Json) => void = () => undefined): Promise<Performed> {
    const { tasks, templates } = this.#parts
    const { task_id: id } = task
    try {
      const result = await retry({ clock: this.#ports.clock, random: this.#random }, again, async () => this.#run(action, await templates.plain(document), task, signal, made), { signal })
      await tasks.change(id, { status: 'completed', output: result })
      return { taskId: id, status: 'completed', result, existing: false }
    } catch (error) {
      const failure = asMeshError(error)
      await tasks.change(id, { status: 'failed', data: { error: toJson(failure.toJSON()) } })
      throw new MeshError(failure.code, failure.message, { details: { ...failure.details, task: id }, cause: error, retryable: failure.retryable })
    }
  }

  /** A task that was asked for with this key before: what came of it, once it has. */
  async #same(before: TaskRecord, action: ActionName, document: Json, signal: AbortSignal): Promise<Performed> {
    const { tasks } = this.#parts
    const input = await this.#parts.tasks.input(before, this.#ports.clock.deadline(FETCH_MS, signal))
    if (before.action !== action || !alike(input, document)) throw new MeshError('CONFLICT', `the key ${before.key} was used for another ${before.action === action ? 'spec' : `action (${before.action})`}: use a new one`)
    let task = before
    while (isOpen(task) && !signal.aborted) {
      await this.#ports.clock.sleep(100, signal).catch(() => undefined)
      task = await tasks.get(task.task_id)
    }
    if (task.task_status === 'failed') throw new MeshError('RUN_FAILED', `task ${task.task_id} of this key failed: ${JSON.stringify(task.task_status_data).slice(0, 500)}`, { details: { task: task.task_id } })
    const result = task.output === undefined ? task.task_status_data : await tasks.content(task.output, this.#ports.clock.deadline(FETCH_MS, signal))
    return { taskId: task.task_id, status: task.task_status, result, existing: true }
  }

  async #run(action: ActionName, document: Json, task: TaskRecord, signal: AbortSignal, tell: (made: Json) => void): Promise<Json> {
    const { actions, blocks, clusters, inventory, models, invoker, catalogue } = this.#parts
    const looks = ACTIONS.get(action)?.looks === true
    const step = (done: number, total: number, what: string, subject?: string): Promise<unknown> => (looks ? Promise.resolve() : this.#parts.tasks.change(task.task_id, { status: 'in_progress', progress: { done, total, what }, subject }))
    if (!looks) await step(0, 1, 'begun')
    switch (action) {
      case 'createBlock': {
        // What it is called does not depend on how often it is tried.
        const again = task.task_status === 'in_progress' || (task.key !== undefined && task.replays !== undefined)
        const made = await actions.createBlock(document, { name: nameOf(task), again })
        if (made.dryRun) return toJson({ blockId: made.block.blockId, dry_run: made.explanation, warnings: made.warnings })
        const { blockId, minInstances: wanted } = made.block
        const subject = `block ${blockId}`
        await step(1, 1 + wanted, 'registered; waiting for its instances', subject)
        tell(toJson({ blockId, block: made.block, warnings: made.warnings }))
        // One after the other, and all before the task ends: a late word must not open it again.
        let told: Promise<unknown> = Promise.resolve()
        let notch = 0
        try {
          await actions.waitReady(made.block, wanted, this.#ports.clock.deadline(READY_MS, signal), ready => {
            // Of many instances every tenth part is told: a registry is no bus.
            const reached = wanted <= 20 ? ready : Math.floor((ready * 10) / wanted)
            if (reached === notch) return
            notch = reached
            told = told.then(() => step(1 + Math.min(ready, wanted), 1 + wanted, `${ready} of ${wanted} instances ready`, subject))
          })
        } finally {
          await told
        }
        return toJson({ blockId, block: made.block, warnings: made.warnings })
      }
      case 'createvDAG': return toJson(await actions.createVdag(document))
      case 'addComponent': return toJson(await actions.addComponent(document))
      case 'createCluster': return toJson(await clusters.create(document))
      case 'addNode': return toJson(await clusters.addNode(document))
      case 'search': return inventory.search(document)
      case 'filter': return inventory.filter(document)
      case 'executeMgmtCommand': return this.#command(document, signal)
      case 'parameterUpdate': {
        const { block, parameters } = await parseUpdate(document, catalogue, this.#ports.clock.deadline(FETCH_MS, signal))
        return toJson((await blocks.updateParameters(block.blockId, parameters, signal)).instances)
      }
      case 'startModelSplitJob':
        return splitJob(models, document, async (block, step, data) => Object.values(await invoker.management(block, undefined, step, data, { deadlineMs: SPLIT_MS, signal }))[0] ?? null)
      case 'queryLayers': return toJson(layerObjects(await this.stages(), document))
      case 'llmCreate': case 'llmVDAGCreate': {
        const { served, blocks, result } = await createLlm(models, document)
        await step(1, 2, 'placed; waiting for its instances', `service ${served.service}`)
        for (const block of blocks) await actions.waitReady(block, 1, this.#ports.clock.deadline(READY_MS, signal))
        return result
      }
      case 'llmVDAGCreateManual': return joinLlm(catalogue, this.#ports.clock, this.#ports.identity.peer, document)
    }
  }

  /** Parts of models, from their names: no other component needs to be read. */
  async stages(): Promise<readonly { readonly manifest: ComponentManifest; readonly cid: Cid }[]> {
    const { catalogue } = this.#parts
    const signal = this.#ports.clock.deadline(COMMAND_MS)
    const stages = (await catalogue.components()).filter(({ uri }) => uri.startsWith('llm.'))
    return Promise.all(stages.map(async ({ cid }) => ({ cid, manifest: await catalogue.componentByCid(cid, signal) })))
  }

  async #command(document: Json, signal: AbortSignal): Promise<Json> {
    const { catalogue, clusters, invoker } = this.#parts
    const { blockId, clusterId, instanceId, service, name, data: given } = parseCommand(document)
    const known = new KnownCommands(catalogue)
    const soon = (): AbortSignal => this.#ports.clock.deadline(FETCH_MS, signal)
    if (blockId === undefined && clusterId !== undefined) return name === undefined ? toJson({ commands: await known.ofRule(clusters.stabilityRule(clusterId), soon()) }) : { ...(await clusters.manage(clusterId, name, given)) }
    const block = blockId === undefined ? undefined : await catalogue.block(blockId)
    if (blockId === undefined || block === undefined) throw new MeshError('NOT_FOUND', `no block is called ${blockId}: \`aios block list\` shows those there are`)
    if (name === undefined) return toJson({ commands: await known.ofBlock(block, service, soon()) })
    if (service !== 'instances') return this.#parts.blocks.command({ block: blockId, service, action: name, data: given }, signal)
    const data = checkCommand({ name, data: given }, await catalogue.componentByCid(block.component, soon()))
    return { ...(await invoker.management(blockId, instanceId, name, data, { deadlineMs: COMMAND_MS, signal })) }
  }
}

/** Eight letters or digits that every try of one task gives a block without a name; of one key, on every peer. */
function nameOf({ task_id, key }: TaskRecord): string {
  return hex(digest(utf8(key === undefined ? task_id : `key ${key}`))).slice(0, 8)
}

function alike(a: Json, b: Json): boolean {
  return hex(digest(encode(a))) === hex(digest(encode(b)))
}
