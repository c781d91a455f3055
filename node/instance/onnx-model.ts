import { createRequire } from 'node:module'
import { basename } from 'node:path'
import type * as Ort from 'onnxruntime-node'
import { MeshError } from '../../protocols/errors.ts'
import { describe } from '../../sdk/mapping.ts'
import { bothEnds } from '../../src/lib/both-ends.ts'
import { isDtype, type Tensor, type TensorInfo } from '../../sdk/tensor.ts'
import type { RuntimeModel } from './model-thread.ts'
import type { ModelOptions } from './models.ts'

let loaded: typeof Ort | undefined

/** ONNX Runtime, without its telemetry and with float16 that works. Throws RUNTIME_UNAVAILABLE. */
export function onnxRuntime(): typeof Ort {
  if (loaded !== undefined) return loaded
  process.env.ORT_DISABLE_TELEMETRY = '1'
  try {
    const ort = createRequire(import.meta.url)('onnxruntime-node') as typeof Ort
    keepHalfAsBits(ort)
    // Its warnings are about devices that the fence hides on purpose.
    ort.env.logLevel = 'error'
    loaded = ort
    return ort
  } catch (cause) {
    throw new MeshError('RUNTIME_UNAVAILABLE', `onnxruntime-node does not load here: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}

/** Opens a model with the first provider that takes it; cpu comes last. Throws COMPONENT_ERROR when none does. */
export async function openOnnx(file: string, options: ModelOptions): Promise<RuntimeModel> {
  const ort = onnxRuntime()
  const notes: string[] = []
  for (const provider of new Set([...options.providers, 'cpu'])) {
    try {
      const session = await ort.InferenceSession.create(file, {
        executionProviders: [provider],
        intraOpNumThreads: options.threads,
        interOpNumThreads: 1,
        logSeverityLevel: 3,
        // Spinning threads take the core from the neighbours of this instance.
        extra: { session: { intra_op: { allow_spinning: '0' } } },
      })
      return modelOf(ort, session, provider, notes)
    } catch (cause) {
      notes.push(`onnxruntime: ${provider} did not take the model: ${firstLine(cause).replaceAll(file, basename(file))}`)
    }
  }
  throw new MeshError('COMPONENT_ERROR', notes.at(-1) ?? 'onnxruntime has no execution provider')
}

function modelOf(ort: typeof Ort, session: Ort.InferenceSession, provider: string, notes: readonly string[]): RuntimeModel {
  const inputs = session.inputMetadata.map(value => infoOf(value, 'input'))
  const outputs = session.outputMetadata.filter(value => value.isTensor).map(value => infoOf(value, 'output'))
  if (outputs.length === 0) throw new MeshError('COMPONENT_ERROR', 'the model gives no tensors, only maps or sequences; export it without them (skl2onnx: zipmap=False)')
  const wanted = outputs.map(output => output.name)
  return {
    provider, inputs, outputs, notes,
    async run(feeds) {
      const given: Record<string, Ort.Tensor> = {}
      for (const info of inputs) {
        const feed = feeds[info.name]
        if (feed === undefined) throw new MeshError('BAD_INPUT', `input "${info.name}" is missing; it takes ${describe(info)}`)
        given[info.name] = new ort.Tensor(feed.dtype, feed.data as Ort.Tensor.DataType, feed.shape)
      }
      let results: Ort.InferenceSession.OnnxValueMapType
      try {
        results = await session.run(given, wanted)
      } catch (cause) {
        const message = firstLine(cause)
        // What the runtime says of shapes it was fed is the caller's to mend.
        const fed = Object.entries(feeds).map(([name, feed]) => `${name}: ${feed.dtype}[${feed.shape.join(',')}]`).join(', ')
        throw new MeshError(/invalid|shape|dimension|expected|broadcast/i.test(message) ? 'BAD_INPUT' : 'INSTANCE_FAILED', `the model refused ${fed}: ${message}`)
      }
      const answer: Record<string, Tensor> = {}
      for (const { name } of outputs) {
        const result = results[name]
        if (result !== undefined && isDtype(result.type)) answer[name] = { dtype: result.type, shape: [...result.dims], data: (await result.getData()) as Tensor['data'] }
      }
      return answer
    },
  }
}

function infoOf(value: Ort.InferenceSession.ValueMetadata, what: 'input' | 'output'): TensorInfo {
  if (!value.isTensor) throw new MeshError('COMPONENT_ERROR', `${what} "${value.name}" of the model is no tensor`)
  if (!isDtype(value.type)) throw new MeshError('COMPONENT_ERROR', `${what} "${value.name}" of the model is ${value.type}, which cannot be exchanged; add a Cast to the model`)
  return { name: value.name, dtype: value.type, shape: value.shape.map(dimension => (dimension === '' ? '?' : dimension)) }
}

/**
 * onnxruntime-common decides at its first tensor whether float16 is a Float16Array; the native side of 1.30 reads that as
 * empty. Hidden at that moment, it uses the bits in a Uint16Array, as we do.
 */
function keepHalfAsBits(ort: typeof Ort): void {
  const descriptor = Object.getOwnPropertyDescriptor(globalThis, 'Float16Array')
  if (descriptor === undefined) return
  Reflect.deleteProperty(globalThis, 'Float16Array')
  try {
    new ort.Tensor('float16', new Uint16Array(1), [1]).dispose()
  } finally {
    Object.defineProperty(globalThis, 'Float16Array', descriptor)
  }
}

/** Without the place in its source that onnxruntime puts before what is wrong. */
function firstLine(cause: unknown): string {
  const [line = ''] = (cause instanceof Error ? cause.message : String(cause)).split('\n')
  return bothEnds(line.replace(/\/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z])/, ' '), 400)
}
