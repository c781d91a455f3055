import type { Context, Hono } from 'hono'
import { MeshError } from '../../protocols/errors.ts'
import { blockId, json, type BlockId, type Json } from '../../protocols/ids.ts'
import { aggregate } from '../../src/metrics/aggregate.ts'
import { vdagDocument, withAggregate } from '../../src/metrics/mesh-metrics.ts'
import { isJsonObject, type JsonObject } from '../../src/lib/json.ts'
import { mongoQuery } from '../../src/specs/mongo.ts'
import { body } from './request-body.ts'
import type { GatewayParts } from './server.ts'

/**
 * AIOS's metrics databases, of its clusters and of the whole network alike: any peer answers for any node, cluster, block and
 * vDAG. Each path is there with `/metrics` before it, too, for the sake of those that another of AIOS's services also has.
 */
export function addMetricsRoutes(app: Hono, parts: GatewayParts): void {
  const { peer, telemetry, startedAt } = parts
  const { metrics, view, catalogue, controllers, ports } = peer

  app.get('/metrics', async context => {
    ports.telemetry.gauge('peers_live', view.live().length)
    ports.telemetry.gauge('instances_here', peer.instances.running().length)
    ports.telemetry.gauge('process_resident_bytes', process.memoryUsage.rss())
    ports.telemetry.gauge('uptime_seconds', Math.round((Date.now() - startedAt) / 1_000))
    return context.body(`${await telemetry.exposition()}${metrics.exposition()}`, 200, { 'content-type': telemetry.contentType })
  })

  const found = (context: Context, data: unknown): Response => context.json({ success: true, data })
  const idOf = (context: Context): string => context.req.param('id') ?? ''
  const blocks = async (): Promise<readonly JsonObject[]> => (await metrics.blocks((await catalogue.blocks()).map(({ blockId: id }) => id))).map(withAggregate)
  const known = async (id: string): Promise<BlockId> => {
    const parsed = blockId.safeParse(id)
    if (!parsed.success || (await catalogue.block(parsed.data)) === undefined) throw new MeshError('NOT_FOUND', `no block is called ${id}`)
    return parsed.data
  }
  /** AIOS names a vDAG's metrics by its controller: what that one's peers answered. Here every peer answers for every vDAG, so the vDAG's own URI stands for all of them. */
  const vdags = async (): Promise<readonly JsonObject[]> => {
    const [measured, all] = await Promise.all([metrics.vdags(), controllers.list()])
    const byController = all.map(({ vdag_controller_id: id, vdag_uri: uri, hosts }) => {
      const nodes = measured.find(document => document['vdagURI'] === uri)?.['nodes']
      return { vdagControllerId: id, ...vdagDocument(uri, (Array.isArray(nodes) ? nodes.filter(isJsonObject) : []).filter(({ nodeId }) => hosts.some(host => host === nodeId))) }
    })
    return [...byController, ...measured.map(document => ({ vdagControllerId: document['vdagURI'] ?? '', ...document }))]
  }
  const vdag = async (id: string): Promise<JsonObject> => {
    const one = (await vdags()).find(document => document['vdagControllerId'] === id)
    if (one === undefined) throw new MeshError('NOT_FOUND', `nobody has measured a vDAG ${id}: it has no such controller, or nobody asked it yet`)
    return one
  }
  const block = async (id: string): Promise<JsonObject> => withAggregate((await metrics.blocks([await known(id)]))[0] ?? {})

  const subjects: readonly { readonly path: string; readonly all: () => Promise<readonly JsonObject[]>; readonly one: (id: string) => Promise<JsonObject> }[] = [
    { path: 'node', all: () => metrics.nodes(), one: id => metrics.node(id) },
    { path: 'cluster', all: () => metrics.clusters(), one: id => metrics.cluster(id) },
    { path: 'block', all: blocks, one: block },
    { path: 'vdag', all: vdags, one: vdag },
  ]
  for (const prefix of ['', '/metrics']) {
    app.get(`${prefix}/block/health/:id`, async context => found(context, await metrics.health(await known(idOf(context)))))
    for (const { path, all, one } of subjects) {
      app.get(`${prefix}/${path}/aggregate`, async context => found(context, together(path, await all())))
      // In a cluster of AIOS's, `/cluster` is that cluster; of the whole network, all of them.
      app.get(`${prefix}/${path}`, async context => found(context, path === 'cluster' && prefix === '' ? await metrics.cluster(view.ad(view.self)?.cluster ?? '') : await all()))
      app.post(`${prefix}/${path}/query`, async context => {
        const test = mongoQuery(asWritten(await body(context, json)))
        return found(context, (await all()).filter(test))
      })
      // So AIOS's clients of these databases ask: each parameter is a field that has this value.
      app.get(`${prefix}/${path}/query`, async context => found(context, (await all()).filter(mongoQuery(asWritten(context.req.query())))))
      app.post(`${prefix}/${path}/aggregate`, async context => {
        const test = mongoQuery(asWritten(await body(context, json)))
        return found(context, together(path, (await all()).filter(test)))
      })
      // A vDAG's URI is its name in the registry, which answers for it with its metrics; AIOS's metrics name controllers.
      app.get(`${prefix}/${path}/:id`, async (context, next) => (path === 'vdag' && prefix === '' && idOf(context).includes(':') ? next() : found(context, await one(idOf(context)))))
    }
  }
}

/** AIOS's samples ask for `load_15m` where its documents say `load15m`. */
function asWritten(filter: Json): Json {
  if (Array.isArray(filter)) return filter.map(asWritten)
  if (!isJsonObject(filter)) return filter
  return Object.fromEntries(Object.entries(filter).map(([key, value]) => [key.replace(/\bload_(\d+)m\b/g, 'load$1m'), asWritten(value)]))
}

/** All documents as one: what is inside a block's instances is aggregated there already. */
function together(path: string, documents: readonly JsonObject[]): JsonObject {
  const inner = documents.flatMap(document => {
    const part = path === 'block' ? document['aggregate'] : path === 'cluster' ? document['cluster'] : document
    return isJsonObject(part) ? [part] : []
  })
  return { count: documents.length, ...aggregate(inner) }
}
