import { MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import { readU32, type Frame } from '../../../protocols/mux.ts'

/** Messages under assembly, all calls of one peer together. */
const ASSEMBLY_BYTES = 67_108_864

type Parts = { readonly kind: Frame['kind']; readonly whole: Uint8Array; filled: number }

/** Puts messages together that came in parts, within a bound for the whole peer. */
export class Assembly {
  readonly #peer: PeerId
  readonly #parts = new Map<number, Parts>()
  #bytes = 0

  constructor(peer: PeerId) {
    this.#peer = peer
  }

  /** The first part, which says how long the whole is. Throws MESSAGE_INVALID (hostile) or OVERLOADED (this call only). */
  begin(frame: Frame, limit: number): void {
    const total = readU32(frame.payload, 0)
    const first = frame.payload.subarray(4)
    if (total > limit || first.byteLength >= total || this.#parts.has(frame.call)) throw new MeshError('MESSAGE_INVALID', `${this.#peer} sends a message of ${total} bytes where ${limit} are allowed`)
    if (this.#bytes + total > ASSEMBLY_BYTES) throw new MeshError('OVERLOADED', 'too many large messages at once')
    const parts = { kind: frame.kind, whole: Buffer.allocUnsafeSlow(total), filled: first.byteLength }
    parts.whole.set(first, 0)
    this.#bytes += total
    this.#parts.set(frame.call, parts)
  }

  /** One more part; the message once it is whole. Parts of a call that was given up are dropped. Throws MESSAGE_INVALID. */
  add({ call, more, payload }: Frame): { readonly kind: Frame['kind']; readonly whole: Uint8Array } | undefined {
    const parts = this.#parts.get(call)
    if (parts === undefined) return undefined
    const { whole } = parts
    if (parts.filled + payload.byteLength > whole.byteLength || more === (parts.filled + payload.byteLength === whole.byteLength)) throw new MeshError('MESSAGE_INVALID', `${this.#peer} sent parts that do not make the message it began`)
    whole.set(payload, parts.filled)
    parts.filled += payload.byteLength
    if (more) return undefined
    this.drop(call)
    return parts
  }

  drop(call: number): void {
    const parts = this.#parts.get(call)
    if (parts === undefined) return
    this.#parts.delete(call)
    this.#bytes -= parts.whole.byteLength
  }

  clear(): void {
    this.#parts.clear()
    this.#bytes = 0
  }
}
