import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PIECE_ALIGNMENT, pieceBytes, pieces } from '../../../src/llm/onnx/pieces.ts'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import { isReferenced, tensorRef } from '../../../src/llm/onnx/tensor-ref.ts'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'
import { openModel, type OpenModel } from './stage-chain.ts'

describe('the pieces of a model', () => {
  const root = mkdtempSync(join(tmpdir(), 'pieces-'))
  after(() => rmSync(root, { recursive: true, force: true }))
  const opened = (name: string, options: ModelOptions): Promise<OpenModel> => openModel(makeModel(join(root, name), options).directory)

  /** Digest of every piece by name. */
  const digests = async ({ analysis, open }: OpenModel): Promise<Readonly<Record<string, string>>> => {
    const found: Record<string, string> = {}
    for (const piece of pieces(analysis)) {
      const hash = createHash('sha256')
      let size = 0
      for await (const bytes of pieceBytes(piece, open)) {
        hash.update(bytes)
        size += bytes.length
      }
      assert.equal(size, piece.size)
      found[piece.name] = hash.digest('hex')
    }
    return found
  }

  for (const variant of ['fused', 'fused-q4', 'fused-fp16', 'fused-q4-embedding', 'plain', 'plain-int8', 'plain-merged'] as const) {
    it(`hold every large weight of a ${variant} model once, on pages of their own`, async () => {
      const { skeleton, analysis } = await opened(variant, { variant })
      const all = pieces(analysis)
      const entries = all.flatMap(piece => piece.entries)
      const large = (skeleton.model.graph?.initializer ?? []).filter(isReferenced).map(({ name }) => name)
      assert.deepEqual(entries.map(({ tensor }) => tensor.name).sort(), large.sort())
      for (const piece of all) {
        let end = 0
        for (const { offset, length, tensor } of piece.entries) {
          assert.equal(offset % PIECE_ALIGNMENT, 0)
          assert.ok(offset >= end && offset - end < PIECE_ALIGNMENT)
          assert.equal(length, tensorRef(skeleton.model.graph!.initializer.find(({ name }) => name === tensor.name)!).length)
          end = offset + length
        }
        assert.equal(piece.size, end)
      }
      assert.deepEqual(all.map(({ name }) => name).filter(name => name.startsWith('layer')), Array.from({ length: 6 }, (_, layer) => `layer-${layer}`))
      assert.deepEqual(await digests(await opened(`${variant}-again`, { variant, external: true })), await digests({ ...await opened(variant, { variant }) }))
    })
  }

  it('of equal layers are equal bytes, whatever the model around them', async () => {
    for (const variant of ['fused', 'plain', 'fused-q4'] as const) {
      const six = await digests(await opened(`${variant}-six`, { variant }))
      const four = await digests(await opened(`${variant}-four`, { variant, shape: { layers: 4, vocab: 700 } }))
      for (let layer = 0; layer < 4; layer++) assert.equal(four[`layer-${layer}`], six[`layer-${layer}`], `${variant} layer ${layer}`)
      assert.notEqual(four.embed, six.embed)
      assert.equal(new Set(Object.values(six)).size, Object.keys(six).length)
    }
    const [named, anonymous] = [await opened('named', { variant: 'fused-packed' }), await opened('anonymous', { variant: 'fused-packed-anonymous' })]
    assert.deepEqual(await digests(named), await digests(anonymous))
  })

  it('are fetched only by the stages that read them', async () => {
    for (const [tied, ends] of [[false, ['embed', 'head']], [true, ['tied', 'tied']]] as const) {
      for (const variant of ['plain', 'fused'] as const) {
        const { skeleton, analysis } = await opened(`${variant}-${tied}`, { variant, shape: { tied } })
        const needs = ([[0, 2], [2, 4], [4, 6], [0, 6]] as const).map(([first, end]) => stageGraph(skeleton, analysis, { first, end }).pieces.filter(name => name !== 'shared'))
        assert.deepEqual(needs, [[ends[0], 'layer-0', 'layer-1'], ['layer-2', 'layer-3'], tied ? ['tied', 'layer-4', 'layer-5'] : ['layer-4', 'layer-5', 'head'], tied ? ['tied', ...[0, 1, 2, 3, 4, 5].map(layer => `layer-${layer}`)] : ['embed', ...[0, 1, 2, 3, 4, 5].map(layer => `layer-${layer}`), 'head']])
      }
    }
  })
})
