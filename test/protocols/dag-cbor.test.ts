import assert from 'node:assert/strict'
import * as dagCbor from '@ipld/dag-cbor'
import { array, assert as hold, constant, dictionary, double, integer, letrec, maxSafeInteger, oneof, property, string, uint8Array, boolean } from 'fast-check'
import { CID } from 'multiformats/cid'
import { decodeAny, encodePlain } from '../../protocols/dag-cbor.ts'

const { value } = letrec(tie => ({
  value: oneof({ depthSize: 'medium' }, string({ unit: 'grapheme' }), string({ unit: 'binary' }), integer(), maxSafeInteger(), double(), boolean(), constant(null), uint8Array({ maxLength: 300 }), array(tie('value'), { maxLength: 30 }), dictionary(string(), tie('value'), { maxKeys: 30 })),
}))

function outcome(run: () => unknown): unknown {
  try {
    return { value: run() }
  } catch {
    return 'refused'
  }
}

describe('the quick DAG-CBOR codec', () => {
  it('writes the bytes the library writes, or leaves it to the library', () => {
    hold(property(value, given => {
      const quick = encodePlain(given)
      if (quick !== undefined) assert.deepEqual(quick, new Uint8Array(dagCbor.encode(given)))
    }), { numRuns: 500 })
  })

  it('reads what the library reads', () => {
    hold(property(value, given => {
      const written = outcome(() => dagCbor.encode(given))
      if (written === 'refused') return
      const bytes = dagCbor.encode(given)
      assert.deepEqual(decodeAny(bytes), dagCbor.decode(bytes))
    }), { numRuns: 500 })
  })

  it('accepts and refuses what the library accepts and refuses, whatever the bytes', () => {
    hold(property(value, integer({ min: 0 }), integer({ min: 0, max: 255 }), (given, at, byte) => {
      if (outcome(() => dagCbor.encode(given)) === 'refused') return
      const bytes = dagCbor.encode(given)
      bytes[at % bytes.byteLength] = byte
      assert.deepEqual(outcome(() => decodeAny(bytes)), outcome(() => dagCbor.decode(bytes)))
    }), { numRuns: 1_000 })
    hold(property(uint8Array({ maxLength: 40 }), bytes => {
      assert.deepEqual(outcome(() => decodeAny(bytes)), outcome(() => dagCbor.decode(bytes)))
    }), { numRuns: 2_000 })
  })

  it('really is used for messages, and for nothing that could be a link', () => {
    const link = CID.parse('bafyreigdmqpykrgxyaxtlafqpqhzrb7qy2rh75nldvfd4ocn2vfohkiznm')
    assert.deepEqual(encodePlain({ b: [1, -1, 2 ** 40, 0.5, null, true, 'é', 'a'.repeat(300), new Uint8Array(3)], a: undefined }), new Uint8Array(dagCbor.encode({ b: [1, -1, 2 ** 40, 0.5, null, true, 'é', 'a'.repeat(300), new Uint8Array(3)] })))
    assert.equal(encodePlain({ a: link }), undefined)
    assert.equal(encodePlain({ '/': new Uint8Array(1) }), undefined)
    assert.equal(encodePlain({ a: [undefined] }), undefined)
    assert.deepEqual(decodeAny(dagCbor.encode({ a: link })), { a: link })
  })

  it('reads a claim of a billion items without making room for them', () => {
    assert.throws(() => decodeAny(Uint8Array.of(0x9a, 0x3b, 0x9a, 0xca, 0x00, 0x01)))
  })
})
