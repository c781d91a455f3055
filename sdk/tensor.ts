import type { Json } from '../protocols/ids.ts'

export type Dtype = 'float32' | 'float64' | 'float16' | 'int8' | 'uint8' | 'int16' | 'uint16' | 'int32' | 'uint32' | 'int64' | 'uint64' | 'bool' | 'string'
export type TensorData =
  | Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array
  | BigInt64Array | BigUint64Array | readonly string[]

/** A block of numbers or texts in row-major order. float16 is held as its bits (Uint16Array), bool as 0 and 1 (Uint8Array). */
export type Tensor = { readonly dtype: Dtype; readonly shape: readonly number[]; readonly data: TensorData }

/** One input or output of a model as its file describes it; a text dimension is free. */
export type TensorInfo = { readonly name: string; readonly dtype: Dtype; readonly shape: readonly (number | string)[] }

/** A loaded model. Runs happen off the block's own event loop. */
export interface Model {
  readonly path: string
  /** The execution provider or backend in use, e.g. cuda, webgpu, cpu, wasm. */
  readonly provider: string
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
  /** Throws BAD_INPUT naming the input and the shape it expects. */
  run(feeds: Readonly<Record<string, Tensor>>, signal?: AbortSignal): Promise<Readonly<Record<string, Tensor>>>
  /** JSON in, JSON out, by the mapping of `sdk/README.md`. */
  predict(data: Json, signal?: AbortSignal): Promise<Json>
}

const DTYPES = ['float32', 'float64', 'float16', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64', 'bool', 'string'] as const satisfies readonly Dtype[]

export function isDtype(value: unknown): value is Dtype {
  return DTYPES.some(dtype => dtype === value)
}

export function elements(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1)
}

/** A tensor from plain values, checked against its shape and converted to its type. Throws RangeError. */
export function tensor(dtype: Dtype, shape: readonly number[], values: readonly (number | bigint | boolean | string)[]): Tensor {
  if (values.length !== elements(shape)) throw new RangeError(`shape [${shape.join(',')}] has ${elements(shape)} elements, got ${values.length}`)
  return { dtype, shape, data: pack(dtype, values) }
}

/** Values as the storage of their type. Throws RangeError naming the first that does not fit. */
export function pack(dtype: Dtype, values: readonly (number | bigint | boolean | string)[]): TensorData {
  if (dtype === 'string') return values.map(value => (typeof value === 'string' ? value : String(value)))
  if (dtype === 'int64' || dtype === 'uint64') {
    const out = dtype === 'int64' ? new BigInt64Array(values.length) : new BigUint64Array(values.length)
    for (let index = 0; index < values.length; index++) out[index] = toBigInt(values[index], index, dtype)
    return out
  }
  const numbers = Float64Array.from(values, (value, index) => toNumber(value, index, dtype))
  switch (dtype) {
    case 'float64': return numbers
    case 'float32': return Float32Array.from(numbers)
    case 'float16': return new Uint16Array(Float16Array.from(numbers).buffer)
    case 'bool': return Uint8Array.from(numbers, value => (value === 0 ? 0 : 1))
    case 'int8': return Int8Array.from(integers(numbers, dtype, -128, 127))
    case 'uint8': return Uint8Array.from(integers(numbers, dtype, 0, 255))
    case 'int16': return Int16Array.from(integers(numbers, dtype, -32_768, 32_767))
    case 'uint16': return Uint16Array.from(integers(numbers, dtype, 0, 65_535))
    case 'int32': return Int32Array.from(integers(numbers, dtype, -2_147_483_648, 2_147_483_647))
    case 'uint32': return Uint32Array.from(integers(numbers, dtype, 0, 4_294_967_295))
  }
}

/** The tensor's elements as plain values: numbers, booleans, texts; 64-bit integers beyond 2^53 as text; NaN as null. */
export function values(tensor: Tensor): readonly Json[] {
  const { dtype, data } = tensor
  if (dtype === 'string') return Array.from(data as Iterable<string>)
  if (dtype === 'bool') return Array.from(data as Iterable<number>, value => value !== 0)
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
    return Array.from(data as Iterable<bigint>, value => (Number.isSafeInteger(Number(value)) ? Number(value) : value.toString()))
  }
  const numbers = dtype === 'float16' && data instanceof Uint16Array ? new Float16Array(data.buffer, data.byteOffset, data.length) : (data as Iterable<number>)
  return Array.from(numbers, value => (Number.isFinite(value) ? value : null))
}

/** The tensor as lists in lists; a tensor without dimensions as its one value. */
export function nested(tensor: Tensor): Json {
  return fold(values(tensor), tensor.shape)
}

/** Groups a flat list by `shape`. */
export function fold(flat: readonly Json[], shape: readonly number[]): Json {
  if (shape.length === 0) return flat[0] ?? null
  let level: readonly Json[] = flat
  for (const size of shape.slice(1).reverse()) {
    const groups: Json[] = []
    for (let first = 0; first < level.length; first += size) groups.push(level.slice(first, first + size))
    level = groups
  }
  return level
}

function toNumber(value: number | bigint | boolean | string | undefined, index: number, dtype: Dtype): number {
  const number = typeof value === 'string' && value.trim() === '' ? Number.NaN : Number(value)
  if (Number.isNaN(number)) throw new RangeError(`element ${index} is ${JSON.stringify(value)}, not a number of type ${dtype}`)
  return number
}

function toBigInt(value: number | bigint | boolean | string | undefined, index: number, dtype: Dtype): bigint {
  try {
    if (typeof value === 'string' || typeof value === 'bigint' || typeof value === 'boolean' || Number.isInteger(value)) return BigInt(value as number)
  } catch {
    // Falls through to the message below.
  }
  throw new RangeError(`element ${index} is ${JSON.stringify(value)}, not a whole number of type ${dtype}`)
}

function integers(numbers: Float64Array, dtype: Dtype, least: number, most: number): Float64Array {
  for (let index = 0; index < numbers.length; index++) {
    const value = numbers[index]!
    if (!Number.isInteger(value) || value < least || value > most) throw new RangeError(`element ${index} is ${value}; ${dtype} holds whole numbers from ${least} to ${most}`)
  }
  return numbers
}
