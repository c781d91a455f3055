import { timingSafeEqual } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { Hono, type Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { MeshError, asMeshError } from '../../protocols/errors.ts'
import type { Peer } from '../../src/peer.ts'
import type { TelemetrySink } from '../adapters/telemetry.ts'
import type { Authoring } from '../authoring/authoring.ts'
import { addAiosRoutes } from './aios-routes.ts'
import { addInferRoutes } from './infer-routes.ts'
import { addMeshRoutes } from './mesh-routes.ts'

const BODY_BYTES = 64 * 1_048_576

export type GatewayParts = { readonly peer: Peer; readonly authoring: Authoring; readonly telemetry: TelemetrySink; readonly token: string; readonly startedAt: number; url(): string }

/** The HTTP door of one peer. */
export type Gateway = { readonly url: string; close(): Promise<void> }

/** Listens on `host:port` (port 0: any free one). Throws BAD_INPUT when it cannot. */
export async function openGateway(parts: Omit<GatewayParts, 'url'>, listen: string): Promise<Gateway> {
  const at = listen.lastIndexOf(':')
  const host = listen.slice(0, at).replace(/^\[|\]$/g, '')
  const port = Number(listen.slice(at + 1))
  if (at < 1 || !Number.isInteger(port) || port < 0 || port > 65_535) throw new MeshError('BAD_INPUT', `--http takes HOST:PORT, not ${listen}`)
  const open = isLoopback(host)
  let url = ''
  const app = new Hono()
  app.onError((error, context) => refuse(context, asMeshError(error)))
  app.notFound(context => refuse(context, new MeshError('NOT_FOUND', `there is no ${context.req.method} ${context.req.path} here`)))
  app.use(async (context, next) => {
    guard(context, parts.token, open)
    await next()
  })
  app.use(bodyLimit({ maxSize: BODY_BYTES, onError: context => refuse(context, new MeshError('MESSAGE_TOO_LARGE', `a request may have ${BODY_BYTES} bytes: send larger inputs as assets`)) }))
  const full: GatewayParts = { ...parts, url: () => url }
  addMeshRoutes(app, full)
  addAiosRoutes(app, full)
  addInferRoutes(app, full)

  const server: Server = createServer(getRequestListener(app.fetch))
  server.requestTimeout = 0
  await new Promise<void>((resolve, reject) => {
    server.once('error', cause => reject(new MeshError('BAD_INPUT', `cannot listen on ${listen}: ${cause.message}`, { cause })))
    server.listen(port, host, resolve)
  })
  const address = server.address()
  const bound = typeof address === 'object' && address !== null ? address.port : port
  url = `http://${host.includes(':') ? `[${host}]` : host === '0.0.0.0' ? '127.0.0.1' : host}:${bound}`
  return {
    url,
    close: () => new Promise<void>(resolve => {
      server.close(() => resolve())
      server.closeAllConnections()
    }),
  }
}

/**
 * On loopback anybody on this host may ask, but not a web page that somebody opened here: a browser says where a page
 * came from (Origin) and which name it thinks it talks to (Host). Anywhere else the token is asked for.
 */
function guard(context: Context, token: string, loopback: boolean): void {
  if (context.req.path === '/healthz') return
  const given = context.req.header('authorization')?.replace(/^Bearer /i, '')
  if (given !== undefined && same(given, token)) return
  if (!loopback) throw new MeshError('UNAUTHENTICATED', 'this door asks for the token: send `Authorization: Bearer …` with the token of daemon.json')
  const name = (context.req.header('host') ?? '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '')
  const origin = context.req.header('origin')
  if (!isLoopback(name)) throw new MeshError('FORBIDDEN', `this door answers to localhost, not to ${name}`)
  if (origin !== undefined && origin !== 'null' && !isLoopback(new URL(origin).hostname.replace(/^\[|\]$/g, ''))) throw new MeshError('FORBIDDEN', `pages from ${origin} may not use this peer`)
  if (origin === 'null') throw new MeshError('FORBIDDEN', 'pages without an origin may not use this peer')
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}

function same(a: string, b: string): boolean {
  const left = Buffer.from(a)
  const right = Buffer.from(b)
  return left.length === right.length && timingSafeEqual(left, right)
}

function refuse(context: Context, error: MeshError): Response {
  const { code, message, retryable, details } = error
  const headers = new Headers({ 'content-type': 'application/json' })
  if (error.httpStatus === 429 || error.httpStatus === 503) headers.set('retry-after', '1')
  return new Response(`${JSON.stringify({ success: false, error: { code, message, retryable, details } })}\n`, { status: context.req.raw.signal.aborted ? 499 : error.httpStatus, headers })
}
