import { z } from 'zod'
import { check } from '../../../protocols/codec.ts'
import { MeshError } from '../../../protocols/errors.ts'
import { blockId, type Json } from '../../../protocols/ids.ts'
import type { ComponentManifest } from '../../../protocols/specs.ts'
import { toJson } from '../../lib/json.ts'
import { specValues } from '../../specs/envelope.ts'
import type { ModelServing, StageComponent } from './serving.ts'
import { Splitter, type AskSplitter } from './splitter.ts'

const range = z.tuple([z.int().nonnegative(), z.int().positive()])
/** AIOS's `start_model_split_job`: a model, into how many parts, or which layers each part has (`{ split_1: [0, 4], split_2: [4, 8] }`), or a block that says so. */
const job = z.looseObject({
  task_data: z.looseObject({ model_name: z.string().min(1).max(300), world_size: z.int().positive().max(1_024).optional(), model_split_config: z.record(z.string(), range).optional(), splitter: blockId.optional() }),
})
const layersQuery = z.looseObject({ model_name: z.string().optional(), model_component_registry_uri: z.string().optional() })

/** One layer object of AIOS's registry: a part of a model under the hash of its content. */
export type ModelLayerObject = {
  readonly model_layer_hash: string
  readonly model_component_registry_uri: string
  readonly model_layer_metadata: readonly Json[]
  readonly model_layer_rank: number
  readonly model_world_size: number
}

/**
 * Cuts an imported model into parts as AIOS's splitter does: begin (which layers each part has), main (each becomes a
 * component), finish (the model plan: a block spec a part, in order); a `splitter` block is asked at each. Nothing is placed. Throws
 * SPEC_INVALID, NOT_FOUND, RUN_FAILED.
 */
export async function splitJob(serving: Pick<ModelServing, 'split' | 'cut' | 'facts'>, document: Json, ask: AskSplitter): Promise<Json> {
  const { task_data: task } = check(job, specValues(document, 'model split job'), 'model split job', 'SPEC_INVALID')
  const { model_name: model, world_size: size, model_split_config: config } = task
  const splitter = task.splitter === undefined ? undefined : new Splitter(task.splitter, toJson(task), ask)
  const ranges = splitter !== undefined
    ? await splitter.ranges(await serving.facts(model))
    : config === undefined ? await serving.cut(model, size ?? 2) : Object.entries(config).sort(([a], [b]) => rankIn(a) - rankIn(b)).map(([, [first, end]]) => ({ first, end }))
  if (size !== undefined && size !== ranges.length) throw new MeshError('SPEC_INVALID', `model split job: world_size is ${size}, and it would have ${ranges.length} parts`)
  const parts = await serving.split(model, ranges)
  const layers = parts.map((part, rank) => layerObject(part, rank, parts.length))
  const finished = await splitter?.finish(toJson(layers))
  return toJson({
    model_name: model, world_size: parts.length,
    layers,
    block_specs: parts.map(({ manifest }, rank) => ({ blockId: `${blockName(manifest)}-s${rank}`, blockComponentURI: manifest.componentURI, minInstances: 1, maxInstances: 1, needs: manifest.needs })),
    ...(finished === undefined ? {} : { finish: finished }),
  })
}

/** The parts that have been published, of one model or of all, in AIOS's shape. */
export function layerObjects(components: readonly StageComponent[], document: Json): readonly ModelLayerObject[] {
  const { model_name: model, model_component_registry_uri: uri } = layersQuery.parse(specValues(document, 'layer query'))
  return components.filter(({ manifest }) => manifest.tags.includes('llm-stage') && (uri === undefined || manifest.componentURI === uri) && (model === undefined || manifest.componentMetadata['model'] === model || manifest.componentId.name === model))
    .map(part => layerObject(part, 0, 0))
}

function layerObject({ manifest, cid }: StageComponent, rank: number, worldSize: number): ModelLayerObject {
  return { model_layer_hash: cid, model_component_registry_uri: manifest.componentURI, model_layer_metadata: [toJson(manifest.componentMetadata)], model_layer_rank: rank, model_world_size: worldSize }
}

function blockName({ componentId }: ComponentManifest): string {
  return componentId.name.toLowerCase().replace(/[^a-z0-9-]+/g, '-').replace(/^-+|-+$/g, '') || 'model'
}

/** `split_10` comes after `split_2`. */
function rankIn(name: string): number {
  return Number(/(\d+)\D*$/.exec(name)?.[1] ?? 0)
}
