/**
 * Writes limits into a WebAssembly module before it is compiled: an engine lets a memory grow as far as its module says, and
 * nothing outside can stop it later. WebAssembly core specification, section 5.5 (binary format of modules).
 */
const TABLE = 4
const MEMORY = 5
const MAGIC = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]
const TABLE_ELEMENTS = 100_000
const FUNCTION_REFERENCE = 0x70
const FOREIGN_REFERENCE = 0x6f

export class WasmRefused extends Error {}

/** The same module with its memory and tables bounded. Throws WasmRefused saying what it may not have. */
export function bounded(module: Uint8Array, memoryPages: number): Uint8Array {
  if (MAGIC.some((byte, at) => module[at] !== byte)) throw new WasmRefused('is not a WebAssembly module, version 1')
  const parts: Uint8Array[] = [Uint8Array.from(MAGIC)]
  const reader = new Reader(module, MAGIC.length)
  while (!reader.done) {
    const from = reader.at
    const id = reader.byte()
    const body = reader.take(reader.unsigned())
    if (id === MEMORY) parts.push(section(id, memories(body, memoryPages)))
    else if (id === TABLE) parts.push(section(id, tables(body)))
    else parts.push(module.subarray(from, reader.at))
  }
  return joined(parts)
}

function memories(body: Uint8Array, pages: number): readonly number[] {
  const reader = new Reader(body, 0)
  const count = reader.unsigned()
  if (count > 1) throw new WasmRefused('may have one memory')
  return count === 0 ? [0] : [1, ...limits(reader, pages, 'memory')]
}

function tables(body: Uint8Array): readonly number[] {
  const reader = new Reader(body, 0)
  const count = reader.unsigned()
  if (count > 16) throw new WasmRefused('may have 16 tables')
  const out = [...unsigned(count)]
  for (let at = 0; at < count; at += 1) {
    const kind = reader.byte()
    if (kind !== FUNCTION_REFERENCE && kind !== FOREIGN_REFERENCE) throw new WasmRefused('has a table of a kind that is not taken here')
    out.push(kind, ...limits(reader, TABLE_ELEMENTS, 'table'))
  }
  return out
}

function limits(reader: Reader, most: number, what: string): readonly number[] {
  const flags = reader.byte()
  if (flags > 1) throw new WasmRefused(`has a shared or 64-bit ${what}`)
  const least = reader.unsigned()
  const asked = flags === 1 ? reader.unsigned() : most
  if (least > most) throw new WasmRefused(`wants a ${what} of ${least}; the limit is ${most}`)
  return [1, ...unsigned(least), ...unsigned(Math.min(asked, most))]
}

function section(id: number, body: readonly number[]): Uint8Array {
  return Uint8Array.from([id, ...unsigned(body.length), ...body])
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, { byteLength }) => sum + byteLength, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.byteLength
  }
  return out
}

/** LEB128. */
function unsigned(value: number): readonly number[] {
  const out: number[] = []
  let left = value
  do {
    const byte = left % 128
    left = Math.floor(left / 128)
    out.push(left > 0 ? byte | 0x80 : byte)
  } while (left > 0)
  return out
}

class Reader {
  readonly #bytes: Uint8Array
  at: number

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes
    this.at = at
  }

  get done(): boolean {
    return this.at >= this.#bytes.byteLength
  }

  byte(): number {
    const byte = this.#bytes[this.at]
    if (byte === undefined) throw new WasmRefused('ends in the middle')
    this.at += 1
    return byte
  }

  unsigned(): number {
    let value = 0
    for (let shift = 0; shift < 5; shift += 1) {
      const byte = this.byte()
      value += (byte & 0x7f) * 2 ** (7 * shift)
      if (byte < 0x80) return value
    }
    throw new WasmRefused('has a number that is too long')
  }

  take(length: number): Uint8Array {
    if (this.at + length > this.#bytes.byteLength) throw new WasmRefused('ends in the middle')
    this.at += length
    return this.#bytes.subarray(this.at - length, this.at)
  }
}
