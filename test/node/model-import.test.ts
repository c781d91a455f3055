import assert from 'node:assert/strict'
import { cp, mkdir, mkdtemp, readFile, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { check, digest, encode, hex, recordCid, type Schema } from '../../protocols/codec.ts'
import { granted, MeshError } from '../../protocols/errors.ts'
import type { Cid } from '../../protocols/ids.ts'
import type { ContentStore } from '../../src/ports.ts'
import { analyse } from '../../src/llm/onnx/analyse.ts'
import { decodeModel, encodeModel } from '../../src/llm/onnx/codec.ts'
import { intAttribute, shapeOf as infoShape, valueInfo } from '../../src/llm/onnx/node.ts'
import { stageComponent } from '../../src/llm/serve/stage-component.ts'
import { ArtefactCatalogue } from '../../src/registries/catalogue.ts'
import { Registries } from '../../src/registries/store.ts'
import { MemoryView } from '../../src/registries/view.ts'
import { importModel, type ImportOptions } from '../../node/authoring/model-import.ts'
import { makeModel, tokenizerOf } from '../fixtures/llm/make-model.ts'
import { writeConfigurations, writeModel } from '../fixtures/llm/model-directory.ts'
import { sentenceEncoderGraph } from '../fixtures/llm/sentence-encoder.ts'
import { FAMILIES, randomWeights, shapeOf } from '../fixtures/llm/shapes.ts'
import { makeIdentity } from '../registries/ed25519.ts'
import { realClock, recording } from '../registries/loopback.ts'
import { cells } from './cells.ts'

const shape = (info: Parameters<typeof infoShape>[0]): readonly (string | number)[] => infoShape(info)?.dims ?? []
const hasCode = (code: string, pattern = /./) => (error: unknown): boolean => error instanceof MeshError && error.code === code && pattern.test(error.message)

describe('importing a model', function () {
  this.timeout(60_000)
  const identity = makeIdentity()
  let dir: string
  let content: ReturnType<typeof contentStore>
  let catalogue: ArtefactCatalogue
  let journal: ReturnType<typeof cells>

  before(async () => { dir = await mkdtemp(join(tmpdir(), 'model-import-')) })
  after(() => rm(dir, { recursive: true, force: true }))
  beforeEach(() => {
    content = contentStore()
    journal = cells()
    catalogue = new ArtefactCatalogue(new Registries(new MemoryView(), { identity, mayWrite: () => granted(true) }, { clock: realClock(), telemetry: recording() }), content)
  })
  const run = (path: string, options: ImportOptions = {}) => importModel({ content, catalogue, journal, author: identity.peer }, path, options)

  it('makes a file of each layer and tells what each costs; the same folder again changes nothing', async () => {
    const path = join(dir, 'Plain One')
    const { shape } = makeModel(path, { variant: 'fused' })
    const progress: number[] = []
    const imported = await run(path, { progress: ({ doneBytes, totalBytes }) => progress.push(doneBytes / totalBytes) })
    assert.equal(imported.uri, 'plain-one:1.0.0-stable')
    const { manifest } = await catalogue.model('plain-one')
    assert.equal(manifest.layers.length, shape.layers)
    assert.deepEqual(manifest.pieces.map(({ path }) => path), ['shared.bin', 'embed.bin', ...Array.from({ length: shape.layers }, (_, layer) => `layer-${layer}.bin`), 'head.bin'])
    assert.deepEqual({ ...manifest.facts, parameters: 0, endTokens: 0 }, { architecture: 'llama', hidden: shape.hidden, vocab: shape.vocab, contextTokens: shape.context, heads: shape.heads, kvHeads: shape.kvHeads, headDim: shape.headDim, weights: 'float32', activations: 'float32', parameters: 0, endTokens: 0 })
    assert.equal(manifest.facts.endTokens.length, 1)
    for (const layer of manifest.layers) {
      assert.equal(layer.kvBytes, 2 * shape.kvHeads * shape.headDim * 4)
      assert.equal(layer.boundaryBytes > 0, layer !== manifest.layers.at(-1))
      assert(layer.weightBytes > 0 && layer.flops > 0)
    }
    assert.deepEqual(manifest.generation, { do_sample: true, temperature: 0.7, top_k: 40 })
    assert.equal(progress.at(-1), 1)
    assert.equal((await run(path)).cid, imported.cid)
    await assert.rejects(run(makeModel(join(dir, 'other'), { seed: 2 }).directory, { name: 'plain-one' }), hasCode('IMMUTABLE'))
  })

  for (const [variant, weights] of [['fused-q4', 'int4'], ['fused-q8', 'int8'], ['fused-fp16', 'float16'], ['plain', 'float32']] as const) {
    it(`says of ${variant} that its weights are ${weights}, and counts its parameters alike`, async () => {
      const imported = await run(makeModel(join(dir, variant), { variant, external: variant !== 'plain' }).directory)
      const { manifest } = await catalogue.model(imported.uri)
      assert.equal(manifest.facts.weights, weights)
      assert(Math.abs(imported.parameters / 295_000 - 1) < 0.15, `${imported.parameters} parameters`)
    })
  }

  it('has activations rounded to int8 where that is asked for: the model that an exporter writes who asks for it, with the same weights', async () => {
    const exported = await run(makeModel(join(dir, 'exported'), { variant: 'fused-q4' }).directory)
    const { directory } = makeModel(join(dir, 'in-full'), { variant: 'fused-q4-accurate' })
    const [asItSays, rounded] = [await run(directory), await run(directory, { name: 'rounded', activations: 'int8' })]
    const [wanted, kept, changed] = await Promise.all([exported, asItSays, rounded].map(async ({ uri }) => (await catalogue.model(uri)).manifest))
    assert.notEqual(kept!.skeleton.cid, wanted!.skeleton.cid)
    assert.equal(changed!.skeleton.cid, wanted!.skeleton.cid)
    assert.deepEqual([kept!.pieces, changed!.pieces], [wanted!.pieces, wanted!.pieces])
    await assert.rejects(run(makeModel(join(dir, 'in-float32'), { variant: 'fused' }).directory, { activations: 'int8' }), hasCode('BAD_INPUT', /this model has none such/))
  })

  it('takes every family of decoders that exporters write, and finds its context, heads and layers', async () => {
    for (const family of FAMILIES) {
      const { directory, shape } = makeModel(join(dir, family), { shape: { family }, variant: 'plain', external: family === 'gpt2' })
      const imported = await run(directory)
      const { facts, layers } = (await catalogue.model(imported.uri)).manifest
      assert.deepEqual({ layers: layers.length, vocab: facts.vocab, context: facts.contextTokens, heads: facts.heads, kvHeads: facts.kvHeads, headDim: facts.headDim, hidden: facts.hidden }, { layers: shape.layers, vocab: shape.vocab, context: shape.context, heads: shape.heads, kvHeads: shape.kvHeads, headDim: shape.headDim, hidden: shape.hidden }, family)
    }
  })

  it('takes graphs in an onnx folder, the quantised one when asked for, through links to where the bytes are', async () => {
    const path = join(dir, 'hub')
    makeModel(join(dir, 'blobs'), { variant: 'fused', external: true })
    makeModel(join(dir, 'blobs-q4'), { variant: 'fused-q4' })
    await cp(join(dir, 'blobs'), path, { recursive: true })
    await mkdir(join(path, 'onnx'))
    await rename(join(path, 'model.onnx'), join(path, 'onnx', 'model.onnx'))
    await unlink(join(path, 'model.onnx_data'))
    await symlink(join(dir, 'blobs', 'model.onnx_data'), join(path, 'onnx', 'model.onnx_data'))
    await cp(join(dir, 'blobs-q4', 'model.onnx'), join(path, 'onnx', 'model_q4.onnx'))
    assert.equal((await catalogue.model((await run(path)).uri)).manifest.facts.weights, 'float32')
    assert.equal((await catalogue.model((await run(path, { file: 'q4', name: 'hub-q4:1.0.0-stable' })).uri)).manifest.facts.weights, 'int4')
    assert.equal((await catalogue.model((await run(join(path, 'onnx', 'model_q4.onnx'), { name: 'by-file' })).uri)).manifest.facts.weights, 'int4')
    await assert.rejects(run(path, { file: 'fp16' }), hasCode('NOT_FOUND', /model_q4\.onnx/))
  })

  it('tells which graph it took, which it left, and what is slow or missing', async () => {
    const path = join(dir, 'halves')
    makeModel(path, { variant: 'plain' })
    await rename(join(path, 'model.onnx'), join(path, 'decoder_with_past_model.onnx'))
    // As the halves of older exports are: one takes no keys and values, the other was traced with a token at a time.
    const half = decodeModel(await readFile(join(path, 'decoder_with_past_model.onnx')))
    half.graph!.input = half.graph!.input.filter(({ name }) => !name.startsWith('past'))
    await writeFile(join(path, 'decoder_model.onnx'), encodeModel(half))
    const imported = await run(path)
    assert.deepEqual([imported.graph, imported.others, imported.notes], ['decoder_with_past_model.onnx', ['decoder_model.onnx'], []])
    await assert.rejects(run(path, { file: 'decoder_model.onnx' }), hasCode('BAD_INPUT', /--file decoder_with_past_model\.onnx/))

    const slow = makeModel(join(dir, 'slow'), { variant: 'fused-rotary', shape: { kvHeads: 4 } }).directory
    const model = decodeModel(await readFile(join(slow, 'model.onnx')))
    for (const one of model.graph!.node) {
      if (one.opType !== 'GroupQueryAttention') continue
      Object.assign(one, { opType: 'MultiHeadAttention', input: [...one.input.slice(0, 3), '', '', '', ...one.input.slice(3, 5)], attribute: [intAttribute('num_heads', 4)] })
    }
    model.graph!.output = model.graph!.output.map(output => output.name.startsWith('present') ? valueInfo(output.name, 1, [shape(output)[0]!, shape(output)[1]!, `${shape(model.graph!.input.find(({ name }) => name.startsWith('past'))!)[2]} + 1`, shape(output)[3]!]) : output)
    await writeFile(join(slow, 'model.onnx'), encodeModel(model))
    for (const name of ['generation_config.json', 'config.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
      const { eos_token_id: _, eos_token: __, ...rest } = JSON.parse(await readFile(join(slow, name), 'utf8'))
      await writeFile(join(slow, name), JSON.stringify(rest))
    }
    const { notes } = await run(slow)
    assert.match(notes.join('\n'), /token by token.*\n.*by which token an answer ends/s)
  })

  it('refuses a tokenizer that nobody could read later, and says how to get one', async () => {
    const path = makeModel(join(dir, 'unread'), { variant: 'fused' }).directory
    const tokenizer = JSON.parse(await readFile(join(path, 'tokenizer.json'), 'utf8'))
    for (const wrong of [{ ...tokenizer, model: { ...tokenizer.model, type: 'Unheard' } }, { ...tokenizer, pre_tokenizer: { type: 'Unheard' } }, { ...tokenizer, model: { type: 'BPE' } }]) {
      await writeFile(join(path, 'tokenizer.json'), JSON.stringify(wrong))
      await assert.rejects(run(path), hasCode('SPEC_INVALID', /tokenizer\.json/))
    }
    await unlink(join(path, 'tokenizer.json'))
    await writeFile(join(path, 'vocab.json'), '{}')
    await writeFile(join(path, 'merges.txt'), '')
    await assert.rejects(run(path), hasCode('NOT_FOUND', /merges\.txt, vocab\.json are there: AutoTokenizer/))
  })

  it('stores nothing twice: a model with the same layers and another head shares all but that', async () => {
    const first = await run(makeModel(join(dir, 'base'), { variant: 'fused' }).directory)
    const shape = shapeOf('tiny')
    const own = randomWeights(shape, 1)
    const other = randomWeights(shape, 9)
    const second = await run(makeModel(join(dir, 'tuned'), { variant: 'fused', weights: name => (name === 'head' ? other(name) : own(name)) }).directory)
    const [a, b] = [(await catalogue.model(first.uri)).manifest, (await catalogue.model(second.uri)).manifest]
    assert.deepEqual(a.pieces.filter(({ path, cid }) => b.pieces.find(one => one.path === path)?.cid !== cid).map(({ path }) => path), ['head.bin'])
  })

  it('goes on where an interrupted import stopped, as long as the files are the same', async () => {
    const { directory } = makeModel(join(dir, 'long'), { variant: 'fused', external: true })
    const reads: number[] = []
    const { add } = content
    const counted = (left: number): void => {
      let adds = 0
      content.add = (...given) => {
        if ((adds += 1) > left) return Promise.reject(new MeshError('STORAGE_FULL', 'the disk is full'))
        reads[reads.length - 1]! += 1
        return add(...given)
      }
      reads.push(0)
    }
    counted(6)
    await assert.rejects(run(directory), hasCode('STORAGE_FULL'))
    assert.deepEqual(await catalogue.models(), [])
    counted(1_000)
    const imported = await run(directory)
    // The graph and the small texts are read again; five pieces are not.
    assert.equal(reads[1], imported.files - 5)
    assert.equal(journal.held.size, 0)
    counted(3)
    await assert.rejects(run(directory, { name: 'again' }), hasCode('STORAGE_FULL'))
    makeModel(directory, { variant: 'fused', external: true, seed: 5 })
    counted(1_000)
    assert.equal((await run(directory, { name: 'again' })).files, reads[3])
  })

  it('makes the component of any stage from what is stored, the same one for everybody', async () => {
    const { uri } = await run(makeModel(join(dir, 'staged'), { variant: 'fused' }).directory)
    const { manifest } = await catalogue.model(uri)
    const skeleton = { model: decodeModel(content.files.get(manifest.skeleton.cid)!) }
    const analysis = analyse(skeleton)
    const middle = stageComponent(manifest, skeleton, analysis, { first: 2, end: 4 }, identity.peer)
    assert.deepEqual(middle.pieces.map(({ path }) => path), ['shared.bin', 'layer-2.bin', 'layer-3.bin'])
    assert.equal(middle.draft.componentURI, 'llm.staged-l2-4:1.0.0-stable')
    const again = stageComponent(manifest, skeleton, analyse(skeleton), { first: 2, end: 4 }, identity.peer)
    assert.deepEqual(again, middle)
    const [graph, file] = middle.own
    assert.equal(graph?.path, 'stage.onnx')
    const spec = JSON.parse(new TextDecoder().decode(file?.bytes)).spec
    assert.deepEqual({ inputBytes: spec.inputBytes, outputBytes: spec.outputBytes, kvBytes: spec.kvBytes }, { inputBytes: manifest.layers[1]!.boundaryBytes, outputBytes: manifest.layers[3]!.boundaryBytes, kvBytes: manifest.layers[2]!.kvBytes * 2 })
  })

  it('publishes a sentence encoder as a component of runtime onnx, marked as giving embeddings', async () => {
    const path = join(dir, 'sentences')
    const shape = shapeOf('tiny')
    writeModel(path, sentenceEncoderGraph(shape, randomWeights(shape, 3)), { external: false })
    writeConfigurations(path, shape, tokenizerOf(shape.vocab))
    const imported = await run(path)
    assert.equal(imported.kind, 'encoder')
    const { manifest } = await catalogue.component(imported.uri)
    assert.equal(manifest.componentURI, 'embeddings.sentences:1.0.0-stable')
    assert.deepEqual(manifest.runtime, { name: 'onnx', model: 'model.onnx', format: 'onnx' })
    assert.deepEqual(manifest.tags, ['embeddings'])
    assert.deepEqual(manifest.componentInitData, { embeddings: true })
    assert(manifest.files.some(({ path }) => path === 'tokenizer.json'))
  })

  it('says what is wrong with what is there', async () => {
    const empty = join(dir, 'empty')
    await mkdir(empty)
    await assert.rejects(run(empty), hasCode('NOT_FOUND', /no \.onnx file/))
    await assert.rejects(run(join(dir, 'nowhere')), hasCode('NOT_FOUND', /no such file/))
    const bare = makeModel(join(dir, 'bare'), { variant: 'fused' }).directory
    await unlink(join(bare, 'tokenizer.json'))
    await assert.rejects(run(bare), hasCode('NOT_FOUND', /tokenizer\.json/))
    const torn = makeModel(join(dir, 'torn'), { external: true }).directory
    await unlink(join(torn, 'model.onnx_data'))
    await assert.rejects(run(torn), hasCode('NOT_FOUND', /model\.onnx_data/))
    const garbled = makeModel(join(dir, 'garbled'), {}).directory
    await writeFile(join(garbled, 'config.json'), '{ "vocab_size": ')
    await assert.rejects(run(garbled), hasCode('SPEC_INVALID', /config\.json/))
    assert.deepEqual(await catalogue.models(), [])
  })
})

/** Records and files by CID, in memory. */
function contentStore(): ContentStore & { readonly files: Map<Cid, Uint8Array> } {
  const records = new Map<Cid, unknown>()
  const files = new Map<Cid, Uint8Array>()
  return {
    files,
    async add(bytes) {
      const chunks: Uint8Array[] = []
      for await (const chunk of bytes) chunks.push(chunk)
      const whole = Uint8Array.from(Buffer.concat(chunks))
      const cid = `f${hex(digest(whole))}`
      files.set(cid, whole)
      return { cid, size: whole.byteLength }
    },
    async *cat(cid) {
      const bytes = files.get(cid)
      if (bytes === undefined) throw new MeshError('CONTENT_UNAVAILABLE', cid)
      yield bytes
    },
    fetch: async () => {},
    async putRecord(value) {
      const cid = recordCid(encode(value))
      records.set(cid, value)
      return cid
    },
    async getRecord<T>(cid: Cid, schema: Schema<T>) {
      const value = records.get(cid)
      if (value === undefined) throw new MeshError('CONTENT_UNAVAILABLE', cid)
      return check(schema, value, cid)
    },
    has: async cid => records.has(cid) || files.has(cid),
    pin: async () => {},
    unpin: async () => {},
  }
}
