import assert from 'node:assert/strict'
import { frozen } from '../../src/lib/frozen.ts'

describe('a frozen value', () => {
  it('is the value itself, and cannot be changed anywhere inside', () => {
    const value = { list: [{ a: 1 }], bytes: Uint8Array.of(1) }
    const same = frozen(value)
    assert.equal(same, value)
    assert.throws(() => {
      same.list[0]!.a = 2
    }, TypeError)
    assert.throws(() => same.list.push({ a: 3 }), TypeError)
    assert.equal(same.bytes[0], 1)
  })
})
