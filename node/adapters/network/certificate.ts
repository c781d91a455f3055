import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto'

/** A certificate for TLS, its key, and the SHA-256 of its DER, by which the other side knows it. */
export type Certificate = { readonly certPem: string; readonly keyPem: string; readonly fingerprint: Uint8Array }

const SEQUENCE = 0x30
const SET = 0x31
const INTEGER = 0x02
const BIT_STRING = 0x03
const OBJECT_ID = 0x06
const UTF8_STRING = 0x0c
const GENERALIZED_TIME = 0x18
const VERSION_TAG = 0xa0
const ED25519 = Buffer.from([0x2b, 0x65, 0x70])
const COMMON_NAME = Buffer.from([0x55, 0x04, 0x03])

/**
 * A fresh self-signed Ed25519 certificate (X.509 v3, RFC 5280 and 8410). Nothing in it is believed: the fingerprint is
 * exchanged over an authenticated connection and pinned, so names and dates say nothing and it never needs renewal.
 */
export function selfSigned(): Certificate {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const algorithm = der(SEQUENCE, der(OBJECT_ID, ED25519))
  const name = der(SEQUENCE, der(SET, der(SEQUENCE, der(OBJECT_ID, COMMON_NAME), der(UTF8_STRING, Buffer.from('aios lane')))))
  const serial = randomBytes(16)
  // Positive, and without a leading zero byte.
  serial[0] = (serial[0]! & 0x7f) | 0x40
  const toSign = der(
    SEQUENCE,
    der(VERSION_TAG, der(INTEGER, Buffer.from([2]))),
    der(INTEGER, serial),
    algorithm,
    name,
    der(SEQUENCE, der(GENERALIZED_TIME, Buffer.from('20200101000000Z')), der(GENERALIZED_TIME, Buffer.from('99991231235959Z'))),
    name,
    publicKey.export({ format: 'der', type: 'spki' }),
  )
  const certificate = der(SEQUENCE, toSign, algorithm, der(BIT_STRING, Buffer.from([0]), sign(null, toSign, privateKey)))
  const base64 = certificate.toString('base64').match(/.{1,64}/g) ?? []
  return {
    certPem: `-----BEGIN CERTIFICATE-----\n${base64.join('\n')}\n-----END CERTIFICATE-----\n`,
    keyPem: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
    fingerprint: fingerprintOf(certificate),
  }
}

export function fingerprintOf(certificate: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(certificate).digest())
}

/** One DER element: tag, length, content. */
function der(tag: number, ...content: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(content)
  const length = body.byteLength
  if (length < 0x80) return Buffer.concat([Buffer.from([tag, length]), body])
  if (length < 0x100) return Buffer.concat([Buffer.from([tag, 0x81, length]), body])
  return Buffer.concat([Buffer.from([tag, 0x82, length >> 8, length & 0xff]), body])
}
