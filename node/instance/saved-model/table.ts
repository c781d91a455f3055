import { crc32c, masked } from './checksum.ts'
import { broken } from './failure.ts'

const FOOTER = 48
const MAGIC = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb]
const MAX_ENTRIES = 1_000_000
const TEXT = new TextDecoder()

/**
 * All entries of a LevelDB table (github.com/google/leveldb/blob/main/doc/table_format.md), which is what
 * `variables.index` is. Throws COMPONENT_ERROR for damaged or compressed ones: TensorFlow writes none compressed.
 */
export function readTable(file: Uint8Array): ReadonlyMap<string, Uint8Array> {
  if (file.length < FOOTER || MAGIC.some((byte, index) => file[file.length - 8 + index] !== byte)) throw broken('variables.index is no table of variables')
  const footer = new Cursor(file.subarray(file.length - FOOTER))
  footer.handle()
  const index = footer.handle()
  const entries = new Map<string, Uint8Array>()
  for (const [, value] of blockEntries(block(file, index))) {
    for (const [key, found] of blockEntries(block(file, new Cursor(value).handle()))) {
      entries.set(TEXT.decode(key), found)
      if (entries.size > MAX_ENTRIES) throw broken(`variables.index has more than ${MAX_ENTRIES} entries`)
    }
  }
  return entries
}

type Handle = { readonly offset: number; readonly size: number }

function block(file: Uint8Array, { offset, size }: Handle): Uint8Array {
  if (offset + size + 5 > file.length) throw broken('variables.index ends too early')
  const type = file[offset + size]
  if (type !== 0) throw broken(`a block of variables.index is compressed (type ${type}); save the model again with a current TensorFlow`)
  const stored = new DataView(file.buffer, file.byteOffset + offset + size + 1, 4).getUint32(0, true)
  if (masked(crc32c(file.subarray(offset, offset + size + 1))) !== stored) throw broken('a block of variables.index does not match its checksum')
  return file.subarray(offset, offset + size)
}

/** Keys share their beginning with the key before; the restart points that end a block only serve searches. */
function* blockEntries(bytes: Uint8Array): Generator<readonly [Uint8Array, Uint8Array]> {
  if (bytes.length < 4) throw broken('a block of variables.index is too short')
  const restarts = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4, 4).getUint32(0, true)
  const end = bytes.length - 4 - restarts * 4
  if (end < 0) throw broken('a block of variables.index is too short')
  const cursor = new Cursor(bytes.subarray(0, end))
  let key: Uint8Array = new Uint8Array(0)
  while (!cursor.done) {
    const shared = cursor.number()
    const rest = cursor.number()
    const size = cursor.number()
    if (shared > key.length || shared + rest > 65_536) throw broken('a key of variables.index')
    const next = new Uint8Array(shared + rest)
    next.set(key.subarray(0, shared))
    next.set(cursor.take(rest), shared)
    key = next
    yield [key, cursor.take(size)]
  }
}

class Cursor {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length
  }

  number(): number {
    let value = 0
    for (let count = 0; count < 7; count++) {
      const byte = this.take(1)[0]!
      value += (byte & 127) * 2 ** (7 * count)
      if (byte < 128) return value
    }
    throw broken('a number in variables.index is too large')
  }

  handle(): Handle {
    return { offset: this.number(), size: this.number() }
  }

  take(size: number): Uint8Array {
    if (this.#at + size > this.#bytes.length) throw broken('variables.index ends within an entry')
    this.#at += size
    return this.#bytes.subarray(this.#at - size, this.#at)
  }
}
