/** The thread that holds an instance's models. */
import { parentPort } from 'node:worker_threads'
import { asMeshError } from '../../protocols/errors.ts'
import type { Tensor, TensorInfo } from '../../sdk/tensor.ts'
import type { ModelAnswer, ModelRequest } from './models.ts'

/** A model as its runtime opened it. */
export type RuntimeModel = {
  readonly provider: string
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
  readonly notes: readonly string[]
  run(feeds: Readonly<Record<string, Tensor>>): Promise<Readonly<Record<string, Tensor>>>
}

const models: RuntimeModel[] = []
/** One at a time: a run uses the cores it was given, and answers then leave in the order they were asked. */
let last: Promise<void> = Promise.resolve()

parentPort?.on('message', (request: ModelRequest) => {
  last = last.then(() => answer(request))
})

async function answer(request: ModelRequest): Promise<void> {
  try {
    if (request.what === 'open') {
      const model = await open(request)
      const id = models.push(model) - 1
      send({ call: request.call, ok: true, opened: { id, provider: model.provider, inputs: model.inputs, outputs: model.outputs, notes: model.notes } })
    } else {
      const outputs = await models[request.model]!.run(request.feeds)
      send({ call: request.call, ok: true, outputs })
    }
  } catch (error) {
    const { code, message } = asMeshError(error)
    send({ call: request.call, ok: false, code: code === 'INTERNAL' ? 'INSTANCE_FAILED' : code, message })
  }
}

/** A model's runtime loads when the first model of its kind does. */
async function open(request: Extract<ModelRequest, { what: 'open' }>): Promise<RuntimeModel> {
  if (request.format === 'onnx') return (await import('./onnx-model.ts')).openOnnx(request.file, request.options)
  return (await import('./tensorflow-model.ts')).openTensorflow(request.file, request.format, request.options)
}

function send(message: ModelAnswer): void {
  parentPort?.postMessage(message)
}
