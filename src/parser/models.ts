import { z } from 'zod'
import { check } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json, Millis } from '../../protocols/ids.ts'
import type { ServedModel, ServedStage } from '../../protocols/model.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { toJson } from '../lib/json.ts'
import { serviceName, type ModelServing } from '../llm/serve/serving.ts'
import type { Clock } from '../ports.ts'
import type { ArtefactCatalogue } from '../registries/catalogue.ts'
import { specValues } from '../specs/envelope.ts'

const FETCH_MS: Millis = 30_000

const wish = z.looseObject({
  model: z.string().min(1).max(300), service: z.string().max(200).optional(), shards: z.union([z.literal('auto'), z.coerce.number().int().positive()]).optional(),
  aim: z.enum(['latency', 'throughput']).optional(), contextTokens: z.coerce.number().int().positive().optional(), sessions: z.coerce.number().int().positive().optional(), standbys: z.coerce.number().int().min(0).max(16).optional(),
})
const manual = z.looseObject({ model: z.string().min(1).max(300), service: z.string().max(200).optional(), blocks: z.array(z.string().min(1)).min(1).max(128), contextTokens: z.coerce.number().int().positive().default(4_096), sessions: z.coerce.number().int().positive().default(4) })
const layers = z.tuple([z.int().nonnegative(), z.int().positive()])

/** AIOS's `llmCreate` and `llmVDAGCreate`: a model served by as many blocks as asked for, or as the plan finds best. Throws what serving throws. */
export async function createLlm(models: Pick<ModelServing, 'serve'>, document: Json): Promise<{ readonly served: ServedModel; readonly blocks: readonly BlockRecord[]; readonly result: Json }> {
  const { model, ...options } = read(wish, document)
  const { served, blocks, plan, refusals } = await models.serve(model, options)
  return { served, blocks, result: toJson({ service: served.service, model: served.modelURI, stages: served.stages, blocks: blocks.map(({ blockId }) => blockId), plan: { stages: plan.stages.map(({ peer, first, end }) => ({ peer, first, end })) }, refusals }) }
}

/** AIOS's `llmVDAGCreateManual`: a model served by blocks that are there, in the order of their layers. Throws SPEC_INVALID naming the block that does not fit, NOT_FOUND, ALREADY_EXISTS. */
export async function joinLlm(catalogue: ArtefactCatalogue, clock: Pick<Clock, 'deadline'>, owner: string, document: Json): Promise<Json> {
  const { model, blocks: ids, contextTokens, sessions, service: wanted } = read(manual, document)
  const signal = clock.deadline(FETCH_MS)
  const { manifest, cid } = await catalogue.model(model, signal)
  const wrong = (field: string, message: string): never => {
    throw new MeshError('SPEC_INVALID', `model of blocks: ${field}: ${message}`, { details: { field } })
  }
  const stages: ServedStage[] = []
  for (const [at, id] of ids.entries()) {
    const block = await catalogue.block(id) ?? wrong(`blocks[${at}]`, `no block is called ${id}`)
    const part = await catalogue.componentByCid(block.component, signal)
    const range = layers.safeParse(part.componentMetadata['layers'])
    if (!range.success || part.componentMetadata['model'] !== manifest.modelURI) wrong(`blocks[${at}]`, `${id} runs ${part.componentURI}, which is no part of ${manifest.modelURI}: make its parts with startModelSplitJob`)
    const [first, end] = range.data ?? [0, 0]
    const before = stages.at(-1)?.end ?? 0
    if (first !== before) wrong(`blocks[${at}]`, `${id} has the layers from ${first} on, and ${before} come next`)
    stages.push({ block: id, first, end, componentURI: part.componentURI, component: block.component })
  }
  const end = stages.at(-1)?.end ?? 0
  if (end !== manifest.layers.length) wrong('blocks', `they end at layer ${end} of ${manifest.layers.length}`)
  const service = serviceName(wanted ?? manifest.modelId.name)
  if ((await catalogue.served(service))?.service === service) throw new MeshError('ALREADY_EXISTS', `${service} is served already: choose another service`)
  const served: ServedModel = { service, modelURI: manifest.modelURI, model: cid, stages, contextTokens, sessions, standbys: 0, owner, revision: 0 }
  await catalogue.putService(served)
  return toJson({ service, model: manifest.modelURI, stages })
}

/** AIOS's names of things, as ours. */
function read<T>(schema: z.ZodType<T>, document: Json): T {
  const { model_name, modelName, modelURI, world_size, worldSize, task_data, ...rest } = specValues(document, 'model')
  const inner = typeof task_data === 'object' && task_data !== null && !Array.isArray(task_data) ? Object.fromEntries(Object.entries(task_data)) : {}
  const given = { ...inner, ...rest, model: rest['model'] ?? model_name ?? modelName ?? modelURI ?? inner['model_name'], shards: rest['shards'] ?? world_size ?? worldSize ?? inner['world_size'] }
  return check(schema, given, 'model', 'SPEC_INVALID')
}
