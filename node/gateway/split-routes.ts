import type { Hono } from 'hono'
import { json } from '../../protocols/ids.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

/** AIOS's deployments of split models: on the nodes that are named, or that a rule chooses. */
export function addSplitRoutes(app: Hono, { peer }: GatewayParts): void {
  app.post('/splits/create', async context => context.json({ success: true, data: await peer.splits.create(await body(context, json)) }, 201))
  app.post('/splits/create-with-policy', async context => context.json({ success: true, data: await peer.splits.createWithPolicy(await body(context, json)) }, 201))
}
