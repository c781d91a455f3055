import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { MeshError } from '../../protocols/errors.ts'
import { findModel } from '../../node/authoring/model-layout.ts'

/** The graphs of folders as exporters and hubs lay them out; which one is taken depends on names alone. */
describe('the graph of a folder', () => {
  let root: string
  before(async () => { root = await mkdtemp(join(tmpdir(), 'model-layout-')) })
  after(() => rm(root, { recursive: true, force: true }))

  let folders = 0
  const folder = async (...names: readonly string[]): Promise<string> => {
    const path = join(root, String(folders++))
    for (const name of names) {
      await mkdir(dirname(join(path, name)), { recursive: true })
      await writeFile(join(path, name), '')
    }
    return path
  }
  const taken = async (path: string, file?: string): Promise<string> => (await findModel(path, file)).file
  const refuses = (path: string, pattern: RegExp, file?: string): Promise<void> => assert.rejects(findModel(path, file), (error: unknown) => error instanceof MeshError && pattern.test(error.message))

  it('is the one as it was exported; others are told, and taken by name or precision', async () => {
    const path = await folder('config.json', ...['', '_bnb4', '_fp16', '_int8', '_q4', '_q4f16', '_quantized', '_uint8'].map(precision => `onnx/model${precision}.onnx`))
    const found = await findModel(path)
    assert.equal(found.file, 'onnx/model.onnx')
    assert.deepEqual(found.others, ['bnb4', 'fp16', 'int8', 'q4', 'q4f16', 'quantized', 'uint8'].map(precision => `onnx/model_${precision}.onnx`))
    for (const name of ['q4f16', 'model_q4f16', 'model_q4f16.onnx', 'onnx/model_q4f16.onnx']) assert.equal(await taken(path, name), 'onnx/model_q4f16.onnx')
    await refuses(path, /no q8 among onnx\/model\.onnx, onnx\/model_bnb4\.onnx/, 'q8')
  })

  it('is the merged decoder where there are three, in the precision asked for or the only one', async () => {
    const halves = ['decoder_model', 'decoder_model_merged', 'decoder_with_past_model']
    const path = await folder(...halves.flatMap(name => [`onnx/${name}.onnx`, `onnx/${name}_quantized.onnx`]))
    assert.equal(await taken(path), 'onnx/decoder_model_merged.onnx')
    assert.equal(await taken(path, 'quantized'), 'onnx/decoder_model_merged_quantized.onnx')
    assert.equal(await taken(await folder(...halves.map(name => `${name}_quantized.onnx`))), 'decoder_model_merged_quantized.onnx')
  })

  it('is the decoder that takes keys and values where two were exported', async () => {
    assert.equal(await taken(await folder('decoder_model.onnx', 'decoder_with_past_model.onnx', 'config.json')), 'decoder_with_past_model.onnx')
  })

  it('has to be chosen among precisions none of which is the exported one', async () => {
    const path = await folder('onnx/model_q4.onnx', 'onnx/model_fp16.onnx')
    await refuses(path, /choose one with --file: onnx\/model_fp16\.onnx, onnx\/model_q4\.onnx/)
    assert.equal(await taken(path, 'fp16'), 'onnx/model_fp16.onnx')
  })

  it('may lie deeper, in a folder of its own with its texts', async () => {
    const path = await folder('README.md', 'cpu/int4-block-32/model.onnx', 'cpu/int4-block-32/genai_config.json')
    const found = await findModel(path)
    assert.equal(found.file, 'cpu/int4-block-32/model.onnx')
    assert.deepEqual([...found.texts.keys()], ['genai_config.json'])
    const several = await folder('cpu/int4/model.onnx', 'cuda/fp16/model.onnx')
    await refuses(several, /choose one with --file: cpu\/int4\/model\.onnx, cuda\/fp16\/model\.onnx/)
    await refuses(several, /choose one/, 'model.onnx')
    assert.equal(await taken(several, 'cuda/fp16'), 'cuda/fp16/model.onnx')
  })

  it('is none where there is none, and what is no graph is not taken for one', async () => {
    await refuses(await folder('model.safetensors'), /holds no \.onnx file/)
    await refuses(join(await folder('model.gguf'), 'model.gguf'), /no ONNX model: export the model to ONNX first/)
  })
})
