import { broken } from './failure.ts'

const TEXT = new TextDecoder()
const VARINT = 0
const FIXED64 = 1
const BYTES = 2
const FIXED32 = 5

/**
 * Walks over one protobuf message: `while (wire.next()) switch (wire.field) …`. Every field is read or skipped before the
 * next. Throws COMPONENT_ERROR for bytes that are no message; never reads beyond them. Messages inside are read by the
 * caller with a reader of their own, so depth is bounded by the schema.
 */
export class WireReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0
  #wire = VARINT
  #pending = false
  field = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  next(): boolean {
    if (this.#pending) this.#skip()
    if (this.#at >= this.#bytes.length) return false
    const tag = this.#varint()
    this.#wire = tag % 8
    this.field = (tag - this.#wire) / 8
    if (tag < 8 || this.field > 536_870_911) throw broken(`a field numbered ${this.field} in a protobuf message`)
    this.#pending = true
    return true
  }

  /** A varint as the signed 64-bit number it is; beyond 2^53 the nearest that a number holds. */
  integer(): number {
    this.#take(VARINT)
    return this.#varint()
  }

  boolean(): boolean {
    return this.integer() !== 0
  }

  float(): number {
    this.#take(FIXED32)
    return this.#view.getFloat32(this.#advance(4), true)
  }

  fixed32(): number {
    this.#take(FIXED32)
    return this.#view.getUint32(this.#advance(4), true)
  }

  /** A view into the message, not a copy. */
  bytes(): Uint8Array {
    this.#take(BYTES)
    const size = this.#varint()
    const first = this.#advance(size)
    return this.#bytes.subarray(first, first + size)
  }

  text(): string {
    return TEXT.decode(this.bytes())
  }

  /** One more element of a repeated number, or all of a packed list of them. */
  integers(into: number[]): void {
    if (this.#wire !== BYTES) return void into.push(this.integer())
    const packed = new WireReader(this.bytes())
    while (packed.#at < packed.#bytes.length) into.push(packed.#varint())
  }

  floats(into: number[], size: 4 | 8 = 4): void {
    const wire = size === 4 ? FIXED32 : FIXED64
    const view = this.#wire === BYTES ? viewOf(this.bytes()) : undefined
    if (view === undefined) {
      this.#take(wire)
      const at = this.#advance(size)
      into.push(size === 4 ? this.#view.getFloat32(at, true) : this.#view.getFloat64(at, true))
      return
    }
    if (view.byteLength % size !== 0) throw broken('a packed list of numbers ends within one')
    for (let at = 0; at < view.byteLength; at += size) into.push(size === 4 ? view.getFloat32(at, true) : view.getFloat64(at, true))
  }

  #take(wire: number): void {
    if (this.#wire !== wire) throw broken(`field ${this.field} of a protobuf message has another type than its schema says`)
    this.#pending = false
  }

  #skip(): void {
    this.#pending = false
    if (this.#wire === VARINT) this.#varint()
    else if (this.#wire === FIXED64) this.#advance(8)
    else if (this.#wire === FIXED32) this.#advance(4)
    else if (this.#wire === BYTES) this.#advance(this.#varint())
    else throw broken('bytes that are no protobuf message')
  }

  #advance(size: number): number {
    const first = this.#at
    if (size < 0 || first + size > this.#bytes.length) throw broken('a protobuf message ends too early')
    this.#at = first + size
    return first
  }

  #varint(): number {
    // Two halves of 35 and 29 bits: a sum in one number would round small negative values to 0.
    let low = 0
    let high = 0
    for (let count = 0; count < 10; count++) {
      const byte = this.#bytes[this.#advance(1)]!
      if (count < 5) low += (byte & 127) * 2 ** (7 * count)
      else high += (byte & 127) * 2 ** (7 * (count - 5))
      if (byte < 128) {
        high %= 536_870_912
        return (high >= 268_435_456 ? high - 536_870_912 : high) * 34_359_738_368 + low
      }
    }
    throw broken('a number of more than ten bytes')
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
