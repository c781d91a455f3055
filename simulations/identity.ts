import { decode, encode } from '../protocols/codec.ts'
import { peerId, type PeerId } from '../protocols/ids.ts'
import type { Identity } from '../src/ports.ts'
import type { SeededRandom } from './random.ts'

const ALPHABET = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
const SIGNATURE_BYTES = 16
const SECRET_BYTES = 16

/**
 * Holds every simulated peer's secret. A signature is a keyed hash: quick, synchronous, and out of reach of the other
 * peers because only this ring can look a secret up. It resists no cryptanalyst; the real keys are node/'s.
 */
export class KeyRing {
  readonly #secrets = new Map<PeerId, Uint8Array>()

  /** A new key, drawn from `random`. */
  create(random: SeededRandom): { readonly peer: PeerId; readonly secret: Uint8Array } {
    const secret = random.bytes(SECRET_BYTES)
    let name = ''
    for (let at = 0; at < 44; at += 1) name += random.pick([...ALPHABET])
    // As it will be read from messages: one string for one peer.
    const peer = decode(peerId, encode(`12D3KooW${name}`), 64, 'a peer id')
    this.#secrets.set(peer, secret)
    return { peer, secret }
  }

  /** The Identity port of the peer that owns `secret`. */
  identity(peer: PeerId, secret: Uint8Array, random: SeededRandom): Identity {
    return {
      peer,
      sign: bytes => mac(secret, bytes),
      signWith: mac,
      verify: (signer, bytes, signature) => {
        const known = this.#secrets.get(signer)
        return known !== undefined && same(mac(known, bytes), signature)
      },
      mint: () => {
        const made = this.create(random)
        return { peer: made.peer, privateKey: made.secret }
      },
    }
  }
}

/** A 32-bit hash of bytes, four at a time (MurmurHash3's round). For fingerprints and keyed hashes. */
export function hashBytes(bytes: Uint8Array, seed: number): number {
  let state = seed | 0
  const whole = bytes.byteLength & ~3
  for (let at = 0; at < whole; at += 4) {
    let word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
    word = Math.imul(word, 0xcc9e2d51)
    word = (word << 15) | (word >>> 17)
    state ^= Math.imul(word, 0x1b873593)
    state = (state << 13) | (state >>> 19)
    state = (Math.imul(state, 5) + 0xe6546b64) | 0
  }
  for (let at = whole; at < bytes.byteLength; at += 1) state = Math.imul(state ^ bytes[at]!, 0x01000193)
  state ^= bytes.byteLength
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
  return (state ^ (state >>> 16)) >>> 0
}

function mac(secret: Uint8Array, bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(SIGNATURE_BYTES)
  const view = new DataView(out.buffer)
  const key = hashBytes(secret, 0x5bd1e995)
  for (let lane = 0; lane < 2; lane += 1) {
    const word = hashBytes(bytes, key ^ Math.imul(lane + 1, 0x9e3779b9))
    view.setUint32(lane * 8, word)
    view.setUint32(lane * 8 + 4, hashBytes(secret, word))
  }
  return out
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, at) => byte === b[at])
}
