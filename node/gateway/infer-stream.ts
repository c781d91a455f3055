import type { WebSocket } from 'ws'
import { check } from '../../protocols/codec.ts'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Peer } from '../../src/peer.ts'
import { packetFrom } from '../../src/inference/inference.ts'
import { checked } from './trace-door.ts'
import { inferRequest, targetOf, type InferRequest } from './infer-request.ts'
import { socketMessage } from './socket-message.ts'

/** What a message says. */
const EXAMPLE = '{ "model": …, "session_id": …, "seq_no": …, "data": … }'

/** Requests of one connection under way at once. */
const AT_ONCE = 64
/** A client that reads more slowly than this much behind is let go. */
const BEHIND_BYTES = 64 * 1_048_576

/**
 * AIOS's streaming door at `/v1/stream`: each message is a `/v1/infer` request, each packet of its answer is a message of its own
 * with the same session_id and seq_no; `last` closes the answer. `connect: true` names what later messages go to. A message's own
 * `traceparent` comes before that of the connection.
 */
export function serveInferStream(connection: WebSocket, peer: Peer, parent: string | undefined): void {
  const gone = new AbortController()
  let pending = 0
  let kept: Partial<InferRequest> = {}
  const say = (message: object): void => {
    if (connection.readyState !== connection.OPEN) return
    if (connection.bufferedAmount > BEHIND_BYTES) return connection.close(1008, 'it reads too slowly')
    connection.send(JSON.stringify(message))
  }
  connection.on('close', () => gone.abort(new MeshError('CANCELLED', 'the caller left')))
  connection.on('error', () => connection.terminate())
  connection.on('message', data => {
    let about: object = {}
    const answer = async (): Promise<void> => {
      if (pending >= AT_ONCE) throw new MeshError('OVERLOADED', `${AT_ONCE} requests of this connection are under way: wait for answers`)
      const said = socketMessage(String(data), EXAMPLE)
      const { connect, traceparent, ...fields } = said
      const trace = checked(typeof traceparent === 'string' ? traceparent : parent)
      const asked = check(inferRequest, { ...kept, ...fields }, 'request', 'BAD_INPUT')
      about = { session_id: asked.session_id, seq_no: asked.seq_no }
      // Before anything is waited for: the next message may have arrived with this one.
      if (connect === true) kept = { model: asked.model, graph: asked.graph, selection_query: asked.selection_query, session_id: asked.session_id }
      const target = await targetOf(asked, peer)
      if (connect === true) return say({ ...about, connected: true })
      pending += 1
      try {
        if (asked.model !== undefined && (await peer.catalogue.block(asked.model))?.streaming === false) throw new MeshError('FORBIDDEN', `answers of ${asked.model} are not streamed: its executor's enable_streaming changes that`)
        const packet = packetFrom({ sessionId: asked.session_id, seqNo: asked.seq_no, ts: asked.ts ?? peer.ports.clock.unix() / 1_000, data: asked.data, files: [] })
        for await (const event of peer.inference.stream(target, packet, { deadlineMs: asked.deadline_ms, signal: gone.signal, key: asked.key, trace })) {
          say('run' in event ? { ...about, run: event.run } : { ...about, ts: event.packet.ts, data: event.packet.data })
        }
        say({ ...about, last: true })
      } finally {
        pending -= 1
      }
    }
    answer().catch((error: unknown) => {
      const { code, message, retryable } = asMeshError(error)
      say({ ...about, last: true, error: { code, message, retryable } })
    })
  })
}
