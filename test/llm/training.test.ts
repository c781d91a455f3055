import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InferenceSession, Tensor } from '../fixtures/llm/runtime.ts'
import { learnTokenizer } from '../fixtures/llm/bpe.ts'
import { makeModel } from '../fixtures/llm/make-model.ts'
import { writeModel } from '../fixtures/llm/model-directory.ts'
import { Random } from '../fixtures/llm/random.ts'
import { sentenceEncoderGraph } from '../fixtures/llm/sentence-encoder.ts'
import { dimsOf, shapeOf, transposed, type ModelShape, type Weights } from '../fixtures/llm/shapes.ts'
import { conversations } from '../fixtures/llm/train/conversations.ts'
import { worstGradientError } from '../fixtures/llm/train/gradient-check.ts'
import { decoderTraining, encoderTraining, type Shape } from '../fixtures/llm/train/networks.ts'
import { Parameters } from '../fixtures/llm/train/optimiser.ts'
import { logProbability, WholeModel } from './whole-model.ts'

const SHAPE: Shape = { hidden: 32, layers: 2, heads: 4, kvHeads: 2, headDim: 16, inter: 64, vocab: 300 }
const IDS = [5, 17, 299, 17, 42, 0, 128, 7]
const CHAPTERS = [{ book: 'Ruth', number: 9, verses: ['And the sower went forth unto the field, and the field was white.', 'And he said, Where is the harvest? And they answered him.', 'So they gathered the harvest until the evening.'] }]

/** Weights of a model in training, as an exporter asks for them. */
function weightsOf(parameters: Parameters, shape: ModelShape): Weights {
  const weights: Weights = name => name === 'head' ? { dims: dimsOf(shape, name), data: transposed(weights('embed')) } : { dims: dimsOf(shape, name), data: parameters.values.get(name)! }
  return weights
}

describe('training', () => {
  const root = mkdtempSync(join(tmpdir(), 'training-'))
  after(() => rmSync(root, { recursive: true, force: true }))
  const shape = shapeOf('tiny', { ...SHAPE, context: 64, tied: true })
  const whole = (values: readonly number[], dims: readonly number[]): Tensor => new Tensor('int64', BigInt64Array.from(values, BigInt), [...dims])

  it('has the gradients that finite differences have', async () => {
    const error = await worstGradientError()
    assert.ok(error < 0.01, `${error}`)
  })

  it('computes the loss that the exported decoder has, and lowers it', async () => {
    const parameters = new Parameters(SHAPE, 4)
    const length = IDS.length - 1
    const batch = { ids: whole(IDS.slice(0, -1), [1, length]), targets: whole(IDS.slice(1), [1, length]) }
    const session = await InferenceSession.create(decoderTraining(SHAPE, 1, length), { intraOpNumThreads: 1, logSeverityLevel: 3 })
    for (let step = 0; step < 3; step++) await parameters.step(session, batch, 1e-2)
    const trained = await parameters.loss(session, batch)
    assert.ok(trained < 5, `${trained}`)
    for (const variant of ['plain', 'fused'] as const) {
      const { directory } = makeModel(join(root, variant), { shape, variant, weights: weightsOf(parameters, shape) })
      const model = await WholeModel.open(directory)
      const logits = await model.add(IDS.slice(0, -1))
      const exported = -IDS.slice(1).reduce((sum, id, row) => sum + logProbability(logits, row, id), 0) / length
      await model.close()
      assert.ok(Math.abs(exported - trained) < 1e-4, `${variant} ${exported} ${trained}`)
    }
  })

  it('computes the loss that the exported sentence encoder has, padding or not', async () => {
    const parameters = new Parameters(SHAPE, 5)
    const rows = [[1, 2, 3, 4], [5, 6], [7, 8, 9], [10, 11, 12, 13]]
    const [pairs, length] = [2, 4]
    const table = (of: (row: readonly number[], at: number) => number): readonly number[] => rows.flatMap(row => Array.from({ length }, (_, at) => of(row, at)))
    const session = await InferenceSession.create(encoderTraining(SHAPE, pairs, length), { logSeverityLevel: 3 })
    const loss = await parameters.loss(session, {
      ids: whole(table((row, at) => row[at] ?? 0), [4, length]),
      bias: new Tensor('float32', Float32Array.from(table((row, at) => at < row.length ? 0 : -1e9)), [4, 1, 1, 1, length]),
      pool: new Tensor('float32', Float32Array.from(table((row, at) => at < row.length ? 1 / row.length : 0)), [4, 1, length]),
      targets: whole([0, 1], [pairs]),
    })
    writeModel(join(root, 'encoder'), sentenceEncoderGraph(shape, weightsOf(parameters, shape)), { external: false })
    const encoder = await InferenceSession.create(join(root, 'encoder/model.onnx'))
    const vectors: Float32Array[] = []
    for (const row of rows) vectors.push((await encoder.run({ input_ids: whole(row, [1, row.length]), attention_mask: whole(row.map(() => 1), [1, row.length]) })).sentence_embedding!.data as Float32Array)
    const likeness = (a: number, b: number): number => vectors[a]!.reduce((sum, value, at) => sum + value * vectors[b]![at]!, 0) / 0.05
    const direction = (at: number, of: (other: number) => number): number => Math.log(Math.exp(of(0)) + Math.exp(of(1))) - of(at)
    const expected = [0, 1].reduce((sum, at) => sum + (direction(at, other => likeness(at, 2 + other)) + direction(at, other => likeness(other, 2 + at))) / 4, 0)
    assert.ok(Math.abs(loss - expected) < 1e-3, `${loss} ${expected}`)
  })

  it('makes conversations of the text that end with an answer', () => {
    const next = conversations(CHAPTERS, new Random(1))
    const some = Array.from({ length: 200 }, next)
    for (const turns of some) {
      const spoken = turns.filter(({ role }) => role !== 'system')
      assert.deepEqual(spoken.map(({ role }) => role), spoken.map((_, at) => at % 2 === 0 ? 'user' : 'assistant'))
      assert.equal(spoken.length % 2, 0)
      assert.ok(turns.every(({ content }) => content !== '' && !content.includes('%')))
    }
    assert.ok(new Set(some.map(turns => JSON.stringify(turns))).size > 30)
  })

  it('learns the commonest pairs first', () => {
    const { model } = learnTokenizer('low low low lower lowest', 262, ['<|end|>'])
    assert.deepEqual(model.merges.slice(0, 2), ['l o', 'lo w'])
  })
})
