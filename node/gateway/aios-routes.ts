import type { Hono } from 'hono'
import { json } from '../../protocols/ids.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

/** AIOS's parser: `POST /api/{action}` with an envelope or a bare spec, answered as AIOS answers. */
export function addAiosRoutes(app: Hono, { peer }: GatewayParts): void {
  app.post('/api/:action', async context => {
    const document = await body(context, json)
    const { taskId, result } = await peer.parser.perform(context.req.param('action'), document, context.req.raw.signal)
    return context.json({ success: true, task_id: taskId, result })
  })
  app.get('/api/tasks', context => {
    const { action, status } = context.req.query()
    return context.json({ success: true, result: peer.parser.tasks().filter(task => (action === undefined || task.action === action) && (status === undefined || task.status === status)) })
  })
}
