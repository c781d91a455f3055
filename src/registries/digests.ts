import { digest } from '../../protocols/codec.ts'
import { assert } from '../lib/assert.ts'
import { BUCKETS } from './record.ts'

const WIDTH = 32

/**
 * One 32-byte digest a bucket: the XOR of its records' payload hashes. Order does not matter and a record leaves the way
 * it came, so a view keeps them up to date without reading itself again.
 */
export class BucketDigests {
  readonly #bytes = new Uint8Array(BUCKETS * WIDTH)
  #all: readonly Uint8Array[] | undefined
  #root: Uint8Array | undefined

  /** Adds the record hash to its bucket, or takes it out again. */
  toggle(bucket: number, hash: Uint8Array): void {
    assert(hash.byteLength === WIDTH, 'record hashes are sha2-256')
    this.#changed()
    const at = bucket * WIDTH
    for (let i = 0; i < WIDTH; i++) this.#bytes[at + i]! ^= hash[i]!
  }

  set(bucket: number, value: Uint8Array): void {
    this.#changed()
    this.#bytes.set(value, bucket * WIDTH)
  }

  clear(): void {
    this.#changed()
    this.#bytes.fill(0)
  }

  of(bucket: number): Uint8Array {
    return this.#bytes.slice(bucket * WIDTH, (bucket + 1) * WIDTH)
  }

  /** The same array as long as nothing has changed. */
  all(): readonly Uint8Array[] {
    if (this.#all !== undefined) return this.#all
    // One copy that all of them share: a large mesh holds very many.
    const copy = this.#bytes.slice()
    this.#all = Array.from({ length: BUCKETS }, (_, bucket) => copy.subarray(bucket * WIDTH, (bucket + 1) * WIDTH))
    return this.#all
  }

  /** sha2-256 of all of them, one after the other. */
  root(): Uint8Array {
    this.#root ??= digest(this.#bytes)
    return this.#root
  }

  /** Buckets in which another view, by its digests, is not the same as this one. */
  differing(theirs: readonly Uint8Array[]): number[] {
    const out: number[] = []
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) if (!this.#agrees(bucket, theirs[bucket])) out.push(bucket)
    return out
  }

  #agrees(bucket: number, theirs: Uint8Array | undefined): boolean {
    if (theirs?.byteLength !== WIDTH) return false
    for (let at = 0; at < WIDTH; at += 1) if (this.#bytes[bucket * WIDTH + at] !== theirs[at]) return false
    return true
  }

  #changed(): void {
    this.#all = undefined
    this.#root = undefined
  }
}
