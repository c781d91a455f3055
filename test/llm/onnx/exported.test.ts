import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { clone, create } from '@bufbuild/protobuf'
import { modelFacts } from '../../../src/llm/model-facts.ts'
import { ELEMENT } from '../../../src/llm/onnx/element.ts'
import { CONTRIB, integers, intAttribute, intsAttribute, node, renamed, shapeOf, valueInfo } from '../../../src/llm/onnx/node.ts'
import { AttributeProto_AttributeType as Kind, AttributeProtoSchema, GraphProtoSchema, TensorProtoSchema, type GraphProto, type ModelProto, type NodeProto, type TensorProto, type ValueInfoProto } from '../../../src/llm/onnx/onnx-pb.js'
import { pieces } from '../../../src/llm/onnx/pieces.ts'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import type { ModelOptions } from '../../fixtures/llm/make-model.ts'
import { isMeshCode } from '../mesh-code.ts'
import { forOneToken } from './for-one-token.ts'
import { rewrittenModel } from './rewritten.ts'
import { distances, openModel, StageChain } from './stage-chain.ts'

/** What public exporters and converters were seen to write (ONNX Runtime GenAI's model builder, converters to float16, Optimum), made of ordinary graphs. */
describe('a model as a public exporter writes it', () => {
  const root = mkdtempSync(join(tmpdir(), 'exported-'))
  after(() => rmSync(root, { recursive: true, force: true }))

  const rewritten = (name: string, options: ModelOptions, rewrite: (graph: GraphProto, model: ModelProto) => void): string => rewrittenModel(root, name, options, model => rewrite(model.graph!, model))
  const same = async (directory: string): Promise<void> => assert.deepEqual(await distances(directory, [1, 2, 4], 12), [0, 0, 0])
  const weight = (graph: GraphProto, name: string): TensorProto => graph.initializer.find(tensor => tensor.name === name)!

  it('with caches whose head size is left open, packed or not, fused or joined', async () => {
    for (const variant of ['fused', 'fused-packed', 'plain'] as const) {
      const sizes = (name: string, rewrite: (graph: GraphProto) => void): Promise<unknown> => openModel(rewritten(`${name}-${variant}`, { variant }, rewrite)).then(({ analysis }) => analysis.caches)
      const open = await sizes('open', graph => {
        const opened = (info: GraphProto['input'][number]) => /past_key_values|present/.test(info.name) ? valueInfo(info.name, ELEMENT.float32, shapeOf(info)!.dims!.with(3, 'kv_cache_dim')) : info
        graph.input = graph.input.map(opened)
        graph.output = graph.output.map(opened)
      })
      assert.deepEqual(open, await sizes('closed', () => {}), variant)
    }
  })

  it('in two, merged, of which the one with caches was traced with one token: what is ahead of each is masked', async () => {
    const directory = rewritten('traced', { variant: 'plain-merged' }, (_, model) => forOneToken(model))
    const { analysis } = await openModel(directory)
    assert.equal(analysis.oneByOne, false)
    await same(directory)
    const fixed = await openModel(rewritten('traced-fixed', { variant: 'plain-merged' }, (graph, model) => {
      forOneToken(model)
      graph.input = graph.input.map(info => info.name === 'input_ids' ? valueInfo(info.name, ELEMENT.int64, ['batch', 1]) : info)
    }))
    assert.equal(fixed.analysis.oneByOne, true)
  })

  it('with caches stacked, keys on values or all layers on one another', async () => {
    const layers = 6
    const past = (layer: number, slot: string): string => `past_key_values.${layer}.${slot}`
    const place = (name: string): readonly [number, number] => [Number(/\.(\d+)\./.exec(name)![1]), name.endsWith('key') ? 0 : 1]
    const at = (index: number): string => `stack/${index}`
    const lifted = (from: string, to: string): NodeProto => node('Unsqueeze', [from, 'stack/axis'], [to])
    /** Each layer's own stack, or one of all. */
    const stacking = (whole: boolean) => (graph: GraphProto): void => {
      const [dims = []] = graph.input.filter(({ name }) => name === past(0, 'key')).map(info => shapeOf(info)!.dims!)
      const stack = (layer: number): string => whole ? 'past' : `past_${layer}`
      const outer = whole ? [layers, 2] : [2]
      const stacks = whole ? [0] : Array.from({ length: layers }, (_, layer) => layer)
      graph.initializer.push(integers('stack/axis', [0]), integers('stack/from', [outer.length]), integers('stack/end', [99]), ...Array.from({ length: layers }, (_, index) => integers(at(index), index)))
      const taken = graph.input.filter(({ name }) => name.startsWith('past')).flatMap(({ name }) => {
        const [layer, slot] = place(name)
        if (!whole) return [node('Gather', [stack(layer), at(slot)], [name])]
        return [node('Gather', [stack(0), at(layer)], [`${name}/pair`]), node('Gather', [`${name}/pair`, at(slot)], [name])]
      })
      const given = Array.from({ length: layers }, (_, layer) => [
        ...['key', 'value'].map(slot => lifted(`present.${layer}.${slot}`, `present.${layer}.${slot}/one`)),
        node('Concat', ['key', 'value'].map(slot => `present.${layer}.${slot}/one`), [whole ? `pair_${layer}` : `present_${layer}`], [intAttribute('axis', 0)]),
        ...whole ? [lifted(`pair_${layer}`, `pair_${layer}/one`)] : [],
      ]).flat()
      const asked = graph.node.flatMap(one => {
        const name = one.opType === 'Shape' && one.input[0]!.startsWith('past') ? one.input[0]! : undefined
        return name === undefined ? [one] : [node('Shape', [stack(place(name)[0])], [`${one.output[0]}/all`]), node('Slice', [`${one.output[0]}/all`, 'stack/from', 'stack/end', 'stack/axis'], one.output)]
      })
      graph.node = [...taken, ...asked, ...given, ...whole ? [node('Concat', Array.from({ length: layers }, (_, layer) => `pair_${layer}/one`), ['present'], [intAttribute('axis', 0)])] : []]
      const declared = (names: (layer: number) => string): ValueInfoProto[] => stacks.map(layer => valueInfo(names(layer), ELEMENT.float32, [...outer, ...dims]))
      graph.input = [...graph.input.filter(({ name }) => !name.startsWith('past')), ...declared(stack)]
      graph.output = [...graph.output.filter(({ name }) => !name.startsWith('present')), ...declared(layer => whole ? 'present' : `present_${layer}`)]
    }
    const answers = async (name: string, rewrite: (graph: GraphProto) => void): Promise<readonly Float32Array[]> => {
      const directory = rewritten(name, { variant: 'plain' }, rewrite)
      const chain = await StageChain.open(await openModel(directory), join(directory, 'pieces'), 2)
      const given: Float32Array[] = []
      for (const tokens of [[11, 402, 33, 7], [90], [255]]) given.push((await chain.add(tokens)).data)
      await chain.close()
      return given
    }
    const apart = await answers('apart', () => {})
    for (const whole of [false, true]) assert.deepEqual(await answers(`stacked-${whole}`, stacking(whole)), apart)
  })

  it('but not with caches stacked in an operator that takes them so: it says which', async () => {
    const directory = rewritten('stacked-within', { variant: 'fused' }, graph => {
      const stacked = (name: string, length: string): ValueInfoProto => valueInfo(name, ELEMENT.float32, [2, 'batch', 2, length, 16])
      graph.node = graph.node.map(one => one.opType === 'GroupQueryAttention' ? node('Attention', [one.input[0]!, 'w', '', '', `past_${/layers\.(\d+)/.exec(one.name)![1]}`], [one.output[0]!, `present_${/layers\.(\d+)/.exec(one.name)![1]}`], [intAttribute('num_heads', 4)], CONTRIB, one.name) : one)
      graph.initializer.push(create(TensorProtoSchema, { name: 'w', dataType: ELEMENT.float32, dims: [64n, 192n], rawData: new Uint8Array(4 * 64 * 192) }))
      const layers = Array.from({ length: 6 }, (_, layer) => layer)
      graph.input = [...graph.input.filter(({ name }) => !name.startsWith('past')), ...layers.map(layer => stacked(`past_${layer}`, 'past'))]
      graph.output = [...graph.output.filter(({ name }) => !name.startsWith('present')), ...layers.map(layer => stacked(`present_${layer}`, 'total'))]
    })
    await assert.rejects(openModel(directory), isMeshCode('SPEC_INVALID', /Attention \/model\/layers\.0\/attn.* takes the cache past_0 .*stacked/))
  })

  it('with caches joined with nothing before they are lengthened, as recent releases of transformers do', async () => {
    await same(rewritten('joined', { variant: 'plain' }, graph => {
      graph.initializer.push(create(TensorProtoSchema, { name: 'nothing', dataType: ELEMENT.float32, dims: [1n, 2n, 0n, 16n] }))
      const idle = (name: string): string => name.startsWith('past_key_values') ? `${name}/joined` : name
      graph.node = [
        ...graph.input.filter(({ name }) => name.startsWith('past_key_values')).map(({ name }) => node('Concat', name.endsWith('key') ? [name] : ['nothing', name], [idle(name)], [intAttribute('axis', -2)])),
        ...graph.node.map(one => renamed(one, idle)),
      ]
    }))
  })

  it('with token embeddings that are the head\'s weights, turned and reshaped on their way', async () => {
    await same(rewritten('turned', { variant: 'plain' }, graph => {
      const table = weight(graph, 'model.embed_tokens.weight')
      const [rows = 0, columns = 0] = table.dims.map(Number)
      const from = new Float32Array(Uint8Array.from(table.rawData).buffer)
      table.name = 'head'
      table.dims = [BigInt(columns), BigInt(rows)]
      table.rawData = new Uint8Array(Float32Array.from({ length: from.length }, (_, at) => from[(at % rows) * columns + Math.floor(at / rows)]!).buffer)
      graph.initializer.push(integers('table/shape', [-1, columns]))
      graph.node.unshift(node('Transpose', ['head'], ['head/turned'], [intsAttribute('perm', [1, 0])]), node('Reshape', ['head/turned', 'table/shape'], ['model.embed_tokens.weight']))
    }))
  })

  it('with large constants within the branches of an If', async () => {
    const directory = rewritten('branches', { variant: 'plain' }, graph => {
      const at = graph.node.findIndex(({ name }) => name === '/model/layers.2/mlp/up_proj/MatMul')
      const product = graph.node[at]!
      const tensor = weight(graph, product.input[1]!)
      graph.initializer = graph.initializer.filter(other => other !== tensor)
      const inner = { ...clone(TensorProtoSchema, tensor), name: '' }
      const branch = (name: string, body: readonly NodeProto[], initializer: readonly TensorProto[] = []) => create(AttributeProtoSchema, { name, type: Kind.GRAPH, g: create(GraphProtoSchema, { name, node: [...body], initializer: [...initializer], output: [valueInfo(`${name}/out`, ELEMENT.float32)] }) })
      const byNode = branch('then_branch', [node('Constant', [], ['then_branch/out'], [create(AttributeProtoSchema, { name: 'value', type: Kind.TENSOR, t: inner })])])
      const byWeight = branch('else_branch', [node('Identity', ['w'], ['else_branch/out'])], [{ ...inner, name: 'w' }])
      graph.initializer.push(integers('if/0', 0), integers('if/1', 1), integers('if/9', 9))
      graph.node.splice(at, 0, node('Shape', ['attention_mask'], ['if/shape']), node('Gather', ['if/shape', 'if/1'], ['if/total']), node('Greater', ['if/total', 'if/9'], ['if/long']), node('If', ['if/long'], [tensor.name], [byNode, byWeight]))
    })
    const { analysis } = await openModel(directory)
    assert.equal(pieces(analysis).flatMap(({ entries }) => entries).filter(({ tensor }) => tensor.name.startsWith('/aios/constant')).length, 2)
    await same(directory)
  })

  it('converted to float16 with inputs and outputs as they were: its caches are float16 all the same', async () => {
    const directory = rewritten('kept-io', { variant: 'plain-fp16' }, graph => {
      const isCache = (name: string): boolean => /^past_key_values|^present/.test(name)
      const wide = (info: GraphProto['input'][number]) => isCache(info.name) || info.name === 'logits' ? valueInfo(info.name, ELEMENT.float32, shapeOf(info)!.dims) : info
      const inner = (name: string): string => isCache(name) || name === 'logits' ? `${name}/half` : name
      graph.node = [
        ...graph.input.filter(({ name }) => isCache(name)).map(({ name }) => node('Cast', [name], [inner(name)], [intAttribute('to', ELEMENT.float16)])),
        ...graph.node.map(one => one.opType === 'Shape' && one.input[0]!.startsWith('past') ? one : renamed(one, inner)),
        ...graph.output.map(({ name }) => node('Cast', [inner(name)], [name], [intAttribute('to', ELEMENT.float32)])),
      ]
      graph.input = graph.input.map(wide)
      graph.output = graph.output.map(wide)
    })
    const { analysis } = await openModel(directory)
    assert.ok(analysis.caches.flat().every(({ dtype }) => dtype === 'float16'))
    assert.equal(analysis.logits.dtype, 'float32')
    await same(directory)
  })

  it('with token embeddings narrower than what goes through the layers, which shapes are asked of', async () => {
    await same(rewritten('narrow', { variant: 'plain' }, graph => {
      const table = weight(graph, 'model.embed_tokens.weight')
      const [rows = 0, columns = 0] = table.dims.map(Number)
      const numbers = new Float32Array(Uint8Array.from(table.rawData).buffer)
      const tensor = (name: string, dims: readonly number[], length: number): TensorProto => create(TensorProtoSchema, { name, dataType: ELEMENT.float32, dims: dims.map(BigInt), rawData: new Uint8Array(numbers.slice(0, length).buffer) })
      graph.initializer = [...graph.initializer.filter(other => other !== table), tensor('narrow', [rows, columns / 2], rows * columns / 2), tensor('widen', [columns / 2, columns], columns * columns / 2)]
      const at = graph.node.findIndex(({ input }) => input[0] === table.name)
      const state = graph.node[at]!.output[0]!
      graph.node.splice(at, 1, node('Gather', ['narrow', 'input_ids'], ['narrow/state']), node('MatMul', ['narrow/state', 'widen'], [state]))
      for (const one of graph.node) if (one.name.endsWith('self_attn/Shape')) one.input = ['narrow/state']
    }))
  })

  it('with keys normed after they are turned: what a stage gives out must not keep the runtime from fusing that', async () => {
    await same(rewritten('normed', { variant: 'plain' }, graph => {
      const gamma = new Float32Array(16).map((_, at) => 0.5 + at / 16)
      graph.initializer.push(create(TensorProtoSchema, { name: 'gamma', dataType: ELEMENT.float32, dims: [16n], rawData: new Uint8Array(gamma.buffer) }))
      graph.node = graph.node.flatMap(one => {
        const prefix = /^(.*\/self_attn)\/Transpose_k$/.exec(one.name)?.[1]
        if (prefix === undefined) return [one]
        const [turned = ''] = one.output
        const norm = graph.node.filter(({ name }) => name.startsWith('/model/layers.0/input_layernorm/')).map(part => renamed(part, name => {
          if (name === '/model/embed_tokens/Gather_output_0') return `${turned}/before`
          if (name === 'model.layers.0.input_layernorm.weight') return 'gamma'
          return name === '/model/layers.0/input_layernorm/Mul_1_output_0' ? turned : name.replace('/model/layers.0/input_layernorm', `${prefix}/k_norm`)
        }))
        return [renamed(one, name => name === turned ? `${turned}/before` : name), ...norm.map(part => ({ ...part, name: '' }))]
      })
    }))
  })

  it('with its residual stream through conversions that convert nothing, in float16', async () => {
    const directory = rewritten('idle', { variant: 'plain-fp16' }, graph => {
      graph.node = graph.node.flatMap(one => {
        if (!/layers\.\d+\/Add_1$/.test(one.name)) return [one]
        const [sum = ''] = one.output
        return [renamed(one, name => name === sum ? `${sum}/before` : name), node('Cast', [`${sum}/before`], [sum], [intAttribute('to', ELEMENT.float16)])]
      })
    })
    await same(directory)
  })

  it('with what nobody can measure added to the residual stream, which stays as wide as it came in', async () => {
    const directory = rewritten('scattered', { variant: 'plain' }, graph => {
      // As a mixture of experts puts its parts together: zeros of a computed shape, scattered into.
      graph.initializer.push(integers('m/flat', [-1]))
      graph.node = graph.node.flatMap(one => {
        if (!/layers\.\d+\/Add_1$/.test(one.name)) return [one]
        const [left = '', right = ''] = one.input
        const at = (name: string): string => `${one.output[0]}/${name}`
        return [
          node('Shape', [right], [at('shape')]), node('Reshape', [right, 'm/flat'], [at('flat')]), node('Expand', [at('flat'), 'm/flat-one'], [at('spread')]), node('Reshape', [at('spread'), at('shape')], [at('back')]),
          node('Add', [left, at('back')], one.output, [], '', one.name),
        ]
      })
      graph.initializer.push(integers('m/flat-one', [1]))
    })
    const { analysis } = await openModel(directory)
    assert.deepEqual(analysis.boundaries.map(tensors => tensors.map(({ width }) => width)), Array.from({ length: 5 }, () => [64]))
    await same(directory)
  })

  it('with a last norm that is put in the shape of all tokens: a stage chooses after that', async () => {
    const directory = rewritten('viewed', { variant: 'plain' }, graph => {
      const at = graph.node.findIndex(({ output }) => output.includes('logits'))
      const head = graph.node[at]!
      graph.initializer.push(integers('view/width', [64]))
      graph.node.splice(at, 1, node('Shape', ['input_ids'], ['view/ids']), node('Concat', ['view/ids', 'view/width'], ['view/shape'], [intAttribute('axis', 0)]), node('Reshape', [head.input[0]!, 'view/shape'], ['view/state']), renamed(head, name => name === head.input[0] ? 'view/state' : name))
    })
    const { skeleton, analysis } = await openModel(directory)
    assert.equal(stageGraph(skeleton, analysis, { first: 3, end: 6, select: true }).io.logits?.select, 'select')
    await same(directory)
  })

  it('with a head that was pruned to the last token: a stage gives the logits of any', async () => {
    const whole = await openModel(rewritten('unpruned', { variant: 'plain' }, () => {}))
    const served = (model: typeof whole): Uint8Array => stageGraph(model.skeleton, model.analysis, { first: 3, end: 6, select: true, greedy: true }).onnx
    const ways: Readonly<Record<string, (from: string, to: string) => readonly NodeProto[]>> = {
      taken: (from, to) => [node('Gather', [from, 'pruned/last'], [`${to}/one`], [intAttribute('axis', 1)]), node('Unsqueeze', [`${to}/one`, 'pruned/axis'], [to])],
      kept: (from, to) => [node('Gather', [from, 'pruned/lasts'], [to], [intAttribute('axis', 1)])],
      cut: (from, to) => [node('Slice', [from, 'pruned/lasts', 'pruned/far', 'pruned/axis'], [to])],
    }
    for (const [name, way] of Object.entries(ways)) {
      const states = await openModel(rewritten(`pruned-${name}`, { variant: 'plain' }, graph => {
        const at = graph.node.findIndex(({ output }) => output.includes('logits'))
        const head = graph.node[at]!
        graph.initializer.push(integers('pruned/last', -1), integers('pruned/lasts', [-1]), integers('pruned/axis', [1]), integers('pruned/far', [2 ** 40]))
        graph.node.splice(at, 1, ...way(head.input[0]!, 'pruned'), renamed(head, other => other === head.input[0] ? 'pruned' : other))
      }))
      assert.deepEqual(served(states), served(whole), name)
      const logits = await openModel(rewritten(`pruned-late-${name}`, { variant: 'plain' }, graph => {
        graph.initializer.push(integers('pruned/last', -1), integers('pruned/lasts', [-1]), integers('pruned/axis', [1]), integers('pruned/far', [2 ** 40]))
        graph.node = [...graph.node.map(one => renamed(one, other => other === 'logits' ? 'all' : other)), ...way('all', 'logits')]
      }))
      assert.deepEqual(served(logits), served(whole), name)
    }
  })

  it('with logits that are put in the shape of all tokens: a stage gives those of all, not of chosen ones', async () => {
    const directory = rewritten('viewed-late', { variant: 'plain' }, graph => {
      const at = graph.node.findIndex(({ output }) => output.includes('logits'))
      graph.initializer.push(integers('view/width', [-1]))
      graph.node.splice(at, 1, renamed(graph.node[at]!, name => name === 'logits' ? 'view/logits' : name), node('Shape', ['input_ids'], ['view/ids']), node('Concat', ['view/ids', 'view/width'], ['view/shape'], [intAttribute('axis', 0)]), node('Reshape', ['view/logits', 'view/shape'], ['logits']))
    })
    const { skeleton, analysis } = await openModel(directory)
    assert.equal(stageGraph(skeleton, analysis, { first: 3, end: 6, select: true }).io.logits?.select, undefined)
    await same(directory)
  })

  it('with norms spelled out between conversions that convert nothing, and states scaled by one number on their way into the head', async () => {
    // Optimum writes a norm so, of which ONNX Runtime makes one operator: a stage that chooses tokens must not take it apart.
    const directory = rewritten('scaled', { variant: 'plain' }, graph => {
      const number = (name: string, value: number): TensorProto => create(TensorProtoSchema, { name, dataType: ELEMENT.float32, dims: [], rawData: new Uint8Array(Float32Array.of(value).buffer) })
      graph.initializer.push(number('scale', 0.3), number('one', 1))
      const cast = (from: string, to: string): NodeProto => node('Cast', [from], [to], [intAttribute('to', ELEMENT.float32)])
      graph.node = graph.node.flatMap(one => {
        const [first = '', second = ''] = one.input
        const [out = ''] = one.output
        if (/layers\.\d+\/Add_1$/.test(one.name)) return [renamed(one, name => name === out ? `${out}/before` : name), cast(`${out}/before`, out)]
        if (out === 'logits') return [node('Mul', [first, 'scale'], ['scaled']), renamed(one, name => name === first ? 'scaled' : name)]
        if (one.opType === 'Reciprocal') return [node('Div', ['one', first], one.output)]
        if (one.name.endsWith('norm/Pow')) return [cast(first, `${out}/wide`), renamed(one, name => name === first ? `${out}/wide` : name)]
        if (one.name.endsWith('norm/Mul')) return [node('Mul', [`${out.replace('Mul', 'Pow')}/wide`, second], [`${out}/unit`]), cast(`${out}/unit`, out)]
        return [one]
      })
    })
    await same(directory)
  })

  it('with shapes told that the runtime cannot work out, of a last sum and norm: it makes one operator of them in a stage as in the whole', async () => {
    // PyTorch's newer exporter computes products on tokens without their batch, puts them back in shape, and says what every value's shape is.
    const directory = rewritten('told', { variant: 'plain', shape: { family: 'neox' } }, graph => {
      const [ids] = graph.input.filter(({ name }) => name === 'input_ids')
      const sums = graph.node.filter(({ opType, output }) => opType === 'Add' && graph.node.some(reader => reader.opType === 'LayerNormalization' && reader.input[0] === output[0]))
      assert.equal(sums.length > 0, true)
      const last = sums.at(-1)!
      const dims = [...shapeOf(ids)!.dims!, 64]
      graph.initializer.push(integers('told/rows', [-1, 64]), integers('told/width', [64]))
      graph.node = graph.node.flatMap(one => one === last
        ? [
            ...one.input.flatMap((name, at) => [node('Reshape', [name, 'told/rows'], [`told/flat.${at}`]), node('Shape', ['input_ids'], [`told/ids.${at}`]), node('Concat', [`told/ids.${at}`, 'told/width'], [`told/shape.${at}`], [intAttribute('axis', 0)]), node('Reshape', [`told/flat.${at}`, `told/shape.${at}`], [`told/back.${at}`])]),
            { ...one, input: one.input.map((_, at) => `told/back.${at}`) },
          ]
        : [one])
      graph.valueInfo.push(...[...last.input.map((_, at) => `told/back.${at}`), ...last.output].map(name => valueInfo(name, ELEMENT.float32, dims)))
    })
    await same(directory)
  })

  it('with attention over a window in a buffer that turns over: a stage keeps every position instead', async () => {
    const graphs = await Promise.all([false, true].map(async turns => {
      const directory = rewritten(`window-${turns}`, { variant: 'fused' }, graph => {
        for (const one of graph.node.filter(({ opType }) => opType === 'GroupQueryAttention')) one.attribute.push(intAttribute('local_window_size', 4), ...turns ? [intAttribute('sliding_window_cache', 1)] : [])
      })
      const { skeleton, analysis } = await openModel(directory)
      return stageGraph(skeleton, analysis, { first: 1, end: 3 }).onnx
    }))
    assert.deepEqual(graphs[0], graphs[1])
  })

  it('with weights of 4 bits that no block has a shape for', async () => {
    const directory = rewritten('bnb', { variant: 'plain' }, graph => {
      graph.node = graph.node.map((one): NodeProto => {
        const tensor = one.opType === 'MatMul' ? graph.initializer.find(({ name }) => name === one.input[1]) : undefined
        if (tensor === undefined || !/_proj/.test(one.name)) return one
        const [K = 0, N = 0] = tensor.dims.map(Number)
        graph.initializer = graph.initializer.filter(other => other !== tensor)
        const scales = new Float32Array(K * N / 64).map((_, at) => 0.1 + at % 7 / 50)
        graph.initializer.push(
          create(TensorProtoSchema, { name: `${tensor.name}/packed`, dataType: ELEMENT.uint8, dims: [BigInt(K * N / 2)], rawData: new Uint8Array(K * N / 2).map((_, at) => at * 37 % 251) }),
          create(TensorProtoSchema, { name: `${tensor.name}/scales`, dataType: ELEMENT.float32, dims: [BigInt(scales.length)], rawData: new Uint8Array(scales.buffer) }),
        )
        return node('MatMulBnb4', [one.input[0]!, `${tensor.name}/packed`, `${tensor.name}/scales`], one.output, [intAttribute('K', K), intAttribute('N', N), intAttribute('block_size', 64), intAttribute('quant_type', 1)], CONTRIB)
      })
    })
    const { analysis } = await openModel(directory)
    assert.equal(modelFacts(analysis, pieces(analysis).filter(({ name }) => name.startsWith('layer')), { config: {}, generation: {}, ends: [] }).weights, 'int4')
    await same(directory)
  })
})
