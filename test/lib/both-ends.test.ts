import assert from 'node:assert/strict'
import fc from 'fast-check'
import { bothEnds } from '../../src/lib/both-ends.ts'

describe('a text too long to be shown', () => {
  it('keeps its beginning and its end', () => {
    assert.deepEqual([bothEnds('abcdefghij', 7), bothEnds('abcdefghij', 6), bothEnds('abc', 3)], ['abc…hij', 'abc…ij', 'abc'])
    fc.assert(fc.property(fc.string(), fc.integer({ min: 3, max: 40 }), (text, most) => bothEnds(text, most).length === Math.min(text.length, most)))
  })
})
