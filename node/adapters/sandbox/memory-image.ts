import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { deflateRawSync, inflateRawSync } from 'node:zlib'

/** Where an engine was at rest: what it needs besides its memory to go on. */
export type Registers = { readonly stackPointer: number; readonly runtime: number; readonly context: number; readonly host: number }

const PAGE = 1_024
const WORD = 4
const DIGEST = 32
/** Four registers, the size of the memory, the digest of the image it is laid over, how many pages. */
const HEAD = 6 * WORD + DIGEST

/**
 * What of a memory differs from the image that its VM was built with, deflated: `u32le stackPointer | runtime | context | host | bytes |
 * pages | sha-256 of the image | page numbers | pages of 1 KiB`. A VM is built the same everywhere, so the image need not travel.
 */
export function packed(image: Uint8Array, now: Uint8Array, { stackPointer, runtime, context, host }: Registers): Uint8Array {
  const changed: number[] = []
  for (let page = 0; page * PAGE < now.byteLength; page += 1) if (!sameAt(image, now, page)) changed.push(page)
  const out = Buffer.alloc(HEAD + changed.length * (WORD + PAGE))
  for (const [at, word] of [stackPointer, runtime, context, host, now.byteLength, changed.length].entries()) out.writeUInt32LE(word, at * WORD)
  out.set(digestOf(image), 6 * WORD)
  for (const [at, page] of changed.entries()) {
    out.writeUInt32LE(page, HEAD + at * WORD)
    out.set(now.subarray(page * PAGE, (page + 1) * PAGE), HEAD + changed.length * WORD + at * PAGE)
  }
  return deflateRawSync(out, { level: 1 })
}

/** The memory and registers again. Throws an Error that says why not: another engine or rule built the image, the memory is too large, or the bytes are none of ours. */
export function unpacked(image: Uint8Array, state: Uint8Array, mostBytes: number): { readonly memory: Uint8Array; readonly registers: Registers } {
  const bytes = inflateRawSync(state, { maxOutputLength: HEAD + (mostBytes / PAGE + 1) * (WORD + PAGE) })
  if (bytes.byteLength < HEAD) throw new Error('the state is cut short')
  const [stackPointer = 0, runtime = 0, context = 0, host = 0, size = 0, count = 0] = Array.from({ length: 6 }, (_, at) => bytes.readUInt32LE(at * WORD))
  if (!bytes.subarray(6 * WORD, HEAD).equals(digestOf(image))) throw new Error('the state was saved by another version of the rule or of the engine')
  if (size < image.byteLength || size > mostBytes || size % PAGE !== 0 || bytes.byteLength !== HEAD + count * (WORD + PAGE)) throw new Error('the state does not have the size that it says')
  const memory = new Uint8Array(size)
  memory.set(image)
  for (let at = 0; at < count; at += 1) {
    const page = bytes.readUInt32LE(HEAD + at * WORD)
    if ((page + 1) * PAGE > size) throw new Error('the state has pages outside its memory')
    memory.set(bytes.subarray(HEAD + count * WORD + at * PAGE, HEAD + count * WORD + (at + 1) * PAGE), page * PAGE)
  }
  return { memory, registers: { stackPointer, runtime, context, host } }
}

function sameAt(image: Uint8Array, now: Uint8Array, page: number): boolean {
  const from = page * PAGE
  if (from >= image.byteLength) return false
  return Buffer.compare(image.subarray(from, from + PAGE), now.subarray(from, from + PAGE)) === 0
}

function digestOf(image: Uint8Array): Buffer {
  return createHash('sha256').update(image).digest()
}
