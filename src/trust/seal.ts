import { decode, encode, type Schema } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { signingBytes, type Signed } from '../../protocols/signed.ts'
import { Lru } from '../lib/lru.ts'
import { sameBytes } from '../lib/same-bytes.ts'
import type { Identity } from '../ports.ts'

/** Signs a value for one purpose. `domain` keeps statements of one kind from being replayed as another. */
export function seal(identity: Identity, domain: string, value: unknown): Signed {
  const payload = encode(value)
  const envelope: Signed = { domain, payload, signer: identity.peer, signature: identity.sign(signingBytes(domain, payload)) }
  // To others of the same process, who are given this very object, it is known already.
  if (SAID_ONCE.has(domain)) opened.set(envelope, { domain, value, kept: envelope })
  return envelope
}

/** `kept`: the envelope that stands for all with the same bytes. */
type Opened = { readonly domain: string; readonly value: unknown; readonly kept: Signed }

const opened = new WeakMap<Signed, Opened>()
/** Of envelopes that came again in another message: gossip, pulls and mirrors carry the same ones many times. */
const checked = new Lru<number, Opened>(8_192)
/** What is said to one peer at one time never comes again. */
const SAID_ONCE: ReadonlySet<string> = new Set(['hello', 'bearer', 'lease'])
/** Larger payloads come rarely, and would make what is remembered large. */
const REMEMBERED_BYTES = 8_192
const NAME_BYTES = 6

/**
 * Checks who signed and decodes. Throws SIGNATURE_INVALID, MESSAGE_INVALID, MESSAGE_TOO_LARGE.
 * The answer is remembered: nothing about it can change while signer, domain, payload and signature are the same bytes.
 */
export function unseal<T>(identity: Identity, domain: string, schema: Schema<T>, envelope: Signed, limitBytes = 1_048_576): { readonly value: T; readonly signer: PeerId } {
  if (envelope.domain !== domain) throw new MeshError('SIGNATURE_INVALID', `expected a signed ${domain}, got a signed ${envelope.domain}`)
  // The schema of a domain never varies, so a remembered value has the type asked for.
  const known = openedBefore(envelope)
  if (known !== undefined && envelope.payload.byteLength <= limitBytes) return { value: known.value as T, signer: envelope.signer }
  if (!identity.verify(envelope.signer, signingBytes(domain, envelope.payload), envelope.signature)) {
    throw new MeshError('SIGNATURE_INVALID', `the ${domain} that claims to be from ${envelope.signer} was not signed by it`)
  }
  const value = decode(schema, envelope.payload, limitBytes, domain)
  if (envelope.payload.byteLength > REMEMBERED_BYTES || SAID_ONCE.has(domain)) opened.set(envelope, { domain, value, kept: envelope })
  else {
    // A copy: nobody else can change the bytes it answers for.
    const kept = Object.freeze({ domain, payload: envelope.payload.slice(), signer: envelope.signer, signature: envelope.signature.slice() })
    const known = { domain, value, kept }
    checked.set(nameOf(envelope), known)
    opened.set(envelope, known)
    opened.set(kept, known)
  }
  return { value, signer: envelope.signer }
}

/** The envelope to keep in place of this one: the same one each time it comes, so that many lists of it hold it once. To be read only. */
export function shared(envelope: Signed): Signed {
  return openedBefore(envelope)?.kept ?? envelope
}

function openedBefore(envelope: Signed): Opened | undefined {
  const same = opened.get(envelope)
  if (same !== undefined) return same
  const known = checked.peek(nameOf(envelope))
  if (known === undefined || known.domain !== envelope.domain || known.kept.signer !== envelope.signer || !sameBytes(known.kept.signature, envelope.signature) || !sameBytes(known.kept.payload, envelope.payload)) return undefined
  opened.set(envelope, known)
  return known
}

/** The first 48 bits of its signature: no two that are remembered are likely to share them, and the newer then stays. */
function nameOf({ signature }: Signed): number {
  let name = 0
  for (let at = 0; at < NAME_BYTES; at += 1) name = name * 256 + (signature[at] ?? 0)
  return name
}
