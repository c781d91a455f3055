import type { Libp2p } from '@libp2p/interface'

/** Resets streams of a libp2p protocol of another library (OrbitDB, bitswap) that come from peers not admitted. */
export function guardProtocol(libp2p: Pick<Libp2p, 'use'>, protocol: string, isAdmitted: (peer: string) => boolean): void {
  const guard: Parameters<Libp2p['use']>[1] = (stream, connection, next) => {
    // libp2p 3.3 appends each stream's handler to the list it keeps of middleware: said anew, the list is ours alone again.
    libp2p.use(protocol, guard)
    if (stream.direction === 'inbound' && !isAdmitted(connection.remotePeer.toString())) {
      stream.abort(new Error('not admitted'))
      return
    }
    next(stream, connection)
  }
  libp2p.use(protocol, guard)
}
