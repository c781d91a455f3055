import { sha256 } from '@noble/hashes/sha2.js'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'
import { z } from 'zod'
import { decode, encode, recordCid, type Schema } from '../protocols/codec.ts'
import { MeshError } from '../protocols/errors.ts'
import { cid as cidSchema, type Cid, type PeerId } from '../protocols/ids.ts'
import type { ContentStore } from '../src/ports.ts'
import type { Kernel, Life } from './kernel.ts'
import type { SimulatedNetwork } from './network.ts'
import type { SeededRandom } from './random.ts'

const LEAF_BYTES = 1_048_576
const RAW = 0x55
const RECORD_BYTES = 8_388_608
/** 200 Mbit/s: what a block costs beside the round trip. */
const BYTES_PER_MS = 25_000
const FETCH_ATTEMPTS = 3

/** A file of more than one leaf is a record of its leaves: the shape of a UnixFS root, in our own codec. */
const fileRoot = z.object({ leaves: z.array(cidSchema), sizes: z.array(z.int().nonnegative()) })
type FileRoot = z.infer<typeof fileRoot>

/** All simulated block stores and who runs them. Blocks survive crashes; fetches cross the simulated links. */
export class ContentWorld {
  readonly #kernel: Kernel
  readonly #network: SimulatedNetwork
  readonly #random: SeededRandom
  readonly #blocks = new Map<PeerId, Map<Cid, Uint8Array>>()

  constructor(kernel: Kernel, network: SimulatedNetwork) {
    this.#kernel = kernel
    this.#network = network
    this.#random = kernel.random.fork('content')
  }

  /** The ContentStore port of one life of a peer. */
  store(peer: PeerId, life: Life): ContentStore {
    return new SimulatedContent(this, peer, life)
  }

  local(peer: PeerId): Map<Cid, Uint8Array> {
    const held = this.#blocks.get(peer) ?? new Map<Cid, Uint8Array>()
    this.#blocks.set(peer, held)
    return held
  }

  /** Copies one block from a reachable holder, verified. Retries a little, then throws CONTENT_UNAVAILABLE. */
  async fetch(peer: PeerId, life: Life, cid: Cid, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const mine = this.local(peer)
    const clock = this.#kernel.clock(life)
    for (let attempt = 0; attempt < FETCH_ATTEMPTS; attempt += 1) {
      signal?.throwIfAborted()
      const held = mine.get(cid)
      if (held !== undefined) return held
      const holders = this.#holders(peer, cid)
      if (holders.length === 0) {
        await clock.sleep(500, signal)
        continue
      }
      const holder = this.#random.pick(holders)
      const bytes = this.local(holder).get(cid)
      const from = this.#network.host(holder)?.index ?? 0
      const to = this.#network.host(peer)?.index ?? 0
      const retransmitted = this.#network.links.lost() ? 200 : 0
      await clock.sleep(this.#network.links.delay(to, from) * 2 + Math.ceil((bytes?.byteLength ?? 0) / BYTES_PER_MS) + retransmitted, signal)
      if (bytes === undefined || !this.#network.reachable(peer, holder)) continue
      verify(cid, bytes)
      mine.set(cid, bytes)
      this.#network.record(from, to, bytes.byteLength)
      return bytes
    }
    throw new MeshError('CONTENT_UNAVAILABLE', `no reachable peer holds ${cid}`)
  }

  holderCount(cid: Cid): number {
    let count = 0
    for (const held of this.#blocks.values()) if (held.has(cid)) count += 1
    return count
  }

  #holders(peer: PeerId, cid: Cid): readonly PeerId[] {
    return [...this.#blocks].filter(([other, held]) => other !== peer && held.has(cid) && this.#network.reachable(peer, other)).map(([other]) => other).sort()
  }
}

class SimulatedContent implements ContentStore {
  readonly #world: ContentWorld
  readonly #peer: PeerId
  readonly #life: Life
  readonly #pins = new Set<Cid>()

  constructor(world: ContentWorld, peer: PeerId, life: Life) {
    this.#world = world
    this.#peer = peer
    this.#life = life
  }

  async add(bytes: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<{ readonly cid: Cid; readonly size: number }> {
    const chunks: Uint8Array[] = []
    for await (const chunk of bytes) {
      signal?.throwIfAborted()
      chunks.push(chunk)
    }
    const whole = concat(chunks)
    const leaves: { readonly cid: Cid; readonly bytes: Uint8Array }[] = []
    for (let at = 0; at === 0 || at < whole.byteLength; at += LEAF_BYTES) {
      const leaf = whole.slice(at, at + LEAF_BYTES)
      leaves.push({ cid: rawCid(leaf), bytes: leaf })
    }
    const held = this.#world.local(this.#peer)
    for (const leaf of leaves) held.set(leaf.cid, leaf.bytes)
    const [only] = leaves
    if (leaves.length === 1 && only !== undefined) return { cid: only.cid, size: whole.byteLength }
    const root: FileRoot = { leaves: leaves.map(leaf => leaf.cid), sizes: leaves.map(leaf => leaf.bytes.byteLength) }
    return { cid: await this.putRecord(root), size: whole.byteLength }
  }

  async *cat(cid: Cid, options: { readonly offset?: number; readonly length?: number; readonly signal?: AbortSignal } = {}): AsyncIterable<Uint8Array> {
    const { offset = 0, length = Infinity, signal } = options
    const root = await this.#world.fetch(this.#peer, this.#life, cid, signal)
    if (isRaw(cid)) {
      const part = root.subarray(offset, Math.min(root.byteLength, offset + length))
      if (part.byteLength > 0) yield part.slice()
      return
    }
    const { leaves, sizes } = decode(fileRoot, root, RECORD_BYTES, `the file ${cid}`)
    let start = 0
    for (const [at, leaf] of leaves.entries()) {
      const size = sizes[at] ?? 0
      const first = Math.max(0, offset - start)
      const end = Math.min(size, offset + length - start)
      if (first < end) yield (await this.#world.fetch(this.#peer, this.#life, leaf, signal)).slice(first, end)
      start += size
    }
  }

  async fetch(cid: Cid, options: { readonly signal?: AbortSignal; readonly from?: readonly PeerId[]; readonly progress?: (progress: { doneBytes: number; totalBytes: number; holders: number }) => void } = {}): Promise<void> {
    const root = await this.#world.fetch(this.#peer, this.#life, cid, options.signal)
    const file = isRaw(cid) ? undefined : asFile(root)
    const totalBytes = file === undefined ? root.byteLength : file.sizes.reduce((sum, size) => sum + size, 0)
    let doneBytes = file === undefined ? totalBytes : 0
    for (const [at, leaf] of (file?.leaves ?? []).entries()) {
      await this.#world.fetch(this.#peer, this.#life, leaf, options.signal)
      doneBytes += file?.sizes[at] ?? 0
      options.progress?.({ doneBytes, totalBytes, holders: this.#world.holderCount(cid) })
    }
    if (file === undefined) options.progress?.({ doneBytes, totalBytes, holders: this.#world.holderCount(cid) })
  }

  async putRecord(value: unknown): Promise<Cid> {
    const bytes = encode(value)
    const cid = recordCid(bytes)
    this.#world.local(this.#peer).set(cid, bytes)
    return cid
  }

  async getRecord<T>(cid: Cid, schema: Schema<T>, signal?: AbortSignal): Promise<T> {
    return decode(schema, await this.#world.fetch(this.#peer, this.#life, cid, signal), RECORD_BYTES, `the record ${cid}`)
  }

  async has(cid: Cid): Promise<boolean> {
    const held = this.#world.local(this.#peer)
    const root = held.get(cid)
    if (root === undefined) return false
    return isRaw(cid) || (asFile(root)?.leaves ?? []).every(leaf => held.has(leaf))
  }

  async pin(cid: Cid): Promise<void> {
    this.#pins.add(cid)
  }

  async unpin(cid: Cid): Promise<void> {
    this.#pins.delete(cid)
  }
}

function rawCid(bytes: Uint8Array): Cid {
  return CID.createV1(RAW, Digest.create(0x12, sha256(bytes))).toString()
}

function isRaw(cid: Cid): boolean {
  return parse(cid).code === RAW
}

function parse(cid: Cid): CID {
  try {
    return CID.parse(cid)
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `${cid} is not a CID`, { cause })
  }
}

function verify(cid: Cid, bytes: Uint8Array): void {
  const found = isRaw(cid) ? rawCid(bytes) : recordCid(bytes)
  if (found !== cid) throw new MeshError('CONTENT_CORRUPT', `a peer served ${found} for ${cid}`)
}

function asFile(bytes: Uint8Array): FileRoot | undefined {
  try {
    return decode(fileRoot, bytes, RECORD_BYTES, 'a file')
  } catch (error) {
    if (error instanceof MeshError) return undefined
    throw error
  }
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0))
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.byteLength
  }
  return out
}
