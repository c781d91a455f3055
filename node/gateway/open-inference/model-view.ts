import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import type { BlockRecord } from '../../../protocols/specs.ts'
import { readMapping, type OutputMapping } from '../../../sdk/mapping.ts'
import type { Dtype, TensorInfo } from '../../../sdk/tensor.ts'
import { isJsonObject } from '../../../src/lib/json.ts'
import type { Catalogue, Invoker, MeshView } from '../../../src/roles.ts'
import { datatypeOf, readDescription } from './tensors.ts'

export type OpenInferenceParts = { readonly catalogue: Pick<Catalogue, 'block'>; readonly invoker: Pick<Invoker, 'infer' | 'health'>; readonly view: Pick<MeshView, 'instancesOf'> }

export type Port = { readonly name: string; readonly datatype: string; readonly shape: readonly number[] }
/** A block as the Open Inference Protocol sees a model. */
export type ModelView = { readonly block: BlockRecord; readonly version: string; readonly platform: string; readonly inputs: readonly Port[]; readonly outputs: readonly (Port & { readonly dtype: Dtype })[] }

const HEALTH_MS = 10_000
const PLATFORMS: Readonly<Record<string, string>> = { onnx: 'onnx_onnxv1', 'saved-model': 'tensorflow_savedmodel', 'graph-model': 'tensorflowjs_graph_model', 'layers-model': 'tensorflowjs_layers_model' }

/** Throws NOT_FOUND. */
export async function blockOf({ catalogue }: Pick<OpenInferenceParts, 'catalogue'>, name: string, version: string | undefined): Promise<BlockRecord> {
  const block = await catalogue.block(name)
  if (block === undefined) throw new MeshError('NOT_FOUND', `there is no model ${name}: models are blocks, by their ids`)
  if (version !== undefined && version !== versionOf(block)) throw new MeshError('NOT_FOUND', `${name} runs version ${versionOf(block)}, not ${version}`)
  return block
}

export function versionOf({ componentURI }: Pick<BlockRecord, 'componentURI'>): string {
  return componentURI.slice(componentURI.indexOf(':') + 1)
}

/** What goes in and out, as a running instance says and the author maps it. Throws NOT_FOUND, NO_INSTANCE, BAD_INPUT (no model without code). */
export async function modelView(parts: OpenInferenceParts, name: string, version: string | undefined, signal: AbortSignal): Promise<ModelView> {
  const block = await blockOf(parts, name, version)
  const said = Object.values(await parts.invoker.health(name, { deadlineMs: HEALTH_MS, signal })).map(({ detail }) => detail)
  const described = said.find(detail => isJsonObject(detail) && isJsonObject(detail['inputs']))
  if (said.length === 0) throw new MeshError('NO_INSTANCE', `no instance of ${name} runs now`)
  if (!isJsonObject(described)) throw new MeshError('BAD_INPUT', `${name} is a block with code of its own, and says nothing of tensors: ask it through /v1/infer`)
  const tensors = (given: Json | undefined): readonly TensorInfo[] => Object.entries(isJsonObject(given) ? given : {}).flatMap(([tensor, text]) => readDescription(tensor, text) ?? [])
  const model = { inputs: tensors(described['inputs']), outputs: tensors(described['outputs']) }
  const mapping = readMapping(block.initData, model)
  return {
    block, version: versionOf(block), platform: PLATFORMS[block.runtime.format ?? block.runtime.name] ?? block.runtime.name,
    inputs: [...mapping.inputs].map(([input, { dtype, shape }]) => ({ name: input, datatype: datatypeOf(dtype), shape: shape.map(fixed) })),
    outputs: [...mapping.outputs].map(([output, picked]) => {
      const info = model.outputs.find(({ name: tensor }) => tensor === picked.tensor)
      const dtype = outputType(picked, info?.dtype ?? 'float32')
      return { name: output, dtype, datatype: datatypeOf(dtype), shape: picked.pick === 'all' ? (info?.shape ?? []).map(fixed) : [-1] }
    }),
  }
}

function fixed(dimension: number | string): number {
  return typeof dimension === 'number' ? dimension : -1
}

function outputType({ pick }: OutputMapping, dtype: Dtype): Dtype {
  if (pick === 'label' || pick === 'labelled') return 'string'
  return pick === 'argmax' ? 'int64' : dtype
}
