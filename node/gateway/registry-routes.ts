import type { Hono } from 'hono'
import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { unwrap } from '../../src/specs/envelope.ts'
import { query, type Shelf } from '../../src/stores/shelf.ts'
import type { GatewayParts } from './server.ts'
import { body } from './request-body.ts'

/**
 * The registries over AIOS's own paths: create, get, change (Mongo's update operators), delete or yank, and query (Mongo's
 * filters, or `{ query, options: { sort, limit } }`).
 */
export function addRegistryRoutes(app: Hono, { peer }: GatewayParts): void {
  const { shelves, allocator, templates, controllers, inventory, runs, catalogue, metrics } = peer

  app.post('/template/execute', async context => {
    const { template_uri: uri, input_data: values, parameters } = await body(context, z.looseObject({ template_uri: z.string().min(1), input_data: z.record(z.string(), json), parameters: z.record(z.string(), json).default({}) }))
    return context.json({ success: true, data: await templates.run(uri, unwrap(values, 'input_data').values, parameters) })
  })
  addShelf(app, shelves.specs, { one: '/spec', all: '/specs', key: 'specUri' })
  addShelf(app, shelves.templates, { one: '/template', all: '/templates', key: 'templateUri' })
  addShelf(app, shelves.inferenceServers, { one: '/inference_server', all: '/inference_servers', key: 'id' })
  addShelf(app, shelves.splitRunners, { one: '/split-runner', all: '/split-runners', key: 'id' })
  addShelf(app, shelves.assetStores, { one: '/asset_registry', all: '/asset_registries', key: 'id' })
  addShelf(app, shelves.containerStores, { one: '/container_registry', all: '/container_registries', key: 'id' })
  addShelf(app, shelves.layers, { one: '/model-layer', all: '/model-layers', key: 'id' })

  app.get('/vdag/:uri', async context => {
    const document = await shelves.vdags.get(context.req.param('uri'))
    const { spec } = await catalogue.vdag(context.req.param('uri'))
    // Who would run its nodes now, as AIOS shows a vDAG compiled; one that cannot be assigned is shown as waiting for that.
    const compiled = await runs.compiled(spec).catch(() => undefined)
    const measured = (await metrics.vdags()).find(one => one['vdagURI'] === document['vdagURI'])
    return context.json({ success: true, data: { ...document, ...compiled ?? { assignment_info: {} }, status: compiled === undefined ? 'pending' : 'active', metrics: measured ?? null } })
  })
  addShelf(app, shelves.vdags, { one: '/vdag', all: '/vdags', key: 'vdagURI' })
  app.post('/vdag-controllers', async context => context.json({ success: true, data: await query({ documents: async () => (await controllers.list()).map(found => ({ ...found })) }, await body(context, json)) }))
  app.put('/vdag-controller/:id', async context => context.json({ success: true, data: await controllers.update(context.req.param('id'), await body(context, json)) }))

  app.post('/allocate', async context => context.json({ success: true, data: await allocator.allocate(await body(context, json)) }))
  app.delete('/allocate/:reservation', context => {
    allocator.release(context.req.param('reservation'))
    return context.json({ success: true, data: { message: 'the room was given back' } })
  })

  // Blocks: queries carry `{ query, options }`, changes go to /block/update.
  app.get('/blocks', async context => context.json({ success: true, data: await inventory.blocks() }))
  app.post('/blocks/query', async context => context.json({ success: true, data: await query(shelves.blocks, await body(context, json)) }))
  app.get('/blocks/:id', async context => context.json({ success: true, data: await shelves.blocks.get(context.req.param('id')) }))
  app.delete('/blocks/:id', async context => {
    await shelves.blocks.remove(context.req.param('id'))
    return context.json({ success: true, data: { message: 'block removed' } })
  })
  for (const method of ['put', 'post'] as const) app[method]('/block/update/:id', async context => context.json({ success: true, data: await shelves.blocks.update(context.req.param('id'), await body(context, json)) }))
}

function addShelf(app: Hono, shelf: Shelf, { one, all, key }: { readonly one: string; readonly all: string; readonly key: string }): void {
  app.post(one, async context => context.json({ success: true, data: { message: 'created', [key]: await shelf.create(await body(context, json)) } }, 201))
  app.get(`${one}/:key`, async context => context.json({ success: true, data: await shelf.get(context.req.param('key')) }))
  app.put(`${one}/:key`, async context => context.json({ success: true, data: await shelf.update(context.req.param('key'), await body(context, json)) }))
  app.delete(`${one}/:key`, async context => {
    await shelf.remove(context.req.param('key'), context.req.query('because'))
    return context.json({ success: true, data: { message: 'deleted' } })
  })
  app.get(all, async context => context.json({ success: true, data: await shelf.documents() }))
  const found = async (asked: Json): Promise<unknown> => query(shelf, asked)
  app.post(all, async context => context.json({ success: true, data: await found(await body(context, json)) }))
}
