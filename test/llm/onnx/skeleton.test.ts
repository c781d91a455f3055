import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create, toBinary } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { MeshError } from '../../../protocols/errors.ts'
import { decodeModel, encodeModel } from '../../../src/llm/onnx/codec.ts'
import { ELEMENT } from '../../../src/llm/onnx/element.ts'
import { GraphProtoSchema, ModelProtoSchema, TensorProtoSchema, type ModelProto, type TensorProto } from '../../../src/llm/onnx/onnx-pb.js'
import { memoryAccess, type RandomAccess } from '../../../src/llm/onnx/random-access.ts'
import { INLINE_BYTES, readSkeleton, tensorsOf, type Skeleton } from '../../../src/llm/onnx/skeleton.ts'
import { isReferenced, tensorBytes, tensorRef } from '../../../src/llm/onnx/tensor-ref.ts'
import { VARIANT_NAMES } from '../../fixtures/llm/decoder.ts'
import { makeModel } from '../../fixtures/llm/make-model.ts'
import { fileAccess } from './stage-chain.ts'

const invalid = (error: unknown): boolean => error instanceof MeshError && error.code === 'SPEC_INVALID'

describe('a model as a file', () => {
  const root = mkdtempSync(join(tmpdir(), 'skeleton-'))
  after(() => rmSync(root, { recursive: true, force: true }))
  const small = { layers: 2, vocab: 300 }

  for (const variant of VARIANT_NAMES) {
    it(`${variant} is read and written back to the byte`, () => {
      const bytes = readFileSync(join(makeModel(join(root, variant), { variant, shape: small }).directory, 'model.onnx'))
      assert.ok(bytes.equals(encodeModel(decodeModel(bytes))))
    })
  }

  it('keeps what this version of ONNX does not know, in the model and deep in it', async () => {
    const tensor = (name: string, elements: number): Uint8Array => toBinary(TensorProtoSchema, floats(name, elements))
    const unknown = Uint8Array.of(0xca, 0x3e, 3, 1, 2, 3)
    const graph = Uint8Array.from([...field(5, [...tensor('small', 2), ...unknown]), ...field(5, [...tensor('large', 500), ...unknown]), ...unknown])
    const bytes = Uint8Array.from([...field(7, graph), ...unknown])
    assert.deepEqual(encodeModel(decodeModel(bytes)), bytes)
    const { model } = await readSkeleton(memoryAccess(bytes))
    assert.deepEqual([model, model.graph, ...tensorsOf(model)].map(message => message?.$unknown?.map(({ no }) => no)), [[1001], [1001], [1001], [1001]])
  })

  it('is read without its weights, wherever they lie', async () => {
    for (const external of [false, true]) {
      const { directory } = makeModel(join(root, `preset-${external}`), { preset: 'small', variant: 'fused-q4', external })
      const reads = { bytes: 0 }
      const { model } = await readSkeleton(fileAccess(join(directory, 'model.onnx'), reads), location => Promise.resolve(fileAccess(join(directory, location), reads)))
      const size = statSync(join(directory, external ? 'model.onnx_data' : 'model.onnx')).size
      const large = [...tensorsOf(model)].filter(isReferenced)
      assert.ok(large.length >= 8 * 9)
      assert.ok(large.every(tensor => tensor.rawData.length === 0))
      assert.ok(size > 14e6, `${size}`)
      assert.ok(reads.bytes < 1.5e6, `${reads.bytes} of ${size} bytes read`)
      const whole = decodeModel(readFileSync(join(directory, 'model.onnx')))
      const inside = new Map(whole.graph!.initializer.map(tensor => [tensor.name, tensor]))
      if (!external) for (const tensor of large.slice(0, 20)) assert.deepEqual(await payload(tensor, fileAccess(join(directory, 'model.onnx'))), Uint8Array.from(inside.get(tensor.name)!.rawData))
    }
  })

  it('takes small tensors inline, from external data too', async () => {
    const model = wrap([external('scalar', ELEMENT.int64, [3], { location: 'data', offset: 8, length: 24 }), external('large', ELEMENT.float32, [400], { location: 'data', offset: 64 })])
    const data = new Uint8Array(64 + 1600)
    new BigInt64Array(data.buffer, 8, 3).set([7n, -1n, 2n ** 40n])
    const { model: read } = await readSkeleton(memoryAccess(encodeModel(model)), () => Promise.resolve(memoryAccess(data)))
    const [scalar, large] = read.graph!.initializer
    assert.deepEqual(new BigInt64Array(scalar!.rawData.slice().buffer), BigInt64Array.of(7n, -1n, 2n ** 40n))
    assert.equal(isReferenced(scalar!), false)
    assert.deepEqual(tensorRef(large!), { name: 'large', location: 'data', offset: 64, stored: 1600, length: 1600, encoding: 'raw', dataType: 1, dims: [400] })
  })

  it('gives typed data as raw little-endian bytes', async () => {
    const count = 700
    const numbers = Array.from({ length: count }, (_, at) => (at % 2 === 0 ? 1 : -1) * at * 3_000_017)
    const bits = Array.from({ length: count }, (_, at) => (at * 97) & 0xffff)
    const bytes = Array.from({ length: count }, (_, at) => (at * 7) % 256 - 128)
    const long = Array.from({ length: count }, (_, at) => (at % 3 === 0 ? -1n : 1n) * BigInt(at) ** 6n)
    const cases: readonly (readonly [TensorProto, ArrayBufferView])[] = [
      [typed('float32', { floatData: numbers }), Float32Array.from(numbers)],
      [typed('float64', { doubleData: numbers }), Float64Array.from(numbers)],
      [typed('int32', { int32Data: numbers.map(number => number | 0) }), Int32Array.from(numbers, number => number | 0)],
      [typed('float16', { int32Data: bits }), Uint16Array.from(bits)],
      [typed('bfloat16', { int32Data: bits }), Uint16Array.from(bits)],
      [typed('int8', { int32Data: bytes }), Int8Array.from(bytes)],
      [typed('int64', { int64Data: long }), BigInt64Array.from(long)],
      [typed('uint64', { uint64Data: long.map(value => BigInt.asUintN(64, value)) }), BigUint64Array.from(long, value => BigInt.asUintN(64, value))],
      [typed('uint32', { uint64Data: numbers.map(number => BigInt(number >>> 0)) }), Uint32Array.from(numbers, number => number >>> 0)],
    ]
    for (const [tensor, expected] of cases) {
      const file = memoryAccess(encodeModel(wrap([tensor])))
      const read = (await readSkeleton(file)).model.graph!.initializer[0]!
      const raw = new Uint8Array(expected.buffer, expected.byteOffset, expected.byteLength)
      if (isReferenced(read)) assert.deepEqual(await payload(read, file), raw, tensor.name)
      // Small as varints, large as what they stand for: inline, in either form.
      else assert.ok(expected.byteLength > INLINE_BYTES || Buffer.from(read.rawData).equals(raw), tensor.name)
    }
  })

  it('refuses data that contradicts its shape, and places outside the file or the directory', async () => {
    const data = memoryAccess(new Uint8Array(5000))
    const cases: readonly (readonly [string, TensorProto])[] = [
      ['too short', { ...floats('a', 500), dims: [501n] }],
      ['too long', { ...floats('a', 500), dims: [499n] }],
      ['negative dims', { ...floats('a', 500), dims: [-500n, -1n] }],
      ['huge dims', { ...floats('a', 500), dims: [2n ** 40n, 2n ** 40n] }],
      ['unknown type', { ...floats('a', 500), dataType: 99 }],
      ['varints of another count', typed('int64', { int64Data: Array.from({ length: 600 }, () => 2n ** 60n) }, 500)],
      ['beyond the end', external('a', ELEMENT.float32, [400], { location: 'data', offset: 4000 })],
      ['far beyond', external('a', ELEMENT.float32, [400], { location: 'data', offset: 2 ** 52 })],
      ['another length', external('a', ELEMENT.float32, [400], { location: 'data', offset: 0, length: 5 })],
      ['no number', external('a', ELEMENT.float32, [400], { location: 'data', offset: Number.NaN })],
      ['above', external('a', ELEMENT.float32, [400], { location: '../data', offset: 0 })],
      ['absolute', external('a', ELEMENT.float32, [400], { location: '/etc/passwd', offset: 0 })],
      ['a drive', external('a', ELEMENT.float32, [400], { location: 'c:data', offset: 0 })],
      ['backslashes', external('a', ELEMENT.float32, [400], { location: '..\\data', offset: 0 })],
    ]
    for (const [what, tensor] of cases) {
      const file = memoryAccess(encodeModel(wrap([tensor])))
      await assert.rejects(async () => {
        const read = (await readSkeleton(file, () => Promise.resolve(data))).model.graph!.initializer[0]!
        await payload(read, file)
      }, invalid, what)
    }
    await assert.rejects(readSkeleton(memoryAccess(encodeModel(wrap([external('a', ELEMENT.float32, [400], { location: 'gone', offset: 0 })]))), () => Promise.resolve(undefined)), { code: 'NOT_FOUND' })
  })

  it('refuses what is cut short anywhere, and never reads past a length', async () => {
    const bytes = encodeModel(wrap([floats('one', 300), floats('two', 900), floats('three', 3)]))
    const full = [...tensorsOf((await readSkeleton(memoryAccess(bytes))).model)].length
    for (let length = 0; length < bytes.length; length += length < 200 ? 1 : 7) {
      await assert.rejects(readSkeleton(memoryAccess(bytes.subarray(0, length))), invalid, `${length} bytes`)
    }
    assert.equal(full, 3)
  })

  it('answers any bytes with a model or with a MeshError', async () => {
    const good = encodeModel(wrap([floats('one', 300), typed('int64', { int64Data: Array.from({ length: 400 }, (_, at) => BigInt(at) ** 5n) })]))
    const lies = good.slice()
    for (const [at, value] of [[3495, 82], [28, 0]] as const) lies[at] = value
    await assert.rejects(readSkeleton(memoryAccess(lies)), { code: 'SPEC_INVALID' })
    await fc.assert(fc.asyncProperty(fc.array(fc.tuple(fc.nat(good.length - 1), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 }), async changes => {
      const bytes = good.slice()
      for (const [at, value] of changes) bytes[at] = value
      const file = memoryAccess(bytes)
      try {
        const skeleton: Skeleton = await readSkeleton(file)
        for (const tensor of tensorsOf(skeleton.model)) if (isReferenced(tensor)) await payload(tensor, file)
      } catch (error) {
        assert.ok(error instanceof MeshError, `${error}`)
      }
    }), { numRuns: 400 })
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async bytes => {
      await readSkeleton(memoryAccess(bytes)).catch((error: unknown) => assert.ok(error instanceof MeshError, `${error}`))
    }), { numRuns: 400 })
  })

  it('refuses messages nested without end', async () => {
    let bytes = new Uint8Array(2000)
    for (let depth = 0; depth < 201; depth++) bytes = Uint8Array.from(depth % 3 === 0 ? field(6, bytes) : depth % 3 === 1 ? field(5, bytes) : field(1, bytes))
    await assert.rejects(readSkeleton(memoryAccess(Uint8Array.from(field(7, bytes)))), invalid)
  })
})

function field(number: number, payload: ArrayLike<number>): readonly number[] {
  const lead = [number * 8 + 2]
  let length = payload.length
  for (; length >= 128; length >>>= 7) lead.push(length & 127 | 128)
  return [...lead, length, ...Array.from(payload)]
}

function floats(name: string, elements: number): TensorProto {
  const data = Float32Array.from({ length: elements }, (_, at) => Math.sin(at))
  return create(TensorProtoSchema, { name, dataType: ELEMENT.float32, dims: [BigInt(elements)], rawData: new Uint8Array(data.buffer) })
}

function typed(type: keyof typeof ELEMENT, data: Partial<Pick<TensorProto, 'floatData' | 'doubleData' | 'int32Data' | 'int64Data' | 'uint64Data'>>, elements?: number): TensorProto {
  const count = elements ?? Object.values(data)[0]?.length ?? 0
  return create(TensorProtoSchema, { name: type, dataType: ELEMENT[type], dims: [BigInt(count)], ...data })
}

function external(name: string, dataType: number, dims: readonly number[], at: { readonly location: string; readonly offset: number; readonly length?: number }): TensorProto {
  return create(TensorProtoSchema, { name, dataType, dims: dims.map(BigInt), dataLocation: 1, externalData: Object.entries(at).map(([key, value]) => ({ key, value: String(value) })) })
}

function wrap(initializer: TensorProto[]): ModelProto {
  return create(ModelProtoSchema, { irVersion: 8n, graph: create(GraphProtoSchema, { name: 'graph', initializer }) })
}

async function payload(tensor: TensorProto, file: RandomAccess): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for await (const bytes of tensorBytes(tensorRef(tensor), file)) chunks.push(bytes)
  return Uint8Array.from(Buffer.concat(chunks))
}
