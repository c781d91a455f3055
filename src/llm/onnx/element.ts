import { MeshError } from '../../../protocols/errors.ts'

/** ONNX element types by the names ONNX Runtime's JavaScript API gives them, with their number in TensorProto.DataType. */
export const ELEMENT = {
  float32: 1, uint8: 2, int8: 3, uint16: 4, int16: 5, int32: 6, int64: 7, string: 8, bool: 9, float16: 10, float64: 11, uint32: 12, uint64: 13,
  complex64: 14, complex128: 15, bfloat16: 16, float8e4m3fn: 17, float8e4m3fnuz: 18, float8e5m2: 19, float8e5m2fnuz: 20, uint4: 21, int4: 22, float4e2m1: 23, float8e8m0: 24,
  uint2: 25, int2: 26,
} as const

export type ElementName = keyof typeof ELEMENT

const NAMES: ReadonlyMap<number, ElementName> = new Map(Object.entries(ELEMENT).flatMap(([name, number]) => isElementName(name) ? [[number, name] as const] : []))
const BITS: Readonly<Partial<Record<ElementName, number>>> = {
  float32: 32, uint8: 8, int8: 8, uint16: 16, int16: 16, int32: 32, int64: 64, bool: 8, float16: 16, float64: 64, uint32: 32, uint64: 64, complex64: 64, complex128: 128, bfloat16: 16,
  float8e4m3fn: 8, float8e4m3fnuz: 8, float8e5m2: 8, float8e5m2fnuz: 8, uint4: 4, int4: 4, float4e2m1: 4, float8e8m0: 8, uint2: 2, int2: 2,
}

function isElementName(name: string): name is ElementName {
  return Object.hasOwn(ELEMENT, name)
}

/** The name of an element type. Throws SPEC_INVALID for a number ONNX does not define. */
export function elementName(dataType: number): ElementName {
  const name = NAMES.get(dataType)
  if (name === undefined) throw new MeshError('SPEC_INVALID', `the model has a tensor of unknown element type ${dataType}`)
  return name
}

export function bitsOf(dataType: number): number | undefined {
  const name = NAMES.get(dataType)
  return name === undefined ? undefined : BITS[name]
}

/** Bytes of a dense little-endian tensor; sub-byte elements are packed. Throws SPEC_INVALID for strings, unknown types, negative or absurd dims. */
export function byteLength(dataType: number, dims: readonly (number | bigint)[]): number {
  const bits = bitsOf(dataType)
  if (bits === undefined) throw new MeshError('SPEC_INVALID', `elements of type ${NAMES.get(dataType) ?? dataType} have no fixed size`)
  const bytes = Math.ceil(elementCount(dims) * bits / 8)
  if (!Number.isSafeInteger(bytes)) throw new MeshError('SPEC_INVALID', `a tensor of shape [${dims.join(', ')}] is larger than any file`)
  return bytes
}

/** Elements of a tensor of these dims; 1 for a scalar. Throws SPEC_INVALID for negative dims or counts beyond 2^53. */
export function elementCount(dims: readonly (number | bigint)[]): number {
  let count = 1
  for (const dim of dims) {
    count *= Number(dim)
    if (!(Number(dim) >= 0) || !Number.isSafeInteger(count)) throw new MeshError('SPEC_INVALID', `a tensor has the impossible shape [${dims.join(', ')}]`)
  }
  return count
}
