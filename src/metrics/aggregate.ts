import type { Json } from '../../protocols/ids.ts'
import { isJsonObject, type JsonObject } from '../lib/json.ts'
import { gpuTotals } from './node-metrics.ts'

type Rule = 'sum' | 'mean' | 'max' | 'min'

const MEANS = new Set(['response', 'mean', 'current', 'uptime'])

/** AIOS's rules: sums, but means of loads and shares, and the extremes of disks. It sums the averages of GPUs, too, which is a bug of its. */
function ruleOf(name: string): Rule {
  if (name.startsWith('max')) return 'max'
  if (name.startsWith('min')) return 'min'
  if (MEANS.has(name) || /^(?:load\d|avg|average)|latency|tilization$|(?:^|_)p\d\d$/.test(name)) return 'mean'
  return 'sum'
}

/** One document out of several of the same shape: every number by its rule; texts, lists and what identifies one of them are left out. Nodes that lack a number do not count in its mean. */
export function aggregate(documents: readonly JsonObject[]): JsonObject {
  const out: Record<string, Json> = {}
  for (const key of new Set(documents.flatMap(document => Object.keys(document)))) {
    if (IDENTITY.has(key)) continue
    const values = documents.flatMap(document => document[key] ?? [])
    const numbers = values.filter(value => typeof value === 'number')
    if (numbers.length > 0) out[key] = combine(numbers, ruleOf(key))
    else {
      const objects = values.filter(isJsonObject)
      if (objects.length > 0) out[key] = aggregate(objects)
    }
  }
  return out
}

const IDENTITY = new Set(['nodeId', 'instanceId', 'blockId', 'clusterId', 'vdagURI', 'timestamp', 'labelled', 'gpus'])

function combine(numbers: readonly number[], rule: Rule): number {
  if (rule === 'max') return numbers.reduce((a, b) => Math.max(a, b))
  if (rule === 'min') return numbers.reduce((a, b) => Math.min(a, b))
  const sum = numbers.reduce((a, b) => a + b, 0)
  return rule === 'sum' ? sum : sum / numbers.length
}

/** What `metrics.resource.node` of a node document holds. */
export function nodeResources(node: JsonObject): JsonObject {
  const metrics = node['metrics']
  const resource = isJsonObject(metrics) ? metrics['resource'] : undefined
  const inner = isJsonObject(resource) ? resource['node'] : undefined
  return isJsonObject(inner) ? inner : {}
}

/** AIOS's metrics document of a cluster: `{ clusterId, cluster, nodes }`. GPUs are averaged over GPUs, not over nodes: a host with eight counts eight times. */
export function clusterMetricsOf(clusterId: string, nodes: readonly JsonObject[]): JsonObject {
  const resources = nodes.map(nodeResources)
  const gpus = resources.flatMap(({ gpus }) => (Array.isArray(gpus) ? gpus.filter(isJsonObject) : []))
  const newest = Math.max(0, ...nodes.map(({ timestamp }) => (typeof timestamp === 'number' ? timestamp : 0)))
  return { clusterId, timestamp: newest, cluster: { ...aggregate(resources), gpu: gpuTotals(gpus) }, nodes: [...nodes] }
}
