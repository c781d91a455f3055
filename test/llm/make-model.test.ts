import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { VARIANT_NAMES, VARIANTS, type VariantName } from '../fixtures/llm/decoder.ts'
import { makeModel, type ModelOptions } from '../fixtures/llm/make-model.ts'
import { FAMILIES, isPlainOnly, type Family } from '../fixtures/llm/shapes.ts'
import { furthest, readJson, WholeModel, type Logits } from './whole-model.ts'

const PROMPT = [11, 402, 33, 7, 90, 255, 180, 64]
const NEXT = [301, 18]

describe('models of random weights', () => {
  const root = mkdtempSync(join(tmpdir(), 'make-model-'))
  after(() => rmSync(root, { recursive: true, force: true }))

  /** Logits of a prompt and of two single steps after it. */
  const run = async (name: string, options: ModelOptions): Promise<readonly Logits[]> => {
    const made = makeModel(join(root, name), options)
    const model = await WholeModel.open(made.directory)
    try {
      assert.equal(model.layers, made.shape.layers)
      const logits = [await model.add(PROMPT), ...await steps(model)]
      assert.ok(logits.every(({ vocab, data }) => vocab === made.shape.vocab && data.every(Number.isFinite)))
      return logits
    } finally {
      await model.close()
    }
  }
  const apart = (a: readonly Logits[], b: readonly Logits[]): number => Math.max(...a.map((logits, at) => furthest(logits, b[at]!)))
  const steps = async (model: WholeModel): Promise<readonly Logits[]> => [await model.add(NEXT.slice(0, 1)), await model.add(NEXT.slice(1))]

  /** How far from the plain float32 graph each variant may lie; its weights are rounded, or they are the same. */
  const TOLERANCE: Readonly<Record<VariantName, number>> = {
    'plain': 0, 'plain-anonymous': 0, 'plain-merged': 2e-5, 'plain-merged-anonymous': 2e-5, 'plain-fp16': 0.05, 'plain-int8': 0.6,
    'fused': 2e-5, 'fused-packed': 2e-5, 'fused-packed-anonymous': 2e-5, 'fused-rotary': 2e-5, 'fused-fp16': 0.05, 'fused-q8': 0.3, 'fused-q4': 1.8, 'fused-q4-accurate': 1.8, 'fused-q4-rotary': 1.8, 'fused-q4-embedding': 1.8, 'fused-q4f16': 1.8,
  }

  for (const variant of VARIANT_NAMES) {
    it(`${variant} runs and agrees with plain operators`, async () => {
      const distance = apart(await run('plain', { variant: 'plain' }), await run(variant, { variant }))
      assert.ok(distance <= TOLERANCE[variant], `${distance}`)
    })
  }

  for (const family of FAMILIES.filter(family => !isPlainOnly(family))) {
    it(`${family} says the same in both dialects, tied and not, whole and in halves`, async () => {
      for (const tied of [true, false]) {
        const shape: Partial<{ family: Family; tied: boolean; headDim: number }> = { family, tied, ...family === 'gemma' ? { headDim: 32 } : {} }
        const distance = apart(await run(`${family}-plain`, { variant: 'plain', shape }), await run(`${family}-fused`, { variant: 'fused', shape }))
        assert.ok(distance <= 5e-5, `${distance} tied ${tied}`)
      }
    })
  }

  for (const family of FAMILIES.filter(family => isPlainOnly(family))) {
    it(`${family} says the same with a cache as without, and merged`, async () => {
      const [prompt, first] = await run(family, { variant: 'plain', shape: { family } })
      const merged = await run(`${family}-merged`, { variant: 'plain-merged', shape: { family } })
      assert.ok(furthest(prompt!, merged[0]!) <= 2e-5)
      assert.ok(furthest(first!, merged[1]!) <= 2e-5)
      const model = await WholeModel.open(join(root, family))
      const whole = await model.add([...PROMPT, ...NEXT])
      await model.close()
      const row = whole.data.subarray(PROMPT.length * whole.vocab, (PROMPT.length + 1) * whole.vocab)
      assert.ok(first!.data.every((value, at) => Math.abs(value - row[at]!) <= 2e-5))
    })
  }

  it('the same whether the weights are inside or beside, and the same bytes each time', async () => {
    const inside = await run('inside', { variant: 'fused-q4' })
    assert.equal(apart(inside, await run('beside', { variant: 'fused-q4', external: true })), 0)
    assert.ok(statSync(join(root, 'beside/model.onnx')).size < statSync(join(root, 'beside/model.onnx_data')).size)
    const digest = (name: string): string => createHash('sha256').update(readFileSync(join(root, name, 'model.onnx_data'))).digest('hex')
    makeModel(join(root, 'again'), { variant: 'fused-q4', external: true })
    assert.equal(digest('again'), digest('beside'))
    makeModel(join(root, 'other'), { variant: 'fused-q4', external: true, seed: 2 })
    assert.notEqual(digest('other'), digest('beside'))
  })

  it('come with a tokenizer of their vocabulary that gives text back', () => {
    const { directory, shape } = makeModel(join(root, 'tokens'), { shape: { vocab: 2000 } })
    const tokenizer = new Tokenizer(readJson<object>(directory, 'tokenizer.json'), readJson<object>(directory, 'tokenizer_config.json'))
    const text = 'Grüße, 世界 🌍: the work as licensed.'
    const ids: readonly number[] = tokenizer.encode(text).ids
    assert.equal(tokenizer.decode([...ids]), text)
    assert.ok(ids.every(id => id < shape.vocab))
    const marked: readonly number[] = tokenizer.encode('<|user|>a<|end|>').ids
    assert.deepEqual(marked.filter(id => id >= shape.vocab - 5), [shape.vocab - 2, shape.vocab - 4])
  })

  it('every variant has a name, a dialect and a tolerance here', () => {
    assert.deepEqual(Object.keys(TOLERANCE).sort(), Object.keys(VARIANTS).sort())
  })
})
