import type * as Tf from '@tensorflow/tfjs'
import { MeshError } from '../../../protocols/errors.ts'
import { addOperations } from './operations.ts'
import { frozenArtifacts, type SavedModelFile } from './open.ts'

export type FrozenModel = { readonly backend: string; predict(feeds: Tf.NamedTensorMap): Promise<Tf.NamedTensorMap> }

/** Runs a SavedModel with TensorFlow.js's own executor, fed and answering by the names of its signature. */
export async function frozenModel(tf: typeof Tf, saved: SavedModelFile): Promise<FrozenModel> {
  addOperations(tf)
  const { frozen, artifacts } = await frozenArtifacts(saved)
  const model = await tf.loadGraphModel({ load: async () => artifacts })
  const first = tf.getBackend()
  let backend = first
  const run = async (feeds: Tf.NamedTensorMap): Promise<Tf.Tensor[]> => {
    const named = Object.fromEntries(saved.inputs.map(({ name }, index) => [frozen.inputs[index]!, feeds[name]!]))
    const results = frozen.waiting ? await model.executeAsync(named, [...frozen.outputs]) : tf.tidy(() => model.execute(named, [...frozen.outputs]))
    return Array.isArray(results) ? results : [results]
  }
  return {
    backend,
    async predict(feeds) {
      try {
        if (tf.getBackend() !== backend) await tf.setBackend(backend)
        let results: Tf.Tensor[]
        try {
          results = await run(feeds)
        } catch (cause) {
          const missing = missingKernel(cause)
          if (missing === undefined) throw cause
          if (backend === 'cpu') throw new MeshError('RUNTIME_UNAVAILABLE', `TensorFlow.js has no kernel for the operation ${missing}`, { cause })
          // The slower backend has more operations; this model stays on it.
          backend = 'cpu'
          await tf.setBackend(backend)
          results = await run(feeds)
        }
        return Object.fromEntries(saved.outputs.map(({ name }, index) => [name, results[index]!]))
      } finally {
        if (tf.getBackend() !== first) await tf.setBackend(first)
      }
    },
  }
}

function missingKernel(cause: unknown): string | undefined {
  return cause instanceof Error ? /Kernel '(\w+)' not registered for backend/.exec(cause.message)?.[1] : undefined
}
