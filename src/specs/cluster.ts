import { z } from 'zod'
import { json } from '../../protocols/ids.ts'

const amount = z.coerce.number().nonnegative()
const gpus = z.object({ count: amount.default(0), memory: amount.default(0), gpus: z.array(z.object({ modelName: z.string().max(200), memory: amount }).loose()).max(64).default([]), modelNames: z.array(z.string().max(200)).max(64).default([]) }).loose()
const vcpus = z.object({ count: amount.default(0) }).loose()
const storage = z.object({ disks: amount.default(0), size: amount.default(0) }).loose()
const network = z.object({ interfaces: amount.default(0), txBandwidth: amount.default(0), rxBandwidth: amount.default(0) }).loose()

const node = z.object({
  id: z.string().min(1).max(200),
  gpus: gpus.prefault({}),
  vcpus: vcpus.prefault({}),
  memory: amount.default(0),
  swap: amount.default(0),
  storage: storage.prefault({}),
  network: network.prefault({}),
  tags: z.array(z.string().max(200)).max(200).default([]),
  nodeMetadata: z.record(z.string().max(200), json).default({}),
})

/** AIOS's `addNode`, its two dialects already one. */
export const nodeSpec = node.extend({ clusterId: z.string().min(1).max(200) })

/** AIOS's `createCluster` (sizes in MB, bandwidths in Mbps). */
export const clusterSpec = z.object({
  id: z.string().min(1).max(200).optional(),
  regionId: z.string().max(200).default(''),
  nodes: z.object({ count: amount.default(0), nodeData: z.array(node).max(10_000).default([]) }).prefault({}),
  config: z.record(z.string().max(200), json).default({}),
  tags: z.array(z.string().max(200)).max(200).default([]),
  clusterMetadata: z.record(z.string().max(200), json).default({}),
})

/** A cluster as the registry holds it: what was said, and what its nodes add up to. */
export const cluster = clusterSpec.extend({
  id: z.string(),
  status: z.string(),
  gpus: z.object({ count: z.number(), memory: z.number(), modelNames: z.array(z.string()) }).optional(),
  vcpus: z.object({ count: z.number() }).optional(),
  memory: z.number().optional(),
  swap: z.number().optional(),
  storage: z.object({ disks: z.number(), size: z.number() }).optional(),
  network: z.object({ interfaces: z.number(), txBandwidth: z.number(), rxBandwidth: z.number() }).optional(),
})
export type Cluster = z.infer<typeof cluster>

/** Every aggregate computed anew from the nodes, so that none can drift. */
export function withAggregates(given: Cluster): Cluster {
  const nodes = given.nodes.nodeData
  const sum = (of: (node: (typeof nodes)[number]) => number): number => nodes.reduce((total, each) => total + of(each), 0)
  return {
    ...given,
    nodes: { ...given.nodes, count: nodes.length },
    gpus: { count: sum(({ gpus }) => gpus.count), memory: sum(({ gpus }) => gpus.memory), modelNames: [...new Set(nodes.flatMap(({ gpus }) => [...gpus.modelNames, ...gpus.gpus.map(({ modelName }) => modelName)]))].sort() },
    vcpus: { count: sum(({ vcpus }) => vcpus.count) },
    memory: sum(({ memory }) => memory),
    swap: sum(({ swap }) => swap),
    storage: { disks: sum(({ storage }) => storage.disks), size: sum(({ storage }) => storage.size) },
    network: { interfaces: sum(({ network }) => network.interfaces), txBandwidth: sum(({ network }) => network.txBandwidth), rxBandwidth: sum(({ network }) => network.rxBandwidth) },
  }
}
