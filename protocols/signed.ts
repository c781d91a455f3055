import { z } from 'zod'
import { utf8 } from './codec.ts'
import { bytes, peerId } from './ids.ts'

/**
 * A signed statement. `payload` is the DAG-CBOR that was signed, kept as bytes so that checking never depends on
 * re-encoding. The signature covers `aios-mesh/1` NUL domain NUL payload: a bid can never be replayed as a lease.
 */
export const signed = z.object({
  domain: z.string().min(1).max(40),
  payload: bytes,
  signer: peerId,
  signature: bytes.refine(bytes => bytes.byteLength <= 128, 'signature is longer than 128 bytes'),
})
export type Signed = z.infer<typeof signed>

const heads = new Map<string, Uint8Array>()
/** There are about twenty domains; who makes up others does not fill our memory. */
const HEADS_KEPT = 64

function headOf(domain: string): Uint8Array {
  const known = heads.get(domain)
  if (known !== undefined) return known
  const made = utf8(`aios-mesh/1\0${domain}\0`)
  if (heads.size < HEADS_KEPT) heads.set(domain, made)
  return made
}

/** The exact bytes a signature covers. */
export function signingBytes(domain: string, payload: Uint8Array): Uint8Array {
  const head = headOf(domain)
  const out = new Uint8Array(head.byteLength + payload.byteLength)
  out.set(head, 0)
  out.set(payload, head.byteLength)
  return out
}
