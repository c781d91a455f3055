import { createServer, type Server } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { Hono, type Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import manifest from '../../package.json' with { type: 'json' }
import { MeshError, asMeshError } from '../../protocols/errors.ts'
import type { Peer } from '../../src/peer.ts'
import type { TelemetrySink } from '../adapters/telemetry.ts'
import type { Authoring } from '../authoring/authoring.ts'
import { addAiosRoutes } from './aios-routes.ts'
import { addBlockRoutes } from './block-routes.ts'
import { addAssetRoutes, addAssetUpload } from './asset-routes.ts'
import { addClusterRoutes, addNetworkRoutes } from './cluster-routes.ts'
import { addComponentRoutes } from './component-routes.ts'
import { addPolicyRoutes } from './policy-routes.ts'
import { addSplitRoutes } from './split-routes.ts'
import { addRegistryRoutes } from './registry-routes.ts'
import { addTaskRoutes } from './task-routes.ts'
import { addGenerationRoutes } from './generation-routes.ts'
import { guard } from './guard.ts'
import { openSockets } from './sockets.ts'
import { addControllerRoutes } from './controller-routes.ts'
import { addReviewRoutes } from './review-routes.ts'
import { addInferRoutes } from './infer-routes.ts'
import { addLifecycleRoutes } from './lifecycle-routes.ts'
import { listen, readAddress } from './listen.ts'
import { addMeshRoutes } from './mesh-routes.ts'
import { addMetricsRoutes } from './metrics-routes.ts'
import { addModelRoutes } from './model-routes.ts'
import { openInferenceDoor } from './open-inference/open-inference-routes.ts'
import { addStoreRoutes } from './store-routes.ts'
import { refuseOpenAi } from './openai/failure.ts'
import { openAiDoor } from './openai/openai-routes.ts'
import { traceDoor } from './trace-door.ts'

const OPENAI = /^\/v1\/(?:chat|completions|embeddings|models|tokenize|detokenize)(?:\/|$)/
const BODY_BYTES = 64 * 1_048_576

export type GatewayParts = { readonly peer: Peer; readonly authoring: Authoring; readonly telemetry: TelemetrySink; readonly token: string; readonly startedAt: number; url(): string }

/** The HTTP door of one peer. */
export type Gateway = { readonly url: string; close(): Promise<void> }

/** Listens on `host:port` (port 0: any free one). Throws BAD_INPUT when it cannot. */
export async function openGateway(parts: Omit<GatewayParts, 'url'>, at: string): Promise<Gateway> {
  const where = readAddress('--http', at)
  let url = ''
  const app = new Hono()
  app.onError((error, context) => refuse(context, asMeshError(error)))
  app.notFound(context => refuse(context, new MeshError('NOT_FOUND', `there is no ${context.req.method} ${context.req.path} here`)))
  app.use(async (context, next) => {
    guard({ path: context.req.path, header: name => context.req.header(name) }, parts.token, where.loopback)
    await next()
  })
  const full: GatewayParts = { ...parts, url: () => url }
  addAssetUpload(app, full)
  app.use(traceDoor(parts.peer.ports.telemetry))
  app.use(bodyLimit({ maxSize: BODY_BYTES, onError: context => refuse(context, new MeshError('MESSAGE_TOO_LARGE', `a request may have ${BODY_BYTES} bytes: send larger inputs as assets`)) }))
  addMeshRoutes(app, full)
  addControllerRoutes(app, full)
  addReviewRoutes(app, full)
  addMetricsRoutes(app, full)
  addModelRoutes(app, full)
  addComponentRoutes(app, full)
  addTaskRoutes(app, full)
  addPolicyRoutes(app, full)
  addSplitRoutes(app, full)
  addRegistryRoutes(app, full)
  addAiosRoutes(app, full)
  addInferRoutes(app, full)
  addGenerationRoutes(app, full)
  addAssetRoutes(app, full)
  addLifecycleRoutes(app, full)
  addStoreRoutes(app, full)
  const { catalogue, invoker, texts, generations, view, ports } = parts.peer
  app.route('/v1', openAiDoor({ models: catalogue, catalogue, invoker, texts, generations, view, random: ports.random.fork('openai'), clock: ports.clock, telemetry: ports.telemetry }))
  app.route('/v2', openInferenceDoor({ catalogue, invoker, view }, manifest.version))
  addBlockRoutes(app, full)
  addClusterRoutes(app, full)
  addNetworkRoutes(app, full)

  const server: Server = createServer(getRequestListener(app.fetch))
  server.requestTimeout = 0
  const sockets = openSockets(server, parts.peer, asked => guard(asked, parts.token, where.loopback))
  url = `http://${await listen(server, where)}`
  return {
    url,
    close: () => new Promise<void>(resolve => {
      sockets.close()
      server.close(() => resolve())
      server.closeAllConnections()
    }),
  }
}

/** Each client hears what went wrong in the words of its own protocol. */
function refuse(context: Context, error: MeshError): Response {
  if (OPENAI.test(context.req.path)) return refuseOpenAi(context, error)
  const { code, message, retryable, details } = error
  const headers = new Headers({ 'content-type': 'application/json' })
  if (error.httpStatus === 429 || error.httpStatus === 503) headers.set('retry-after', String(Math.max(1, Math.ceil(Number(details['retryAfterMs'] ?? 1_000) / 1_000))))
  return new Response(`${JSON.stringify({ success: false, error: { code, message, retryable, details } })}\n`, { status: context.req.raw.signal.aborted ? 499 : error.httpStatus, headers })
}
