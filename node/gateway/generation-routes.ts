import type { Hono } from 'hono'
import { MeshError } from '../../protocols/errors.ts'
import type { GatewayParts } from './server.ts'

/** What this peer generates now: for the CLI and the dashboard. */
export function addGenerationRoutes(app: Hono, { peer }: GatewayParts): void {
  app.get('/mesh/generations', context => context.json(peer.generations.driving()))
  app.get('/mesh/generations/:id', context => {
    const id = context.req.param('id')
    const found = peer.generations.driving().find(({ session }) => session === id)
    if (found === undefined) throw new MeshError('NOT_FOUND', `this peer does not drive ${id} now`)
    return context.json(found)
  })
}
