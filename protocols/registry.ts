import { z } from 'zod'
import { defineProtocol, defineTopic } from './codec.ts'
import { bytes, cid, peerId } from './ids.ts'
import { signed } from './signed.ts'

/** Registries and how their keys behave. `write-once`: URI → CID, never changes. `owner`: its owner may replace it. */
export const REGISTRIES = {
  components: 'write-once',
  policies: 'write-once',
  vdags: 'write-once',
  specs: 'write-once',
  templates: 'write-once',
  assets: 'write-once',
  layers: 'write-once',
  blocks: 'owner',
  clusters: 'owner',
  members: 'owner',
  services: 'owner',
  images: 'owner',
  controllers: 'owner',
  replicas: 'owner',
  yanks: 'owner',
  lifecycles: 'owner',
  nodes: 'owner',
  groups: 'owner',
  networks: 'owner',
  tasks: 'owner',
  reviews: 'owner',
  records: 'owner',
  annotations: 'owner',
  executors: 'owner',
  functions: 'owner',
  graphs: 'write-once',
} as const
export type RegistryName = keyof typeof REGISTRIES
export const registryName = z.enum(Object.keys(REGISTRIES) as [RegistryName, ...RegistryName[]])

/**
 * The signed payload (domain `registry`) of one record. Each record is verifiable on its own, so a replica may start
 * from anybody's snapshot: nothing that is not signed by its writer, with that writer's right to it, enters a view.
 */
export const registryRecord = z.object({
  registry: registryName,
  key: z.string().min(1).max(400),
  /** CID of the artefact or a small DAG-CBOR value inline; null withdraws an `owner` key. */
  value: z.union([cid, bytes]).nullable(),
  writer: peerId,
  /** `owner` registries: rises by one each change, from 1. `write-once`: 0. */
  sequence: z.int().nonnegative(),
  issuedAt: z.int(),
  /** `owner` registries: who claimed the key first, and when; every later record repeats the claim. Absent: this writer, now. */
  owner: peerId.optional(),
  since: z.int().optional(),
  /** The network it was written in: a member of two cannot have its records carried from one to the other. */
  network: z.string().max(120).optional(),
})
export type RegistryRecord = z.infer<typeof registryRecord>

/** Above this a value must be a CID: OrbitDB's unframed head exchange fails beyond about 60 KB. */
export const REGISTRY_VALUE_BYTES = 24_576

/** The whole signed payload of a record: the value, a key of at most 400 characters and the fixed fields. */
export const REGISTRY_RECORD_BYTES = REGISTRY_VALUE_BYTES + 2_560

/** Records just written, so that the mesh hears of them in milliseconds. Best effort: what is lost, digests find. */
export const registryNews = defineTopic({
  id: '/aios/registry-news/1',
  message: z.object({ records: z.array(signed).min(1).max(64) }),
  limits: { messageBytes: 65_536, perPeerPerSecond: 20 },
})

/**
 * Every few seconds to one random peer: a digest of my view, so that a lost update is found without a new write. `root` is
 * the sha2-256 of the 256 bucket digests one after the other; only where it differs the buckets follow.
 */
export const registryDigest = defineProtocol({
  id: '/aios/registry-digest/1',
  request: z.object({ root: bytes.optional(), buckets: z.array(bytes).length(256).optional() }),
  /** `differs`: whether the roots do. */
  response: z.object({ differing: z.array(z.int().min(0).max(255)), differs: z.boolean().optional() }),
  limits: { requestBytes: 16_384, responseBytes: 4_096, perPeerPerSecond: 5, deadlineMs: 5_000 },
})

/** Pages of signed records: a whole view for a fresh replica, or the buckets that differ. */
export const registryPage = defineProtocol({
  id: '/aios/registry-page/1',
  request: z.object({ buckets: z.array(z.int().min(0).max(255)).max(256), after: z.string().max(900).optional(), limit: z.int().min(1).max(4_000) }),
  response: z.object({ records: z.array(signed).max(4_000), next: z.string().max(900).optional() }),
  limits: { requestBytes: 4_096, responseBytes: 8_388_608, perPeerPerSecond: 50, deadlineMs: 10_000 },
})

/** Signed, domain `registry-log`: where this writer's current OrbitDB log is. A writer cuts its log into segments. */
export const registryLog = z.object({ writer: peerId, segment: z.int().nonnegative(), address: z.string().max(200), issuedAt: z.int() })
export const registryLogTopic = defineTopic({
  id: '/aios/registry-log/1',
  message: signed,
  limits: { messageBytes: 2_048, perPeerPerSecond: 2 },
})
