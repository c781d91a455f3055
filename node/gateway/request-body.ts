import type { Context } from 'hono'
import { check, type Schema } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import { mustBeShallow } from '../../src/lib/json.ts'

/** The JSON body of a request, checked. Throws BAD_INPUT naming the field. */
export async function body<T>(context: Context, schema: Schema<T>): Promise<T> {
  let value: unknown
  try {
    value = await context.req.json()
  } catch (cause) {
    throw new MeshError('BAD_INPUT', `the request body is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
  mustBeShallow(value, 'the request body')
  return check(schema, value, 'request', 'BAD_INPUT')
}

/**
 * Answers one JSON object a line as they come (NDJSON), or as server-sent events to whoever accepts those; an error
 * becomes the last one.
 */
export function lines(context: Context, produce: (write: (value: unknown) => void, signal: AbortSignal) => Promise<void>, failure: (error: unknown) => unknown): Response {
  const signal = context.req.raw.signal
  const encoder = new TextEncoder()
  const events = (context.req.header('accept') ?? '').includes('text/event-stream')
  const stream = new ReadableStream<Uint8Array>({
    async start(controller) {
      const write = (value: unknown): void => {
        if (!signal.aborted) controller.enqueue(encoder.encode(events ? `data: ${JSON.stringify(value)}\n\n` : `${JSON.stringify(value)}\n`))
      }
      try {
        await produce(write, signal)
      } catch (error) {
        write(failure(error))
      }
      if (!signal.aborted) controller.close()
    },
  })
  return new Response(stream, { headers: { 'content-type': events ? 'text/event-stream' : 'application/x-ndjson', 'cache-control': 'no-store' } })
}
