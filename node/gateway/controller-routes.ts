import type { Hono } from 'hono'
import { z } from 'zod'
import { MeshError } from '../../protocols/errors.ts'
import { json } from '../../protocols/ids.ts'
import { toJson } from '../../src/lib/json.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

const action = z.object({ action: z.enum(['create_controller', 'remove_controller', 'list_controllers']), payload: z.record(z.string(), json).default({}) })
const named = z.looseObject({ vdag_controller_id: z.string() })
const decision = z.object({ at: z.number(), decided: z.enum(['approved', 'rejected']) })

/** AIOS's vDAG controllers over HTTP: create and list them, and what they say of quota, health and quality. Each vDAG is named by `vdag_uri`. */
export function addControllerRoutes(app: Hono, { peer }: GatewayParts): void {
  const { controllers, gate, catalogue } = peer
  const perform = async (asked: z.infer<typeof action>): Promise<unknown> => {
    if (asked.action === 'create_controller') return controllers.create(asked.payload)
    if (asked.action === 'list_controllers') return controllers.list()
    await controllers.remove(named.parse(asked.payload).vdag_controller_id)
    return {}
  }
  app.post('/vdag-controller', async context => context.json({ success: true, data: await perform(await body(context, action)) }))
  app.post('/vdag-controller/:cluster', async context => context.json({ success: true, data: await perform(await body(context, action)) }))
  app.get('/vdag-controllers', async context => context.json({ success: true, data: await controllers.list() }))
  app.get('/vdag-controllers/by-vdag-uri/:uri', async context => context.json({ success: true, data: await controllers.list(context.req.param('uri')) }))
  app.get('/vdag-controller/:id', async context => context.json({ success: true, data: await controllers.get(context.req.param('id')) }))
  app.delete('/vdag-controller/:id', async context => {
    await controllers.remove(context.req.param('id'))
    return context.json({ success: true, data: {} })
  })

  /** A peer that is a controller of one vDAG alone need not be told which. */
  const vdagOf = async (uri: string | undefined): Promise<string> => {
    const found = uri ?? await controllers.only()
    if (found === undefined) throw new MeshError('BAD_INPUT', 'name the vDAG: ?vdag_uri=name:version-tag')
    return (await catalogue.vdag(found)).spec.vdagURI
  }
  app.get('/quota/:session', async context => context.json({ success: true, data: { session_id: context.req.param('session'), quota: gate.quota(await vdagOf(context.req.query('vdag_uri')), context.req.param('session')) } }))
  app.get('/quota/exists/:session', async context => context.json({ success: true, data: gate.quota(await vdagOf(context.req.query('vdag_uri')), context.req.param('session')) > 0 }))
  const reset = async (uri: string | undefined, session: string): Promise<{ readonly success: true; readonly data: object }> => {
    gate.resetQuota(await vdagOf(uri), session)
    return { success: true, data: {} }
  }
  app.post('/quota/reset/:session', async context => context.json(await reset(context.req.query('vdag_uri'), context.req.param('session'))))
  app.delete('/quota/:session', async context => context.json(await reset(context.req.query('vdag_uri'), context.req.param('session'))))
  app.get('/health/check', async context => {
    const { spec } = await catalogue.vdag(await vdagOf(context.req.query('vdag_uri')))
    return context.json({ success: true, data: gate.health(spec) })
  })
  app.get('/vdag-metrics', async context => context.json({ success: true, data: gate.metrics(await vdagOf(context.req.query('vdag_uri'))) }))

  app.get('/mesh/reviews', context => context.json(toJson(gate.reviews())))
  app.post('/mesh/reviews', async context => {
    const { at, decided } = await body(context, decision)
    return context.json(toJson(gate.decide(at, decided)))
  })
}
