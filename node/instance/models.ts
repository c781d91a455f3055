import { Worker } from 'node:worker_threads'
import { asMeshError, isErrorCode, MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Fields } from '../../sdk/context.ts'
import { fromOutputs, readMapping, toFeeds, type Mapping } from '../../sdk/mapping.ts'
import type { Model, Tensor, TensorInfo } from '../../sdk/tensor.ts'

export type ModelFormat = 'onnx' | 'graph-model' | 'layers-model' | 'saved-model'
export type ModelOptions = { readonly providers: readonly string[]; readonly threads: number }
export type OpenedModel = { readonly id: number; readonly provider: string; readonly inputs: readonly TensorInfo[]; readonly outputs: readonly TensorInfo[]; readonly notes: readonly string[] }

/** What the thread is asked. */
export type ModelRequest =
  | { readonly call: number; readonly what: 'open'; readonly file: string; readonly format: ModelFormat; readonly options: ModelOptions }
  | { readonly call: number; readonly what: 'run'; readonly model: number; readonly feeds: Readonly<Record<string, Tensor>> }
export type ModelAnswer =
  | { readonly call: number; readonly ok: true; readonly opened?: OpenedModel; readonly outputs?: Readonly<Record<string, Tensor>> }
  | { readonly call: number; readonly ok: false; readonly code: string; readonly message: string }

/** V8 would reserve 512 MB for the thread's machine code, which counts against the instance's memory limit. */
const CODE_MB = 32

type Waiting = { readonly resolve: (answer: Extract<ModelAnswer, { ok: true }>) => void; readonly reject: (error: Error) => void }

/**
 * Runs models in one thread beside the block's: a run of ONNX Runtime or TensorFlow.js holds its thread to the end, and
 * the block's own must go on answering health checks and cancellations meanwhile.
 */
export class ModelThread {
  readonly #options: ModelOptions
  #worker: Worker | undefined
  readonly #waiting = new Map<number, Waiting>()
  #calls = 0
  /** The provider of the first model opened. */
  provider: string | undefined

  constructor(options: ModelOptions) {
    this.#options = options
  }

  /** Loads the model in `file`. Throws RUNTIME_UNAVAILABLE, COMPONENT_ERROR (no model in there) or SPEC_INVALID (mapping). */
  async open(file: string, name: string, more: { readonly format?: ModelFormat; readonly mapping?: Fields } = {}): Promise<Model> {
    const format = more.format ?? (name.endsWith('.onnx') ? 'onnx' : undefined)
    const { opened } = await this.#ask({ what: 'open', file, format: format ?? (await formatOf(file)), options: this.#options })
    if (opened === undefined) throw new MeshError('INTERNAL', 'the model thread opened nothing')
    for (const note of opened.notes) console.error(note)
    this.provider ??= opened.provider
    const run = async (feeds: Readonly<Record<string, Tensor>>, signal?: AbortSignal): Promise<Readonly<Record<string, Tensor>>> => (await this.#ask({ what: 'run', model: opened.id, feeds }, signal)).outputs ?? {}
    let mapping: Mapping | undefined
    return {
      path: name,
      provider: opened.provider,
      inputs: opened.inputs,
      outputs: opened.outputs,
      run,
      async predict(data: Json, signal?: AbortSignal): Promise<Json> {
        mapping ??= readMapping(more.mapping ?? {}, opened)
        const { feeds, batched } = toFeeds(mapping, data)
        return fromOutputs(mapping, await run(feeds, signal), batched)
      },
    }
  }

  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #ask(request: DistributiveOmit<ModelRequest, 'call'>, signal?: AbortSignal): Promise<Extract<ModelAnswer, { ok: true }>> {
    const call = this.#calls++
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(asMeshError(signal.reason))
      // The run itself cannot be stopped; its answer finds nobody waiting.
      const give = () => {
        this.#waiting.delete(call)
        reject(asMeshError(signal?.reason))
      }
      signal?.addEventListener('abort', give, { once: true })
      const settled = <Value>(then: (value: Value) => void) => (value: Value) => {
        signal?.removeEventListener('abort', give)
        then(value)
      }
      this.#waiting.set(call, { resolve: settled(resolve), reject: settled(reject) })
      this.#thread().postMessage({ ...request, call })
    })
  }

  #thread(): Worker {
    if (this.#worker !== undefined) return this.#worker
    const worker = new Worker(new URL('./model-thread.ts', import.meta.url), { name: 'models', resourceLimits: { codeRangeSizeMb: CODE_MB } })
    worker.on('message', (answer: ModelAnswer) => this.#settle(answer))
    worker.on('error', error => this.#lost(error.message))
    worker.on('exit', code => this.#lost(`the model thread ended with ${code}`))
    // An idle model must not keep a tester's process alive.
    worker.unref()
    this.#worker = worker
    return worker
  }

  #settle(answer: ModelAnswer): void {
    const waiting = this.#waiting.get(answer.call)
    this.#waiting.delete(answer.call)
    if (answer.ok) waiting?.resolve(answer)
    else waiting?.reject(new MeshError(isErrorCode(answer.code) ? answer.code : 'INSTANCE_FAILED', answer.message))
  }

  #lost(because: string): void {
    this.#worker = undefined
    for (const { reject } of this.#waiting.values()) reject(new MeshError('INSTANCE_FAILED', because))
    this.#waiting.clear()
  }
}

type DistributiveOmit<Union, Key extends PropertyKey> = Union extends unknown ? Omit<Union, Key> : never

/** TensorFlow.js writes which of its two kinds of model.json this is. */
async function formatOf(file: string): Promise<ModelFormat> {
  if (!file.endsWith('.json')) return 'saved-model'
  const { readFile } = await import('node:fs/promises')
  const topology = JSON.parse(await readFile(file, 'utf8')) as { readonly format?: string }
  return topology.format === 'graph-model' ? 'graph-model' : 'layers-model'
}
