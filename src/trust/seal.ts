import { decode, encode, type Schema } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { signingBytes, type Signed } from '../../protocols/signed.ts'
import type { Identity } from '../ports.ts'

/** Signs a value for one purpose. `domain` keeps statements of one kind from being replayed as another. */
export function seal(identity: Identity, domain: string, value: unknown): Signed {
  const payload = encode(value)
  return { domain, payload, signer: identity.peer, signature: identity.sign(signingBytes(domain, payload)) }
}

const opened = new WeakMap<Signed, { readonly domain: string; readonly value: unknown }>()

/**
 * Checks who signed and decodes. Throws SIGNATURE_INVALID, MESSAGE_INVALID, MESSAGE_TOO_LARGE.
 * The answer is remembered for as long as the envelope object lives, so that forwarding it costs nothing.
 */
export function unseal<T>(identity: Identity, domain: string, schema: Schema<T>, envelope: Signed, limitBytes = 1_048_576): { readonly value: T; readonly signer: PeerId } {
  if (envelope.domain !== domain) throw new MeshError('SIGNATURE_INVALID', `expected a signed ${domain}, got a signed ${envelope.domain}`)
  const known = opened.get(envelope)
  // The schema of a domain never varies, so a remembered value has the type asked for.
  if (known !== undefined) return { value: known.value as T, signer: envelope.signer }
  if (!identity.verify(envelope.signer, signingBytes(domain, envelope.payload), envelope.signature)) {
    throw new MeshError('SIGNATURE_INVALID', `the ${domain} that claims to be from ${envelope.signer} was not signed by it`)
  }
  const value = decode(schema, envelope.payload, limitBytes, domain)
  opened.set(envelope, { domain, value })
  return { value, signer: envelope.signer }
}
