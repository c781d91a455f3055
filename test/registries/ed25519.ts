import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify, type KeyObject } from 'node:crypto'
import type { PeerId } from '../../protocols/ids.ts'
import type { Identity } from '../../src/ports.ts'

const keys = new Map<PeerId, KeyObject>()
const RAW = { type: 'spki', format: 'der' } as const

/** A real Ed25519 identity whose peer id is its public key in hexadecimal. */
export function makeIdentity(privateKey: KeyObject = generateKeyPairSync('ed25519').privateKey): Identity {
  const peer = `peer${createPublicKey(privateKey).export(RAW).subarray(12).toString('hex')}`
  return {
    peer,
    sign: bytes => Uint8Array.from(sign(null, bytes, privateKey)),
    verify: (signer, bytes, signature) => {
      const key = publicKey(signer)
      return key !== undefined && verify(null, bytes, key, signature)
    },
    mint: () => {
      const { privateKey } = generateKeyPairSync('ed25519')
      return { peer: makeIdentity(privateKey).peer, privateKey: Uint8Array.from(privateKey.export({ type: 'pkcs8', format: 'der' })) }
    },
    signWith: (privateKey, bytes) => Uint8Array.from(sign(null, bytes, createPrivateKey({ key: Buffer.from(privateKey), type: 'pkcs8', format: 'der' }))),
  }
}

function publicKey(peer: PeerId): KeyObject | undefined {
  if (!/^peer[0-9a-f]{64}$/.test(peer)) return undefined
  const known = keys.get(peer)
  if (known !== undefined) return known
  const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), Buffer.from(peer.slice(4), 'hex')])
  const key = createPublicKey({ key: der, ...RAW })
  keys.set(peer, key)
  return key
}
