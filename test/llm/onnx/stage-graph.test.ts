import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stageGraph } from '../../../src/llm/onnx/stage-graph.ts'
import { makeModel, type ModelOptions } from '../../fixtures/llm/make-model.ts'
import { likeliest, WholeModel } from '../whole-model.ts'
import { logitsOf, openModel, StageChain } from './stage-chain.ts'

const PROMPTS = [5, 19, 11, 32].map((length, row) => Array.from({ length }, (_, at) => (at * 7919 + 13 + row * 101) % 512))

describe('the graph of a stage', () => {
  const root = mkdtempSync(join(tmpdir(), 'stage-'))
  after(() => rmSync(root, { recursive: true, force: true }))
  const made = (name: string, options: ModelOptions): string => makeModel(join(root, name), options).directory

  for (const variant of ['fused', 'fused-q4', 'fused-fp16', 'fused-packed', 'fused-rotary', 'plain', 'plain-fp16', 'plain-int8', 'plain-merged'] as const) {
    it(`gives out the rows that the whole ${variant} model adds to its caches`, async () => {
      const directory = made(variant, { variant })
      const chain = await StageChain.open(await openModel(directory), join(directory, 'pieces'), 2)
      const whole = await WholeModel.open(directory)
      for (const ids of [PROMPTS[2]!, [7], [70], [400]]) {
        await chain.run([ids])
        await whole.add(ids)
        const expected = whole.cached()
        const got = chain.stages.flatMap(stage => stage.cached(0))
        assert.equal(got.length, expected.length)
        // Plain float16 rounds where it is cut; the first stage has not been cut yet.
        const exact = variant === 'plain-fp16' ? chain.stages[0]!.graph.io.caches.length : got.length
        for (let cache = 0; cache < exact; cache++) assert.deepEqual(got[cache], expected[cache], `cache ${cache}`)
      }
      await chain.close()
      await whole.close()
    })
  }

  for (const [variant, family] of [['fused', 'llama'], ['fused-q4', 'llama'], ['fused-fp16', 'llama'], ['fused-rotary', 'llama'], ['fused-q8', 'qwen2'], ['plain', 'llama'], ['plain-fp16', 'qwen3'], ['plain', 'gpt2'], ['plain', 'opt'], ['plain-merged', 'gemma']] as const) {
    it(`takes rows of different length together: ${family}, ${variant}`, async () => {
      const directory = made(`${family}-${variant}`, { variant, shape: { family } })
      const model = await openModel(directory)
      const single = await StageChain.open(model, join(directory, 'pieces'), 2)
      const together = await StageChain.open(model, join(directory, 'pieces'), 2, { batch: PROMPTS.length })
      const expected: number[][] = []
      let next: number[] = []
      for (const [row, prompt] of PROMPTS.entries()) {
        for (const stage of single.stages) stage.lengths[0] = 0
        const tokens = [likeliest(await single.add(prompt))]
        for (const [at, stage] of together.stages.entries()) stage.fill(row, single.stages[at]!.cached(0))
        while (tokens.length < 20) tokens.push(likeliest(await single.add([tokens.at(-1)!])))
        expected.push(tokens)
        next.push(tokens[0]!)
      }
      const got = next.map(token => [token])
      for (let step = 1; step < 20; step++) {
        const { data, vocab } = logitsOf((await together.run(next.map(token => [token])))[together.stages[1]!.graph.io.logits!.name]!)
        next = next.map((_, row) => likeliest({ rows: 1, vocab, data: data.subarray(row * vocab, (row + 1) * vocab) }))
        for (const [row, token] of next.entries()) got[row]!.push(token)
      }
      assert.deepEqual(got, expected)
      await single.close()
      await together.close()
    })
  }

  for (const variant of ['fused', 'fused-q4', 'fused-q8', 'fused-fp16', 'plain'] as const) {
    it(`gives a row the same bits in any company, and in any chunks of more than one token: ${variant}`, async () => {
      const directory = made(`company-${variant}`, { variant })
      const model = await openModel(directory)
      const prompt = PROMPTS[3]!.slice(0, 30)
      const caches = async (batch: number, chunk: number): Promise<readonly unknown[]> => {
        const chain = await StageChain.open(model, join(directory, 'pieces'), 1, { batch })
        for (let at = 0; at < prompt.length; at += chunk) await chain.run(Array.from({ length: batch }, (_, row) => prompt.slice(at, at + chunk).map(id => (id + row * 37) % 512)))
        const cached = chain.stages[0]!.cached(0)
        await chain.close()
        return cached
      }
      const whole = await caches(1, 30)
      for (const chunk of [2, 3, 6, 15]) assert.deepEqual(await caches(1, chunk), whole, `chunks of ${chunk}`)
      const alone = await caches(1, 1)
      for (const batch of [2, 5]) assert.deepEqual(await caches(batch, 1), alone, `${batch} rows`)
    })
  }

  it('prefills prompts of different length at once where each row has its own length', async () => {
    const directory = made('prefill', { variant: 'fused' })
    const model = await openModel(directory)
    const chain = await StageChain.open(model, join(directory, 'pieces'), 2, { batch: 2 })
    const [short, long] = [PROMPTS[0]!, PROMPTS[2]!]
    const padded = [...short, ...Array.from({ length: long.length - short.length }, () => 0)]
    const stages = chain.stages.map(stage => stage.graph.io.ragged)
    assert.deepEqual(stages, ['lengths', 'lengths'])
    await chain.run([padded, long])
    for (const [row, prompt] of [short, long].entries()) {
      const whole = await WholeModel.open(directory)
      await whole.add(prompt)
      const got = chain.stages.flatMap(stage => stage.cached(row))
      for (const [at, rows] of whole.cached().entries()) assert.deepEqual(got[at]!.subarray(0, rows.length), rows)
      await whole.close()
    }
    await chain.close()
  })

  for (const variant of ['fused', 'fused-q4', 'fused-q8', 'fused-fp16', 'fused-q4f16', 'plain', 'plain-merged'] as const) {
    it(`gives the logits of selected tokens, to the bit, and the greatest of each: ${variant}`, async () => {
      const directory = made(`select-${variant}`, { variant })
      const model = await openModel(directory)
      const [all, some] = [await StageChain.open(model, join(directory, 'pieces'), 2), await StageChain.open(model, join(directory, 'pieces'), 2, { select: true, greedy: true })]
      const prompt = PROMPTS[3]!
      const { vocab, data } = await all.add(prompt)
      const { name, greedy } = some.stages[1]!.graph.io.logits!
      for (const picked of [[31], [30, 31], [0, 7, 19, 31]]) {
        for (const stage of some.stages) stage.lengths[0] = 0
        const got = await some.run([prompt], picked, [name, greedy!])
        for (const [at, place] of picked.entries()) {
          const row = data.subarray(place * vocab, (place + 1) * vocab)
          assert.deepEqual(logitsOf(got[name]!).data.subarray(at * vocab, (at + 1) * vocab), row)
          assert.equal(Number((got[greedy!]!.data as BigInt64Array)[at]), likeliest({ rows: 1, vocab, data: row }))
        }
      }
      await all.close()
      await some.close()
    })
  }

  it('does not select, and keeps rows apart, where tokens scale each other', async () => {
    const { skeleton, analysis } = await openModel(made('coupled', { variant: 'plain-int8' }))
    const { io } = stageGraph(skeleton, analysis, { first: 0, end: analysis.layers, select: true, greedy: true })
    assert.equal(io.ragged, 'none')
    assert.equal(io.logits?.select, undefined)
    assert.equal(io.logits?.greedy, 'greedy')
  })

  it('refuses layers that are not there', async () => {
    const { skeleton, analysis } = await openModel(made('range', { variant: 'fused' }))
    for (const [first, end] of [[0, 7], [3, 3], [-1, 2], [1.5, 3], [4, 2]] as const) assert.throws(() => stageGraph(skeleton, analysis, { first, end }), /within \[0, 6\)/)
  })
})
