import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { VARIANT_NAMES, VARIANTS } from '../../fixtures/llm/decoder.ts'
import { onnxRuntime } from '../../../node/instance/onnx-model.ts'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'
import { FAMILIES, isPlainOnly } from '../../fixtures/llm/shapes.ts'
import { distances } from './stage-chain.ts'

describe('a split model', () => {
  const root = mkdtempSync(join(tmpdir(), 'split-'))
  after(() => rmSync(root, { recursive: true, force: true }))

  const made = (name: string, options: ModelOptions): string => makeModel(join(root, name), options).directory

  for (const variant of VARIANT_NAMES) {
    it(`${variant}: whole and in 2, 3 and 4 parts it gives the same 64 tokens and the same logits to the bit`, async () => {
      const apart = await distances(made(variant, { variant }), [1, 2, 3, 4])
      // Between casts that ONNX Runtime drops or keeps as it fuses, plain float16 may differ in the last bit.
      if (variant === 'plain-fp16') assert.ok(Math.max(...apart) <= 0.004, apart.join())
      else assert.deepEqual(apart, [0, 0, 0, 0])
    })
  }

  for (const variant of ['fused', 'fused-q4', 'plain', 'plain-merged'] as const) {
    it(`${variant} with a head that is the embedding is the same to the bit`, async () => {
      assert.deepEqual(await distances(made(`${variant}-tied`, { variant, shape: { tied: true } }), [1, 3], 16), [0, 0])
    })
  }

  for (const family of FAMILIES) {
    for (const variant of ['plain', 'plain-merged', 'plain-int8', 'fused', 'fused-q4'] as const) {
      if (isPlainOnly(family) && VARIANTS[variant].dialect === 'fused') continue
      it(`${family}, ${variant}, is the same to the bit`, async () => {
        assert.deepEqual(await distances(made(`${family}-${variant}`, { variant, shape: { family } }), [1, 4], 16), [0, 0])
      })
    }
  }

  for (const variant of ['plain', 'plain-fp16', 'fused', 'fused-packed', 'fused-q4'] as const) {
    for (const level of ['basic', 'extended', 'all'] as const) {
      it(`${variant} as ONNX Runtime rewrites it (${level}) is the same`, async () => {
        const directory = join(root, `${variant}-${level}`)
        mkdirSync(directory)
        const session = await onnxRuntime().InferenceSession.create(join(made(`${variant}-source`, { variant }), 'model.onnx'), { graphOptimizationLevel: level, optimizedModelFilePath: join(directory, 'model.onnx'), logSeverityLevel: 4 })
        await session.release()
        const apart = await distances(directory, [1, 2, 6], 16)
        assert.ok(Math.max(...apart) <= (variant === 'plain-fp16' ? 0.004 : 0), apart.join())
      })
    }
  }
})
