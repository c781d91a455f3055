import type { ModelManifest } from '../../../protocols/model.ts'
import type { Needs } from '../../../protocols/resources.ts'

/** What is promised: so many sessions at once, each of so many tokens, on hosts that carry these labels only. */
export type Promised = { readonly contextTokens: number; readonly sessions: number; readonly labels?: Readonly<Record<string, string>> }

const MIB = 1_048_576
/** While a matrix is put into ONNX Runtime's own order both forms are there; measured on a CPU, 1.0 times the weights at the peak. */
const COPIES = 1.25
/** The CPU computes 16-bit weights in 32 bits and keeps them so; measured, 2.0 times at the peak. */
const WIDENED = 2

/** Activations, buffers of a prefill chunk and the allocator's slack. */
export const STAGE_MIB = 96
/** A stage computes on one core, which it has half to itself: it waits for the other stages, and one that stands by for all of them. */
export const STAGE_CPU_MILLI = 500

/** Bytes that a byte of weights becomes where it is computed with. */
export function widening({ facts }: ModelManifest): number {
  return facts.weights === 'float16' || facts.weights === 'bfloat16' ? WIDENED : 1
}

/** Memory that a layer takes of its host: weights as they are held, and KV for what was promised. */
export function layerBytes(manifest: ModelManifest, at: number, { contextTokens, sessions }: Promised): number {
  const layer = manifest.layers[at]
  return layer === undefined ? 0 : layer.weightBytes * COPIES * widening(manifest) + layer.kvBytes * contextTokens * sessions
}

/** A head multiplies as layers do; an embedding is only looked up, from the file. */
export function endBytes(manifest: ModelManifest): { readonly embedding: number; readonly head: number } {
  return { embedding: manifest.embedding.weightBytes, head: manifest.head.weightBytes * COPIES * widening(manifest) }
}

export const stageBytes = STAGE_MIB * MIB

/** What an instance of the stage [first, end) needs of its host. */
export function stageNeeds(manifest: ModelManifest, first: number, end: number, promised: Promised): Needs {
  let bytes = stageBytes
  for (let at = first; at < end; at += 1) bytes += layerBytes(manifest, at, promised)
  const ends = endBytes(manifest)
  if (first === 0) bytes += ends.embedding
  if (end === manifest.layers.length) bytes += ends.head
  return { cpuMilli: STAGE_CPU_MILLI, memoryMb: Math.ceil(bytes / MIB), diskMb: 0, gpus: 0, gpuMemoryMb: 0 }
}
