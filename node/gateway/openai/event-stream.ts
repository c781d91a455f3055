import { asMeshError } from '../../../protocols/errors.ts'
import { openAiError } from './failure.ts'

/** One server-sent event. `id`: where the answer stands after it, for a client that comes back with `Last-Event-ID`. */
export type ServerEvent = { readonly id?: string; readonly data: unknown }

const HEADERS = { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no' }

/** Sends events as they are asked for, then `[DONE]`; a failure is the last event. `left`: runs when the client went before the end. */
export function eventStream(events: AsyncIterable<ServerEvent>, signal: AbortSignal, left: () => Promise<void>): Response {
  const encoder = new TextEncoder()
  async function * written(): AsyncGenerator<Uint8Array> {
    let whole = false
    try {
      for await (const { id, data } of events) yield encoder.encode(`${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`)
      whole = true
      yield encoder.encode('data: [DONE]\n\n')
    } catch (error) {
      if (signal.aborted) return
      whole = true
      yield encoder.encode(`data: ${JSON.stringify(openAiError(asMeshError(error)))}\n\n`)
    } finally {
      if (!whole) await left()
    }
  }
  return new Response(ReadableStream.from(written()), { headers: HEADERS })
}
