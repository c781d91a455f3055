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

  /** Adds the record hash to its bucket, or takes it out again. */
  toggle(bucket: number, hash: Uint8Array): void {
    assert(hash.byteLength === WIDTH, 'record hashes are sha2-256')
    this.#all = undefined
    const at = bucket * WIDTH
    for (let i = 0; i < WIDTH; i++) this.#bytes[at + i]! ^= hash[i]!
  }

  set(bucket: number, digest: Uint8Array): void {
    this.#all = undefined
    this.#bytes.set(digest, bucket * WIDTH)
  }

  clear(): void {
    this.#all = undefined
    this.#bytes.fill(0)
  }

  of(bucket: number): Uint8Array {
    return this.#bytes.slice(bucket * WIDTH, (bucket + 1) * WIDTH)
  }

  /** The same array as long as nothing has changed. */
  all(): readonly Uint8Array[] {
    this.#all ??= Array.from({ length: BUCKETS }, (_, bucket) => this.of(bucket))
    return this.#all
  }

  /** Buckets in which another view, by its digests, is not the same as this one. */
  differing(theirs: readonly Uint8Array[]): number[] {
    const out: number[] = []
    for (const [bucket, ours] of this.all().entries()) if (!equal(ours, theirs[bucket])) out.push(bucket)
    return out
  }
}

function equal(a: Uint8Array, b: Uint8Array | undefined): boolean {
  if (a.byteLength !== b?.byteLength) return false
  for (let i = 0; i < a.byteLength; i++) if (a[i] !== b[i]) return false
  return true
}
