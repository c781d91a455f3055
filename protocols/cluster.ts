import { z } from 'zod'
import { defineProtocol } from './codec.ts'
import { cid, json, peerId } from './ids.ts'
import { signed } from './signed.ts'

export const clusterId = z.string().min(1).max(120).regex(/^[^/\s]+$/, 'use a name without spaces and slashes')
const nodeId = z.string().min(1).max(200).regex(/^[^/\s]+$/, 'use a name without spaces and slashes')
const amount = z.coerce.number().nonnegative()
const texts = z.array(z.string().max(200)).max(200)
const fields = z.record(z.string().max(200), json)

/** A node as AIOS describes it (sizes in MB, bandwidths in Mbps). Value of the `nodes` registry, by `owner/cluster/node`. */
export const node = z.object({
  id: nodeId,
  gpus: z.object({ count: amount.default(0), memory: amount.default(0), gpus: z.array(z.object({ modelName: z.string().max(200), memory: amount }).loose()).max(64).default([]), modelNames: z.array(z.string().max(200)).max(64).default([]) }).loose().prefault({}),
  vcpus: z.object({ count: amount.default(0) }).loose().prefault({}),
  memory: amount.default(0),
  swap: amount.default(0),
  storage: z.object({ disks: amount.default(0), size: amount.default(0) }).loose().prefault({}),
  network: z.object({ interfaces: amount.default(0), txBandwidth: amount.default(0), rxBandwidth: amount.default(0) }).loose().prefault({}),
  tags: texts.default([]),
  nodeMetadata: fields.default({}),
})
export type ClusterNode = z.infer<typeof node>
export const nodeRecord = node.extend({ clusterId })
export type NodeRecord = z.infer<typeof nodeRecord>

/** What the owner of a cluster says of it. Value of the `clusters` registry, by its id. Its nodes have records of their own. */
export const clusterRecord = z.object({
  id: clusterId,
  regionId: z.string().max(200).default(''),
  status: z.string().max(40).default('live'),
  config: fields.default({}),
  tags: texts.default([]),
  clusterMetadata: fields.default({}),
  /** Stored and searched by; nothing reckons it. */
  reputation: z.number().optional(),
})
export type ClusterRecord = z.infer<typeof clusterRecord>

/** AIOS's group of clusters. Value of the `groups` registry, by its id. */
export const clusterGroup = z.object({
  group_id: z.string().min(1).max(200),
  group_uri: z.string().max(300).default(''),
  group_search_tags: texts.default([]),
  group_metadata: fields.default({}),
  group_description: z.string().max(2_000).default(''),
  group_policies: fields.default({}),
  group_parent_ids: texts.default([]),
  group_children_ids: texts.default([]),
})
export type ClusterGroup = z.infer<typeof clusterGroup>

/** AIOS's network document. Value of the `networks` registry, by the network's id. `policies`: action → the rule asked before it, everywhere. */
export const networkDocument = z.object({
  network_id: cid,
  network_name: z.string().max(120),
  metadata: fields.default({}),
  services_map: fields.default({}),
  policies: fields.default({}),
})
export type NetworkDocument = z.infer<typeof networkDocument>

/** Who else than the network's owner may change that document. Value of the `networks` registry, by `id/admins`. */
export const networkAdmins = z.object({ admins: z.array(peerId).max(64) })

/** Signed by the owner of a cluster, domain `cluster-ticket`: whoever shows it may bring its host in. */
export const clusterTicket = z.object({ network: cid, cluster: clusterId, expires: z.int(), nonce: z.string().max(64) })
/** What `aios cluster invite` prints, base64url. */
export const clusterInvite = z.object({ v: z.literal(1), owner: peerId, ticket: signed })

/**
 * What hosts of a cluster say to one another. `join`: take this host in (to the owner, who asks the pre-checks). `leave`:
 * take it off again. `manage`: a command to the stability checker that this member runs.
 */
export const clusterTalk = defineProtocol({
  id: '/aios/cluster/1',
  request: z.discriminatedUnion('do', [
    z.object({ do: z.literal('join'), cluster: clusterId, node, ticket: signed.optional() }),
    z.object({ do: z.literal('leave'), cluster: clusterId }),
    z.object({ do: z.literal('manage'), cluster: clusterId, action: z.string().min(1).max(200), data: json }),
  ]),
  response: z.object({ data: json }),
  limits: { requestBytes: 65_536, responseBytes: 262_144, perPeerPerSecond: 10, deadlineMs: 10_000 },
})
