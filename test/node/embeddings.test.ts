import assert from 'node:assert/strict'
import { z } from 'zod'
import type { Json } from '../../protocols/ids.ts'
import { checkFence } from '../../node/adapters/fence.ts'
import { ModelText } from '../../src/llm/text/model-text.ts'
import type { RunningInstance } from '../../src/ports.ts'
import { encodeGraph } from '../fixtures/llm/encode.ts'
import { InferenceSession, Tensor } from '../fixtures/llm/runtime.ts'
import { tokenizerOf } from '../fixtures/llm/make-model.ts'
import { sentenceEncoderGraph } from '../fixtures/llm/sentence-encoder.ts'
import { randomWeights, shapeOf } from '../fixtures/llm/shapes.ts'
import { isMeshCode } from '../llm/mesh-code.ts'
import { answers, never, openBench, packetOf, type Bench } from './instance-bundle.ts'

const shape = shapeOf('tiny')
const model = encodeGraph(sentenceEncoderGraph(shape, randomWeights(shape)))
const tokenizer = tokenizerOf(shape.vocab)
const files = { 'model.onnx': model, 'tokenizer.json': JSON.stringify(tokenizer), 'tokenizer_config.json': JSON.stringify({ model_max_length: 64 }) }
const embedded = z.object({ embeddings: z.array(z.array(z.number())), tokens: z.array(z.int()) })
const SENTENCES = ['Licensed under the Apache License', 'a', 'You may not use this file except in compliance with the License', 'derivative works of the licence']

function near(a: readonly number[], b: readonly number[], what: string): void {
  assert.equal(a.length, b.length)
  const most = Math.max(...a.map((value, at) => Math.abs(value - b[at]!)))
  assert.ok(most < 1e-5, `${what}: ${most}`)
}

describe('a block of embeddings', () => {
  let bench: Bench
  const started: RunningInstance[] = []
  before(async () => {
    bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
  })
  after(async () => {
    for (const instance of started) await instance[Symbol.asyncDispose]()
    await bench[Symbol.asyncDispose]()
  })
  const start = async (embeddings: Json, more: Readonly<Record<string, string>> = {}): Promise<(data: Json) => Promise<z.infer<typeof embedded>>> => {
    const instance = await bench.backend.start(bench.request({ files: { ...files, ...more }, runtime: { name: 'onnx', model: 'model.onnx' }, initData: { embeddings } }), never)
    started.push(instance)
    return async data => embedded.parse((await answers(instance.infer(packetOf(data), never)))[0])
  }

  it('gives the model\'s own vectors, whatever texts are asked for together', async () => {
    const embed = await start(true)
    const { embeddings, tokens } = await embed({ input: SENTENCES })
    const text = new ModelText({ 'tokenizer.json': tokenizer })
    const session = await InferenceSession.create(model)
    for (const [at, sentence] of SENTENCES.entries()) {
      const ids = text.encode(sentence, true)
      assert.equal(tokens[at], ids.length)
      const feed = (values: readonly number[]): Tensor => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, ids.length])
      const { sentence_embedding: own } = await session.run({ input_ids: feed(ids), attention_mask: feed(ids.map(() => 1)) })
      near(embeddings[at]!, [...own!.data as Float32Array], sentence)
      near((await embed(sentence)).embeddings[0]!, embeddings[at]!, `${sentence} alone`)
      near((await embed({ input: [...ids] })).embeddings[0]!, embeddings[at]!, `${sentence} as tokens`)
    }
    await session.release()
  })

  it('pools the states as it is told, or as Sentence Transformers wrote beside the model', async () => {
    const own = (await (await start(true))({ input: SENTENCES })).embeddings
    const mean = (await (await start({ pooling: 'mean' }))({ input: SENTENCES })).embeddings
    mean.forEach((vector, at) => near(vector, own[at]!, SENTENCES[at]!))
    const filed = (await (await start({ normalise: false }, { '1_Pooling/config.json': JSON.stringify({ pooling_mode_cls_token: true }) }))({ input: SENTENCES })).embeddings
    const cls = (await (await start({ pooling: 'cls', normalise: false }))({ input: SENTENCES })).embeddings
    assert.deepEqual(filed, cls)
    assert.ok(cls.every(vector => Math.abs(Math.hypot(...vector) - 1) > 1e-3))
    assert.notDeepEqual(cls, mean)
  })

  it('cuts what is too long, and counts what it read', async () => {
    const embed = await start({ maxTokens: 5 })
    assert.deepEqual((await embed({ input: [SENTENCES[2]!, 'a'] })).tokens, [5, 1])
    await assert.rejects((await start(true))({ input: [] }), isMeshCode('BAD_INPUT', /input/))
  })

  it('does not start without its tokenizer, or with settings that are none', async () => {
    const begin = (parts: Partial<Parameters<Bench['request']>[0]>): Promise<RunningInstance> => bench.backend.start(bench.request({ files, runtime: { name: 'onnx', model: 'model.onnx' }, ...parts }), never)
    await assert.rejects(begin({ files: { 'model.onnx': model }, initData: { embeddings: true } }), isMeshCode('SPEC_INVALID', /tokenizer.json/))
    await assert.rejects(begin({ initData: { embeddings: { pooling: 'max' } } }), isMeshCode('SPEC_INVALID', /pooling/))
  })
}).timeout(60_000)
