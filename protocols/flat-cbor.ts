import * as dagCbor from '@ipld/dag-cbor'

/**
 * DAG-CBOR for small headers: maps of text to text, counting numbers, booleans, bytes-free and not deep. The same bytes as
 * the library, several times sooner; whatever is not that simple, and whatever is not canonical, goes to the library.
 */
const DEPTH = 4
const HEADER_BYTES = 2_048

const MAJOR_UINT = 0
const MAJOR_TEXT = 3
const MAJOR_MAP = 5
const FALSE = 0xf4
const TRUE = 0xf5

const scratch = new Uint8Array(HEADER_BYTES)

/** What `dagCbor.encode` gives; `undefined` fields are left out. */
export function encodeFlat(value: Readonly<Record<string, unknown>>): Uint8Array {
  const end = writeMap(value, 0, 0)
  return end < 0 ? dagCbor.encode(defined(value)) : scratch.slice(0, end)
}

/** What `dagCbor.decode` gives. Throws as it does. */
export function decodeFlat(bytes: Uint8Array): unknown {
  const reader = { at: 0, failed: false }
  const value = readValue(bytes, reader, 0)
  return reader.failed || reader.at !== bytes.byteLength ? dagCbor.decode(bytes) : value
}

function defined(value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined).map(([key, inner]) => [key, isPlain(inner) ? defined(inner) : inner]))
}

function isPlain(value: unknown): value is Readonly<Record<string, unknown>> {
  return value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype
}

/** Canonical order: the shorter key first, then by its bytes. */
function before(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : 1)
}

/** Where it ends, or -1 when the library must do it. */
function writeMap(value: Readonly<Record<string, unknown>>, start: number, depth: number): number {
  if (depth >= DEPTH) return -1
  const keys: string[] = []
  for (const key in value) if (value[key] !== undefined) keys.push(key)
  let at = writeHead(MAJOR_MAP, keys.length, start)
  for (const key of keys.sort(before)) {
    if (at < 0) return -1
    const inner = value[key]
    at = writeText(key, at)
    if (at < 0) return -1
    if (typeof inner === 'string') at = writeText(inner, at)
    else if (typeof inner === 'number') at = Number.isSafeInteger(inner) && inner >= 0 && inner <= 0xffff_ffff && !Object.is(inner, -0) ? writeHead(MAJOR_UINT, inner, at) : -1
    else if (typeof inner === 'boolean') {
      scratch[at] = inner ? TRUE : FALSE
      at += 1
    } else at = isPlain(inner) ? writeMap(inner, at, depth + 1) : -1
  }
  return at
}

function writeHead(major: number, value: number, start: number): number {
  if (start + 5 > HEADER_BYTES) return -1
  let at = start
  if (value < 24) scratch[at++] = (major << 5) | value
  else if (value < 0x100) {
    scratch[at++] = (major << 5) | 24
    scratch[at++] = value
  } else if (value < 0x1_0000) {
    scratch[at++] = (major << 5) | 25
    scratch[at++] = value >>> 8
    scratch[at++] = value & 0xff
  } else {
    scratch[at++] = (major << 5) | 26
    scratch[at++] = value >>> 24
    scratch[at++] = (value >>> 16) & 0xff
    scratch[at++] = (value >>> 8) & 0xff
    scratch[at++] = value & 0xff
  }
  return at
}

function writeText(text: string, start: number): number {
  let at = writeHead(MAJOR_TEXT, text.length, start)
  if (at < 0 || at + text.length > HEADER_BYTES - 5) return -1
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index)
    if (code > 0x7f) return -1
    scratch[at++] = code
  }
  return at
}

type Reader = { at: number; failed: boolean }

function readValue(bytes: Uint8Array, reader: Reader, depth: number): unknown {
  const head = bytes[reader.at]
  if (head === FALSE || head === TRUE) {
    reader.at += 1
    return head === TRUE
  }
  const major = head === undefined ? -1 : head >>> 5
  if (major === MAJOR_UINT) return readLength(bytes, reader)
  if (major === MAJOR_TEXT) return readText(bytes, reader)
  if (major !== MAJOR_MAP || depth >= DEPTH) return fail(reader)
  const size = readLength(bytes, reader)
  const map: Record<string, unknown> = {}
  let previous: string | undefined
  for (let index = 0; index < size && !reader.failed; index += 1) {
    if ((bytes[reader.at] ?? 0) >>> 5 !== MAJOR_TEXT) return fail(reader)
    const key = readText(bytes, reader)
    // Out of order or twice: the library decides. `__proto__` is no field of any header.
    if ((previous !== undefined && before(previous, key) >= 0) || previous === key || key === '__proto__') return fail(reader)
    previous = key
    map[key] = readValue(bytes, reader, depth + 1)
  }
  return map
}

function readLength(bytes: Uint8Array, reader: Reader): number {
  const low = bytes[reader.at]! & 0x1f
  reader.at += 1
  if (low < 24) return low
  const width = low === 24 ? 1 : low === 25 ? 2 : low === 26 ? 4 : 0
  if (width === 0 || reader.at + width > bytes.byteLength) {
    fail(reader)
    return 0
  }
  let value = 0
  for (let index = 0; index < width; index += 1) value = value * 256 + bytes[reader.at + index]!
  reader.at += width
  // A longer form than needed is not canonical.
  if (value < (width === 1 ? 24 : width === 2 ? 0x100 : 0x1_0000)) fail(reader)
  return value
}

function readText(bytes: Uint8Array, reader: Reader): string {
  const length = readLength(bytes, reader)
  const end = reader.at + length
  if (reader.failed || end > bytes.byteLength) {
    fail(reader)
    return ''
  }
  let text = ''
  for (let at = reader.at; at < end; at += 1) {
    const code = bytes[at]!
    if (code > 0x7f) {
      fail(reader)
      return ''
    }
    text += String.fromCharCode(code)
  }
  reader.at = end
  return text
}

function fail(reader: Reader): undefined {
  reader.failed = true
  return undefined
}
