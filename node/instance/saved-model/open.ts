import { readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type * as Tf from '@tensorflow/tfjs'
import { MeshError } from '../../../protocols/errors.ts'
import { Bundle } from './bundle.ts'
import { broken } from './failure.ts'
import { freeze, type Frozen } from './freeze.ts'
import { readSavedModel, type Endpoint, type MetaGraph, type Signature } from './messages.ts'
import { storedAs, type Weight } from './weight.ts'

const GRAPH_BYTES = 536_870_912
const SERVE = 'serve'
const DEFAULT = 'serving_default'

/** One input or output under its name in the signature, in a type that TensorFlow.js has. */
export type Port = { readonly name: string; readonly dtype: string; readonly shape: readonly number[] }
/** What a SavedModel says of itself: which of its graphs and signatures serves, with what in and out. */
export type SavedModelFile = { readonly folder: string; readonly graph: MetaGraph; readonly key: string; readonly signature: Signature; readonly inputs: readonly Port[]; readonly outputs: readonly Port[] }

/**
 * Reads saved_model.pb (`file` is it, or its folder) and picks the graph tagged "serve" and the signature
 * "serving_default", or else the only one. Throws COMPONENT_ERROR for no such file or a damaged one, SPEC_INVALID when
 * nothing tells which signature is meant.
 */
export async function readSavedModelFile(file: string): Promise<SavedModelFile> {
  const folder = file.endsWith('.pb') ? dirname(file) : file
  const path = join(folder, 'saved_model.pb')
  let bytes: Uint8Array
  try {
    const { size } = await stat(path)
    if (size > GRAPH_BYTES) throw broken(`saved_model.pb has ${size} bytes; the limit is ${GRAPH_BYTES}`)
    bytes = new Uint8Array(await readFile(path))
  } catch (cause) {
    if (cause instanceof MeshError) throw cause
    throw broken('its folder holds no saved_model.pb')
  }
  const graph = pickGraph(readSavedModel(bytes))
  const [key, signature] = pickSignature(graph)
  return { folder, graph, key, signature, inputs: signature.inputs.map(portOf), outputs: signature.outputs.map(portOf) }
}

/** The model as one frozen graph with its weights, in the form `loadGraphModel` takes. Throws COMPONENT_ERROR, RUNTIME_UNAVAILABLE. */
export async function frozenArtifacts({ folder, graph, signature }: SavedModelFile): Promise<{ readonly frozen: Frozen; readonly artifacts: Tf.io.ModelArtifacts }> {
  const frozen = freeze(graph, signature)
  const weights: { readonly name: string; readonly weight: Weight }[] = [...frozen.constants]
  if (frozen.variables.length > 0) {
    await using bundle = await Bundle.open(join(folder, 'variables'))
    if (bundle === undefined) throw broken('variables/variables.index is missing: publish the whole folder that TensorFlow wrote')
    for (const { name, key } of frozen.variables) weights.push({ name, weight: await bundle.read(key) })
  }
  return {
    frozen,
    artifacts: {
      format: 'graph-model',
      modelTopology: { node: frozen.nodes, library: { function: frozen.functions }, versions: { producer: 1, minConsumer: 1 } },
      weightSpecs: weights.map(({ name, weight }) => ({ name, dtype: weight.type, shape: [...weight.shape] })),
      weightData: joined(weights.map(({ weight }) => weight.data)),
    },
  }
}

/** One buffer: in a list of them, TensorFlow.js 4.22 finds the wrong one where all but the last have the same size. */
function joined(parts: readonly ArrayBuffer[]): ArrayBuffer {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.byteLength, 0))
  let at = 0
  for (const part of parts) {
    whole.set(new Uint8Array(part), at)
    at += part.byteLength
  }
  return whole.buffer
}

function pickGraph(graphs: readonly MetaGraph[]): MetaGraph {
  // Exports for other devices carry a second tag.
  const found = graphs.find(({ tags }) => tags.length === 1 && tags[0] === SERVE) ?? graphs.find(({ tags }) => tags.includes(SERVE)) ?? (graphs.length === 1 ? graphs[0] : undefined)
  if (found === undefined) throw new MeshError('SPEC_INVALID', `the SavedModel has no graph tagged "${SERVE}", only ${graphs.map(({ tags }) => `"${tags.join('+')}"`).join(', ')}`)
  return found
}

function pickSignature({ signatures }: MetaGraph): readonly [string, Signature] {
  const own = [...signatures].filter(([key, { outputs }]) => !key.startsWith('__saved_model') && outputs.length > 0)
  const found = own.find(([key]) => key === DEFAULT) ?? (own.length === 1 ? own[0] : undefined)
  if (found !== undefined) return found
  const names = own.map(([key]) => `"${key}"`).join(', ')
  throw new MeshError('SPEC_INVALID', names === ''
    ? 'the SavedModel has no signature: save it with signatures=…, or export it with Keras\'s model.export()'
    : `the SavedModel has no signature "${DEFAULT}", and several others (${names}): save it with the one to serve as "${DEFAULT}"`)
}

function portOf({ key, tensor, type, shape }: Endpoint): Port {
  if (tensor === '') throw new MeshError('RUNTIME_UNAVAILABLE', `"${key}" of the SavedModel is a sparse or composite tensor; give the signature plain tensors`)
  return { name: key, dtype: storedAs(type).as, shape: shape ?? [] }
}
