import type { Context, Hono } from 'hono'
import { MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import type { Performed, PerformOptions } from '../../src/parser.ts'
import { taskList } from './task-routes.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

/**
 * AIOS's parser: `POST /api/{action}` with an envelope or a bare spec, answered as AIOS answers. `Idempotency-Key` (or `?key=`) makes
 * the same request one task; with `?wait=false` the answer is the task's id, and its state is asked for; with `?wait=made` it
 * comes when a block is on record, before its instances are there.
 */
export function addAiosRoutes(app: Hono, { peer }: GatewayParts): void {
  const { parser, inventory } = peer
  // AIOS's search server, which parses no envelope under /no-ir; here either takes either.
  for (const path of ['/api/filter-data', '/api/no-ir/filter']) app.post(path, async context => context.json({ success: true, data: await inventory.filter(await body(context, json)) }))
  for (const path of ['/api/similarity-search', '/api/no-ir/similarity-search']) app.post(path, async context => context.json({ success: true, data: await inventory.search(await body(context, json)) }))
  app.get('/api/tasks', taskList(peer))
  app.post('/api/reinitiate/:task', async context => answer(context, await parser.again(context.req.param('task'), context.req.raw.signal, optionsOf(context))))
  app.post('/api/with-spec/:action', async context => {
    const uri = context.req.query('specUri') ?? context.req.query('spec_uri')
    if (uri === undefined || uri === '') throw new MeshError('BAD_INPUT', 'name the stored spec: ?specUri=name:version-tag')
    const over = await optionalBody(context)
    return answer(context, await parser.performStored(context.req.param('action'), uri, over, context.req.raw.signal, optionsOf(context)))
  })
  app.post('/api/:action', async context => {
    const document = await body(context, json)
    return answer(context, await parser.perform(context.req.param('action'), document, context.req.raw.signal, optionsOf(context)))
  })
}

function answer(context: Context, { taskId, status, result, existing }: Performed): Response {
  return context.json({ success: true, task_id: taskId, status, result, ...(existing ? { existing } : {}) }, status === 'completed' ? 200 : 202)
}

function optionsOf(context: Context): PerformOptions {
  const key = context.req.header('idempotency-key') ?? context.req.query('key')
  if (key !== undefined && (key === '' || key.length > 200)) throw new MeshError('BAD_INPUT', 'an idempotency key has 1 to 200 characters')
  const wait = context.req.query('wait')
  return { ...(key === undefined ? {} : { key }), wait: wait === 'made' ? 'made' : wait !== 'false' && wait !== '0' }
}

async function optionalBody(context: Context): Promise<Json> {
  return context.req.header('content-length') === '0' || context.req.raw.body === null ? {} : body(context, json)
}
