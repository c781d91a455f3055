import type { Context, MiddlewareHandler } from 'hono'
import { failureText, traceSpan } from '../../src/lib/trace-span.ts'
import { readTraceparent, writeTraceparent } from '../../protocols/trace.ts'
import type { Telemetry } from '../../src/ports.ts'

/** Where work enters the mesh. What only looks at it makes no traces. */
const WORK = /^\/(?:v[12]\/|mesh\/runs$|api\/)/
const under = new WeakMap<Request, string>()

/** Takes up the caller's W3C trace context, or begins a trace, at each request that brings work. */
export function traceDoor(telemetry: Telemetry): MiddlewareHandler {
  return async (context, next) => {
    const { method, path } = context.req
    if (!WORK.test(path) || method === 'GET') return next()
    const parent = checked(context.req.header('traceparent'))
    const span = traceSpan(telemetry, `${method} ${path.replace(/\/(?:gen-|run-|in-)[^/]+/g, '/:id').slice(0, 80)}`, 'server', parent, { 'http.request.method': method, 'url.path': path.slice(0, 200) })
    if (span.traceparent !== undefined) under.set(context.req.raw, span.traceparent)
    try {
      await next()
    } catch (error) {
      span.end(failureText(error))
      throw error
    }
    const { status } = context.res
    span.end(status >= 500 ? `HTTP ${status}` : undefined, { 'http.response.status_code': status })
    return undefined
  }
}

/** The trace that a request is part of, for whatever it asks for. */
export function traceOf(context: Context): string | undefined {
  return under.get(context.req.raw)
}

/** A caller's context as we pass it on; undefined where it is malformed, and the trace begins here. */
export function checked(header: string | undefined): string | undefined {
  const context = readTraceparent(header)
  return context === undefined ? undefined : writeTraceparent(context)
}
