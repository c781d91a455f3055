import { MeshError } from '../../../protocols/errors.ts'

/** A file, or anything with a length whose ranges can be read. `read` resolves to exactly `length` bytes. */
export interface RandomAccess {
  readonly size: number
  read(offset: number, length: number): Promise<Uint8Array>
}

/** Bytes in memory as a file. */
export function memoryAccess(bytes: Uint8Array): RandomAccess {
  return { size: bytes.length, read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)) }
}

const LEAST_AHEAD = 4096
const MOST_AHEAD = 256 * 1024

/** Reads a file mostly forwards: reads ahead more while the reader goes on, and little after a jump, so that what is skipped is not read. */
export class Cursor {
  readonly #source: RandomAccess
  #held: Uint8Array = new Uint8Array(0)
  #heldAt = 0
  #ahead = LEAST_AHEAD
  offset = 0

  constructor(source: RandomAccess) {
    this.#source = source
  }

  /** The next `length` bytes, good until the next call. Throws SPEC_INVALID beyond `limit`. */
  async take(length: number, limit: number): Promise<Uint8Array> {
    if (this.offset + length > limit) throw truncated(this.offset)
    if (!this.#holds(length)) await this.#fill(length)
    const start = this.offset - this.#heldAt
    this.offset += length
    return this.#held.subarray(start, start + length)
  }

  /** The next varint, at most 64 bits, of which the low 53 must suffice. */
  async varint(limit: number): Promise<number> {
    if (!this.#holds(10)) await this.#fill(Math.min(10, limit - this.offset))
    let value = 0
    for (let shift = 1, read = 0; read < 10; shift *= 128, read++) {
      if (this.offset >= limit) throw truncated(this.offset)
      const byte = this.#held[this.offset - this.#heldAt]
      if (byte === undefined) throw truncated(this.offset)
      this.offset++
      if (read < 8) value += (byte & 127) * shift
      else if ((byte & 127) !== 0 && read === 8) throw new MeshError('SPEC_INVALID', `byte ${this.offset} of the model holds a length beyond 2^53`)
      if (byte < 128) return value
    }
    throw new MeshError('SPEC_INVALID', `byte ${this.offset} of the model ends no varint`)
  }

  #holds(length: number): boolean {
    return this.offset >= this.#heldAt && this.offset + length <= this.#heldAt + this.#held.length
  }

  async #fill(length: number): Promise<void> {
    const goesOn = this.offset >= this.#heldAt && this.offset <= this.#heldAt + this.#held.length
    this.#ahead = goesOn ? Math.min(MOST_AHEAD, this.#ahead * 2) : LEAST_AHEAD
    const wanted = Math.min(Math.max(length, this.#ahead), this.#source.size - this.offset)
    if (wanted < length) throw truncated(this.offset)
    this.#held = await readExactly(this.#source, this.offset, wanted)
    this.#heldAt = this.offset
  }
}

/** Exactly these bytes. Throws SPEC_INVALID where the file ends before. */
export async function readExactly(source: RandomAccess, offset: number, length: number): Promise<Uint8Array> {
  if (offset < 0 || length < 0 || offset + length > source.size) throw truncated(offset)
  const bytes = await source.read(offset, length)
  if (bytes.length !== length) throw truncated(offset + bytes.length)
  return bytes
}

function truncated(offset: number): MeshError {
  return new MeshError('SPEC_INVALID', `the model is cut short, or a length in it lies: nothing to read at byte ${offset}`)
}
