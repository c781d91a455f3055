import { open, readFile, stat, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32c, masked } from './checksum.ts'
import { broken, unsupported } from './failure.ts'
import { readShape } from './messages.ts'
import { readTable } from './table.ts'
import { count, storedAs, textWeight, weightOf, type Weight } from './weight.ts'
import { WireReader } from './wire.ts'

type Entry = { readonly type: number; readonly shape: readonly number[]; readonly shard: number; readonly offset: number; readonly size: number; readonly crc: number; readonly sliced: boolean }

const INDEX_BYTES = 268_435_456
const MAX_SHARDS = 10_000

/** The variables of a SavedModel (TensorFlow's tensor bundle: tensor_bundle.proto), read from disk one by one as they are asked for. */
export class Bundle implements AsyncDisposable {
  readonly #folder: string
  readonly #entries: ReadonlyMap<string, Uint8Array>
  readonly #shards: number
  readonly #open = new Map<number, { readonly file: FileHandle; readonly size: number }>()

  private constructor(folder: string, entries: ReadonlyMap<string, Uint8Array>, shards: number) {
    this.#folder = folder
    this.#entries = entries
    this.#shards = shards
  }

  /** `folder` is the `variables` folder; undefined when it is not there. Throws COMPONENT_ERROR. */
  static async open(folder: string): Promise<Bundle | undefined> {
    const path = join(folder, 'variables.index')
    const size = await sizeOf(path)
    if (size === undefined) return undefined
    if (size > INDEX_BYTES) throw broken(`variables.index has ${size} bytes; the limit is ${INDEX_BYTES}`)
    const entries = readTable(new Uint8Array(await readFile(path)))
    const header = entries.get('')
    if (header === undefined) throw broken('variables.index has no header')
    let shards = 0
    let endian = 0
    const wire = new WireReader(header)
    while (wire.next()) {
      if (wire.field === 1) shards = wire.integer()
      else if (wire.field === 2) endian = wire.integer()
    }
    if (endian !== 0) throw unsupported('its variables were written by a big-endian machine')
    if (shards < 1 || shards > MAX_SHARDS) throw broken(`variables.index speaks of ${shards} data files`)
    return new Bundle(folder, entries, shards)
  }

  has(key: string): boolean {
    return key !== '' && this.#entries.has(key)
  }

  /** Throws COMPONENT_ERROR when the variable is missing, or its bytes are not what the index says. */
  async read(key: string): Promise<Weight> {
    const found = key === '' ? undefined : this.#entries.get(key)
    if (found === undefined) throw broken(`variables.index has no "${key}"`)
    const entry = readEntry(key, found)
    if (entry.sliced) throw unsupported(`its variable "${key}" is saved in slices; save the model without partitioned variables`)
    const stored = storedAs(entry.type)
    const elements = count(entry.shape)
    if (stored.as !== 'string' && entry.size !== elements * stored.bytes) throw broken(`the variable "${key}" should have ${elements * stored.bytes} bytes and has ${entry.size}`)
    const { file, size } = await this.#shard(entry.shard)
    const name = shardName(entry.shard, this.#shards)
    if (entry.offset < 0 || entry.size < 0 || entry.offset + entry.size > size) throw broken(`${name} ends before the variable "${key}" does`)
    const bytes = new Uint8Array(entry.size)
    let done = 0
    while (done < entry.size) {
      const { bytesRead } = await file.read(bytes, done, entry.size - done, entry.offset + done)
      if (bytesRead === 0) throw broken(`${name} ends before the variable "${key}" does`)
      done += bytesRead
    }
    // A text's checksum is not over the bytes as they lie in the file.
    if (stored.as === 'string') return textWeight(entry.shape, readTexts(key, elements, bytes))
    if (masked(crc32c(bytes)) !== entry.crc) throw broken(`the variable "${key}" in ${name} does not match its checksum`)
    return weightOf(entry.type, entry.shape, bytes)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { file } of this.#open.values()) await file.close()
    this.#open.clear()
  }

  async #shard(shard: number): Promise<{ readonly file: FileHandle; readonly size: number }> {
    const known = this.#open.get(shard)
    if (known !== undefined) return known
    const name = shardName(shard, this.#shards)
    const size = shard < 0 || shard >= this.#shards ? undefined : await sizeOf(join(this.#folder, name))
    if (size === undefined) throw broken(`variables/${name} is missing: publish the whole folder that TensorFlow wrote`)
    const opened = { file: await open(join(this.#folder, name)), size }
    this.#open.set(shard, opened)
    return opened
  }
}

function shardName(shard: number, shards: number): string {
  return `variables.data-${String(shard).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}`
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size
  } catch {
    return undefined
  }
}

function readEntry(key: string, bytes: Uint8Array): Entry {
  const entry = { type: 0, shape: new Array<number>(), shard: 0, offset: 0, size: 0, crc: 0, sliced: false }
  const wire = new WireReader(bytes)
  while (wire.next()) {
    switch (wire.field) {
      case 1: entry.type = wire.integer(); break
      case 2: {
        const shape = readShape(wire.bytes())
        if (shape === undefined) throw broken(`the variable "${key}" has no shape`)
        entry.shape = [...shape]
        break
      }
      case 3: entry.shard = wire.integer(); break
      case 4: entry.offset = wire.integer(); break
      case 5: entry.size = wire.integer(); break
      case 6: entry.crc = wire.fixed32(); break
      case 7: entry.sliced = true; break
    }
  }
  return entry
}

/** All lengths first, their checksum, then all texts. */
function readTexts(key: string, elements: number, bytes: Uint8Array): readonly Uint8Array[] {
  if (elements > bytes.length) throw broken(`the texts of the variable "${key}"`)
  let at = 0
  const lengths: number[] = []
  for (let index = 0; index < elements; index++) {
    let length = 0
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++]
      if (byte === undefined || shift > 35) throw broken(`the texts of the variable "${key}"`)
      length += (byte & 127) * 2 ** shift
      if (byte < 128) break
    }
    lengths.push(length)
  }
  at += 4
  return lengths.map(length => {
    at += length
    if (at > bytes.length) throw broken(`the texts of the variable "${key}"`)
    return bytes.subarray(at - length, at)
  })
}
