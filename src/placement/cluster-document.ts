import type { CapacityAd } from '../../protocols/capacity.ts'
import { granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Resources } from '../../protocols/resources.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { clusterMetricsOf } from '../metrics/aggregate.ts'
import { advertisedNode } from '../metrics/node-metrics.ts'
import { compileCondition, parseQueries } from '../specs/filter.ts'

/** The peers of one cluster in AIOS's words (sizes in MB); `id` where none of them is alive. A lone peer is a cluster of one. */
export function clusterDocument(ads: readonly CapacityAd[], id = ads[0]?.cluster ?? ''): JsonObject {
  const [first] = ads
  const nodes = ads.map(nodeDocument)
  const total = ads.map(({ total }) => total)
  return {
    id,
    regionId: first?.labels['region'] ?? '',
    status: 'live',
    labels: { ...first?.labels },
    tags: Object.entries(first?.labels ?? {}).map(([key, value]) => `${key}=${value}`),
    nodes: { count: nodes.length, nodeData: nodes },
    gpus: { count: sum(total, ({ gpus }) => gpus.length), memory: sum(total, gpuMemory), modelNames: [...new Set(total.flatMap(({ gpus }) => gpus.map(({ name }) => name)))] },
    vcpus: { count: sum(total, ({ cpuMilli }) => cpuMilli) / 1_000 },
    memory: sum(total, ({ memoryMb }) => memoryMb),
    storage: { disks: nodes.length, size: sum(total, ({ diskMb }) => diskMb) },
    metrics: clusterMetrics(ads, id),
  }
}

/** One host as AIOS's `healthy_nodes` has it, with what is free and which runtimes it has. */
export function nodeDocument(ad: CapacityAd): JsonObject {
  return {
    id: ad.peer,
    node_id: ad.peer,
    clusterId: ad.cluster,
    labels: { ...ad.labels },
    vcpus: { count: ad.total.cpuMilli / 1_000 },
    memory: ad.total.memoryMb,
    storage: { size: ad.total.diskMb },
    gpus: { count: ad.total.gpus.length, memory: gpuMemory(ad.total), gpus: ad.free.gpus.map(({ id, name, memoryMb, freeMb }) => ({ gpu_id: id, modelName: name, memory: memoryMb, freeMem: freeMb })) },
    free: toJson(ad.free),
    runtimes: toJson(ad.runtimes),
  }
}

/** AIOS's metrics of a cluster, as its members advertise themselves. */
export function clusterMetrics(ads: readonly CapacityAd[], id = ads[0]?.cluster ?? ''): JsonObject {
  return clusterMetricsOf(id, ads.map(advertisedNode))
}

/** Does a cluster pass the `parameters.filter` of a block's `clusterAllocator`? */
export type ClusterFilter = (filter: Json, cluster: JsonObject) => Verdict<true>

/** AIOS's filter language: `clusterQuery` and `clusterMetricsQuery`, or one bare condition. */
export const aiosFilter: ClusterFilter = (filter, cluster) => {
  try {
    const queries = parseQueries(filter, 'clusterQuery')
    if (queries.clusterQuery !== undefined && !compileCondition(queries.clusterQuery)({ ...cluster, cluster })) return refused('the filter of its clusterAllocator leaves it out')
    if (queries.clusterMetricsQuery !== undefined && !compileCondition(queries.clusterMetricsQuery)(metricsOf(cluster))) return refused('the metrics filter of its clusterAllocator leaves it out', true)
    return granted(true)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return refused(`the filter of its clusterAllocator cannot be read: ${error.message}`)
  }
}

/** AIOS's own queries say `cluster.memory.freeMem`; without the first word it is the same. */
function metricsOf({ metrics }: JsonObject): JsonObject {
  if (!isJsonObject(metrics)) return {}
  const { cluster } = metrics
  return { ...(isJsonObject(cluster) ? cluster : {}), ...metrics }
}

function gpuMemory({ gpus }: Resources): number {
  return sum(gpus, ({ memoryMb }) => memoryMb)
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0)
}
