import type * as Tf from '@tensorflow/tfjs'
import { MeshError } from '../../../protocols/errors.ts'
import { addOperations } from './operations.ts'
import { frozenArtifacts, type SavedModelFile } from './open.ts'

export type FrozenModel = { readonly backend: string; predict(feeds: Tf.NamedTensorMap): Promise<Tf.NamedTensorMap> }

/**
 * Runs a SavedModel with TensorFlow.js's own executor, fed and answering by the names of its signature. On the backend in
 * use, or on `cpu`, which is slower and lacks nothing, where that one cannot: as the graph shows, or as it turns out.
 */
export async function frozenModel(tf: typeof Tf, saved: SavedModelFile): Promise<FrozenModel> {
  addOperations(tf)
  const { frozen, artifacts } = await frozenArtifacts(saved)
  const usual = tf.getBackend()
  let backend = frozen.plain ? usual : 'cpu'
  /** The backend is one for all models of this thread, which run one at a time. */
  const using = async <Value>(run: () => Promise<Value>): Promise<Value> => {
    if (tf.getBackend() !== backend) await tf.setBackend(backend)
    try {
      return await run()
    } finally {
      if (tf.getBackend() !== usual) await tf.setBackend(usual)
    }
  }
  const load = (): Promise<Tf.GraphModel> => tf.loadGraphModel({ load: async () => artifacts })
  let model = await using(load)
  const run = async (feeds: Tf.NamedTensorMap): Promise<Tf.NamedTensorMap> => {
    const named = Object.fromEntries(saved.inputs.map(({ name }, index) => [frozen.inputs[index]!, feeds[name]!]))
    const results = frozen.waiting ? await model.executeAsync(named, [...frozen.outputs]) : tf.tidy(() => model.execute(named, [...frozen.outputs]))
    const list = Array.isArray(results) ? results : [results]
    return Object.fromEntries(saved.outputs.map(({ name }, index) => [name, list[index]!]))
  }
  return {
    backend,
    async predict(feeds) {
      try {
        return await using(() => run(feeds))
      } catch (cause) {
        const missing = missingKernel(cause)
        const trapped = cause instanceof WebAssembly.RuntimeError
        if (missing !== undefined && backend === 'cpu') throw new MeshError('RUNTIME_UNAVAILABLE', `TensorFlow.js has no kernel for the operation ${missing}`, { cause })
        if (backend === 'cpu' || (missing === undefined && !trapped)) throw cause
        console.error(`${trapped ? 'the WASM backend failed' : `${backend} has no kernel ${missing}`}; this model goes on with the slower cpu backend`)
        backend = 'cpu'
        model.dispose()
        // From the file again: a trap may have left the old weights written over.
        model = await using(load)
        return await using(() => run(feeds))
      }
    },
  }
}

function missingKernel(cause: unknown): string | undefined {
  return cause instanceof Error ? /Kernel '(\w+)' not registered for backend/.exec(cause.message)?.[1] : undefined
}
