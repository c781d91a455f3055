import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { MeshError } from '../../../protocols/errors.ts'
import { analyse, type ModelAnalysis } from '../../../src/llm/onnx/analyse.ts'
import { decodeModel, encodeModel } from '../../../src/llm/onnx/codec.ts'
import { ELEMENT } from '../../../src/llm/onnx/element.ts'
import { node, valueInfo } from '../../../src/llm/onnx/node.ts'
import { AttributeProtoSchema, FunctionProtoSchema, GraphProtoSchema, OperatorSetIdProtoSchema, type ModelProto, type NodeProto } from '../../../src/llm/onnx/onnx-pb.js'
import { memoryAccess } from '../../../src/llm/onnx/random-access.ts'
import { readSkeleton } from '../../../src/llm/onnx/skeleton.ts'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import { VARIANT_NAMES, type VariantName } from '../../fixtures/llm/decoder.ts'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'

describe('the analysis of a model', () => {
  const root = mkdtempSync(join(tmpdir(), 'analyse-'))
  after(() => rmSync(root, { recursive: true, force: true }))
  const decoded = (options: ModelOptions): ModelProto => decodeModel(readFileSync(join(makeModel(join(root, 'model'), options).directory, 'model.onnx')))
  const analysed = async (model: ModelProto): Promise<ModelAnalysis> => analyse(await readSkeleton(memoryAccess(encodeModel(model))))
  const refusal = async (model: ModelProto): Promise<string> => {
    try {
      const skeleton = await readSkeleton(memoryAccess(encodeModel(model)))
      const analysis = analyse(skeleton)
      for (let first = 0; first < analysis.layers; first++) stageGraph(skeleton, analysis, { first, end: first + 1 })
    } catch (error) {
      assert.ok(error instanceof MeshError, `${error}`)
      assert.equal(error.code, 'SPEC_INVALID')
      return error.message
    }
    return 'nothing'
  }
  const nodesOf = (model: ModelProto): NodeProto[] => model.graph!.node

  for (const variant of VARIANT_NAMES) {
    it(`finds the layers, caches and boundaries of ${variant}`, async () => {
      const analysis = await analysed(decoded({ variant }))
      const half = /fp16|f16/.test(variant)
      assert.equal(analysis.layers, 6)
      assert.equal(analysis.vocab, 512)
      assert.equal(analysis.hidden, 64)
      assert.deepEqual(analysis.caches, Array.from({ length: 6 }, () => [0, 1].map(() => ({ dtype: half ? 'float16' : 'float32', heads: 2, headDim: 16, rank: 4, axis: 2 }))))
      // Fused norms of float16 keep more than the sum they give out: both of what they add crosses.
      const crossing = half && variant !== 'plain-fp16' ? [['float16', 64], ['float16', 64]] : [['float32', 64]]
      assert.deepEqual(analysis.boundaries.map(tensors => tensors.map(({ dtype, width }) => [dtype, width])), Array.from({ length: 5 }, () => crossing))
      assert.deepEqual([...analysis.inputs.values()].sort(), /plain|rotary/.test(variant) ? ['ids', 'mask', 'positions'] : ['ids', 'mask'])
      assert.equal(analysis.ownLengths, !variant.startsWith('plain'))
      assert.equal(analysis.coupled, variant === 'plain-int8')
    })
  }

  it('counts what each layer weighs and computes', async () => {
    const weights = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128
    for (const variant of ['plain', 'fused', 'plain-merged', 'fused-packed', 'fused-q8', 'plain-int8'] as const satisfies readonly VariantName[]) {
      const { perLayer, head, embed } = await analysed(decoded({ variant }))
      assert.deepEqual(perLayer.map(({ flopsPerToken }) => flopsPerToken), Array.from({ length: 6 }, () => 2 * weights), variant)
      assert.equal(head.flopsPerToken, 2 * 64 * 512)
      assert.equal(embed.flopsPerToken, 0)
    }
    const { perLayer, embed } = await analysed(decoded({ variant: 'fused' }))
    assert.ok(perLayer.every(({ weightBytes }) => weightBytes >= 4 * (weights + 2 * 64) && weightBytes < 4 * (weights + 2 * 64) + 70_000))
    assert.equal(embed.weightBytes, 4 * 64 * 512)
    const tied = await analysed(decoded({ variant: 'plain', shape: { tied: true } }))
    assert.equal(tied.head.flopsPerToken, 2 * 64 * 512)
  })

  it('names the node that makes a model impossible to split', async () => {
    const plain = decoded({ variant: 'plain' })
    const caching = nodesOf(plain).find(({ output }) => output.includes('present.2.key'))!

    const uncached = structuredClone(plain)
    uncached.graph!.input = uncached.graph!.input.filter(({ name }) => !name.startsWith('past'))
    assert.match(await refusal(uncached), /reads past_key_values\.0\.key, which nothing in the model writes/)

    const unreturned = structuredClone(plain)
    unreturned.graph!.output = unreturned.graph!.output.filter(({ name }) => name !== 'present.2.key')
    assert.match(await refusal(unreturned), new RegExp(`Concat ${caching.name} reads the cache past_key_values.2.key, but does not write it on`))

    const stateless = structuredClone(plain)
    stateless.graph!.node = [node('Gather', ['model.embed_tokens.weight', 'input_ids'], ['logits'])]
    stateless.graph!.output = stateless.graph!.output.filter(({ name }) => name === 'logits')
    stateless.graph!.input = stateless.graph!.input.filter(({ name }) => name === 'input_ids')
    assert.match(await refusal(stateless), /no key-value cache/)

    const looped = structuredClone(plain)
    const body = create(AttributeProtoSchema, { name: 'body', type: 5, g: create(GraphProtoSchema, {}) })
    const pasts = looped.graph!.input.filter(({ name }) => name.startsWith('past')).map(({ name }) => name)
    looped.graph!.node = [node('Gather', ['model.embed_tokens.weight', 'input_ids'], ['states']), { ...node('Loop', ['', '', 'states', ...pasts], ['logits', ...pasts.map(name => name.replace('past_key_values', 'present'))], [body]), name: 'all layers' }]
    assert.match(await refusal(looped), /Loop all layers .* 12 caches at once/)

    const crossed = structuredClone(plain)
    const early = nodesOf(crossed).findIndex(({ output }) => output.includes('present.0.key'))
    const late = nodesOf(crossed).find(({ output }) => output.includes('present.5.key'))!
    nodesOf(crossed)[early]!.input[1] = late.input[1]!
    assert.match(await refusal(crossed), /cycle through/)

    const strange = structuredClone(plain)
    strange.graph!.input.push(valueInfo('encoder_hidden_states', ELEMENT.float32, ['batch', 'sequence', 64]))
    nodesOf(strange).push(node('Add', ['encoder_hidden_states', 'encoder_hidden_states'], ['unused']))
    assert.match(await refusal(strange), /input encoder_hidden_states is none of token ids, .* it goes into Add that writes unused/)
  })

  it('refuses graphs that are no graphs', async () => {
    const fused = decoded({ variant: 'fused' })
    const twice = structuredClone(fused)
    nodesOf(twice).push(nodesOf(twice)[3]!)
    assert.match(await refusal(twice), /which is written already/)
    const dangling = structuredClone(fused)
    nodesOf(dangling)[7]!.input[0] = 'nowhere'
    assert.match(await refusal(dangling), /reads nowhere, which nothing in the model writes/)
    const silent = structuredClone(fused)
    silent.graph!.output.push(valueInfo('extra', ELEMENT.float32))
    assert.match(await refusal(silent), /no node of the model writes its output extra/)
    await assert.rejects(async () => analyse({ model: { ...fused, graph: undefined } }), { code: 'SPEC_INVALID' })
  })

  it('takes nodes in any order', async () => {
    const fused = decoded({ variant: 'fused' })
    const reversed = structuredClone(fused)
    nodesOf(reversed).reverse()
    const [a, b] = [await analysed(fused), await analysed(reversed)]
    assert.deepEqual(b.boundaries, a.boundaries)
    assert.deepEqual(b.perLayer, a.perLayer)
  })

  it('puts the bodies of model-local functions in place of their calls, attributes and all', async () => {
    const fused = decoded({ variant: 'fused' })
    const called = structuredClone(fused)
    called.functions = [
      create(FunctionProtoSchema, { name: 'Feed', domain: 'local', input: ['x', 'gate', 'up'], output: ['y'], opsetImport: [create(OperatorSetIdProtoSchema, { domain: '', version: 18n })], node: [node('MatMul', ['x', 'gate'], ['g']), node('MatMul', ['x', 'up'], ['u']), node('Gate', ['g', 'u'], ['y'], [], 'local')] }),
      create(FunctionProtoSchema, { name: 'Gate', domain: 'local', input: ['g', 'u'], output: ['y'], node: [node('Sigmoid', ['g'], ['s']), node('Mul', ['g', 's'], ['a']), node('Mul', ['a', 'u'], ['y'])] }),
    ]
    const nodes = nodesOf(called)
    const gates = nodes.filter(({ name }) => name.endsWith('mlp/gate_proj/MatMul'))
    assert.equal(gates.length, 6)
    for (const gate of gates) {
      const prefix = gate.name.replace('/gate_proj/MatMul', '')
      const up = nodes.find(({ name }) => name === `${prefix}/up_proj/MatMul`)!
      const product = nodes.find(({ name }) => name === `${prefix}/Mul`)!
      const gone = nodes.filter(({ name, input }) => name.startsWith(`${prefix}/act_fn`) || (name.startsWith(prefix) && input.includes(gate.output[0]!)))
      called.graph!.node = called.graph!.node.filter(one => one !== gate && one !== up && one !== product && !gone.includes(one))
      called.graph!.node.push({ ...node('Feed', [gate.input[0]!, gate.input[1]!, up.input[1]!], [product.output[0]!], [], 'local'), name: prefix })
    }
    const analysis = await analysed(called)
    assert.equal(analysis.layers, 6)
    assert.deepEqual(analysis.perLayer.map(({ flopsPerToken }) => flopsPerToken), (await analysed(fused)).perLayer.map(({ flopsPerToken }) => flopsPerToken))

    const endless = structuredClone(called)
    endless.functions[1]!.node = [node('Gate', ['g', 'u'], ['y'], [], 'local')]
    assert.match(await refusal(endless), /calls itself/)
  })
})
