import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { bytes, cid, peerId } from './ids.ts'
import { signed } from './signed.ts'

/** What a member may do. `join` is implied by all. */
export const right = z.enum(['join', 'host', 'publish', 'operate', 'invite'])
export type Right = z.infer<typeof right>

/** The network's birth certificate. Signed by its owner, domain `genesis`; its CID names the network. */
export const genesis = z.object({
  name: z.string().min(1).max(120),
  owner: peerId,
  protocolMajor: z.int(),
  admission: z.enum(['invite']),
  createdAt: z.int(),
  nonce: bytes,
})
export type Genesis = z.infer<typeof genesis>

/**
 * A right passed on. Signed by `issuer`, domain `capability`. It names a `subject`, or a `bearer`: then it is an invite, for
 * whoever holds the bearer's key before it expires. The issuer's own capability follows it in the chain, which ends at the
 * genesis owner and never widens.
 */
export const capability = z.object({
  network: cid,
  issuer: peerId,
  subject: peerId.optional(),
  /** For invites: the public key (as a peer id) of a one-time key in the invite, which signs the admission request. */
  bearer: peerId.optional(),
  rights: z.array(right).max(8),
  notBefore: z.int(),
  expires: z.int(),
  nonce: z.string().max(64),
})
export type Capability = z.infer<typeof capability>
/** Leaf first, root last; each join through a member adds one link. */
export const capabilityChain = z.array(signed).min(1).max(8)
export type CapabilityChain = z.infer<typeof capabilityChain>

/** What `aios invite` prints, base64url: everything a host needs to enter. Carries the secret: treat it as a password. */
export const invite = z.object({
  v: z.literal(1),
  genesis: signed,
  secret: bytes,
  addresses: z.array(z.string().max(300)).max(16),
  chain: capabilityChain,
  bearerKey: bytes,
})
export type Invite = z.infer<typeof invite>

/** First exchange on a new connection, both ways; anything else waits for it. Signed, domain `hello`. */
export const helloBody = z.object({
  network: cid,
  peer: peerId,
  /** The peer the hello is meant for: a hello cannot be replayed to another. */
  to: peerId,
  chain: capabilityChain,
  /** With an invite: the bearer's signature (domain `bearer`) over `{ subject }`. */
  bearer: signed.optional(),
  issuedAt: z.int(),
  protocolMajor: z.int(),
})
export const hello = defineProtocol({
  id: '/aios/hello/1',
  request: signed,
  /** `granted`: the chain that makes the bearer of an invite a member in its own name. */
  response: z.object({ hello: signed.optional(), granted: capabilityChain.optional(), refused: z.object({ code: z.string().max(40), because: z.string().max(300) }).optional() }),
  limits: { requestBytes: 32_768, responseBytes: 65_536, perPeerPerSecond: 5, deadlineMs: 5_000 },
})

/** Who else is a member, each with the chain that proves it: a replica must know a writer's rights before it believes a record. */
export const membersPull = defineProtocol({
  id: '/aios/members/1',
  /**
   * `known`: a digest of what the asker knows; a peer that knows the same answers with nothing. `buckets`: 8 bytes of digest
   * for each of the 64 parts of its list (by a hash of the peer id); parts that agree are left out of the answer. `held`:
   * instead, where the asker knows few: the first 4 bytes of the sha2-256 of each (peer, chain) it knows; those are left out.
   */
  request: z.object({
    after: peerId.optional(),
    known: bytes.refine(bytes => bytes.byteLength === 32, 'expected 32 bytes').optional(),
    buckets: bytes.refine(bytes => bytes.byteLength === 512, 'expected 512 bytes').optional(),
    held: bytes.refine(bytes => bytes.byteLength <= 4_096, 'longer than 1024 marks').optional(),
  }),
  response: z.object({ members: z.array(z.object({ peer: peerId, chain: capabilityChain })).max(128), next: peerId.optional() }),
  limits: { requestBytes: 8_192, responseBytes: 1_048_576, perPeerPerSecond: 10, deadlineMs: 5_000 },
})

/** The signed payload (domain `bearer`) by which the holder of an invite's one-time key names the peer that enters. */
export const bearerBody = z.object({ network: cid, subject: peerId, issuedAt: z.int() })
