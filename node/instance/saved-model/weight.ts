import { broken, unsupported } from './failure.ts'
import { readShape } from './messages.ts'
import { WireReader } from './wire.ts'

/** TensorFlow.js's own types. */
export type WeightType = 'float32' | 'int32' | 'bool' | 'string' | 'complex64'
/** A constant in the layout that TensorFlow.js reads weights in. */
export type Weight = { readonly type: WeightType; readonly shape: readonly number[]; readonly data: ArrayBuffer }

type Stored = { readonly name: string; readonly bytes: number; readonly as: WeightType }
/** tensorflow/core/framework/types.proto: what a number of a type takes on disk, and what TensorFlow.js holds it as. */
const TYPES: ReadonlyMap<number, Stored> = new Map([
  [1, { name: 'float32', bytes: 4, as: 'float32' }], [2, { name: 'float64', bytes: 8, as: 'float32' }], [3, { name: 'int32', bytes: 4, as: 'int32' }],
  [4, { name: 'uint8', bytes: 1, as: 'int32' }], [5, { name: 'int16', bytes: 2, as: 'int32' }], [6, { name: 'int8', bytes: 1, as: 'int32' }],
  [7, { name: 'string', bytes: 0, as: 'string' }], [8, { name: 'complex64', bytes: 8, as: 'complex64' }], [9, { name: 'int64', bytes: 8, as: 'int32' }],
  [10, { name: 'bool', bytes: 1, as: 'bool' }], [14, { name: 'bfloat16', bytes: 2, as: 'float32' }], [17, { name: 'uint16', bytes: 2, as: 'int32' }],
  [19, { name: 'float16', bytes: 2, as: 'float32' }], [22, { name: 'uint32', bytes: 4, as: 'int32' }], [23, { name: 'uint64', bytes: 8, as: 'int32' }],
])
/** The number TensorFlow.js knows its own types by. */
const NUMBERS: Readonly<Record<WeightType, number>> = { float32: 1, int32: 3, bool: 10, string: 7, complex64: 8 }
const MAX_ELEMENTS = 2 ** 30
/** Elements that one TensorProto may say in fewer bytes than it holds: `ones([…])` in a graph is small, a bomb is not. */
const MAX_REPEATED = 16_777_216

/** Throws RUNTIME_UNAVAILABLE for types TensorFlow.js has nothing for. */
export function storedAs(type: number): Stored {
  // A reference to a variable, as TensorFlow 1 has them.
  const stored = TYPES.get(type > 100 ? type - 100 : type)
  if (stored === undefined) throw unsupported(`it holds tensors of TensorFlow's type number ${type}`)
  return stored
}

/** The same type among those TensorFlow.js knows; others (resource, variant) as they are. */
export function nearestType(type: number): number {
  const stored = TYPES.get(type > 100 ? type - 100 : type)
  return stored === undefined ? type : NUMBERS[stored.as]
}

/** How many elements a shape has. Throws COMPONENT_ERROR where free or beyond what one host could hold. */
export function count(shape: readonly number[]): number {
  const elements = shape.reduce((product, size) => product * size, 1)
  if (shape.some(size => size < 0) || elements > MAX_ELEMENTS) throw broken(`a tensor of shape [${shape.join(',')}]`)
  return elements
}

/** The weight whose little-endian elements are `raw`. Throws COMPONENT_ERROR when they are not as many as the shape says. */
export function weightOf(type: number, shape: readonly number[], raw: Uint8Array): Weight {
  const stored = storedAs(type)
  const elements = count(shape)
  if (stored.as === 'string' || raw.byteLength !== elements * stored.bytes) throw broken(`a tensor of ${elements} ${stored.name} has ${raw.byteLength} bytes`)
  return { type: stored.as, shape, data: converted(stored, elements, raw) }
}

export function textWeight(shape: readonly number[], texts: readonly Uint8Array[]): Weight {
  const data = new ArrayBuffer(texts.reduce((total, text) => total + 4 + text.byteLength, 0))
  const bytes = new Uint8Array(data)
  const view = new DataView(data)
  let at = 0
  for (const text of texts) {
    view.setUint32(at, text.byteLength, true)
    bytes.set(text, at + 4)
    at += 4 + text.byteLength
  }
  return { type: 'string', shape, data }
}

/** A TensorProto: its elements as raw bytes, or as a list whose last stands for all that follow. Throws COMPONENT_ERROR. */
export function readTensor(bytes: Uint8Array): Weight {
  let type = 0
  let shape: readonly number[] | undefined = []
  let content: Uint8Array | undefined
  const numbers: number[] = []
  const halves: number[] = []
  const texts: Uint8Array[] = []
  const wire = new WireReader(bytes)
  while (wire.next()) {
    switch (wire.field) {
      case 1: type = wire.integer(); break
      case 2: shape = readShape(wire.bytes()); break
      case 4: content = wire.bytes(); break
      case 5: case 9: wire.floats(numbers); break
      case 6: wire.floats(numbers, 8); break
      case 7: case 10: case 11: case 16: case 17: wire.integers(numbers); break
      case 8: texts.push(wire.bytes()); break
      case 13: wire.integers(halves); break
    }
  }
  if (shape === undefined) throw broken('a constant without a shape')
  const stored = storedAs(type)
  const elements = count(shape)
  if (content !== undefined && content.byteLength > 0) return weightOf(type, shape, content)
  if (elements > MAX_REPEATED) throw broken(`a constant of shape [${shape.join(',')}] that the file does not hold`)
  if (stored.as === 'string') return textWeight(shape, stretched(texts, elements, new Uint8Array(0)))
  if (stored.as === 'complex64') {
    const last = numbers.length >= 2 ? numbers.slice(-2) : [0, 0]
    const flat = Float32Array.from({ length: elements * 2 }, (_, index) => numbers[index] ?? last[index % 2]!)
    return { type: 'complex64', shape, data: flat.buffer }
  }
  const given = stored.bytes === 2 && stored.as === 'float32' ? halves.map(bits => half(stored.name, bits)) : numbers
  const values = stretched(given, elements, 0)
  return { type: stored.as, shape, data: packed(stored, values) }
}

function stretched<Value>(given: readonly Value[], elements: number, empty: Value): readonly Value[] {
  if (given.length > elements) throw broken(`a constant of ${elements} elements has ${given.length}`)
  const last = given.at(-1) ?? empty
  return given.length === elements ? given : Array.from({ length: elements }, (_, index) => (index < given.length ? given[index]! : last))
}

function packed(stored: Stored, values: readonly number[]): ArrayBuffer {
  if (stored.as === 'float32') return Float32Array.from(values).buffer
  if (stored.as === 'bool') return Uint8Array.from(values, value => (value === 0 ? 0 : 1)).buffer
  return Int32Array.from(values, value => fitted(stored.name, value)).buffer
}

function converted(stored: Stored, elements: number, raw: Uint8Array): ArrayBuffer {
  // A copy: it is aligned, and it does not keep the file's bytes alive.
  const buffer = new Uint8Array(raw).buffer
  const whole = (values: Iterable<number> & ArrayLike<number>): ArrayBuffer => Int32Array.from(values, value => fitted(stored.name, value)).buffer
  switch (stored.name) {
    case 'float64': return Float32Array.from(new Float64Array(buffer)).buffer
    case 'float16': return Float32Array.from(new Float16Array(buffer)).buffer
    case 'bfloat16': return Uint32Array.from(new Uint16Array(buffer), bits => bits * 65_536).buffer
    case 'uint8': return whole(new Uint8Array(buffer))
    case 'int8': return whole(new Int8Array(buffer))
    case 'int16': return whole(new Int16Array(buffer))
    case 'uint16': return whole(new Uint16Array(buffer))
    case 'uint32': return whole(new Uint32Array(buffer))
    case 'int64': case 'uint64': {
      const wide = stored.name === 'int64' ? new BigInt64Array(buffer) : new BigUint64Array(buffer)
      const narrow = new Int32Array(elements)
      for (let index = 0; index < elements; index++) narrow[index] = fitted(stored.name, Number(wide[index]))
      return narrow.buffer
    }
    default: return buffer
  }
}

/** TensorFlow.js has no wider integers. The ends of the 64-bit range mean "to the end" in slices and keep that meaning. */
function fitted(name: string, value: number): number {
  if (value >= 2 ** 63 - 1) return 2_147_483_647
  if (value <= -(2 ** 63)) return -2_147_483_648
  if (value > 2_147_483_647 || value < -2_147_483_648) throw unsupported(`it holds the ${name} ${value}, and TensorFlow.js has no integers above 32 bits`)
  return value
}

function half(name: string, bits: number): number {
  if (name === 'bfloat16') return new Float32Array(Uint32Array.of((bits & 0xffff) * 65_536).buffer)[0]!
  return new Float16Array(Uint16Array.of(bits).buffer)[0]!
}
