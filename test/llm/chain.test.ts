import assert from 'node:assert/strict'
import fc from 'fast-check'
import { epochOf, restartFrom, roundOf } from '../../src/llm/chain.ts'

describe('where a chain goes on', () => {
  it('nothing is computed again where all stages have everything', () => {
    assert.deepEqual(restartFrom([{ have: 9, logFrom: 0 }, { have: 9, logFrom: 5 }, { have: 9, logFrom: 9 }], 9), [9, 9, 9])
  })

  it('a standby that lags is given again what the stage before still has', () => {
    assert.deepEqual(restartFrom([{ have: 20, logFrom: 12 }, { have: 17, logFrom: 17 }, { have: 20, logFrom: 20 }], 20), [20, 17, 20])
  })

  it('what the stage before has no more it computes again, and so on to the tokens', () => {
    assert.deepEqual(restartFrom([{ have: 20, logFrom: 15 }, { have: 20, logFrom: 18 }, { have: 0, logFrom: 0 }], 20), [0, 0, 0])
    assert.deepEqual(restartFrom([{ have: 20, logFrom: 15 }, { have: 20, logFrom: 18 }, { have: 16, logFrom: 16 }], 20), [20, 16, 16])
  })

  it('of two standbys in a row the one that lags more decides', () => {
    assert.deepEqual(restartFrom([{ have: 20, logFrom: 2 }, { have: 18, logFrom: 18 }, { have: 15, logFrom: 15 }], 20), [20, 15, 15])
  })

  it('each stage can always be given what it is said to need, and starts at nothing it would have to skip', () => {
    const holding = fc.nat({ max: 40 }).chain(have => fc.record({ have: fc.constant(have), logFrom: fc.nat({ max: have }) }))
    fc.assert(fc.property(fc.array(holding, { minLength: 1, maxLength: 6 }), fc.nat({ max: 40 }), (stages, known) => {
      const starts = restartFrom(stages, known)
      for (const [at, start] of starts.entries()) {
        const { have } = stages[at]!
        assert(start <= Math.min(have, known), 'there is no gap before where it starts')
        const before = stages[at - 1]
        if (before === undefined) continue
        const fromLog = start >= Math.min(before.logFrom, before.have)
        const computed = starts[at - 1]!
        assert(fromLog || computed <= start, 'the stage before sends it or computes it')
        assert(!fromLog || computed <= Math.min(before.have, known), 'and goes on from what it has')
      }
    }))
  })

  it('epochs of later rounds are higher, whoever begins them', () => {
    fc.assert(fc.property(fc.nat({ max: 1_000_000 }), fc.nat(), fc.nat(), (round, one, other) => {
      assert(epochOf(round + 1, one) > epochOf(round, other))
      assert.equal(roundOf(epochOf(round, one)), round)
    }))
  })
})
