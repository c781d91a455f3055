import type { Hono } from 'hono'
import { z } from 'zod'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { ServedModel } from '../../protocols/model.ts'
import { serviceName, type Planned } from '../../src/llm/serve/serving.ts'
import { body, lines } from './request-body.ts'
import type { GatewayParts } from './server.ts'

const CALL_MS = 10_000
const READY_MS = 300_000

const wish = z.object({
  shards: z.union([z.literal('auto'), z.int().positive()]).optional(),
  aim: z.enum(['latency', 'throughput']).optional(),
  contextTokens: z.int().positive().optional(),
  sessions: z.int().positive().max(100_000).optional(),
  labels: z.record(z.string().max(60), z.string().max(200)).optional(),
})
const serveWish = wish.extend({ model: z.string().min(1).max(300), service: z.string().max(200).optional(), standbys: z.int().min(0).max(16).optional(), threads: z.int().positive().max(1_024).optional(), draft: z.string().max(200).optional(), wait: z.boolean().default(true) })

/** Imported models: what there is, how one would be divided, and serving one. */
export function addModelRoutes(app: Hono, { peer, authoring }: GatewayParts): void {
  const { catalogue, models, actions, view, ports } = peer
  const failure = (error: unknown): unknown => ({ error: asMeshError(error).toJSON() })

  app.post('/mesh/models', async context => {
    const { path, ...options } = await body(context, z.object({ path: z.string(), name: z.string().max(300).optional(), file: z.string().max(300).optional(), activations: z.literal('int8').optional() }))
    return lines(context, async (write, signal) => {
      write({ result: await authoring.importModel(path, { ...options, signal, progress: sparsely(progress => write({ progress })) }) })
    }, failure)
  })

  app.get('/mesh/models', async context => {
    const services = await catalogue.services()
    const decoders = await Promise.all((await catalogue.models()).map(async ({ uri, cid, writer }) => {
      // A model whose holders are all away still has a name worth listing.
      const manifest = await catalogue.modelByCid(cid, AbortSignal.timeout(CALL_MS)).catch(() => undefined)
      return {
        uri, cid, kind: 'decoder', writer, layers: manifest?.layers.length ?? null, parameters: manifest?.facts.parameters ?? null, weights: manifest?.facts.weights ?? null, contextTokens: manifest?.facts.contextTokens ?? null,
        bytes: manifest?.pieces.reduce((sum, { size }) => sum + size, manifest.skeleton.size) ?? null, services: services.filter(({ modelURI }) => modelURI === uri).map(({ service }) => service),
      }
    }))
    const encoders = (await catalogue.components()).filter(({ uri }) => uri.startsWith('embeddings.')).map(({ uri, cid, writer }) => ({ uri, cid, kind: 'encoder', writer, layers: null, parameters: null, weights: null, contextTokens: null, bytes: null, services: [] }))
    return context.json([...decoders, ...encoders])
  })

  app.get('/mesh/models/:uri', async context => context.json((await catalogue.model(context.req.param('uri'), AbortSignal.timeout(CALL_MS))).manifest))

  app.post('/mesh/models/:uri/plan', async context => {
    const { replicas, ...asked } = await body(context, wish.extend({ replicas: z.boolean().default(false) }))
    const uri = context.req.param('uri')
    return context.json(replicas ? await models.replicas(uri, asked) : planView(await models.plan(uri, asked)))
  })

  app.delete('/mesh/models/:uri', async context => {
    const { cid, manifest } = await catalogue.model(context.req.param('uri'), AbortSignal.timeout(CALL_MS))
    const stopped: string[] = []
    for (const { service, modelURI } of await catalogue.services()) {
      if (modelURI !== manifest.modelURI) continue
      await models.unserve(service)
      stopped.push(service)
    }
    for (const one of [cid, manifest.skeleton.cid, ...manifest.pieces.map(piece => piece.cid), ...manifest.files.map(file => file.cid)]) await ports.content.unpin(one)
    return context.json({ model: manifest.modelURI, stopped, unpinned: true })
  })

  app.post('/mesh/services', async context => {
    const { model, wait, ...asked } = await body(context, serveWish)
    const encoder = await encoderOf(model)
    if (encoder !== undefined) return context.json(await serveEncoder(encoder, asked, wait, context.req.raw.signal))
    const { served, plan, blocks, refusals } = await models.serve(model, asked)
    const signal = AbortSignal.any([context.req.raw.signal, AbortSignal.timeout(READY_MS)])
    if (wait) for (const block of blocks) await actions.waitReady(block, 1, signal)
    return context.json({ ...serviceView(served), plan: planView({ model: served.modelURI, wish: { shards: asked.shards ?? 'auto', aim: asked.aim ?? 'latency', contextTokens: served.contextTokens, sessions: served.sessions }, plan }), refusals })
  })

  app.get('/mesh/services', async context => context.json((await catalogue.services()).map(serviceView)))
  app.get('/mesh/services/:name', async context => {
    const served = await catalogue.served(context.req.param('name'))
    if (served === undefined) throw new MeshError('NOT_FOUND', `nothing is served as ${context.req.param('name')}`)
    return context.json(serviceView(served))
  })
  app.delete('/mesh/services/:name', async context => context.json(serviceView(await models.unserve(context.req.param('name')))))

  /** The component of an imported sentence encoder, by its URI or the name it was imported under. */
  async function encoderOf(name: string): Promise<string | undefined> {
    const uri = name.startsWith('embeddings.') ? name : `embeddings.${name}`
    try {
      return (await catalogue.component(uri, AbortSignal.timeout(CALL_MS))).manifest.componentURI
    } catch (error) {
      if (asMeshError(error).code === 'NOT_FOUND') return undefined
      throw error
    }
  }

  /** An encoder needs no stages: it is one block, called as `/v1/embeddings` has it. */
  async function serveEncoder(uri: string, asked: { readonly service?: string | undefined; readonly standbys?: number | undefined }, wait: boolean, signal: AbortSignal): Promise<object> {
    const instances = 1 + (asked.standbys ?? Math.min(1, view.live().length - 1))
    const service = serviceName(asked.service ?? uri.slice('embeddings.'.length, uri.indexOf(':')))
    const { block } = await actions.createBlock({ blockId: service, blockComponentURI: uri, minInstances: instances, maxInstances: instances })
    const ready = wait ? await actions.waitReady(block, 1, AbortSignal.any([signal, AbortSignal.timeout(READY_MS)])) : 0
    return { service, encoder: uri, ready }
  }

  /** A served model with who runs each stage now. */
  function serviceView(served: ServedModel): object {
    return {
      ...served,
      stages: served.stages.map(stage => ({ ...stage, instances: view.instancesOf(stage.block).map(({ host, ad }) => ({ host, instance: ad.instance, state: ad.state, inFlight: ad.inFlight })) })),
    }
  }
}

function planView({ model, wish: asked, plan }: Planned): object {
  return { model, ...asked, ...plan }
}

/** At most one line a fiftieth of the way. */
function sparsely(write: (progress: { readonly path: string; readonly doneBytes: number; readonly totalBytes: number }) => void): (progress: { readonly path: string; readonly doneBytes: number; readonly totalBytes: number }) => void {
  let written = -Infinity
  return progress => {
    if (progress.doneBytes < progress.totalBytes && progress.doneBytes - written < progress.totalBytes / 200) return
    written = progress.doneBytes
    write(progress)
  }
}
