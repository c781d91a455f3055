import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, normalize } from 'node:path'
import util from 'node:util'
import type * as Tf from '@tensorflow/tfjs'
import { MeshError } from '../../protocols/errors.ts'
import { describe } from '../../sdk/mapping.ts'
import { elements, isDtype, type Dtype, type Tensor, type TensorInfo } from '../../sdk/tensor.ts'
import type { RuntimeModel } from './model-thread.ts'
import type { ModelFormat, ModelOptions } from './models.ts'
import { frozenModel } from './saved-model/frozen-model.ts'
import { readSavedModelFile } from './saved-model/open.ts'

/** TensorFlow.js as it loaded here. `native` only with the C library under it (tfjs-node). */
export type Tensorflow = { readonly tf: typeof Tf; readonly backend: string; readonly native: NativeModels | undefined; readonly notes: readonly string[] }
type NativeModels = { loadSavedModel(path: string, tags: string[], signature: string): Promise<{ predict(inputs: Tf.NamedTensorMap): Results }> }
type ModelTensor = { readonly name: string; readonly dtype?: string; readonly shape?: readonly (number | null)[] | null }

/** Native packages by the name `aios doctor` and manifests know them by, best first. */
export const NATIVE = [['tfjs-node-gpu', '@tensorflow/tfjs-node-gpu'], ['tfjs-node', '@tensorflow/tfjs-node']] as const

const require = createRequire(import.meta.url)
let loading: Promise<Tensorflow> | undefined

/** The best backend that loads: tfjs-node-gpu, tfjs-node, wasm, cpu. Throws RUNTIME_UNAVAILABLE. */
export function tensorflow(): Promise<Tensorflow> {
  loading ??= load()
  return loading
}

async function load(): Promise<Tensorflow> {
  const notes: string[] = []
  // Gone from Node 24; tfjs-node 4.22 still calls it.
  if (!('isNullOrUndefined' in util)) Object.defineProperty(util, 'isNullOrUndefined', { value: (value: unknown) => value === null || value === undefined, configurable: true })
  for (const [backend, name] of NATIVE) {
    try {
      const native = require(name) as typeof Tf & { readonly node: NativeModels }
      await native.ready()
      return { tf: native, backend, native: native.node, notes }
    } catch (cause) {
      notes.push(`${backend}: ${reasonOf(cause)}`)
    }
  }
  try {
    const tf = require('@tensorflow/tfjs') as typeof Tf
    // Otherwise it suggests installing tfjs-node on every start.
    tf.env().set('IS_TEST', true)
    return { tf, backend: await scriptBackend(tf, notes), native: undefined, notes }
  } catch (cause) {
    throw new MeshError('RUNTIME_UNAVAILABLE', `TensorFlow.js does not load here: ${reasonOf(cause)}`, { cause })
  }
}

async function scriptBackend(tf: typeof Tf, notes: string[]): Promise<string> {
  try {
    require('@tensorflow/tfjs-backend-wasm')
    if (await tf.setBackend('wasm')) {
      await tf.ready()
      return 'wasm'
    }
    notes.push('wasm: the backend did not start')
  } catch (cause) {
    notes.push(`wasm: ${reasonOf(cause)}`)
  }
  await tf.setBackend('cpu')
  await tf.ready()
  return 'cpu'
}

/** Opens a LayersModel, a GraphModel or a SavedModel. Throws RUNTIME_UNAVAILABLE, COMPONENT_ERROR or SPEC_INVALID. */
export async function openTensorflow(file: string, format: Exclude<ModelFormat, 'onnx'>, _options: ModelOptions): Promise<RuntimeModel> {
  const runtime = await tensorflow()
  const { tf } = runtime
  try {
    if (format === 'saved-model') return await openSaved(file, runtime)
    if (format === 'layers-model') return layersModel(tf, await tf.loadLayersModel(fileHandler(file)), runtime)
    return graphModel(tf, await tf.loadGraphModel(fileHandler(file)), runtime)
  } catch (cause) {
    if (cause instanceof MeshError) throw cause
    throw new MeshError('COMPONENT_ERROR', `TensorFlow.js cannot open the ${format} ${file}: ${reasonOf(cause)}`, { cause })
  }
}

async function openSaved(file: string, runtime: Tensorflow): Promise<RuntimeModel> {
  const { tf, native } = runtime
  const saved = await readSavedModelFile(file)
  const inputs = saved.inputs.map(infoOf)
  const outputs = saved.outputs.map(infoOf)
  if (native !== undefined) {
    const model = await native.loadSavedModel(saved.folder, [...saved.graph.tags], saved.key)
    return runtimeModel(runtime, inputs, outputs, feeds => model.predict(feeds))
  }
  const { predict, backend } = await frozenModel(tf, saved)
  return { ...runtimeModel(runtime, inputs, outputs, predict), provider: backend }
}

function layersModel(tf: typeof Tf, model: Tf.LayersModel, runtime: Tensorflow): RuntimeModel {
  const inputs = model.inputs.map(infoOf)
  const outputs = model.outputs.map(infoOf)
  return runtimeModel(runtime, inputs, outputs, feeds => tf.tidy(() => model.predict(inputs.map(input => feeds[input.name]!)) as Tf.Tensor | Tf.Tensor[]))
}

function graphModel(tf: typeof Tf, model: Tf.GraphModel, runtime: Tensorflow): RuntimeModel {
  const inputs = model.inputs.map(infoOf)
  const outputs = model.outputs.map(infoOf)
  const nodes = model.outputs.map(output => output.name)
  return runtimeModel(runtime, inputs, outputs, feeds => {
    const named: Tf.NamedTensorMap = {}
    for (const [index, input] of model.inputs.entries()) named[input.name] = feeds[inputs[index]!.name]!
    // Graphs with loops or dynamic shapes refuse the synchronous way.
    try {
      return tf.tidy(() => model.execute(named, nodes))
    } catch {
      return model.executeAsync(named, nodes)
    }
  })
}

type Results = Tf.Tensor | Tf.Tensor[] | Tf.NamedTensorMap

function runtimeModel(runtime: Tensorflow, inputs: readonly TensorInfo[], outputs: readonly TensorInfo[], predict: (feeds: Tf.NamedTensorMap) => Results | Promise<Results>): RuntimeModel {
  return {
    provider: runtime.backend, inputs, outputs, notes: runtime.notes.length === 0 ? [] : [`tensorflow: ${runtime.backend} in use; ${runtime.notes.join('; ')}`],
    async run(feeds) {
      const held: Tf.Tensor[] = []
      try {
        const given: Tf.NamedTensorMap = {}
        for (const info of inputs) {
          const feed = feeds[info.name]
          if (feed === undefined) throw new MeshError('BAD_INPUT', `input "${info.name}" is missing; it takes ${describe(info)}`)
          given[info.name] = toTf(runtime.tf, feed)
          held.push(given[info.name]!)
        }
        const results = await predict(given)
        const list = Array.isArray(results) ? results : results instanceof runtime.tf.Tensor ? [results] : outputs.map(output => results[output.name]!)
        held.push(...list)
        const answer: Record<string, Tensor> = {}
        for (const [index, output] of outputs.entries()) if (list[index] !== undefined) answer[output.name] = await fromTf(list[index])
        return answer
      } catch (cause) {
        if (cause instanceof MeshError) throw cause
        const message = reasonOf(cause)
        throw new MeshError(/shape|dtype|expected|rank/i.test(message) ? 'BAD_INPUT' : 'INSTANCE_FAILED', `the model refused its input: ${message}`)
      } finally {
        for (const tensor of held) tensor.dispose()
      }
    },
  }
}

function toTf(tf: typeof Tf, { dtype, shape, data }: Tensor): Tf.Tensor {
  const dimensions = [...shape]
  if (dtype === 'string') return tf.tensor([...(data as readonly string[])], dimensions, 'string')
  if (dtype === 'bool') return tf.tensor(data as Uint8Array, dimensions, 'bool')
  const numbers = Array.from(data as Iterable<number | bigint>, Number)
  return dtype === 'int32' ? tf.tensor(Int32Array.from(numbers), dimensions, 'int32') : tf.tensor(Float32Array.from(numbers), dimensions, 'float32')
}

async function fromTf(tensor: Tf.Tensor): Promise<Tensor> {
  if (tensor.dtype === 'string') return { dtype: 'string', shape: tensor.shape, data: (await tensor.data<'string'>()) as readonly string[] }
  const data = await tensor.data()
  const dtype: Dtype = tensor.dtype === 'int32' || tensor.dtype === 'bool' ? tensor.dtype : 'float32'
  // A view of the wasm heap would change under the next run.
  const copy = data.slice(0, elements(tensor.shape))
  return { dtype, shape: tensor.shape, data: copy as Tensor['data'] }
}

/** TensorFlow names tensors `node:0`; its users mean the node. */
function infoOf(tensor: ModelTensor): TensorInfo {
  return { name: tensor.name.replace(/:0$/, ''), dtype: isDtype(tensor.dtype) ? tensor.dtype : 'float32', shape: (tensor.shape ?? []).map(dimension => (dimension === null || dimension < 0 ? -1 : dimension)) }
}

/** Reads model.json and the weight files beside it; tfjs itself would fetch. */
function fileHandler(file: string): Tf.io.IOHandler {
  return {
    async load() {
      const json = JSON.parse(await readFile(file, 'utf8')) as Tf.io.ModelJSON
      const folder = dirname(file)
      const parts: Uint8Array[] = []
      const specs = []
      for (const group of json.weightsManifest) {
        specs.push(...group.weights)
        for (const path of group.paths) {
          const clean = normalize(path)
          if (clean.startsWith('..') || clean.startsWith('/')) throw new MeshError('COMPONENT_ERROR', `model.json names weights outside its folder: ${path}`)
          parts.push(await readFile(join(folder, clean)))
        }
      }
      const { weightsManifest: _, ...rest } = json
      const weightData = new Uint8Array(parts.reduce((total, part) => total + part.byteLength, 0))
      let offset = 0
      for (const part of parts) {
        weightData.set(part, offset)
        offset += part.byteLength
      }
      return { ...rest, weightSpecs: specs, weightData: weightData.buffer }
    },
  }
}

export function reasonOf(cause: unknown): string {
  const code = cause !== null && typeof cause === 'object' && 'code' in cause ? cause.code : undefined
  if (code === 'MODULE_NOT_FOUND' && cause instanceof Error && /Cannot find module '@tensorflow/.test(cause.message)) return 'not installed'
  return (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]!.slice(0, 300)
}
