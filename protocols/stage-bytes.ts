import { MeshError } from './errors.ts'

const text = new TextEncoder()
const strict = new TextDecoder('utf-8', { fatal: true })
const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1
const SCRATCH_BYTES = 256

/** Writes a frame field by field, little-endian; large bodies stay pieces of their own and are not copied. */
export class FrameWriter {
  readonly #done: Uint8Array[] = []
  #buffer = new Uint8Array(SCRATCH_BYTES)
  #view = new DataView(this.#buffer.buffer)
  #at = 0

  u8(value: number): this {
    this.#room(1)
    this.#view.setUint8(this.#at, value)
    this.#at += 1
    return this
  }

  u32(value: number): this {
    this.#room(4)
    this.#view.setUint32(this.#at, value, true)
    this.#at += 4
    return this
  }

  f32(value: number): this {
    this.#room(4)
    this.#view.setFloat32(this.#at, value, true)
    this.#at += 4
    return this
  }

  f64(value: number): this {
    this.#room(8)
    this.#view.setFloat64(this.#at, value, true)
    this.#at += 8
    return this
  }

  /** ASCII of at most 255 characters, after its length. */
  text(value: string): this {
    if (value.length > 255) throw new MeshError('MESSAGE_INVALID', 'a name in a frame has at most 255 characters')
    this.#room(1 + value.length)
    this.#buffer[this.#at] = value.length
    for (let at = 0; at < value.length; at += 1) this.#buffer[this.#at + 1 + at] = value.charCodeAt(at)
    this.#at += 1 + value.length
    return this
  }

  /** UTF-8 after its length in four bytes. */
  prose(value: string): this {
    if (value === '') return this.u32(0)
    const bytes = text.encode(value)
    this.u32(bytes.byteLength)
    this.#room(bytes.byteLength)
    this.#buffer.set(bytes, this.#at)
    this.#at += bytes.byteLength
    return this
  }

  words(values: readonly number[]): this {
    this.#room(4 * values.length)
    for (const value of values) {
      this.#view.setUint32(this.#at, value, true)
      this.#at += 4
    }
    return this
  }

  floats(values: Float32Array): this {
    if (LITTLE) return this.bytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    for (const value of values) this.f32(value)
    return this
  }

  bytes(value: Uint8Array): this {
    this.#flush()
    this.#done.push(value)
    return this
  }

  pieces(): readonly Uint8Array[] {
    this.#flush()
    return this.#done
  }

  joined(): Uint8Array {
    const pieces = this.pieces()
    const [only] = pieces
    if (pieces.length === 1 && only !== undefined) return only
    const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0))
    let at = 0
    for (const piece of pieces) {
      out.set(piece, at)
      at += piece.byteLength
    }
    return out
  }

  #flush(): void {
    if (this.#at === 0) return
    this.#done.push(this.#buffer.subarray(0, this.#at))
    this.#buffer = this.#buffer.subarray(this.#at)
    this.#view = new DataView(this.#buffer.buffer, this.#buffer.byteOffset, this.#buffer.byteLength)
    this.#at = 0
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#buffer.byteLength) return
    this.#flush()
    this.#buffer = new Uint8Array(Math.max(SCRATCH_BYTES, bytes))
    this.#view = new DataView(this.#buffer.buffer)
  }
}

/** Reads a frame field by field. Throws MESSAGE_INVALID where it ends too soon. */
export class FrameReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #what: string
  #at = 0

  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#what = what
  }

  get done(): boolean {
    return this.#at === this.#bytes.byteLength
  }

  broken(how: string): MeshError {
    return new MeshError('MESSAGE_INVALID', `${this.#what} ${how}`)
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1))
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  f32(): number {
    return this.#view.getFloat32(this.#take(4), true)
  }

  f64(): number {
    return this.#view.getFloat64(this.#take(8), true)
  }

  text(): string {
    const length = this.u8()
    const from = this.#take(length)
    let out = ''
    for (let at = from; at < from + length; at += 1) {
      const unit = this.#bytes[at] ?? 0
      if (unit > 126 || unit < 33) throw this.broken('has a name that is not ASCII')
      out += String.fromCharCode(unit)
    }
    return out
  }

  prose(): string {
    const length = this.u32()
    return length === 0 ? '' : this.#decoded(this.#take(length), length)
  }

  /** UTF-8 up to the end. */
  tail(): string {
    const length = this.#bytes.byteLength - this.#at
    return this.#decoded(this.#take(length), length)
  }

  /** All that is left, as 32-bit words. */
  words(): readonly number[] {
    const length = this.#bytes.byteLength - this.#at
    if (length % 4 !== 0) throw this.broken('ends within a word')
    return Array.from({ length: length / 4 }, () => this.u32())
  }

  /** All that is left, as floats of their own. */
  floats(): Float32Array {
    const length = this.#bytes.byteLength - this.#at
    if (length % 4 !== 0) throw this.broken('ends within a word')
    const from = this.#take(length)
    // Not `slice`: of Node's Buffer, which is what sockets give, that is no copy but a view of its pool.
    if (LITTLE) return new Float32Array(new Uint8Array(this.#bytes.subarray(from, from + length)).buffer)
    return Float32Array.from({ length: length / 4 }, (_, at) => this.#view.getFloat32(from + 4 * at, true))
  }

  take(length: number): Uint8Array {
    const from = this.#take(length)
    return this.#bytes.subarray(from, from + length)
  }

  /** All that is left, over the same buffer. */
  rest(): Uint8Array {
    return this.take(this.#bytes.byteLength - this.#at)
  }

  #decoded(from: number, length: number): string {
    try {
      return strict.decode(this.#bytes.subarray(from, from + length))
    } catch (cause) {
      throw new MeshError('MESSAGE_INVALID', `${this.#what} has text that is not UTF-8`, { cause })
    }
  }

  #take(length: number): number {
    const from = this.#at
    if (from + length > this.#bytes.byteLength) throw this.broken('is cut short')
    this.#at += length
    return from
  }
}
