import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import type { Json } from '../../../protocols/ids.ts'
import type { Packet } from '../../../protocols/invoke.ts'
import type { BlockRecord } from '../../../protocols/specs.ts'
import { checkFence } from '../../../node/adapters/fence.ts'
import { matmulModel } from '../../../node/adapters/machine-model.ts'
import { openInferenceDoor } from '../../../node/gateway/open-inference/open-inference-routes.ts'
import type { RunningInstance } from '../../../src/ports.ts'
import { never, openBench, type Bench, type Parts } from '../instance-bundle.ts'

const example = (path: string): Uint8Array => new Uint8Array(readFileSync(fileURLToPath(new URL(`../../../sdk/examples/tumour-triage/${path}`, import.meta.url))))
const MODELS: Readonly<Record<string, Parts>> = {
  matmul: { files: { 'm.onnx': matmulModel(2) }, runtime: { name: 'onnx' } },
  half: { files: { 'm.onnx': matmulModel(2, 'float16') }, runtime: { name: 'onnx' } },
  classify: { files: { 'model.onnx': example('classify/model.onnx') }, runtime: { name: 'onnx', model: 'model.onnx' } },
  novelty: { files: { 'model.json': example('novelty/model.json'), 'weights.bin': example('novelty/weights.bin') }, runtime: { name: 'tfjs', model: 'model.json', format: 'layers-model' } },
  code: { files: { 'index.mjs': 'export default { data: entry => entry.data }' } },
}

const answer = z.object({ model_name: z.string(), model_version: z.string(), id: z.string().optional(), outputs: z.array(z.object({ name: z.string(), datatype: z.string(), shape: z.array(z.int()), data: z.array(z.json()).optional(), parameters: z.record(z.string(), z.json()).optional() })) })

describe('the Open Inference Protocol', () => {
  let bench: Bench
  const running = new Map<string, RunningInstance>()
  const blocks = new Map<string, BlockRecord>()
  let door: ReturnType<typeof openInferenceDoor>

  before(async function () {
    this.timeout(120_000)
    bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
    for (const [name, parts] of Object.entries(MODELS)) {
      const request = bench.request(parts)
      running.set(name, await bench.backend.start(request, never))
      blocks.set(name, { ...request.block, blockId: name })
    }
    async function * infer(block: string, packet: Packet): AsyncGenerator<Packet> {
      yield * running.get(block)!.infer(packet, never)
    }
    const health = async (block: string): ReturnType<RunningInstance['health']> extends Promise<infer H> ? Promise<Readonly<Record<string, H>>> : never => ({ one: await running.get(block)!.health(never) })
    door = openInferenceDoor({ catalogue: { block: async id => blocks.get(id) }, invoker: { infer, health }, view: { instancesOf: block => (block === 'matmul' ? [{ host: 'h', ad: { instance: 'in-1', contract: 'c', component: 'bafy', block, state: 'ready', epoch: 1, inFlight: 0, queued: 0, latencyMs: 1, steward: 'h' } }] : []) } }, '1.2.3')
  })
  after(async () => {
    for (const instance of running.values()) await instance[Symbol.asyncDispose]()
    await bench[Symbol.asyncDispose]()
  })

  const get = async (path: string): Promise<{ readonly status: number; readonly body: Json }> => {
    const response = await door.request(path)
    return { status: response.status, body: await response.json() as Json }
  }
  const post = async (path: string, body: object): Promise<{ readonly status: number; readonly body: Json }> => {
    const response = await door.request(path, { method: 'POST', body: JSON.stringify(body) })
    return { status: response.status, body: await response.json() as Json }
  }
  const IDENTITY = { name: 'b', shape: [2, 2], datatype: 'FP32', data: [1, 0, 0, 2] }

  it('says that it lives, what it is, and what a model takes and gives', async () => {
    assert.deepEqual((await get('/')).body, { name: 'aios-mesh', version: '1.2.3', extensions: ['binary_tensor_data'] })
    assert.deepEqual((await get('/health/live')).body, { live: true })
    assert.deepEqual((await get('/health/ready')).body, { ready: true })
    const matrix = { datatype: 'FP32', shape: [2, 2] }
    assert.deepEqual((await get('/models/matmul')).body, { name: 'matmul', versions: ['1.0.0-stable'], platform: 'onnx_onnxv1', inputs: [{ name: 'a', ...matrix }, { name: 'b', ...matrix }], outputs: [{ name: 'c', ...matrix }] })
    assert.equal((await get('/models/matmul/versions/1.0.0-stable')).status, 200)
    assert.deepEqual((await get('/models/matmul/ready')).body, { name: 'matmul', version: '1.0.0-stable', ready: true })
    assert.equal((await get('/models/classify/ready')).status, 503)
    assert.equal(z.looseObject({ platform: z.string() }).parse((await get('/models/novelty')).body).platform, 'tensorflowjs_layers_model')
  })

  it('infers with flat data, nested data, in ONNX and in TensorFlow.js', async () => {
    for (const data of [[1, 2, 3, 4], [[1, 2], [3, 4]]]) {
      const { status, body } = await post('/models/matmul/infer', { id: 'one', inputs: [{ name: 'a', shape: [2, 2], datatype: 'FP32', data }, IDENTITY] })
      assert.equal(status, 200, JSON.stringify(body))
      assert.deepEqual(body, { model_name: 'matmul', model_version: '1.0.0-stable', id: 'one', outputs: [{ name: 'c', datatype: 'FP32', shape: [2, 2], data: [1, 4, 3, 8] }] })
    }
    const half = answer.parse((await post('/models/half/infer', { inputs: ['a', 'b'].map(name => ({ ...IDENTITY, name, datatype: 'FP16' })) })).body)
    assert.deepEqual([half.outputs[0]?.datatype, half.outputs[0]?.data], ['FP16', [1, 0, 0, 4]])
    const row = Array.from({ length: 60 }, () => 0.5)
    const classified = answer.parse((await post('/models/classify/versions/1.0.0-stable/infer', { inputs: [{ name: 'features', shape: [2, 30], datatype: 'FP32', data: row }] })).body)
    assert.deepEqual(classified.outputs.map(({ name, datatype, shape }) => [name, datatype, shape]).sort(), [['label', 'INT64', [2]], ['probabilities', 'FP32', [2, 2]]])
    const only = answer.parse((await post('/models/classify/infer', { inputs: [{ name: 'features', shape: [1, 30], datatype: 'FP32', data: row.slice(30) }], outputs: [{ name: 'label' }] })).body)
    assert.deepEqual(only.outputs.map(({ name }) => name), ['label'])
    const novelty = answer.parse((await post('/models/novelty/infer', { inputs: [{ name: 'features', shape: [1, 30], datatype: 'FP32', data: row.slice(30) }] })).body)
    assert.deepEqual(novelty.outputs[0]?.shape, [1, 1])
  })

  it('takes and gives tensors as bytes, when asked', async () => {
    const head = Buffer.from(JSON.stringify({ inputs: [{ name: 'a', shape: [2, 2], datatype: 'FP32', parameters: { binary_data_size: 16 } }, IDENTITY], outputs: [{ name: 'c', parameters: { binary_data: true } }] }))
    const numbers = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer)
    const response = await door.request('/models/matmul/infer', { method: 'POST', headers: { 'inference-header-content-length': String(head.byteLength) }, body: Buffer.concat([head, numbers]) })
    assert.equal(response.status, 200)
    const bytes = Buffer.from(await response.arrayBuffer())
    const length = Number(response.headers.get('inference-header-content-length'))
    const { outputs } = answer.parse(JSON.parse(bytes.subarray(0, length).toString()))
    assert.deepEqual(outputs, [{ name: 'c', datatype: 'FP32', shape: [2, 2], parameters: { binary_data_size: 16 } }])
    assert.deepEqual([0, 4, 8, 12].map(at => bytes.readFloatLE(length + at)), [1, 4, 3, 8])
  })

  it('refuses what does not fit, saying what would', async () => {
    const refused = async (path: string, body: object, status: number, says: RegExp): Promise<void> => {
      const { status: given, body: answered } = await post(path, body)
      assert.equal(given, status, JSON.stringify(answered))
      assert.match(JSON.stringify(answered), says)
    }
    const a = { name: 'a', shape: [2, 2], datatype: 'FP32', data: [1, 2, 3, 4] }
    await refused('/models/none/infer', { inputs: [a] }, 404, /no model none/)
    await refused('/models/matmul/versions/9/infer', { inputs: [a] }, 404, /not 9/)
    await refused('/models/matmul/infer', { inputs: [{ ...a, name: 'x' }] }, 400, /no input .*it has a, b/)
    await refused('/models/matmul/infer', { inputs: [{ ...a, datatype: 'INT8' }] }, 400, /is FP32, not INT8/)
    await refused('/models/matmul/infer', { inputs: [{ ...a, data: [1] }] }, 400, /has 1 elements/)
    await refused('/models/matmul/infer', { inputs: [a] }, 400, /input \\"b\\" is missing/)
    await refused('/models/matmul/infer', { inputs: [{ ...a, parameters: { binary_data_size: 16 } }, IDENTITY] }, 400, /0 are left/)
    await refused('/models/code/infer', { inputs: [a] }, 400, /\/v1\/infer/)
    await refused('/models/matmul/infer', { inputs: [] }, 400, /inputs/)
  })
})
