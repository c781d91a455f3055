import assert from 'node:assert/strict'
import fc from 'fast-check'
import { MeshError } from '../../protocols/errors.ts'
import { decodeFailure, encodeFailure, type Frame, FrameReader, HEAD_BYTES, idField, KIND, MORE, PAYLOAD_BYTES, readId, writeHead } from '../../protocols/mux.ts'

const kinds = Object.values(KIND)
const frames = fc.array(fc.record({ kind: fc.constantFrom(...kinds), more: fc.boolean(), call: fc.nat(0xffff_ffff), payload: fc.uint8Array({ maxLength: 300 }) }, { noNullPrototype: true }), { maxLength: 12 })

function bytesOf({ kind, more, call, payload }: Frame): Uint8Array {
  const out = new Uint8Array(HEAD_BYTES + payload.byteLength)
  writeHead(out, 0, payload.byteLength, more ? kind | MORE : kind, call)
  out.set(payload, HEAD_BYTES)
  return out
}

describe('mux frames', () => {
  it('are read the same however their bytes are cut', () => {
    fc.assert(fc.property(frames, fc.array(fc.integer({ min: 1, max: 97 }), { minLength: 1, maxLength: 20 }), (sent, cuts) => {
      const bytes = Buffer.concat(sent.map(bytesOf))
      const heard: Frame[] = []
      const reader = new FrameReader(frame => heard.push({ ...frame, payload: new Uint8Array(frame.payload) }))
      for (let at = 0, cut = 0; at < bytes.byteLength; cut += 1) {
        const size = cuts[cut % cuts.length] ?? 1
        reader.push(bytes.subarray(at, at + size))
        at += size
      }
      assert.deepEqual(heard, sent)
    }))
  })

  it('arbitrary bytes are frames or MESSAGE_INVALID, never another error', () => {
    fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }), chunks => {
      const reader = new FrameReader(frame => assert.ok(frame.payload.byteLength <= PAYLOAD_BYTES))
      try {
        for (const chunk of chunks) reader.push(chunk)
      } catch (error) {
        assert.ok(error instanceof MeshError && error.code === 'MESSAGE_INVALID')
      }
    }))
  })

  it('an error comes out with its code, message and whether to retry', () => {
    const failure = new MeshError('OVERLOADED', 'x'.repeat(5_000), { retryable: false, details: { bytes: 3, long: 'y'.repeat(1_000) } })
    const back = decodeFailure(encodeFailure(failure))
    assert.deepEqual({ code: back.code, length: back.message.length, retryable: back.retryable, details: back.details }, { code: 'OVERLOADED', length: 2_000, retryable: false, details: { bytes: 3 } })
    assert.equal(decodeFailure(encodeFailure(new TypeError('oops'))).code, 'INTERNAL')
  })

  it('a protocol id is read back, known or not', () => {
    for (const id of ['/aios/known/1', '/aios/known/1', `/aios/${'x'.repeat(80)}/1`]) assert.deepEqual(readId(Buffer.concat([Uint8Array.of(9), idField(id)]), 1), { id, next: id.length + 2 })
    assert.equal(readId(Uint8Array.of(3, 47, 97, 47), 0).id, '/a/')
    assert.throws(() => readId(Uint8Array.of(9, 1), 0), { code: 'MESSAGE_INVALID' })
  })
})
