import { MeshError } from '../../../protocols/errors.ts'
import type { Json } from '../../../protocols/ids.ts'
import { elements, fold, isDtype, pack, type Dtype, type TensorInfo } from '../../../sdk/tensor.ts'

/** The protocol's names of element types. */
const DATATYPES: Readonly<Record<Dtype, string>> = {
  float32: 'FP32', float64: 'FP64', float16: 'FP16', int8: 'INT8', uint8: 'UINT8', int16: 'INT16', uint16: 'UINT16', int32: 'INT32', uint32: 'UINT32', int64: 'INT64', uint64: 'UINT64', bool: 'BOOL', string: 'BYTES',
}
const WIDTHS: Readonly<Record<string, number>> = { FP32: 4, FP64: 8, FP16: 2, INT8: 1, UINT8: 1, INT16: 2, UINT16: 2, INT32: 4, UINT32: 4, INT64: 8, UINT64: 8, BOOL: 1 }

export function datatypeOf(dtype: Dtype): string {
  return DATATYPES[dtype]
}

export function dtypeOf(datatype: string): Dtype | undefined {
  return Object.entries(DATATYPES).flatMap(([dtype, name]) => (name === datatype && isDtype(dtype) ? [dtype] : []))[0]
}

/** `float32[batch,4]`, as a model's health describes a tensor, read back; undefined when it is none. */
export function readDescription(name: string, text: Json): TensorInfo | undefined {
  const [, dtype, dims] = /^(\w+)\[(.*)\]$/.exec(typeof text === 'string' ? text : '') ?? []
  if (!isDtype(dtype) || dims === undefined) return undefined
  return { name, dtype, shape: dims === '' ? [] : dims.split(',').map(dim => (/^\d+$/.test(dim) ? Number(dim) : dim)) }
}

/** Lists in lists, from flat or nested data. Throws BAD_INPUT when the count is not the shape's. */
export function nestedInput(name: string, shape: readonly number[], data: readonly Json[]): Json {
  const flat = flatten(data)
  if (flat.length !== elements(shape)) throw new MeshError('BAD_INPUT', `input "${name}" has ${flat.length} elements; its shape [${shape.join(',')}] has ${elements(shape)}`)
  return fold(flat, shape)
}

/** The shape of lists in lists, and what they hold, in row-major order. */
export function unnest(value: Json): { readonly shape: readonly number[]; readonly data: readonly Json[] } {
  const shape: number[] = []
  for (let at: Json | undefined = value; Array.isArray(at); at = at[0]) shape.push(at.length)
  const data = Array.isArray(value) ? flatten(value) : [value]
  return { shape: shape.length === 0 ? [1] : shape, data }
}

function flatten(data: readonly Json[]): readonly Json[] {
  return data.some(Array.isArray) ? data.flatMap(item => (Array.isArray(item) ? flatten(item) : [item])) : data
}

/** Elements of the protocol's binary extension: little-endian; texts each after their length in four bytes. Throws BAD_INPUT. */
export function fromBinary(name: string, datatype: string, bytes: Uint8Array): readonly Json[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (datatype === 'BYTES') {
    const texts: string[] = []
    for (let at = 0; at < bytes.byteLength;) {
      const length = at + 4 <= bytes.byteLength ? view.getUint32(at, true) : Infinity
      if (at + 4 + length > bytes.byteLength) throw new MeshError('BAD_INPUT', `input "${name}" ends inside a text`)
      texts.push(new TextDecoder().decode(bytes.subarray(at + 4, at + 4 + length)))
      at += 4 + length
    }
    return texts
  }
  const width = WIDTHS[datatype]
  if (width === undefined || bytes.byteLength % width !== 0) throw new MeshError('BAD_INPUT', `input "${name}" has ${bytes.byteLength} bytes, which is no whole number of ${datatype}`)
  return Array.from({ length: bytes.byteLength / width }, (_, at) => element(view, at * width, datatype))
}

function element(view: DataView, at: number, datatype: string): Json {
  switch (datatype) {
    case 'FP32': return view.getFloat32(at, true)
    case 'FP64': return view.getFloat64(at, true)
    case 'FP16': return view.getFloat16(at, true)
    case 'INT8': return view.getInt8(at)
    case 'INT16': return view.getInt16(at, true)
    case 'UINT16': return view.getUint16(at, true)
    case 'INT32': return view.getInt32(at, true)
    case 'UINT32': return view.getUint32(at, true)
    case 'INT64': return exact(view.getBigInt64(at, true))
    case 'UINT64': return exact(view.getBigUint64(at, true))
    case 'BOOL': return view.getUint8(at) !== 0
    default: return view.getUint8(at)
  }
}

/** Beyond 2^53 as text: our JSON's way. */
function exact(value: bigint): Json {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString()
}

export function toBinary(dtype: Dtype, data: readonly Json[]): Uint8Array {
  if (dtype === 'string') {
    const encoder = new TextEncoder()
    return Buffer.concat(data.map(item => {
      const text = encoder.encode(typeof item === 'string' ? item : JSON.stringify(item))
      const length = Buffer.alloc(4)
      length.writeUInt32LE(text.byteLength)
      return Buffer.concat([length, text])
    }))
  }
  const packed = pack(dtype, data.map(item => (item === null || typeof item === 'object' ? Number.NaN : item)).map(item => (typeof item === 'number' && Number.isNaN(item) ? 0 : item)))
  return ArrayBuffer.isView(packed) ? new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength) : new Uint8Array(0)
}
