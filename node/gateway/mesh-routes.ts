import type { Context, Hono } from 'hono'
import { z } from 'zod'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import { json, type Json } from '../../protocols/ids.ts'
import { right } from '../../protocols/membership.ts'
import { readGenesis, writeInvite } from '../../src/trust/invitation.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { ALL_RIGHTS } from '../../src/trust/capability.ts'
import type { GatewayParts } from './server.ts'
import { body, lines } from './request-body.ts'
import { runView } from './run-view.ts'
import { traceOf } from './trace-door.ts'

const CALL_MS = 10_000
const WAIT_READY_MS = 120_000
const RUN_EVENTS_MS = 3_600_000

function within(context: Context, ms: number): AbortSignal {
  return AbortSignal.any([context.req.raw.signal, AbortSignal.timeout(ms)])
}

/** Only a block's steward knows how it was last placed. */
function lastPlacementIn(status: Json): Json {
  return isJsonObject(status) ? status['lastPlacement'] ?? null : null
}

/** The doors the CLI and the dashboard use: everything a peer can be asked, in our own shapes. */
export function addMeshRoutes(app: Hono, parts: GatewayParts): void {
  const { peer, authoring } = parts
  const { view, catalogue, invoker, runs, actions, templates, ports } = peer
  const failure = (error: unknown): unknown => ({ error: asMeshError(error).toJSON() })

  app.get('/healthz', context => context.json({ healthy: true, peer: view.self, live: view.live().length }))

  app.get('/mesh/status', async context => {
    const { network, genesis } = peer.admission.membership
    const document = readGenesis(ports.identity, genesis)
    return context.json({
      peer: view.self, network: { id: network, name: document.name, owner: document.owner }, addresses: ports.network.addresses(), http: parts.url(),
      peers: ports.network.peers().length, live: view.live().length, instances: peer.instances.running().length, blocks: (await catalogue.blocks()).length, runs: (await runs.list()).length,
      uptimeMs: Date.now() - parts.startedAt, rssMb: Math.round(process.memoryUsage.rss() / 1_048_576), rights: peer.admission.rights(view.self),
      // What was let go and given back to the disk since this process began.
      ...(ports.content.reclaimed === undefined ? {} : { content: ports.content.reclaimed() }),
    })
  })

  app.get('/mesh/peers', context => {
    const connected = new Set(ports.network.peers())
    const known = new Set([...view.live(), ...connected])
    return context.json([...known].sort().map(id => ({
      peer: id, self: id === view.self, state: id === view.self ? 'alive' : view.state(id), connected: id === view.self || connected.has(id),
      rttMs: ports.network.rtt(id) ?? null, ad: view.ad(id) ?? null,
    })))
  })

  app.post('/mesh/invite', async context => {
    const asked = await body(context, z.object({ validMs: z.int().positive().max(30 * 86_400_000).default(86_400_000), rights: z.array(right).optional() }))
    const mine = peer.admission.rights(view.self)
    if (!mine.includes('invite')) throw new MeshError('FORBIDDEN', 'this peer was not given the right to invite others')
    const wanted = asked.rights ?? mine
    const excess = wanted.filter(name => !mine.includes(name) || !ALL_RIGHTS.includes(name))
    if (excess.length > 0) throw new MeshError('FORBIDDEN', `this peer cannot pass on ${excess.join(', ')}: it does not hold it`)
    const now = ports.clock.unix()
    const invite = writeInvite(ports.identity, ports.random, peer.admission.membership, { addresses: ports.network.addresses(), rights: wanted, now, validMs: asked.validMs })
    return context.json({ invite, expires: now + asked.validMs, rights: wanted })
  })

  // Components, policies, assets -------------------------------------------------------------------------------
  app.post('/mesh/components', async context => {
    const { directory } = await body(context, z.object({ directory: z.string() }))
    return lines(context, async (write, signal) => {
      write({ result: await authoring.publishComponent(directory, { signal, progress: progress => write({ progress }) }) })
    }, failure)
  })
  app.get('/mesh/components', async context => context.json(await catalogue.components()))
  app.get('/mesh/components/:uri', async context => context.json((await catalogue.component(context.req.param('uri'), AbortSignal.timeout(CALL_MS))).manifest))

  app.post('/mesh/policies', async context => {
    const { directory } = await body(context, z.object({ directory: z.string() }))
    return lines(context, async (write, signal) => {
      write({ result: await authoring.publishPolicy(directory, { signal, progress: progress => write({ progress }) }) })
    }, failure)
  })
  app.get('/mesh/policies', async context => context.json(await catalogue.policies()))

  app.post('/mesh/assets', async context => {
    const asked = await body(context, z.object({ file: z.string(), name: z.string().optional(), version: z.string().optional(), tag: z.string().optional() }))
    return lines(context, async (write, signal) => {
      write({ result: await authoring.publishAsset(asked.file, { name: asked.name, version: asked.version, releaseTag: asked.tag }, { signal, progress: progress => write({ progress }) }) })
    }, failure)
  })
  app.get('/mesh/assets', async context => context.json(await Promise.all((await catalogue.assets()).map(async ({ uri, cid }) => {
    // A record whose holders are all away still has a name worth listing.
    const asset = await catalogue.asset(uri, AbortSignal.timeout(CALL_MS)).catch(() => undefined)
    return { uri, cid, size: asset?.size ?? 0, writer: asset?.author ?? '' }
  }))))
  app.post('/mesh/assets/:uri/fetch', context => lines(context, async (write, signal) => {
    const asset = await catalogue.asset(context.req.param('uri'), signal)
    await ports.content.fetch(asset.content, { signal, progress: progress => write({ progress }) })
    write({ result: { uri: asset.assetURI, cid: asset.content, bytes: asset.size } })
  }, failure))
  app.get('/mesh/assets/:uri/content', async context => {
    const signal = context.req.raw.signal
    const asset = await catalogue.asset(context.req.param('uri'), signal)
    return new Response(ReadableStream.from(ports.content.cat(asset.content, { signal })), { headers: { 'content-type': asset.mediaType, 'content-length': String(asset.size) } })
  })

  // Blocks -----------------------------------------------------------------------------------------------------
  app.post('/mesh/blocks', async context => {
    const asked = await body(context, z.object({ spec: json, dryRun: z.boolean().default(false), wait: z.boolean().default(true) }))
    const made = await actions.createBlock(await templates.plain(asked.spec), { dryRun: asked.dryRun })
    const ready = made.dryRun || !asked.wait ? 0 : await actions.waitReady(made.block, made.block.minInstances, within(context, WAIT_READY_MS))
    return context.json({ blockId: made.block.blockId, dryRun: made.dryRun, explanation: made.explanation ?? null, ready, warnings: made.warnings })
  })
  app.put('/mesh/blocks', async context => {
    const asked = await body(context, z.object({ spec: json, wait: z.boolean().default(true) }))
    const { block, replaces, warnings } = await actions.changeBlock(await templates.plain(asked.spec))
    const ready = asked.wait ? await actions.waitReady(block, block.minInstances, within(context, WAIT_READY_MS)) : 0
    return context.json({ blockId: block.blockId, revision: block.revision, replaces, ready, warnings })
  })
  app.get('/mesh/blocks', async context => context.json((await catalogue.blocks()).map(block => {
    const instances = view.instancesOf(block.blockId)
    return {
      blockId: block.blockId, componentURI: block.componentURI, minInstances: block.minInstances, maxInstances: block.maxInstances,
      ready: instances.filter(({ ad }) => ad.state === 'ready').length, steward: actions.stewardOf(block.blockId) ?? null,
    }
  })))
  app.get('/mesh/blocks/:id', async context => {
    const id = context.req.param('id')
    const block = await catalogue.block(id)
    if (block === undefined) throw new MeshError('NOT_FOUND', `no block is called ${id}`)
    const instances = view.instancesOf(id)
    return context.json({
      block, warnings: await actions.warnings(block), initContainer: await peer.thirdParty.entry(id) ?? null, steward: actions.stewardOf(id) ?? null, epoch: instances.reduce<number | null>((most, { ad }) => Math.max(most ?? 0, ad.epoch), null),
      instances: instances.map(({ host, ad }) => ({ instance: ad.instance, host, state: ad.state, epoch: ad.epoch, inFlight: ad.inFlight, queued: ad.queued, latencyMs: ad.latencyMs, because: ad.because ?? '' })), last: actions.lastPlacement(id) ?? lastPlacementIn(await peer.blocks.status(id, context.req.raw.signal)),
    })
  })
  app.post('/mesh/blocks/:id/scale', async context => {
    const { instances } = await body(context, z.object({ instances: z.int().min(0).max(1_000) }))
    return context.json({ block: await actions.scale(context.req.param('id'), instances) })
  })
  app.delete('/mesh/blocks/:id', async context => {
    await actions.remove(context.req.param('id'))
    return context.json({ removed: context.req.param('id') })
  })
  app.get('/mesh/blocks/:id/logs', async context => {
    const tail = Number(context.req.query('tail') ?? '100')
    if (!Number.isInteger(tail) || tail < 1) throw new MeshError('BAD_INPUT', `tail is a positive number of lines, not ${context.req.query('tail')}`)
    return context.json(await invoker.logs(context.req.param('id'), context.req.query('instance'), tail, { deadlineMs: CALL_MS, signal: context.req.raw.signal }))
  })

  // vDAGs and runs ---------------------------------------------------------------------------------------------
  app.post('/mesh/vdags', async context => {
    const asked = await body(context, z.object({ spec: json, dryRun: z.boolean().default(false) }))
    return context.json(await actions.createVdag(await templates.plain(asked.spec), { dryRun: asked.dryRun }))
  })
  app.get('/mesh/vdags', async context => context.json(await catalogue.vdags()))
  app.get('/mesh/vdags/:uri', async context => context.json((await catalogue.vdag(context.req.param('uri'), AbortSignal.timeout(CALL_MS))).spec))
  app.post('/mesh/runs', async context => {
    const asked = await body(context, z.object({ vdag: z.string(), input: json, key: z.string().min(1).max(200).optional(), session: z.string().max(300).default('') }))
    return context.json(await actions.submit(asked.vdag, asked.input, { key: asked.key, session: asked.session, trace: traceOf(context) }))
  })
  app.get('/mesh/runs', async context => context.json(await runs.list()))
  app.get('/mesh/runs/:run', async context => context.json(await runView(peer, context.req.param('run'), AbortSignal.timeout(CALL_MS))))
  app.get('/mesh/runs/:run/events', context => lines(context, async (write, signal) => {
    for await (const event of runs.follow(context.req.param('run'), 0, AbortSignal.any([signal, AbortSignal.timeout(RUN_EVENTS_MS)]))) write(event)
  }, failure))
}
