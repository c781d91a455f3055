import { z } from 'zod'
import { clusterId, clusterRecord, node, type ClusterNode, type ClusterRecord } from '../../protocols/cluster.ts'
import { check } from '../../protocols/codec.ts'
import type { Json } from '../../protocols/ids.ts'
import type { PolicyRef } from '../../protocols/specs.ts'
import { isJsonObject, toJson, type JsonObject } from '../lib/json.ts'
import { amend } from './amend.ts'
import { isList } from './document.ts'
import { specValues } from './envelope.ts'
import { Fields, plainName } from './fields.ts'
import { parsePolicyRef } from './policy-refs.ts'
import { Problems } from './problems.ts'

/** AIOS's `createCluster`: what it says of the cluster, and of nodes that are there already. */
const owned = clusterRecord.extend({ reputation: z.coerce.number().optional() })
const clusterSpec = owned.extend({ id: clusterId.optional(), nodes: z.object({ nodeData: z.array(node).max(1_000).default([]) }).loose().prefault({}) })
export type ClusterSpec = z.infer<typeof clusterSpec>

/** Fields by the names they go by, in any spelling. */
type Names = Readonly<Record<string, readonly string[]>>
const CLUSTER: Names = { id: ['clusterId'], regionId: ['region'], status: [], nodes: [], config: [], tags: [], clusterMetadata: ['metadata'], reputation: [] }
const NODE: Names = { id: ['nodeId'], gpus: [], vcpus: ['cpus'], memory: [], swap: [], storage: [], network: [], tags: [], nodeMetadata: ['metadata'] }
const CONFIG: Names = { actionsPolicyMap: [], stabilityChecker: [] }
const INSIDE_NODE: Readonly<Record<string, Names>> = { gpus: { modelNames: [] }, network: { txBandwidth: [], rxBandwidth: [] } }
/** How AIOS's documentation of clusters calls actions that its controller calls otherwise. */
const ACTIONS: Readonly<Record<string, string>> = { create_block: 'add_block', scale: 'scale_block' }

/** AIOS's cluster, enveloped or bare. Throws SPEC_INVALID. */
export function parseCluster(document: Json): ClusterSpec {
  const spec = check(clusterSpec, clusterIn(specValues(document, 'cluster spec')), 'cluster spec', 'SPEC_INVALID')
  readActions(spec.config)
  return spec
}

/** The cluster that an update names, if it names one. */
export function clusterNamed(document: Json): string | undefined {
  const { id } = named(specValues(document, 'cluster spec'), { id: ['clusterId'] })
  return typeof id === 'string' ? id : undefined
}

/**
 * What an owner says of a cluster after an update: its new fields, by dotted paths too, or Mongo's update operators; the rest
 * stays. What its nodes add up to is not its owner's to say, and passed over. Throws SPEC_INVALID.
 */
export function changedCluster(before: ClusterRecord, document: Json): ClusterRecord {
  const values = Object.entries(specValues(document, 'cluster spec')).filter(([key]) => !['id', 'clusterid'].includes(plainName(key)))
  const operators = values.some(([key]) => key.startsWith('$'))
  const change = operators ? Object.fromEntries(values.map(([key, fields]) => [key, isJsonObject(fields) ? respelt(fields, CLUSTER) : fields])) : respelt(Object.fromEntries(values), CLUSTER)
  const record = check(owned, clusterIn(amend(objectOf(before), change)), 'cluster spec', 'SPEC_INVALID')
  readActions(record.config)
  return { ...record, id: before.id, status: before.status }
}

/** AIOS's `addNode`: the node flat beside its `clusterId`, as AIOS documents it, or as `nodeData`, as its code wants it. Throws SPEC_INVALID. */
export function parseNode(document: Json): { readonly clusterId: string; readonly node: ClusterNode } {
  const values = specValues(document, 'node spec')
  const { nodeData, clusterId: said } = named(values, { nodeData: ['node'], clusterId: ['cluster'] })
  const flat = isJsonObject(nodeData) ? nodeData : values
  const { clusterId: inside } = named(flat, { clusterId: [] })
  return { clusterId: check(z.object({ clusterId }), { clusterId: said ?? inside }, 'node spec', 'SPEC_INVALID').clusterId, node: check(node, nodeIn(flat), 'node spec', 'SPEC_INVALID') }
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
    const hook = ACTIONS[action] ?? action
    // Said under both names, the action's own counts.
    return rule === undefined || (hook !== action && Object.hasOwn(given, hook)) ? [] : [[hook, rule] as const]
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

/** A node or a cluster as JSON: its unknown fields too. */
export function objectOf(given: ClusterNode | ClusterRecord): JsonObject {
  const value = toJson(given)
  return isJsonObject(value) ? value : {}
}

function clusterIn(values: JsonObject): JsonObject {
  const cluster = named(values, CLUSTER)
  const { nodes, config } = cluster
  const listed: Json | undefined = isJsonObject(nodes) ? named(nodes, { nodeData: [] })['nodeData'] : nodes
  return {
    ...cluster,
    ...(isJsonObject(config) ? { config: respelt(config, CONFIG) } : {}),
    ...(nodes === undefined ? {} : { nodes: { nodeData: isList(listed) ? listed.map(nodeIn) : listed ?? [] } }),
  }
}

/** A node's `status` is what its owner thought of it: kept beside its other remarks. */
function nodeIn(value: Json): Json {
  if (!isJsonObject(value)) return value
  const given = named(value, NODE)
  const { nodeMetadata = {} } = given
  const { status } = named(value, { status: [] })
  const inside = Object.entries(INSIDE_NODE).flatMap(([name, names]) => {
    const inner = given[name]
    return isJsonObject(inner) ? [[name, respelt(inner, names)] as const] : []
  })
  return { ...given, ...Object.fromEntries(inside), nodeMetadata: status !== undefined && isJsonObject(nodeMetadata) ? { status, ...nodeMetadata } : nodeMetadata }
}

/** The fields of `names` that are there, under those names; everything else is left out. */
function named(values: JsonObject, names: Names): JsonObject {
  const fields = new Fields(values, '', new Problems('cluster'))
  return Object.fromEntries(Object.entries(names).flatMap(([name, aliases]) => {
    const value = fields.find(name, ...aliases)
    return value === undefined ? [] : [[name, value] as const]
  }))
}

/** All fields, or paths to them, beginning with the names of `names` for those that it has. */
function respelt(values: JsonObject, names: Names): JsonObject {
  return Object.fromEntries(Object.entries(values).map(([path, value]) => {
    const [first = '', ...rest] = path.split('.')
    const [name = first] = Object.entries(names).find(([own, aliases]) => [own, ...aliases].some(one => plainName(one) === plainName(first))) ?? []
    return [[name, ...rest].join('.'), value]
  }))
}
