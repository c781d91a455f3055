import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, sign, verify, type KeyObject } from 'node:crypto'
import { chmodSync, closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { base58btc } from 'multiformats/bases/base58'
import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { Lru } from '../../src/lib/lru.ts'
import type { Identity } from '../../src/ports.ts'

const SEED_BYTES = 32
const SIGNATURE_BYTES = 64
const KNOWN_KEYS = 4_096
/** RFC 8410: what stands before the 32 key bytes in the DER of a private (PKCS #8) and a public (SPKI) Ed25519 key. */
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex')
const SPKI = Buffer.from('302a300506032b6570032100', 'hex')
/** A peer id is the identity multihash (code 0, 36 bytes) of the protobuf of an Ed25519 public key (libp2p peer id spec). */
const PEER_ID = Buffer.from('002408011220', 'hex')

/** The daemon's own key, and everybody's public keys, which their peer ids contain. */
export class Ed25519Identity implements Identity {
  readonly peer: PeerId
  readonly #seed: Uint8Array
  readonly #key: KeyObject
  readonly #known = new Lru<PeerId, KeyObject>(KNOWN_KEYS)

  /** `seed`: the 32 secret bytes of RFC 8032. Throws BAD_INPUT on another length. */
  constructor(seed: Uint8Array) {
    this.#seed = seed.slice()
    this.#key = privateKey(seed)
    this.peer = peerOf(seed)
  }

  sign(bytes: Uint8Array): Uint8Array {
    return sign(null, bytes, this.#key)
  }

  verify(peer: PeerId, bytes: Uint8Array, signature: Uint8Array): boolean {
    if (signature.byteLength !== SIGNATURE_BYTES) return false
    const known = this.#known.get(peer) ?? publicKeyOf(peer)
    if (known === undefined) return false
    this.#known.set(peer, known)
    return verify(null, bytes, known, signature)
  }

  mint(): { readonly peer: PeerId; readonly privateKey: Uint8Array } {
    const seed = new Uint8Array(randomBytes(SEED_BYTES))
    return { peer: peerOf(seed), privateKey: seed }
  }

  signWith(privateBytes: Uint8Array, bytes: Uint8Array): Uint8Array {
    return sign(null, bytes, privateKey(privateBytes))
  }

  /** The same key as libp2p wants it: seed, then public key. */
  toLibp2p(): Ed25519PrivateKey {
    const raw = new Uint8Array(SEED_BYTES * 2)
    raw.set(this.#seed, 0)
    raw.set(publicBytes(this.#seed), SEED_BYTES)
    const key = privateKeyFromRaw(raw)
    if (key.type !== 'Ed25519') throw new MeshError('INTERNAL', `libp2p read an Ed25519 key as ${key.type}`)
    return key
  }
}

/** Opens the key file at `path`, or makes one that only its owner may read. Throws STORAGE_FAILED or BAD_INPUT. */
export function openIdentity(path: string): Ed25519Identity {
  try {
    return new Ed25519Identity(readFileSync(path))
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw storageFailed(path, error)
  }
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    // Written aside, synced, then linked: a crash leaves a whole key or none, and two daemons that race end with one.
    const aside = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`
    const { privateKey } = generateKeyPairSync('ed25519')
    const seed = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-SEED_BYTES)
    const file = openSync(aside, 'wx', 0o600)
    try {
      writeSync(file, seed)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    try {
      linkSync(aside, path)
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error
    } finally {
      unlinkSync(aside)
    }
    syncFolder(dirname(path))
    chmodSync(path, 0o600)
    return new Ed25519Identity(readFileSync(path))
  } catch (error) {
    throw storageFailed(path, error)
  }
}

/** The raw Ed25519 public key inside a peer id, or undefined when the text is no such id. */
export function publicKeyBytes(peer: PeerId): Uint8Array | undefined {
  try {
    const bytes = base58btc.baseDecode(peer)
    if (bytes.byteLength !== PEER_ID.byteLength + SEED_BYTES || !PEER_ID.equals(bytes.subarray(0, PEER_ID.byteLength))) return undefined
    return bytes.subarray(PEER_ID.byteLength)
  } catch {
    return undefined
  }
}

function publicKeyOf(peer: PeerId): KeyObject | undefined {
  const raw = publicKeyBytes(peer)
  return raw === undefined ? undefined : createPublicKey({ key: Buffer.concat([SPKI, raw]), format: 'der', type: 'spki' })
}

function privateKey(seed: Uint8Array): KeyObject {
  if (seed.byteLength !== SEED_BYTES) throw new MeshError('BAD_INPUT', `an Ed25519 key has ${SEED_BYTES} bytes, this one ${seed.byteLength}`)
  return createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' })
}

function publicBytes(seed: Uint8Array): Uint8Array {
  return createPublicKey(privateKey(seed)).export({ format: 'der', type: 'spki' }).subarray(-SEED_BYTES)
}

function peerOf(seed: Uint8Array): PeerId {
  return base58btc.baseEncode(Buffer.concat([PEER_ID, publicBytes(seed)]))
}

function syncFolder(path: string): void {
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

function storageFailed(path: string, cause: unknown): MeshError {
  if (cause instanceof MeshError) return new MeshError(cause.code, `the key file ${path} is damaged: ${cause.message}; restore it or choose another data folder`, { cause })
  return new MeshError('STORAGE_FAILED', `the key file ${path} cannot be used: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
}
