import { z } from 'zod'

/** libp2p peer id in its base58btc text form (`12D3KooW…`); the Ed25519 public key is inside it. */
export const peerId = z.string().min(8).max(80)
export type PeerId = z.infer<typeof peerId>

/** CIDv1 in base32 text form. dag-cbor for records, UnixFS (dag-pb/raw) for files. */
export const cid = z.string().min(8).max(120).regex(/^[a-zA-Z0-9]+$/)
export type Cid = z.infer<typeof cid>

/** AIOS block id: a DNS label, at most 253 characters. */
export const blockId = z.string().max(253).regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/, 'use lower-case letters, digits and inner hyphens')
export type BlockId = z.infer<typeof blockId>

export const instanceId = z.string().max(64).regex(/^in-[a-z0-9]+$/)
export type InstanceId = z.infer<typeof instanceId>

export const contractId = z.string().min(1).max(120)
export type ContractId = z.infer<typeof contractId>

export const runId = z.string().max(80).regex(/^run-[a-z0-9]+$/)
export type RunId = z.infer<typeof runId>

export const askId = z.string().min(1).max(80)
export type AskId = z.infer<typeof askId>

/** Integer milliseconds. */
export const millis = z.int().nonnegative()
export type Millis = number

export const epoch = z.int().nonnegative()

/** A JSON value: what travels in packets, policy inputs and specs. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }
export const json: z.ZodType<Json> = z.json() as z.ZodType<Json>

/** Raw bytes, over whatever buffer they sit on. */
export const bytes = z.custom<Uint8Array>(value => value instanceof Uint8Array, 'expected bytes')
