import { digest, utf8 } from '../../protocols/codec.ts'
import type { PeerId } from '../../protocols/ids.ts'

/**
 * Orders peers by highest random weight for `key` (Thaler & Ravishankar 1998): every peer that believes in the same
 * members gets the same order, and a member that leaves moves only its own keys. Ties end in the peer id.
 */
export function rendezvous(key: string, peers: readonly PeerId[]): readonly PeerId[] {
  return peers
    .map(peer => ({ peer, weight: weigh(key, peer) }))
    .sort((a, b) => b.weight - a.weight || (a.peer < b.peer ? -1 : 1))
    .map(({ peer }) => peer)
}

function weigh(key: string, peer: PeerId): number {
  const hash = digest(utf8(`${key}\0${peer}`))
  // 48 bits: exact in a double.
  return (((hash[0]! * 256 + hash[1]!) * 256 + hash[2]!) * 256 + hash[3]!) * 65_536 + hash[4]! * 256 + hash[5]!
}
