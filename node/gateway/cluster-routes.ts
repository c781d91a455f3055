import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { MeshError, type Verdict } from '../../protocols/errors.ts'
import { json, peerId, type Json } from '../../protocols/ids.ts'
import { isJsonObject, toJson, type JsonObject } from '../../src/lib/json.ts'
import { mongoQuery } from '../../src/specs/mongo.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const named = z.looseObject({ id: z.string().optional(), cluster_id: z.string().optional(), clusterId: z.string().optional(), node_id: z.string().optional(), nodeId: z.string().optional() })

/**
 * AIOS's cluster controller gateway, cluster controller and membership server over HTTP. Any peer answers about any cluster; what
 * changes one is done by the peer of its owner.
 */
export function addClusterRoutes(app: Hono, { peer }: GatewayParts): void {
  const { clusters, stability, groups, view } = peer
  const told = (context: Context, data: unknown): Response => context.json({ success: true, data: toJson(data) })
  const own = (): string => view.ad(view.self)?.cluster ?? view.self
  const idIn = (context: Context, given: Json): string => {
    const said = named.safeParse(given)
    const id = context.req.param('cluster') ?? (said.success ? said.data.id ?? said.data.cluster_id ?? said.data.clusterId : undefined)
    if (id === undefined) throw new MeshError('BAD_INPUT', 'name the cluster: its id in the path, or { "cluster_id": … }')
    return id
  }
  const within = (cluster: string, given: Json): Json => (isJsonObject(given) ? { ...given, clusterId: cluster } : given)
  const nodeOf = (context: Context, given: Json): string => {
    const said = named.safeParse(given)
    const id = context.req.param('node') ?? (said.success ? said.data.node_id ?? said.data.nodeId : undefined)
    if (id === undefined) throw new MeshError('BAD_INPUT', 'name the node: { "node_id": … }')
    return id
  }
  const documentIn = async (context: Context): Promise<Json> => (context.req.raw.body === null ? {} : body(context, json))

  // The gateway's registry of clusters ---------------------------------------------------------------------------
  for (const path of ['/clusters', '/clusters/create']) app.post(path, async context => told(context, await clusters.create(await body(context, json))))
  app.get('/clusters', context => told(context, clusters.list()))
  app.post('/clusters/query', async context => {
    const asked = await documentIn(context)
    const filter: Json = isJsonObject(asked) && asked['query'] !== undefined ? asked['query'] : asked
    return told(context, clusters.list().filter(mongoQuery(filter)))
  })
  app.post('/clusters/read', async context => told(context, clusters.get(idIn(context, await body(context, json)))))
  for (const path of ['/clusters/:cluster', '/clusters/read/:cluster']) app.get(path, context => told(context, clusters.get(idIn(context, {}))))
  for (const path of ['/clusters/update', '/clusters/update/:cluster', '/clusters/:cluster']) {
    for (const method of path === '/clusters/:cluster' ? ['put', 'patch'] as const : ['put', 'post', 'patch'] as const) {
      app[method](path, async context => {
        const document = await body(context, json)
        return told(context, await clusters.update(idIn(context, document), document))
      })
    }
  }
  const removed = async (context: Context): Promise<Response> => {
    await clusters.remove(idIn(context, await documentIn(context)))
    return told(context, { message: 'cluster removed' })
  }
  for (const path of ['/clusters/delete', '/clusters/delete/:cluster', '/clusters/:cluster']) app.delete(path, removed)
  app.post('/clusters/delete', removed)

  // Nodes: as the gateway and the membership server take them, and as the cluster's own controller does -----------
  for (const path of ['/join-node', '/join-node/:cluster']) {
    app.post(path, async context => {
      const document = await body(context, json)
      const said = z.looseObject({ invite: z.string().optional(), ticket: z.string().optional() }).parse(document)
      const invite = said.invite ?? said.ticket
      if (invite !== undefined) return told(context, await clusters.join(invite))
      const cluster = idIn(context, document)
      const node = z.looseObject({ id: z.string().optional() }).safeParse(isJsonObject(document) ? document['node_data'] ?? document['nodeData'] : undefined)
      // Without a node it is about this host.
      return told(context, !node.success || node.data.id === undefined || node.data.id === view.self ? await clusters.join(cluster) : await clusters.addNode(within(cluster, document)))
    })
  }
  for (const path of ['/remove-node', '/remove-node/:cluster']) {
    app.post(path, async context => {
      const document = await body(context, json)
      return told(context, await clusters.removeNode(idIn(context, document), nodeOf(context, document)))
    })
  }
  app.post('/nodes/add-node-to-cluster/:cluster', async context => told(context, await clusters.addNode(within(idIn(context, {}), await body(context, json)))))
  for (const method of ['get', 'post', 'delete'] as const) app[method]('/nodes/remove-node-from-cluster/:cluster/:node', async context => told(context, await clusters.removeNode(idIn(context, {}), nodeOf(context, {}))))
  app.post('/cluster-actions/add-node', async context => {
    const document = await body(context, json)
    const said = named.safeParse(document)
    return told(context, await clusters.addNode(within(said.success ? said.data.clusterId ?? said.data.cluster_id ?? own() : own(), document)))
  })
  for (const method of ['post', 'delete'] as const) app[method]('/cluster-actions/remove-node/:node', async context => told(context, await clusters.removeNode(own(), nodeOf(context, {}))))
  app.get('/cluster-actions/get-cluster', context => told(context, clusters.get(own())))
  app.patch('/cluster-actions/update-cluster', async context => told(context, await clusters.update(own(), await body(context, json))))
  for (const method of ['get', 'post'] as const) app[method]('/sync-cluster/:cluster', context => told(context, clusters.get(idIn(context, {}))))

  // There is no Kubernetes to be given a cluster's services: each host brings its own. What is sent is not read.
  for (const path of ['/create-cluster-infra', '/remove-cluster-infra']) {
    app.post(path, () => {
      throw new MeshError('RUNTIME_UNAVAILABLE', path === '/create-cluster-infra'
        ? 'a cluster here has no infrastructure to create by a kubeconfig, which was not read: start a peer on each of its hosts with `aios up --join INVITE`, and take it into the cluster with `aios cluster invite CLUSTER` and `aios cluster join TEXT` (POST /join-node)'
        : 'a cluster here has no infrastructure to remove by a kubeconfig, which was not read: take its hosts out with `aios cluster remove-node CLUSTER PEER` (POST /remove-node), or the cluster away with DELETE /clusters/CLUSTER; `aios down` stops a peer')
    })
  }

  // What would be allowed ----------------------------------------------------------------------------------------
  const opinion = (context: Context, verdict: Verdict<JsonObject>): Response => told(context, verdict.ok ? { allowed: true, input_data: verdict.value } : { allowed: false, input_data: verdict.because })
  for (const path of ['/pre-checks/add-node', '/pre-checks/add-node/:cluster', '/pre-check-policies/add_node/dry_run']) {
    app.post(path, async context => {
      const document = await body(context, json)
      return opinion(context, await clusters.mayAddNode(within(idIn(context, document), document)))
    })
  }
  for (const path of ['/pre-checks/remove-node', '/pre-checks/remove-node/:cluster', '/pre-check-policies/remove_node/dry_run']) {
    app.post(path, async context => {
      const document = await body(context, json)
      return opinion(context, await clusters.mayRemoveNode(idIn(context, document), nodeOf(context, document)))
    })
  }

  // How it is ----------------------------------------------------------------------------------------------------
  app.get('/nodes_status', context => told(context, stability.nodes(context.req.query('cluster_id') ?? own())))
  app.get('/healthy_nodes', context => told(context, stability.nodes(context.req.query('cluster_id') ?? own()).filter(({ status }) => status === 'healthy')))
  app.get('/check_stability', async context => told(context, await stability.check()))
  app.get('/cluster-metrics/:cluster', context => told(context, clusters.metrics(idIn(context, {}))))
  app.get('/cluster-metrics/node/:cluster/:node', context => {
    const nodes: Json | undefined = clusters.metrics(idIn(context, {}))['nodes']
    const found = Array.isArray(nodes) ? nodes.find(node => isJsonObject(node) && node['nodeId'] === nodeOf(context, {})) : undefined
    if (found === undefined) throw new MeshError('NOT_FOUND', `cluster ${idIn(context, {})} has no living node ${nodeOf(context, {})}`)
    return told(context, found)
  })

  // Ours: how a host comes and goes --------------------------------------------------------------------------------
  app.post('/mesh/clusters/:cluster/invite', async context => {
    const { validMs } = await body(context, z.object({ validMs: z.int().positive().max(30 * 86_400_000).default(86_400_000) }))
    return context.json(clusters.invite(idIn(context, {}), validMs))
  })
  app.post('/mesh/cluster/join', async context => context.json(toJson(await clusters.join((await body(context, z.object({ cluster: z.string().min(1).max(12_000) }))).cluster))))
  app.post('/mesh/cluster/leave', async context => {
    await clusters.leave((await body(context, z.object({ force: z.boolean().default(false) }))).force)
    return context.json({ cluster: view.self })
  })

  // Groups of clusters ---------------------------------------------------------------------------------------------
  const group = (context: Context): string => context.req.param('id') ?? ''
  app.post('/cluster-groups', async context => told(context, await groups.create(await body(context, json))))
  app.get('/cluster-groups', async context => told(context, await groups.list()))
  app.post('/cluster-groups/query', async context => {
    const asked = await documentIn(context)
    const test = mongoQuery(isJsonObject(asked) && asked['query'] !== undefined ? asked['query'] : asked)
    return told(context, (await groups.list()).filter(one => test(one)))
  })
  app.get('/cluster-groups/:id', async context => told(context, await groups.get(group(context))))
  app.put('/cluster-groups/:id', async context => told(context, await groups.update(group(context), await body(context, json))))
  app.delete('/cluster-groups/:id', async context => {
    await groups.remove(group(context))
    return told(context, { message: 'group removed' })
  })
}

/** AIOS's network document and the pre-checks of the whole network: its owner and its admins write them, every peer reads them. */
export function addNetworkRoutes(app: Hono, { peer: { network } }: GatewayParts): void {
  const told = (context: Context, data: unknown): Response => context.json({ success: true, data: toJson(data) })
  app.get('/network', context => told(context, network.document()))
  app.put('/network', async context => told(context, await network.update(await body(context, json))))
  app.put('/network/admins', async context => {
    await network.setAdmins((await body(context, z.object({ admins: z.array(peerId).max(64) }))).admins)
    return told(context, network.document())
  })
  app.post('/pre-check-policies/update', async context => told(context, await network.setPolicies(await body(context, json))))
  for (const method of ['get', 'post'] as const) app[method]('/pre-check-policies/get', context => told(context, network.document().policies))
}
