import type { Context, Hono } from 'hono'
import type { JsonObject } from '../../src/lib/json.ts'
import type { GatewayParts } from './server.ts'

const HEALTH_MS = 5_000

/** Is one of AIOS's asset stores or container registries well? The lists themselves are registries like the others. */
export function addStoreRoutes(app: Hono, { peer: { shelves, view } }: GatewayParts): void {
  /** A peer is as well as it is alive, any other store as its own door answers; what that says is not passed on. */
  const told = async (context: Context, id: string, url: JsonObject[string] | undefined, path: string): Promise<Response> => {
    const peer = id === view.self || view.ad(id) !== undefined
    const healthy = peer ? id === view.self || view.state(id) === 'alive' : typeof url === 'string' && await answers(`${url.replace(/\/+$/, '')}${path}`)
    return context.json({ success: true, data: { id, healthy } })
  }
  app.get('/check_health/:id', async context => {
    const id = context.req.param('id')
    return told(context, id, (await shelves.assetStores.get(id))['asset_registry_public_url'], '/health')
  })
  app.get('/check_container_health/:id', async context => {
    const id = context.req.param('id')
    return told(context, id, (await shelves.containerStores.get(id))['container_registry_public_url'], '/v2/')
  })
}

async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(HEALTH_MS), redirect: 'error' })
    await response.body?.cancel()
    // A registry that wants a login is well, too.
    return response.ok || response.status === 401
  } catch {
    return false
  }
}
