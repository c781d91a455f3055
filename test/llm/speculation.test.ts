import assert from 'node:assert/strict'
import { LookupDraft } from '../../src/llm/draft.ts'
import { Speculation } from '../../src/llm/speculation.ts'

/** Steps until `steps` are made; says how many tokens they gave, in how many milliseconds, and how wide they were. */
function generate(chance: number, cost: { readonly stepMs: number; readonly guessMs: number; readonly draftMs: number }, steps = 2_000): { readonly rate: number; readonly plainRate: number; readonly guesses: number } {
  const speculation = new Speculation()
  let [tokens, ms, guesses, draw] = [0, 0, 0, 1]
  for (let step = 0; step < steps; step += 1) {
    const width = speculation.width()
    guesses += width
    if (width === 0) {
      speculation.stepped(cost.stepMs)
      ms += cost.stepMs
      tokens += 1
      continue
    }
    let right = 0
    // A linear congruence is chance enough here.
    while (right < width && (draw = (draw * 1_103_515_245 + 12_345) % 2_147_483_648) / 2_147_483_648 < chance) right += 1
    const [stepMs, draftMs] = [cost.stepMs + width * cost.guessMs, width * cost.draftMs]
    speculation.verified(width, right, stepMs, draftMs)
    ms += stepMs + draftMs
    tokens += right + 1
  }
  return { rate: tokens / ms, plainRate: 1 / cost.stepMs, guesses }
}

describe('speculation', () => {
  it('pays where steps are long and guesses are often right', () => {
    const { rate, plainRate } = generate(0.7, { stepMs: 100, guessMs: 1, draftMs: 4 })
    assert.ok(rate >= 2 * plainRate, `${rate / plainRate}`)
  })

  it('switches itself off where guesses are wrong, or cost what a step costs', () => {
    for (const [chance, cost] of [[0.02, { stepMs: 100, guessMs: 1, draftMs: 5 }], [0.7, { stepMs: 10, guessMs: 10, draftMs: 5 }]] as const) {
      const { rate, plainRate } = generate(chance, cost)
      assert.ok(rate >= 0.97 * plainRate, `${rate / plainRate}`)
    }
  })
})

describe('looking up what was said before', () => {
  const propose = (tokens: readonly number[], most = 4) => new LookupDraft().propose(tokens, most)

  it('proposes what followed the longest run of tokens that was there before, where it was there last', async () => {
    assert.deepEqual(await propose([1, 2, 3, 4, 5, 9, 1, 2, 3]), [4, 5, 9, 1])
    assert.deepEqual(await propose([1, 2, 7, 8, 3, 2, 7, 9, 1, 2, 7], 2), [8, 3])
    assert.deepEqual(await propose([5, 6, 1, 5, 6, 2, 5, 6], 1), [2])
  })

  it('proposes nothing where nothing repeats, and goes on from what it knows', async () => {
    assert.deepEqual(await propose([1, 2, 3, 4]), [])
    const draft = new LookupDraft()
    assert.deepEqual(await draft.propose([1, 2, 3], 4), [])
    assert.deepEqual(await draft.propose([1, 2, 3, 1, 2], 4), [3, 1, 2])
  })
})
