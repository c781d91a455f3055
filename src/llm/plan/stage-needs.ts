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
/** Half a core is a stage's own: it waits for the other stages, and one that stands by for all of them. While it computes it takes what is idle besides. */
export const STAGE_CPU_MILLI = 500

/** Weights that a step reads for each thread at least: with fewer, threads wait for each other longer than they save (measured, 20 MB: none; 250 MB over two: 1.5 times as fast). */
const THREAD_BYTES = 16 * MIB
const THREADS_MOST = 64

/** Threads that the stage [first, end) computes with on hosts of `cores` cores: the same on each of them, so that their last bits are the same. */
export function stageThreads(manifest: ModelManifest, first: number, end: number, cores: number): number {
  let bytes = 0
  for (let at = first; at < end; at += 1) bytes += manifest.layers[at]?.readBytes ?? 0
  if (end === manifest.layers.length) bytes += manifest.head.readBytes
  return Math.max(1, Math.min(cores, Math.floor(bytes / THREAD_BYTES), THREADS_MOST))
}

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
