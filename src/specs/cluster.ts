import { z } from 'zod'
import { clusterId, clusterRecord, node, type ClusterNode } from '../../protocols/cluster.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { specValues } from './envelope.ts'
import { Fields } from './fields.ts'
import { parsePolicyRef } from './policy-refs.ts'
import { Problems } from './problems.ts'

/** AIOS's `createCluster`: what it says of the cluster, and of nodes that are there already. */
const clusterSpec = clusterRecord.extend({ id: clusterId.optional(), nodes: z.object({ nodeData: z.array(node).max(1_000).default([]) }).loose().prefault({}) })
export type ClusterSpec = z.infer<typeof clusterSpec>

/** AIOS's cluster, enveloped or bare. Throws SPEC_INVALID. */
export function parseCluster(document: Json): ClusterSpec {
  const spec = read(clusterSpec, specValues(document, 'cluster spec'), 'cluster spec')
  readActions(spec.config)
  return spec
}

/** What an update says anew; the rest stays. Throws SPEC_INVALID. */
export function parseClusterChange(document: Json): { readonly id: string | undefined; readonly change: Partial<ClusterSpec> } {
  const values = specValues(document, 'cluster spec')
  const parsed = read(clusterSpec, values, 'cluster spec')
  const change = Object.fromEntries(Object.entries(parsed).filter(([name]) => Object.hasOwn(values, name) && !['id', 'nodes', 'status'].includes(name)))
  if (change['config'] !== undefined) readActions(parsed.config)
  return { id: parsed.id, change }
}

/** AIOS's `addNode`: the node flat beside its `clusterId`, as AIOS documents it, or as `nodeData`, as its code wants it. Throws SPEC_INVALID. */
export function parseNode(document: Json): { readonly clusterId: string; readonly node: ClusterNode } {
  const values = specValues(document, 'node spec')
  const inner = values['nodeData'] ?? values['node_data']
  const flat = isJsonObject(inner) ? inner : values
  const named = read(z.object({ clusterId }), { clusterId: values['clusterId'] ?? values['cluster_id'] ?? flat['clusterId'] }, 'node spec')
  return { clusterId: named.clusterId, node: read(node, flat, 'node spec') }
}

/** The rules of `actionsPolicyMap`, a URI or an object each. Throws SPEC_INVALID naming the action. */
export function readActions(config: JsonObject): Readonly<Record<string, PolicyRef>> {
  const given = config['actionsPolicyMap']
  return isJsonObject(given) ? readPolicyMap(given, 'config.actionsPolicyMap') : {}
}

/** Action → rule; entries that are empty are none. Throws SPEC_INVALID naming the action. */
export function readPolicyMap(given: JsonObject, where: string): Readonly<Record<string, PolicyRef>> {
  const problems = new Problems(where)
  const fields = new Fields(given, where, problems)
  const rules = Object.keys(given).flatMap(action => {
    const rule = parsePolicyRef(fields, action)
    return rule === undefined ? [] : [[action, rule] as const]
  })
  problems.settle()
  return Object.fromEntries(rules)
}

/** As `readPolicyMap`, for maps that others wrote: an entry that cannot be read refuses its action rather than letting everything through. */
export function rulesOf(given: Json | undefined): Readonly<Record<string, PolicyRef>> {
  if (!isJsonObject(given)) return {}
  return Object.fromEntries(Object.entries(given).flatMap(([action, rule]): readonly (readonly [string, PolicyRef])[] => {
    try {
      return Object.entries(readPolicyMap({ [action]: rule }, 'policies'))
    } catch {
      return [[action, { policyRuleURI: `the unreadable rule of ${action}`, parameters: {}, settings: {} }]]
    }
  }))
}

/** The rule that judges whether the cluster is stable. Throws SPEC_INVALID. */
export function readStabilityChecker(config: JsonObject): PolicyRef | undefined {
  const problems = new Problems('cluster')
  const rule = parsePolicyRef(new Fields(config, 'config', problems), 'stabilityChecker')
  problems.settle()
  return rule
}

/** What nodes add up to, computed anew each time, so that nothing can drift. */
export function sumOfNodes(nodes: readonly ClusterNode[]): JsonObject {
  const sum = (of: (node: ClusterNode) => number): number => nodes.reduce((total, each) => total + of(each), 0)
  return {
    gpus: { count: sum(({ gpus }) => gpus.count), memory: sum(({ gpus }) => gpus.memory), modelNames: [...new Set(nodes.flatMap(({ gpus }) => [...gpus.modelNames, ...gpus.gpus.map(({ modelName }) => modelName)]))].sort() },
    vcpus: { count: sum(({ vcpus }) => vcpus.count) },
    memory: sum(({ memory }) => memory),
    swap: sum(({ swap }) => swap),
    storage: { disks: sum(({ storage }) => storage.disks), size: sum(({ storage }) => storage.size) },
    network: { interfaces: sum(({ network }) => network.interfaces), txBandwidth: sum(({ network }) => network.txBandwidth), rxBandwidth: sum(({ network }) => network.rxBandwidth) },
  }
}

/** A node as JSON: its unknown fields too. */
export function nodeJson(given: ClusterNode): JsonObject {
  const value = toJson(given)
  return isJsonObject(value) ? value : {}
}

function read<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new MeshError('SPEC_INVALID', `${what}: ${parsed.error.issues.slice(0, 5).map(({ path, message }) => `${path.map(String).join('.')}: ${message}`).join('; ')}`)
}
