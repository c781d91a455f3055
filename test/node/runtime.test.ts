import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { checkFence, type Isolation } from '../../node/adapters/fence.ts'
import { matmulModel } from '../../node/adapters/machine-model.ts'
import { ModelProtoSchema, type ModelProto } from '../../src/llm/onnx/onnx-pb.js'
import { answers, never, openBench, packetOf, realClock, type Bench, type Parts } from './instance-bundle.ts'

const EXAMPLES = fileURLToPath(new URL('../../sdk/examples/tumour-triage/', import.meta.url))
const bytes = (path: string) => new Uint8Array(readFileSync(EXAMPLES + path))
const initDataOf = (name: string) => (JSON.parse(readFileSync(`${EXAMPLES}${name}/component.json`, 'utf8')) as { readonly body: { readonly spec: { readonly values: { readonly componentInitData: Record<string, Json> } } } }).body.spec.values.componentInitData

const row = (value: number) => Array.from({ length: 30 }, () => value)

/** y = x · w, as tensorflowjs_converter would write it. */
const GRAPH = JSON.stringify({
  format: 'graph-model',
  modelTopology: {
    node: [
      { name: 'x', op: 'Placeholder', attr: { dtype: { type: 'DT_FLOAT' }, shape: { shape: { dim: [{ size: '-1' }, { size: '2' }] } } } },
      { name: 'w', op: 'Const', attr: { dtype: { type: 'DT_FLOAT' }, value: { tensor: { dtype: 'DT_FLOAT', tensorShape: { dim: [{ size: '2' }, { size: '2' }] } } } } },
      { name: 'y', op: 'MatMul', input: ['x', 'w'], attr: { transpose_a: { b: false }, transpose_b: { b: false }, T: { type: 'DT_FLOAT' } } },
    ],
    versions: { producer: 1 },
  },
  weightsManifest: [{ paths: ['w.bin'], weights: [{ name: 'w', shape: [2, 2], dtype: 'float32' }] }],
})
const WEIGHTS = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer)

describe('a model without code', () => {
  let isolation: Isolation = 'L1'
  let bench: Bench
  before(async () => {
    isolation = (await checkFence()).ok ? 'L1' : 'L0'
    bench = await openBench({ isolation })
  })
  after(() => bench[Symbol.asyncDispose]())
  const start = (parts: Parts) => bench.backend.start(bench.request(parts), never)

  it('in ONNX runs on data named after its inputs', async () => {
    await using running = await start({ files: { 'm.onnx': matmulModel(2) }, runtime: { name: 'onnx' } })
    assert.deepEqual(await answers(running.infer(packetOf({ a: [[1, 2], [3, 4]], b: [[1, 0], [0, 2]] }), never)), [{ c: [[1, 4], [3, 8]] }])
    await assert.rejects(answers(running.infer(packetOf({ a: [[1]], b: [[1]] }), never)), (error: MeshError) => error.code === 'BAD_INPUT' && /input "a" takes float32\[2,2\], got shape \[1,1\]/.test(error.message))
    const { detail } = await running.health(never)
    assert.deepEqual(detail, { status: 'healthy', model: 'm.onnx', provider: 'cpu', inputs: { a: 'float32[2,2]', b: 'float32[2,2]' }, outputs: { c: 'float32[2,2]' } })
  })

  it('in half precision gives numbers, not nothing', async () => {
    await using running = await start({ files: { 'm.onnx': matmulModel(2, 'float16') }, runtime: { name: 'onnx', model: 'm.onnx' } })
    assert.deepEqual(await answers(running.infer(packetOf({ a: [[1, 2], [3, 4]], b: [[1, 0], [0, 2]] }), never)), [{ c: [[1, 4], [3, 8]] }])
  })

  it('trained by scikit-learn answers by its mapping', async () => {
    await using running = await start({ files: { 'model.onnx': bytes('classify/model.onnx') }, runtime: { name: 'onnx', model: 'model.onnx' }, initData: initDataOf('classify') })
    const [one] = await answers(running.infer(packetOf({ features: row(0) }), never)) as readonly { readonly probability: number }[]
    assert.ok(one!.probability >= 0 && one!.probability <= 1)
    const rows = [row(0), row(1)]
    const [batch] = await answers(running.infer(packetOf({ features: rows }), never)) as readonly { readonly probability: readonly number[] }[]
    assert.equal(batch!.probability.length, 2)
    assert.ok(Math.abs(batch!.probability[0]! - one!.probability) < 1e-6)
  })

  it('that onnxruntime does not take is refused with what is wrong with it, not with where in its source that was found', async () => {
    const changed = (change: (model: ModelProto) => void): Uint8Array => {
      const model = fromBinary(ModelProtoSchema, matmulModel(2))
      change(model)
      return toBinary(ModelProtoSchema, model)
    }
    const newer = changed(model => { model.irVersion = 99n })
    const unknown = changed(model => { model.graph!.node[0]!.opType = 'NoSuchOp' })
    for (const [bytes, wrong] of [[newer, /did not take the model: .*Unsupported model IR version: 99, max supported/], [unknown, /No Op registered for NoSuchOp/]] as const) {
      await assert.rejects(start({ files: { 'm.onnx': bytes }, runtime: { name: 'onnx' } }), (error: MeshError) => wrong.test(error.message) && !error.message.includes('onnxruntime_src') && error.message.length < 300)
    }
  })

  it('that is no model, or is mapped wrongly, is refused at the start', async () => {
    await assert.rejects(start({ files: { 'm.onnx': 'not a model' }, runtime: { name: 'onnx' } }), (error: MeshError) => error.code === 'COMPONENT_ERROR')
    await assert.rejects(start({ files: { 'm.onnx': matmulModel(2) }, runtime: { name: 'onnx' }, initData: { inputs: { a: {} } } }), (error: MeshError) => error.code === 'SPEC_INVALID' && /also needs float32\[2,2\] "b"/.test(error.message))
  })

  it('in TensorFlow.js runs as a LayersModel', async () => {
    await using running = await start({ files: { 'model.json': bytes('novelty/model.json'), 'weights.bin': bytes('novelty/weights.bin') }, runtime: { name: 'tfjs', model: 'model.json', format: 'layers-model' }, initData: initDataOf('novelty') })
    const [answer] = await answers(running.infer(packetOf({ features: row(0.5) }), never)) as readonly { readonly novelty: number }[]
    assert.ok(answer!.novelty >= 0)
  }).timeout(30_000)

  it('in TensorFlow.js runs as a GraphModel', async () => {
    await using running = await start({ files: { 'model.json': GRAPH, 'w.bin': WEIGHTS }, runtime: { name: 'tfjs' } })
    assert.deepEqual(await answers(running.infer(packetOf({ x: [1, 1] }), never)), [{ y: [4, 6] }])
    assert.deepEqual(await answers(running.infer(packetOf({ x: [[1, 0], [0, 1]] }), never)), [{ y: [[1, 2], [3, 4]] }])
  }).timeout(30_000)
})

describe('a block that runs a model of its bundle', () => {
  it('answers health while the model runs', async () => {
    await using bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
    const size = 1_024
    const source = `export default {
  load: async context => ({ model: await context.model('m.onnx') }),
  async data(entry, context) {
    const matrix = { dtype: 'float32', shape: [${size}, ${size}], data: new Float32Array(${size * size}).fill(1) }
    let last
    for (let i = 0; i < entry.data; i++) last = (await context.state.model.run({ a: matrix, b: matrix })).c.data[0]
    return last
  },
}`
    await using running = await bench.backend.start(bench.request({ files: { 'main.mjs': source, 'm.onnx': matmulModel(size) } }), never)
    assert.deepEqual(await answers(running.infer(packetOf(1), never)), [size])
    const order: string[] = []
    await Promise.all([
      answers(running.infer(packetOf(8), never)).then(() => order.push('run')),
      realClock.sleep(5).then(() => running.health(never)).then(({ healthy }) => order.push(`healthy ${healthy}`)),
    ])
    assert.deepEqual(order, ['healthy true', 'run'])
  }).timeout(30_000)
})
