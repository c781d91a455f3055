import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { readTraceparent, traceparent, writeTraceparent } from '../../protocols/trace.ts'

describe("W3C's trace context", () => {
  const given = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

  it('is read and written back', () => {
    const hexadecimal = (length: number) => fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: length, maxLength: length }).filter(text => /[^0]/.test(text))
    fc.assert(fc.property(hexadecimal(32), hexadecimal(16), fc.boolean(), (traceId, spanId, sampled) => {
      const written = writeTraceparent({ traceId, spanId, sampled })
      assert.deepEqual(readTraceparent(written), { traceId, spanId, sampled })
      assert.equal(traceparent.parse(written), written)
    }))
  })

  it('of a later version is read as far as it is known, and malformed ones are none', () => {
    assert.equal(readTraceparent(`cc${given.slice(2)}-what-the-future-brings`)?.sampled, true)
    const wrong = [undefined, '', 'x', given.toUpperCase(), `${given}-more`, given.slice(0, -1), `ff${given.slice(2)}`, given.replace(/-0af.*-b7/, `-${'0'.repeat(32)}-b7`), given.replace('b7ad6b7169203331', '0'.repeat(16)), `cc${given.slice(2)}.x`]
    assert.deepEqual(wrong.map(readTraceparent), wrong.map(() => undefined))
  })
})
