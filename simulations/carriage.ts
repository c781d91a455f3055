import { decode, encode, type ProtocolId, type Schema } from '../protocols/codec.ts'
import { MeshError } from '../protocols/errors.ts'
import { sameBytes } from '../src/lib/same-bytes.ts'
import { hashBytes } from './identity.ts'
import { hash32 } from './random.ts'

/** What is on its way: a value, and where it is one of the sample the bytes that are decoded on arrival. */
export type Carried = { readonly value: unknown; readonly bytes: Uint8Array | undefined; readonly hash: number }

/** So many of each kind are real before any is carried by reference. */
const FIRST = 4

type Kind = { readonly hash: number; carried: number; always: boolean }

/**
 * Carries what one peer sends another: one in `every` as real bytes, measured, decoded and checked; the others by
 * reference, of which as many are frozen so that nobody changes what another holds. A kind whose bytes say anything else
 * than the value they were made of (defaults, fields left out) is always carried as bytes.
 */
export class Carriage {
  readonly #every: number
  readonly #offset: number
  /** By `what`, then by protocol. */
  readonly #kinds = new Map<string, Map<ProtocolId, Kind>>()

  constructor(every: number, seed: number) {
    this.#every = every
    this.#offset = seed % every
  }

  /** Throws MESSAGE_TOO_LARGE for one of the sample. `what`: as in "a request of". */
  load(what: string, id: ProtocolId, value: unknown, limitBytes: number): Carried {
    const kind = this.#kind(what, id)
    const turn = (kind.carried += 1) % this.#every
    if (turn === this.#offset || kind.carried <= FIRST || kind.always) {
      const bytes = encode(value)
      if (bytes.byteLength > limitBytes) throw new MeshError('MESSAGE_TOO_LARGE', `${what} ${id} is ${bytes.byteLength} bytes; the limit is ${limitBytes}`)
      return { value, bytes, hash: hashBytes(bytes, 2) }
    }
    return { value: turn === (this.#offset + 1) % this.#every ? freeze(value) : value, bytes: undefined, hash: kind.hash }
  }

  /** Throws MESSAGE_INVALID for one of the sample. */
  unload<T>(what: string, id: ProtocolId, { value, bytes }: Carried, schema: Schema<T>, limitBytes: number): T {
    // What is sent under an id is what its schema describes: the sample shows it.
    if (bytes === undefined) return value as T
    const decoded = decode(schema, bytes, limitBytes, `${what} ${id}`)
    if (this.#every > 1 && !sameBytes(encode(decoded), bytes)) this.#kind(what, id).always = true
    return decoded
  }

  #kind(what: string, id: ProtocolId): Kind {
    let kinds = this.#kinds.get(what)
    if (kinds === undefined) this.#kinds.set(what, kinds = new Map<ProtocolId, Kind>())
    const known = kinds.get(id)
    if (known !== undefined) return known
    const made: Kind = { hash: hash32(`${what} ${id}`, 2), carried: 0, always: this.#every === 1 }
    kinds.set(id, made)
    return made
  }
}

/** Whoever holds the value shares it with others, so none of them may change it. */
export function freeze<T>(value: T): T {
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value) || Object.isFrozen(value)) return value
  Object.freeze(value)
  for (const inner of Object.values(value)) freeze(inner)
  return value
}
