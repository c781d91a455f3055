import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { clone, create } from '@bufbuild/protobuf'
import { ELEMENT } from '../../../src/llm/onnx/element.ts'
import { CONTRIB, integers, intAttribute, intsAttribute, node, renamed, shapeOf, valueInfo } from '../../../src/llm/onnx/node.ts'
import { AttributeProtoSchema, FunctionProtoSchema, NodeProtoSchema, OperatorSetIdProtoSchema, TensorProtoSchema, type GraphProto, type ModelProto, type NodeProto } from '../../../src/llm/onnx/onnx-pb.js'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import type { ModelOptions } from '../../fixtures/llm/make-model.ts'
import { rewrittenModel } from './rewritten.ts'
import { distances, openModel } from './stage-chain.ts'

/** Graphs as other exporters and optimisers leave them, made of ordinary ones. */
describe('a model that is written differently', () => {
  const root = mkdtempSync(join(tmpdir(), 'odd-'))
  after(() => rmSync(root, { recursive: true, force: true }))

  const rewritten = (name: string, options: ModelOptions, rewrite: (model: ModelProto) => void): string => rewrittenModel(root, name, options, rewrite)
  const same = async (directory: string): Promise<void> => assert.deepEqual(await distances(directory, [1, 2, 4, 6], 12), [0, 0, 0, 0])

  it('with model-local functions', async () => {
    const directory = rewritten('functions', { variant: 'fused' }, model => {
      const graph = model.graph!
      const opset = [create(OperatorSetIdProtoSchema, { domain: '', version: 18n }), create(OperatorSetIdProtoSchema, { domain: 'local', version: 1n })]
      model.opsetImport.push(opset[1]!)
      const cast = create(NodeProtoSchema, { opType: 'Cast', input: ['x'], output: ['z'], attribute: [create(AttributeProtoSchema, { name: 'to', type: 2, refAttrName: 'to' })] })
      model.functions = [
        create(FunctionProtoSchema, { name: 'Feed', domain: 'local', input: ['x', 'gate', 'up'], output: ['y'], opsetImport: opset, node: [node('MatMul', ['x', 'gate'], ['g']), node('MatMul', ['x', 'up'], ['u']), node('Gate', ['g', 'u'], ['y'], [intAttribute('type', 1)], 'local')] }),
        create(FunctionProtoSchema, { name: 'Gate', domain: 'local', input: ['g', 'u'], output: ['y'], attribute: ['type'], opsetImport: opset, node: [node('Sigmoid', ['g'], ['s']), node('Mul', ['g', 's'], ['a']), node('Convert', ['a'], ['b'], [create(AttributeProtoSchema, { name: 'to', type: 2, refAttrName: 'type' })], 'local'), node('Mul', ['b', 'u'], ['y'])] }),
        create(FunctionProtoSchema, { name: 'Convert', domain: 'local', input: ['x'], output: ['z'], attribute: ['to'], opsetImport: opset, node: [cast] }),
      ]
      for (const gate of graph.node.filter(({ name }) => name.endsWith('mlp/gate_proj/MatMul'))) {
        const prefix = gate.name.replace('/gate_proj/MatMul', '')
        const mlp = graph.node.filter(({ name }) => name.startsWith(prefix) && !name.includes('down_proj'))
        const up = mlp.find(({ name }) => name === `${prefix}/up_proj/MatMul`)!
        const product = mlp.find(({ name }) => name === `${prefix}/Mul`)!
        const at = graph.node.indexOf(product)
        graph.node[at] = node('Feed', [gate.input[0]!, gate.input[1]!, up.input[1]!], [product.output[0]!], [], 'local')
        graph.node = graph.node.filter(one => !mlp.includes(one))
      }
    })
    await same(directory)
  })

  it('with the residual stream in bfloat16, which nothing can send', async () => {
    const directory = rewritten('brain', { variant: 'plain' }, ({ graph }) => {
      for (let layer = 0; layer < 5; layer++) {
        const [name = ''] = graph!.node.find(one => one.name === `/model/layers.${layer}/Add_1`)!.output
        const readers = graph!.node.filter(({ input }) => input.includes(name))
        assert.ok(readers.length > 1)
        graph!.node.splice(graph!.node.findIndex(({ output }) => output.includes(name)) + 1, 0, node('Cast', [name], [`${name}/brain`], [intAttribute('to', ELEMENT.bfloat16)]), ...readers.map((_, at) => node('Cast', [`${name}/brain`], [`${name}/${at}`], [intAttribute('to', ELEMENT.float32)])))
        for (const [at, reader] of readers.entries()) reader.input = reader.input.map(input => input === name ? `${name}/${at}` : input)
      }
    })
    const { analysis } = await openModel(directory)
    assert.deepEqual(analysis.boundaries.map(tensors => tensors.map(({ name, dtype }) => [/brain/.test(name), dtype])), Array.from({ length: 5 }, () => [[true, 'float32']]))
    await same(directory)
  })

  it('with a residual that skips layers', async () => {
    const directory = rewritten('skip', { variant: 'plain' }, ({ graph }) => {
      const output = (name: string): string => graph!.node.find(one => one.name === name)!.output[0]!
      const last = graph!.node.findIndex(({ name }) => name === '/model/layers.4/Add_1')
      const [early, name] = [output('/model/layers.0/Add_1'), graph!.node[last]!.output[0]!]
      graph!.node[last]!.output = [`${name}/without`]
      graph!.node.splice(last + 1, 0, node('Add', [`${name}/without`, early], [name]))
    })
    const { analysis } = await openModel(directory)
    assert.deepEqual(analysis.boundaries.map(tensors => tensors.length), [1, 2, 2, 2, 1])
    await same(directory)
  })

  it('with shapes that layers share', async () => {
    for (const [name, of] of [['shared-state', /self_attn\/Shape$/], ['shared-cache', /self_attn\/Shape/]] as const) {
      await same(rewritten(name, { variant: 'plain' }, ({ graph }) => {
        // What a common-subexpression pass would do if it knew that all layers' states, and all their caches, have one shape.
        const first = new Map<string, string>()
        const renames = new Map<string, string>()
        const kept: NodeProto[] = []
        for (const one of graph!.node) {
          const layerless = one.name.replace(/layers\.\d+/, 'layers')
          const known = first.get(layerless)
          if (one.opType === 'Shape' && of.test(one.name) && known !== undefined) renames.set(one.output[0]!, known)
          else {
            if (one.opType === 'Shape' && of.test(one.name)) first.set(layerless, one.output[0]!)
            kept.push(one)
          }
        }
        assert.ok(renames.size >= 5)
        graph!.node = kept.map(one => renamed(one, input => renames.get(input) ?? input))
      }))
    }
  })

  it('with constants as nodes, and weights turned and converted on their way', async () => {
    await same(rewritten('constants', { variant: 'plain' }, ({ graph }) => {
      const constants: NodeProto[] = []
      graph!.initializer = graph!.initializer.flatMap(tensor => {
        const bytes = tensor.rawData.length
        if (/q_proj|MatMul/.test(tensor.name) && tensor.dims.length === 2 && constants.length < 8) {
          // [in, out] as [out, in], to be turned back.
          const [rows = 0, columns = 0] = tensor.dims.map(Number)
          const from = new Float32Array(tensor.rawData.slice().buffer)
          const turned = Float32Array.from({ length: from.length }, (_, at) => from[(at % rows) * columns + Math.floor(at / rows)]!)
          constants.push(node('Transpose', [`${tensor.name}/turned`], [tensor.name], [intsAttribute('perm', [1, 0])]))
          return [{ ...clone(TensorProtoSchema, tensor), name: `${tensor.name}/turned`, dims: [BigInt(columns), BigInt(rows)], rawData: new Uint8Array(turned.buffer) }]
        }
        if (bytes > 20_000) return [tensor]
        constants.push(node('Constant', [], [tensor.name], [create(AttributeProtoSchema, { name: 'value', type: 4, t: { ...clone(TensorProtoSchema, tensor), name: '' } })]))
        return []
      })
      assert.ok(constants.length > 20)
      graph!.node.unshift(...constants)
    }))
  })

  it('with every weight outside, the smallest too', async () => {
    const data: Uint8Array[] = []
    let offset = 0
    const directory = rewritten('outside', { variant: 'plain' }, ({ graph }) => {
      for (const tensor of graph!.initializer.filter(({ dataType }) => dataType === ELEMENT.float32)) {
        data.push(tensor.rawData)
        tensor.externalData = Object.entries({ location: 'weights.bin', offset, length: tensor.rawData.length }).map(([key, value]) => ({ $typeName: 'onnx.StringStringEntryProto', key, value: String(value) }))
        tensor.dataLocation = 1
        offset += tensor.rawData.length
        tensor.rawData = new Uint8Array(0)
      }
    })
    writeFileSync(join(directory, 'weights.bin'), Buffer.concat(data))
    await same(directory)
  })

  it('with attention by an operator that takes whole caches and no lengths', async () => {
    const directory = rewritten('multi-head', { variant: 'fused-rotary', shape: { kvHeads: 4 } }, ({ graph }) => {
      graph!.node = graph!.node.map(one => {
        if (one.opType !== 'GroupQueryAttention') return one
        const [query = '', key = '', value = '', pastKey = '', pastValue = ''] = one.input
        return node('MultiHeadAttention', [query, key, value, '', '', '', pastKey, pastValue], one.output, [intAttribute('num_heads', 4), intAttribute('unidirectional', 1)], CONTRIB)
      })
    })
    const { analysis } = await openModel(directory)
    assert.equal(analysis.ownLengths, false)
    await same(directory)
  })

  /** Positions from the first cache's length, as some exports count them. */
  const countingCache = (graph: GraphProto): void => {
    const added: NodeProto[] = []
    const emit = (opType: string, input: readonly string[], name: string): string => {
      added.push(node(opType, input, [name]))
      return name
    }
    const constant = (name: string, values: readonly number[] | number): string => {
      graph.initializer.push(integers(name, values))
      return name
    }
    const past = emit('Gather', [emit('Shape', ['past_key_values.0.key'], 'c/shape'), constant('c/2', 2)], 'c/past')
    const count = emit('Gather', [emit('Shape', ['input_ids'], 'c/ids'), constant('c/1', 1)], 'c/count')
    const range = emit('Range', [past, emit('Add', [past, count], 'c/end'), constant('c/step', 1)], 'c/range')
    emit('Reshape', [range, constant('c/row', [1, -1])], 'position_ids')
    graph.node.unshift(...added)
    graph.input = graph.input.filter(({ name }) => name !== 'position_ids')
  }

  it('that asks how long its caches are, though its attention takes lengths', async () => {
    const directory = rewritten('asking', { variant: 'fused-rotary' }, ({ graph }) => countingCache(graph!))
    const { skeleton, analysis } = await openModel(directory)
    assert.deepEqual(stageGraph(skeleton, analysis, { first: 2, end: 4 }).io.caches.map(({ layout }) => layout), ['tokens', 'tokens', 'tokens', 'tokens'])
    await same(directory)
  })

  it('that asks how long one layer\'s cache is, where others have fewer heads', async () => {
    const directory = rewritten('fewer', { variant: 'fused-rotary' }, ({ graph }) => {
      countingCache(graph!)
      const odd = (name: string): boolean => /(layers|past_key_values|present)\.[135][./]/.test(name)
      for (const tensor of graph!.initializer.filter(({ name }) => odd(name) && /[kv]_proj/.test(name))) {
        const numbers = new Float32Array(Uint8Array.from(tensor.rawData).buffer)
        tensor.rawData = new Uint8Array(numbers.filter((_, at) => at % 32 < 16).buffer)
        tensor.dims = [64n, 16n]
      }
      for (const one of graph!.node.filter(({ name }) => odd(name) && /k_rotary|GroupQuery/.test(name))) one.attribute = one.attribute.map(attribute => attribute.name === (one.opType === 'RotaryEmbedding' ? 'num_heads' : 'kv_num_heads') ? intAttribute(attribute.name, 1) : attribute)
      const narrower = (info: GraphProto['input'][number]) => odd(info.name) ? valueInfo(info.name, ELEMENT.float32, shapeOf(info)!.dims!.with(1, 1)) : info
      graph!.input = graph!.input.map(narrower)
      graph!.output = graph!.output.map(narrower)
    })
    const { analysis } = await openModel(directory)
    assert.deepEqual(analysis.caches.map(([key]) => key?.heads), [2, 1, 2, 1, 2, 1])
    await same(directory)
  })

  it('with token ids reshaped before they are looked up, and caches converted to what they are', async () => {
    await same(rewritten('reshaped', { variant: 'plain' }, ({ graph }) => {
      graph!.initializer.push(integers('flat', [-1]))
      graph!.node = graph!.node.flatMap(one => {
        const cached = one.output.find(name => /^present\.\d+\.key$/.test(name))
        if (cached === undefined) return [renamed(one, name => name === 'input_ids' ? 'ids' : /^present\.\d+\.key$/.test(name) ? `${name}/joined` : name)]
        return [renamed(one, name => name === cached ? `${cached}/joined` : name), node('Cast', [`${cached}/joined`], [cached], [intAttribute('to', ELEMENT.float32)])]
      })
      graph!.node.unshift(node('Shape', ['input_ids'], ['sizes']), node('Slice', ['sizes', 'one', 'two'], ['last']), node('Concat', ['flat', 'last'], ['places'], [intAttribute('axis', 0)]), node('Reshape', ['input_ids', 'places'], ['ids']))
      graph!.initializer.push(integers('one', [1]), integers('two', [2]))
    }))
  })
})
