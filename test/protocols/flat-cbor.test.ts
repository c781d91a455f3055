import assert from 'node:assert/strict'
import * as dagCbor from '@ipld/dag-cbor'
import fc from 'fast-check'
import { decodeFlat, encodeFlat } from '../../protocols/flat-cbor.ts'

const leaf = fc.oneof(fc.string({ maxLength: 40 }), fc.nat(), fc.integer(), fc.boolean(), fc.double({ noNaN: true, noDefaultInfinity: true }), fc.constant(null), fc.uint8Array({ maxLength: 8 }))
const header = fc.dictionary(fc.string({ minLength: 1, maxLength: 12 }).filter(key => key !== '__proto__'), fc.oneof(leaf, fc.dictionary(fc.string({ maxLength: 5 }).filter(key => key !== '__proto__'), leaf, { maxKeys: 4 })), { maxKeys: 8 })

describe('flat DAG-CBOR', () => {
  it('a header has the same bytes as from the library', () => {
    fc.assert(fc.property(header, value => {
      const plain = JSON.stringify(value) === undefined ? {} : { ...value }
      assert.deepEqual(Buffer.from(encodeFlat(plain)), Buffer.from(dagCbor.encode(plain)))
    }))
  })

  it('bytes are read as the library reads them, or refused as it refuses them', () => {
    const same = (bytes: Uint8Array): void => {
      let expected: unknown
      try {
        expected = dagCbor.decode(bytes)
      } catch {
        assert.throws(() => decodeFlat(bytes))
        return
      }
      assert.deepEqual(decodeFlat(bytes), expected)
    }
    fc.assert(fc.property(header, value => same(dagCbor.encode({ ...value }))))
    fc.assert(fc.property(header, fc.nat(), fc.nat({ max: 255 }), (value, at, byte) => {
      const bytes = dagCbor.encode({ ...value })
      bytes[at % bytes.byteLength] = byte
      same(bytes)
    }), { numRuns: 1_000 })
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), same), { numRuns: 1_000 })
  })
})
