import { createServer, type Socket } from 'node:net'
import type { Peer } from '../../src/peer.ts'
import type { GrpcServices } from './grpc.ts'
import { listen, readAddress } from './listen.ts'

export type GrpcDoor = { readonly address: string; close(): Promise<void> }

/** Listens for gRPC; what speaks it is loaded with the first connection, so that a peer nobody calls this way carries no weight for it. */
export async function openGrpcDoor(parts: { readonly peer: Peer; readonly token: string }, at: string): Promise<GrpcDoor> {
  const address = readAddress('--grpc', at)
  const sockets = new Set<Socket>()
  let services: Promise<GrpcServices> | undefined
  const load = async (): Promise<GrpcServices> => {
    const { grpcServices } = await import('./grpc.ts')
    return grpcServices({ peer: parts.peer, token: address.loopback ? undefined : parts.token })
  }
  const server = createServer({ pauseOnConnect: true }, socket => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy())
    socket.on('close', () => sockets.delete(socket))
    services ??= load()
    void services.then(ready => {
      ready.serve(socket)
      socket.resume()
    }, () => socket.destroy())
  })
  const reached = await listen(server, address)
  return {
    address: reached,
    async close() {
      const loaded = await services?.catch(() => undefined)
      loaded?.close()
      for (const socket of sockets) socket.destroy()
      await new Promise<void>(resolve => server.close(() => resolve()))
    },
  }
}
