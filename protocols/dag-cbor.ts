import * as dagCbor from '@ipld/dag-cbor'

/**
 * DAG-CBOR as `@ipld/dag-cbor` writes and reads it, several times sooner for what messages are made of: plain objects,
 * arrays, text, bytes and numbers. Anything else, and anything not canonical, is left to the library, so both accept and
 * refuse the same. A peer spends more time here than anywhere else.
 */
const DEPTH = 64
/** Enough for nearly all messages; grows by doubling for larger ones and shrinks again. */
const SCRATCH_BYTES = 65_536
const SCRATCH_MOST = 16 * 1_048_576
const SHORT_TEXT = 16
/** Names (peer ids, CIDs) are longer than short texts and come again and again: each is one string, soon compared with itself. */
const NAME_TEXT = 64
const KEYS_KEPT = 1_024
const NAMES_KEPT = 8_192

const utf8Encoder = new TextEncoder()
const utf8Decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Thrown to hand the whole value over to the library; never leaves this file. */
const UNUSUAL = Symbol('unusual')

let scratch = new Uint8Array(SCRATCH_BYTES)
let scratchView = new DataView(scratch.buffer)
let end = 0
let busy = false

/** What `dagCbor.encode` gives, or undefined where it must be asked. Fields that are `undefined` are left out. */
export function encodePlain(value: unknown): Uint8Array | undefined {
  // A getter that encodes something itself must not write into what is being written.
  if (busy) return undefined
  busy = true
  end = 0
  try {
    write(value, 0)
    return scratch.slice(0, end)
  } catch (error) {
    if (error !== UNUSUAL) throw error
    return undefined
  } finally {
    busy = false
    if (scratch.byteLength > SCRATCH_BYTES) replaceScratch(SCRATCH_BYTES)
  }
}

function replaceScratch(bytes: number): void {
  scratch = new Uint8Array(bytes)
  scratchView = new DataView(scratch.buffer)
}

function room(bytes: number): void {
  if (end + bytes <= scratch.byteLength) return
  const kept = scratch.subarray(0, end)
  const wanted = Math.max(scratch.byteLength * 2, end + bytes)
  if (wanted > SCRATCH_MOST) throw UNUSUAL
  replaceScratch(wanted)
  scratch.set(kept)
}

function write(value: unknown, depth: number): void {
  if (depth > DEPTH) throw UNUSUAL
  switch (typeof value) {
    case 'string':
      writeText(value)
      return
    case 'number':
      writeNumber(value)
      return
    case 'boolean':
      room(1)
      scratch[end++] = value ? 0xf5 : 0xf4
      return
    case 'object':
      if (value === null) {
        room(1)
        scratch[end++] = 0xf6
      } else if (Array.isArray(value)) {
        writeHead(4, value.length)
        for (let at = 0; at < value.length; at += 1) write(value[at], depth + 1)
      } else if (value instanceof Uint8Array) {
        if (value.constructor !== Uint8Array) throw UNUSUAL
        writeHead(2, value.byteLength)
        room(value.byteLength)
        scratch.set(value, end)
        end += value.byteLength
      } else writeMap(value, depth)
      return
    default:
      throw UNUSUAL
  }
}

function isPlain(value: object): value is Readonly<Record<string, unknown>> {
  return Object.getPrototypeOf(value) === Object.prototype
}

function writeMap(map: object, depth: number): void {
  if (!isPlain(map)) throw UNUSUAL
  const keys = Object.keys(map)
  let count = 0
  for (const key of keys) {
    if (map[key] === undefined) continue
    // What could stand for a link.
    if (key === '/' || key === 'asCID') throw UNUSUAL
    // Canonical order, the shorter first, by insertion: keys are few, and often in order already.
    let at = count
    while (at > 0 && follows(keys[at - 1]!, key)) {
      keys[at] = keys[at - 1]!
      at -= 1
    }
    keys[at] = key
    count += 1
  }
  writeHead(5, count)
  for (let at = 0; at < count; at += 1) {
    const key = keys[at]!
    writeKey(key)
    write(map[key], depth + 1)
  }
}

function follows(a: string, b: string): boolean {
  return a.length === b.length ? a > b : a.length > b.length
}

function writeKey(key: string): void {
  writeHead(3, key.length)
  room(key.length)
  for (let at = 0; at < key.length; at += 1) {
    const code = key.charCodeAt(at)
    // Beyond ASCII the order of units is not the order of bytes.
    if (code > 0x7f) throw UNUSUAL
    scratch[end++] = code
  }
}

function writeText(text: string): void {
  if (text.length <= SHORT_TEXT) {
    const start = end
    writeHead(3, text.length)
    room(text.length)
    let at = 0
    for (; at < text.length; at += 1) {
      const code = text.charCodeAt(at)
      if (code > 0x7f) break
      scratch[end++] = code
    }
    if (at === text.length) return
    end = start
  }
  if (!text.isWellFormed()) throw UNUSUAL
  room(text.length * 3 + 5)
  // The head takes as many bytes as the length needs: the text is written where it would begin were it all ASCII.
  const start = end
  writeHead(3, text.length)
  const head = end - start
  const { written } = utf8Encoder.encodeInto(text, scratch.subarray(end))
  if (written === text.length) {
    end += written
    return
  }
  const needed = written < 24 ? 1 : written < 0x100 ? 2 : written < 0x1_0000 ? 3 : 5
  if (needed !== head) scratch.copyWithin(start + needed, start + head, start + head + written)
  end = start
  writeHead(3, written)
  end += written
}

function writeNumber(value: number): void {
  if (Number.isSafeInteger(value)) {
    if (value > 0 || Object.is(value, 0)) writeHead(0, value)
    else if (value < 0) writeHead(1, -1 - value)
    else throw UNUSUAL
    return
  }
  if (!Number.isFinite(value) || Number.isInteger(value)) throw UNUSUAL
  room(9)
  scratch[end++] = 0xfb
  scratchView.setFloat64(end, value)
  end += 8
}

function writeHead(major: number, value: number): void {
  room(9)
  const top = major << 5
  if (value < 24) scratch[end++] = top | value
  else if (value < 0x100) {
    scratch[end++] = top | 24
    scratch[end++] = value
  } else if (value < 0x1_0000) {
    scratch[end++] = top | 25
    scratchView.setUint16(end, value)
    end += 2
  } else if (value < 0x1_0000_0000) {
    scratch[end++] = top | 26
    scratchView.setUint32(end, value)
    end += 4
  } else {
    scratch[end++] = top | 27
    scratchView.setUint32(end, Math.floor(value / 0x1_0000_0000))
    scratchView.setUint32(end + 4, value % 0x1_0000_0000)
    end += 8
  }
}

/** What `dagCbor.decode` gives. Throws as it does. */
export function decodeAny(bytes: Uint8Array): unknown {
  const reader = new Reader(bytes)
  try {
    const value = reader.read(0)
    if (reader.at === bytes.byteLength) return value
  } catch (error) {
    if (error !== UNUSUAL) throw error
  }
  return dagCbor.decode(bytes)
}

type Kept = ({ readonly bytes: Uint8Array; readonly text: string } | undefined)[]

/** Keys seen before, by their bytes: the same few hundred come in every message. Names, likewise. */
const keysKept: Kept = Array.from({ length: KEYS_KEPT }, () => undefined)
const namesKept: Kept = Array.from({ length: NAMES_KEPT }, () => undefined)

class Reader {
  at = 0
  readonly #bytes: Uint8Array
  #view: DataView | undefined

  constructor(bytes: Uint8Array) {
    // `slice` of a Node buffer is a view of it; of a plain array it is a copy.
    this.#bytes = bytes.constructor === Uint8Array ? bytes : new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  read(depth: number): unknown {
    const head = this.#bytes[this.at]
    if (head === undefined || depth > DEPTH) throw UNUSUAL
    switch (head >>> 5) {
      case 0:
        return this.#length()
      case 1:
        return -1 - this.#length()
      case 2: {
        const start = this.#span()
        return this.#bytes.slice(start, this.at)
      }
      case 3:
        return this.#text(this.#span())
      case 4: {
        const size = this.#length()
        // Each item takes a byte at least: nobody makes us allocate for what he did not send.
        if (size > this.#bytes.byteLength - this.at) throw UNUSUAL
        const items: unknown[] = []
        for (let index = 0; index < size; index += 1) items.push(this.read(depth + 1))
        return items
      }
      case 5:
        return this.#map(depth)
      default:
        return this.#simple(head)
    }
  }

  #simple(head: number): unknown {
    this.at += 1
    if (head === 0xf4) return false
    if (head === 0xf5) return true
    if (head === 0xf6) return null
    if (head !== 0xfb || this.at + 8 > this.#bytes.byteLength) throw UNUSUAL
    this.#view ??= new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.byteLength)
    const value = this.#view.getFloat64(this.at)
    if (!Number.isFinite(value) || Number.isInteger(value)) throw UNUSUAL
    this.at += 8
    return value
  }

  #map(depth: number): unknown {
    const size = this.#length()
    if (size > this.#bytes.byteLength - this.at) throw UNUSUAL
    const map: Record<string, unknown> = {}
    let previous: string | undefined
    for (let index = 0; index < size; index += 1) {
      if ((this.#bytes[this.at] ?? 0) >>> 5 !== 3) throw UNUSUAL
      const key = this.#key(this.#span())
      // Out of order or twice is for the library to judge; `__proto__` would set the prototype; `/` may mean a link.
      if ((previous !== undefined && !follows(key, previous)) || key === '__proto__') throw UNUSUAL
      previous = key
      map[key] = this.read(depth + 1)
    }
    return map
  }

  /** Reads a head; its value must be in the shortest form. */
  #length(): number {
    const bytes = this.#bytes
    const low = bytes[this.at]! & 0x1f
    this.at += 1
    if (low < 24) return low
    const width = low === 24 ? 1 : low === 25 ? 2 : low === 26 ? 4 : low === 27 ? 8 : 0
    if (width === 0 || this.at + width > bytes.byteLength) throw UNUSUAL
    let value = 0
    for (let index = 0; index < width; index += 1) value = value * 256 + bytes[this.at + index]!
    this.at += width
    if (value < (width === 1 ? 24 : width === 2 ? 0x100 : width === 4 ? 0x1_0000 : 0x1_0000_0000) || value >= Number.MAX_SAFE_INTEGER) throw UNUSUAL
    return value
  }

  /** Reads the head of bytes or text and steps over them; returns where they begin. */
  #span(): number {
    const length = this.#length()
    const start = this.at
    if (start + length > this.#bytes.byteLength) throw UNUSUAL
    this.at += length
    return start
  }

  #key(start: number): string {
    const key = this.#kept(start, keysKept)
    if (key === undefined) throw UNUSUAL
    return key
  }

  /** The same string each time the same bytes come; undefined for what is not all ASCII. */
  #kept(start: number, table: Kept): string | undefined {
    const bytes = this.#bytes
    const length = this.at - start
    let hash = length
    for (let index = start; index < this.at; index += 1) {
      const code = bytes[index]!
      if (code > 0x7f) return undefined
      hash = (Math.imul(hash, 31) + code) | 0
    }
    const slot = (hash >>> 0) % table.length
    const kept = table[slot]
    if (kept !== undefined && kept.bytes.byteLength === length) {
      let index = 0
      while (index < length && kept.bytes[index] === bytes[start + index]) index += 1
      if (index === length) return kept.text
    }
    const text = this.#decoded(start)
    if (length <= NAME_TEXT) table[slot] = { bytes: bytes.slice(start, this.at), text }
    return text
  }

  #text(start: number): string {
    const bytes = this.#bytes
    if (this.at - start <= SHORT_TEXT) {
      let text = ''
      let index = start
      for (; index < this.at; index += 1) {
        const code = bytes[index]!
        if (code > 0x7f) break
        text += String.fromCharCode(code)
      }
      if (index === this.at) return text
    }
    return (this.at - start <= NAME_TEXT ? this.#kept(start, namesKept) : undefined) ?? this.#decoded(start)
  }

  #decoded(start: number): string {
    try {
      return utf8Decoder.decode(this.#bytes.subarray(start, this.at))
    } catch {
      throw UNUSUAL
    }
  }
}
