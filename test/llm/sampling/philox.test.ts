import assert from 'node:assert/strict'
import { drawAt, philox4x32 } from '../../../src/llm/sampling/philox.ts'

describe('draws by seed and position', () => {
  // Random123's kat_vectors, philox4x32 of 10 rounds.
  const known = [
    { counter: [0, 0, 0, 0], key: [0, 0], block: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
    { counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], key: [0xffffffff, 0xffffffff], block: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd] },
    { counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], key: [0xa4093822, 0x299f31d0], block: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1] },
  ] as const

  it('are those of Philox4x32-10, by its authors\' vectors', () => {
    for (const { counter, key, block } of known) assert.deepEqual(philox4x32(counter, key), block)
  })

  it('lie in [0, 1), differ by seed and by position, and average to a half', () => {
    const draws = Array.from({ length: 20_000 }, (_, position) => drawAt(7, position))
    assert.ok(draws.every(draw => draw >= 0 && draw < 1))
    assert.equal(new Set(draws).size, draws.length)
    assert.ok(Math.abs(draws.reduce((sum, draw) => sum + draw, 0) / draws.length - 0.5) < 0.01)
    assert.notEqual(drawAt(7, 3), drawAt(8, 3))
    assert.notEqual(drawAt(2 ** 40, 3), drawAt(2 ** 41, 3))
  })
})
