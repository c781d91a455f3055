import type { IncomingMessage, Server } from 'node:http'
import { WebSocketServer, type WebSocket } from 'ws'
import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { Peer } from '../../src/peer.ts'
import { ALLOCATE_PATH, serveAllocations } from './allocate-socket.ts'
import type { Knock } from './guard.ts'
import { STREAM_PATH } from './infer-request.ts'
import { serveInferStream } from './infer-stream.ts'

const MESSAGE_BYTES = 16 * 1_048_576

/** The WebSocket doors of one peer, each at its path. */
export function openSockets(server: Server, peer: Peer, admit: (knock: Knock) => void): { close(): void } {
  const doors: Readonly<Record<string, (connection: WebSocket, request: IncomingMessage) => void>> = {
    [STREAM_PATH]: (connection, request) => serveInferStream(connection, peer, headerOf(request, 'traceparent')),
    [ALLOCATE_PATH]: connection => serveAllocations(connection, peer),
  }
  const sockets = new WebSocketServer({ noServer: true, maxPayload: MESSAGE_BYTES })
  server.on('upgrade', (request, socket, head) => {
    try {
      const path = new URL(request.url ?? '/', 'http://here').pathname
      const serve = Object.hasOwn(doors, path) ? doors[path] : undefined
      if (serve === undefined) throw new MeshError('NOT_FOUND', `there is no ${path} to open a WebSocket to: ${Object.keys(doors).join(' and ')} are`)
      admit({ path, header: name => headerOf(request, name) })
      return sockets.handleUpgrade(request, socket, head, connection => serve(connection, request))
    } catch (error) {
      const { httpStatus, code, message } = asMeshError(error)
      return socket.end(`HTTP/1.1 ${httpStatus} ${code}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n${JSON.stringify({ success: false, error: { code, message } })}\n`)
    }
  })
  return {
    close: () => {
      for (const connection of sockets.clients) connection.close(1001, 'the peer is stopping')
      sockets.close()
    },
  }
}

function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value[0] : value
}
