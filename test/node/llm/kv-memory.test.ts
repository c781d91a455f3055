import assert from 'node:assert/strict'
import fc from 'fast-check'
import { KvMemory } from '../../../node/instance/llm/kv-memory.ts'

describe('memory of keys and values', () => {
  it('gives what was given back, when it fits and is not much larger', () => {
    const memory = new KvMemory(1_000)
    const [small, large] = [memory.take(100), memory.take(300)]
    memory.give(small)
    memory.give(large)
    assert.equal(memory.take(90), small)
    assert.notEqual(memory.take(101), large)
    assert.equal(memory.bytes, 0, 'what was made anew was let go of first')
  })

  it('is never more than the most that was in use at once, nor more to spare than it may be', () => {
    fc.assert(fc.property(fc.array(fc.oneof(fc.integer({ min: 1, max: 500 }), fc.constant(0)), { maxLength: 200 }), fc.nat(2_000), (wishes, limit) => {
      const memory = new KvMemory(limit)
      const used: ArrayBuffer[] = []
      const inUse = (): number => used.reduce((sum, { byteLength }) => sum + byteLength, 0)
      let most = 0
      for (const wish of wishes) {
        if (wish > 0) {
          const taken = memory.take(wish)
          assert.ok(taken.byteLength >= wish && !used.includes(taken))
          used.push(taken)
        } else {
          const done = used.shift()
          if (done !== undefined) memory.give(done)
        }
        most = Math.max(most, inUse())
        assert.ok(memory.bytes <= limit && inUse() + memory.bytes <= most)
      }
    }))
  })
})
