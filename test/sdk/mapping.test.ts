import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import type { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { fromOutputs, readMapping, toFeeds } from '../../sdk/mapping.ts'
import { nested, tensor, values, type TensorInfo } from '../../sdk/tensor.ts'

const X: TensorInfo = { name: 'x', dtype: 'float32', shape: ['batch', 3] }
const P: TensorInfo = { name: 'p', dtype: 'float32', shape: ['batch', 2] }
const model = (...inputs: readonly TensorInfo[]) => ({ inputs, outputs: [P] })
const refusal = (code: string, message: RegExp) => (error: unknown) => (error as MeshError).code === code && message.test((error as MeshError).message)

describe('JSON for a model', () => {
  const plain = readMapping({}, model(X))

  it('gets a batch dimension when it has none, and the answer loses it again', () => {
    const { feeds, batched } = toFeeds(plain, { x: [1, 2, 3] })
    assert.deepEqual(feeds['x']?.shape, [1, 3])
    assert.equal(batched, true)
    assert.deepEqual(fromOutputs(plain, { p: tensor('float32', [1, 2], [0.25, 0.75]) }, batched), { p: [0.25, 0.75] })
  })

  it('keeps a batch that is there', () => {
    const { feeds, batched } = toFeeds(plain, { x: [[1, 2, 3], [4, 5, 6]] })
    assert.deepEqual([feeds['x']?.shape, batched], [[2, 3], false])
    assert.deepEqual(fromOutputs(plain, { p: tensor('float32', [2, 2], [1, 2, 3, 4]) }, batched), { p: [[1, 2], [3, 4]] })
  })

  it('may be the bare value when the model has one input', () => {
    assert.deepEqual(toFeeds(plain, [1, 2, 3]).feeds['x']?.shape, [1, 3])
  })

  it('is refused by name, with what was expected and what came', () => {
    assert.throws(() => toFeeds(plain, { x: [1, 2] }), refusal('BAD_INPUT', /input "x" takes float32\[batch,3\], got shape \[2\]/))
    assert.throws(() => toFeeds(plain, { y: 1 }), refusal('BAD_INPUT', /input "x" is missing; it takes float32\[batch,3\]/))
    assert.throws(() => toFeeds(plain, { x: [1, 'two', 3] }), refusal('BAD_INPUT', /element 1 is "two"/))
    assert.throws(() => toFeeds(plain, { x: [[1, 2, 3], [1]] }), refusal('BAD_INPUT', /ragged/))
    assert.throws(() => toFeeds(plain, { x: [1, null, 3] }), refusal('BAD_INPUT', /got nothing inside it/))
  })

  it('gathers a row from named fields, with a default, and a batch from a list of records', () => {
    const mapping = readMapping({ inputs: { row: { tensor: 'x', fields: ['age', 'sex', 'bmi'], default: 0 } } }, model(X))
    assert.deepEqual(toFeeds(mapping, { bmi: 3, age: '1' }).feeds['x'], { dtype: 'float32', shape: [1, 3], data: Float32Array.of(1, 0, 3) })
    assert.deepEqual(toFeeds(mapping, [{ age: 1 }, { age: 2 }]).feeds['x']?.shape, [2, 3])
  })

  it('refolds a flat list whose length fits', () => {
    const image = readMapping({}, model({ name: 'x', dtype: 'uint8', shape: [1, 2, 2] }))
    assert.deepEqual(toFeeds(image, [1, 2, 3, 4]).feeds['x']?.shape, [1, 2, 2])
  })

  it('may come as the bytes of a file', () => {
    const mapping = readMapping({ inputs: { image: { tensor: 'x', file: 0 } } }, model({ name: 'x', dtype: 'uint8', shape: ['batch', 2, 2] }))
    assert.deepEqual(toFeeds(mapping, null, [{ metadata: null, bytes: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }]).feeds['x']?.shape, [2, 2, 2])
    assert.throws(() => toFeeds(mapping, null, [{ metadata: null, bytes: Uint8Array.of(1, 2, 3) }]), refusal('BAD_INPUT', /3 bytes/))
  })
})

describe('a mapping', () => {
  it('is refused when it names what the model does not have, or leaves an input unfed', () => {
    assert.throws(() => readMapping({ inputs: { a: { tensor: 'nope' } } }, model(X)), refusal('SPEC_INVALID', /inputs\.a\.tensor: the model has no input "nope"; it has "x"/))
    assert.throws(() => readMapping({ inputs: { x: {} } }, model(X, { ...X, name: 'mask' })), refusal('SPEC_INVALID', /also needs float32\[batch,3\] "mask"/))
    assert.throws(() => readMapping({ inputs: { x: { dtype: 'int64' } } }, model(X)), refusal('SPEC_INVALID', /takes float32, not int64/))
    assert.throws(() => readMapping({ outputs: { p: { pick: 'best' } } }, model(X)), refusal('SPEC_INVALID', /"best" is not one of/))
    assert.throws(() => readMapping({ outputs: { p: { pick: 'label' } } }, model(X)), refusal('SPEC_INVALID', /needs labels/))
  })

  it('picks from the last axis', () => {
    const given = { p: tensor('float32', [1, 2], [0.25, 0.75]) }
    const picked = (output: Json) => fromOutputs(readMapping({ outputs: { out: output } }, model(X)), given, true)['out']
    assert.equal(picked({ tensor: 'p', pick: 'argmax' }), 1)
    assert.equal(picked({ tensor: 'p', pick: 'max' }), 0.75)
    assert.equal(picked({ tensor: 'p', pick: 'first' }), 0.25)
    assert.equal(picked({ tensor: 'p', pick: -1 }), 0.75)
    assert.equal(picked({ tensor: 'p', pick: 'label', labels: ['no', 'yes'] }), 'yes')
    assert.deepEqual(picked({ tensor: 'p', pick: 'labelled', labels: ['no', 'yes'] }), { no: 0.25, yes: 0.75 })
  })

  it('finds a tensor whose exporter added a suffix', () => {
    const mapping = readMapping({ outputs: { out: { tensor: 'dense' } } }, { inputs: [X], outputs: [{ ...P, name: 'dense/Softmax' }] })
    assert.equal(mapping.outputs.get('out')?.tensor, 'dense/Softmax')
  })
})

describe('tensors', () => {
  it('hold what they were given, whatever the shape', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: -128, max: 127 }), { minLength: 1, maxLength: 24 }), items => {
      for (const dtype of ['int8', 'int32', 'int64', 'float32', 'float16', 'float64'] as const) assert.deepEqual(values(tensor(dtype, [items.length], items)), items)
    }))
    assert.deepEqual(nested(tensor('int32', [2, 1, 2], [1, 2, 3, 4])), [[[1, 2]], [[3, 4]]])
  })

  it('refuse what their type cannot hold', () => {
    assert.throws(() => tensor('uint8', [1], [256]), /uint8 holds whole numbers from 0 to 255/)
    assert.throws(() => tensor('int64', [1], [1.5]), /not a whole number/)
    assert.throws(() => tensor('float32', [2], [1]), /has 2 elements, got 1/)
  })

  it('give 64-bit integers exactly', () => {
    assert.deepEqual(values(tensor('int64', [2], ['9007199254740993', 5])), ['9007199254740993', 5])
  })
})
