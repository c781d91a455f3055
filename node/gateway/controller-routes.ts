import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import { toJson, type JsonObject } from '../../src/lib/json.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const action = z.object({ action: z.enum(['create_controller', 'remove_controller', 'scale_controller', 'list_controllers', 'create', 'remove', 'scale', 'list']), payload: z.record(z.string(), json).default({}) })
const named = z.looseObject({ vdag_controller_id: z.string() })
const scaled = z.looseObject({ vdag_controller_id: z.string(), replicas: z.coerce.number().int().min(1).max(1_000) })
const command = z.looseObject({ mgmt_action: z.string().min(1).optional(), action: z.string().min(1).optional(), mgmt_data: json.optional(), data: json.optional() })
const CHECKERS = { quota: 'quotaChecker', quality: 'qualityChecker', 'quality-check': 'qualityChecker', health: 'healthChecker' } as const

/** AIOS's vDAG controllers over HTTP: create and list them, and what they say of quota, health and quality. Each vDAG is named by `vdag_uri`. */
export function addControllerRoutes(app: Hono, { peer }: GatewayParts): void {
  const { controllers, gate, catalogue } = peer
  const perform = async (asked: z.infer<typeof action>, cluster?: string): Promise<unknown> => {
    const what = asked.action.replace('_controllers', '').replace('_controller', '')
    if (what === 'create') return controllers.create(asked.payload, cluster)
    if (what === 'list') return controllers.list()
    if (what === 'scale') {
      const { vdag_controller_id: id, replicas } = scaled.parse(asked.payload)
      return controllers.scale(id, replicas)
    }
    await controllers.remove(named.parse(asked.payload).vdag_controller_id)
    return {}
  }
  app.post('/vdag-controller', async context => context.json({ success: true, data: await perform(await body(context, action)) }))
  // On hosts of that cluster; `any` is none in particular.
  app.post('/vdag-controller/:cluster', async context => context.json({ success: true, data: await perform(await body(context, action), context.req.param('cluster') === 'any' ? undefined : context.req.param('cluster')) }))
  app.get('/vdag-controllers', async context => context.json({ success: true, data: await controllers.list() }))
  app.get('/vdag-controllers/by-vdag-uri/:uri', async context => context.json({ success: true, data: await controllers.list((await catalogue.vdag(context.req.param('uri'))).spec.vdagURI) }))
  app.get('/vdag-controller/:id', async context => context.json({ success: true, data: await controllers.get(context.req.param('id')) }))
  app.delete('/vdag-controller/:id', async context => {
    await controllers.remove(context.req.param('id'))
    return context.json({ success: true, data: {} })
  })

  /** Named by `?vdag_uri`, or by its controller in the path; a peer that is a controller of one vDAG alone need not be told which. */
  const vdagOf = async (context: Context): Promise<string> => {
    const id = context.req.param('controller')
    const found = id === undefined ? context.req.query('vdag_uri') ?? await controllers.only() : (await controllers.get(id)).vdag_uri
    if (found === undefined) throw new MeshError('BAD_INPUT', 'name the vDAG: ?vdag_uri=name:version-tag')
    return (await catalogue.vdag(found)).spec.vdagURI
  }
  const told = (context: Context, data: unknown): Response => context.json({ success: true, data: toJson(data) })
  const compiled = async (context: Context): Promise<{ readonly document: object; readonly graph: JsonObject }> => {
    const { spec } = await catalogue.vdag(await vdagOf(context))
    const view = await peer.runs.compiled(spec)
    return { document: { ...spec, ...view, status: 'active' }, graph: view.compiled_graph_data }
  }
  const session = (context: Context): string => context.req.param('session') ?? ''
  const reset = async (context: Context): Promise<Response> => {
    gate.resetQuota(await vdagOf(context), session(context))
    return told(context, {})
  }
  // At the root, and where AIOS's gateway maps the management server of a controller.
  for (const at of ['', '/:controller/server']) {
    app.get(`${at}/quota/:session`, async context => told(context, { session_id: session(context), quota: gate.quota(await vdagOf(context), session(context)) }))
    app.get(`${at}/quota/exists/:session`, async context => told(context, gate.quota(await vdagOf(context), session(context)) > 0))
    app.post(`${at}/quota/reset/:session`, reset)
    app.delete(`${at}/quota/:session`, reset)
    app.get(`${at}/health/check`, async context => {
      const { spec } = await catalogue.vdag(await vdagOf(context))
      // What the last look of a controller found, besides how it is this instant.
      const last = peer.health.last(spec.vdagURI)
      return context.json({ success: true, data: gate.health(spec), ...(last === undefined ? {} : { last: toJson(last) }) })
    })
    app.post(`${at}/health/check`, async context => told(context, await peer.health.check(await vdagOf(context))))
    for (const [path, checker] of Object.entries(CHECKERS)) {
      app.post(`${at}/${path}/mgmt`, async context => {
        const asked = await body(context, command)
        const said = asked.mgmt_action ?? asked.action
        if (said === undefined) throw new MeshError('BAD_INPUT', 'name the command: { "mgmt_action": …, "mgmt_data": … }')
        return told(context, await gate.manage(await vdagOf(context), checker, { action: said, data: asked.mgmt_data ?? asked.data ?? null }, exact => controllers.configOf(exact)))
      })
    }
    // AIOS's controller and its metrics database both have this path; only the controller's is about one vDAG.
    app.get(`${at}/vdag`, async (context, next) => (at === '' && context.req.query('vdag_uri') === undefined ? next() : told(context, (await compiled(context)).document)))
    app.get(`${at}/l3_graph`, async context => told(context, (await compiled(context)).graph['t3_graph'] ?? {}))
    app.get(`${at}/head_block`, async context => told(context, (await compiled(context)).graph['head'] ?? null))
    app.get(`${at}/vdag-metrics`, async context => told(context, gate.metrics(await vdagOf(context))))
  }

}
