import { MeshError } from '../../../protocols/errors.ts'
import { bitsOf, byteLength, elementCount, elementName } from './element.ts'
import { TensorProto_DataLocation, type TensorProto } from './onnx-pb.js'
import { readExactly, type RandomAccess } from './random-access.ts'

/** Where the payload of a large tensor lies. */
export type TensorRef = {
  readonly name: string
  /** The file, relative to the model's directory; '' is the model file itself. */
  readonly location: string
  readonly offset: number
  /** Bytes in that file. */
  readonly stored: number
  /** Bytes of the tensor as raw little-endian data: `stored`, except where the file holds varints. */
  readonly length: number
  readonly encoding: 'raw' | 'varint'
  readonly dataType: number
  readonly dims: readonly number[]
}

const ENCODING_KEY = 'aios.encoding'
const CHUNK = 1 << 20
const WIDEST_VARINT = 10

/** Whether the payload is elsewhere. */
export function isReferenced(tensor: TensorProto): boolean {
  return tensor.dataLocation === TensorProto_DataLocation.EXTERNAL
}

/** Reads the reference of a tensor whose payload is elsewhere. Throws SPEC_INVALID for escaping paths and for sizes that contradict the shape. */
export function tensorRef(tensor: TensorProto): TensorRef {
  const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]))
  const location = entries.get('location') ?? ''
  const dims = tensor.dims.map(Number)
  const encoding = entries.get(ENCODING_KEY) === 'varint' ? 'varint' : 'raw'
  const length = byteLength(tensor.dataType, dims)
  const offset = integer(entries.get('offset') ?? '0', tensor)
  const stored = integer(entries.get('length') ?? String(length), tensor)
  if (escapes(location)) throw new MeshError('SPEC_INVALID', `tensor ${tensor.name} points outside the model's directory: ${location}`)
  if (encoding === 'raw' && stored !== length) throw new MeshError('SPEC_INVALID', `tensor ${tensor.name} says ${stored} bytes, but ${elementName(tensor.dataType)}[${dims.join(', ')}] takes ${length}`)
  return { name: tensor.name, location, offset, stored, length, encoding, dataType: tensor.dataType, dims }
}

/** Makes `tensor` point elsewhere. */
export function pointTo(tensor: TensorProto, at: { readonly location: string; readonly offset: number; readonly stored: number; readonly encoding?: TensorRef['encoding'] }): void {
  const entries: [string, string][] = [['location', at.location], ['offset', String(at.offset)], ['length', String(at.stored)]]
  if (at.encoding === 'varint') entries.push([ENCODING_KEY, 'varint'])
  tensor.dataLocation = TensorProto_DataLocation.EXTERNAL
  tensor.externalData = entries.map(([key, value]) => ({ $typeName: 'onnx.StringStringEntryProto', key, value }))
}

/** The payload as raw little-endian bytes, in pieces of at most about a megabyte. Throws SPEC_INVALID where the file does not hold it. */
export async function * tensorBytes(ref: TensorRef, file: RandomAccess): AsyncGenerator<Uint8Array> {
  if (ref.encoding === 'varint') return yield * varintBytes(ref, file)
  for (let done = 0; done < ref.stored; done += CHUNK) yield await readExactly(file, ref.offset + done, Math.min(CHUNK, ref.stored - done))
}

/** int32_data, int64_data and uint64_data hold one varint an element; sub-byte elements arrive already packed, a byte a varint. */
async function * varintBytes(ref: TensorRef, file: RandomAccess): AsyncGenerator<Uint8Array> {
  const width = Math.max(8, bitsOf(ref.dataType) ?? 8) / 8
  const elements = ref.length / width
  let written = 0
  for (let at = ref.offset, end = ref.offset + ref.stored; at < end;) {
    const read = await readExactly(file, at, Math.min(CHUNK, end - at))
    const last = at + read.length === end
    const out = new Uint8Array(read.length * width)
    let used = 0
    let filled = 0
    while (used < read.length && (last || used + WIDEST_VARINT <= read.length)) {
      let low = 0
      let high = 0
      for (let shift = 0; ; shift += 7) {
        const byte = read[used++]
        if (byte === undefined || shift > 63) throw contradicts(ref)
        if (shift < 28) low |= (byte & 127) << shift
        else if (shift === 28) { low |= (byte & 15) << 28; high = (byte & 127) >> 4 }
        else high |= (byte & 127) << (shift - 32)
        if (byte < 128) break
      }
      for (let i = 0; i < width; i++) out[filled++] = i < 4 ? low >>> (8 * i) : high >>> (8 * (i - 4))
      written++
    }
    at += used
    if (written > elements) throw contradicts(ref)
    yield out.subarray(0, filled)
  }
  if (written !== elements) throw contradicts(ref)
}

/** The inline payload of a small tensor as integers, where it has integers; undefined when it is elsewhere or of another type. */
export function integersOf(tensor: TensorProto): readonly number[] | undefined {
  if (isReferenced(tensor)) return undefined
  const count = elementCount(tensor.dims)
  const raw = tensor.rawData
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength)
  const name = elementName(tensor.dataType)
  if (name === 'int64') return raw.length >= 8 * count && raw.length > 0 ? Array.from({ length: count }, (_, i) => Number(view.getBigInt64(8 * i, true))) : tensor.int64Data.map(Number)
  if (name === 'int32') return raw.length >= 4 * count && raw.length > 0 ? Array.from({ length: count }, (_, i) => view.getInt32(4 * i, true)) : tensor.int32Data
  return undefined
}

function contradicts(ref: TensorRef): MeshError {
  return new MeshError('SPEC_INVALID', `the data of tensor ${ref.name} contradicts its shape [${ref.dims.join(', ')}]`)
}

function integer(text: string, tensor: TensorProto): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new MeshError('SPEC_INVALID', `tensor ${tensor.name} has an impossible place in its file: ${text}`)
  return value
}

function escapes(location: string): boolean {
  return location.startsWith('/') || location.includes('\\') || location.includes('\0') || /^[a-z]:/i.test(location) || location.split('/').includes('..')
}
