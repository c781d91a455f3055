import type { PeerStore } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import type { PeerId } from '../../../protocols/ids.ts'

const MEMBER_TAG = 'aios-member'
const NEIGHBOURS = 64

/** Remembers members and their addresses across restarts, to come back to and to pass on. */
export class Acquaintances {
  readonly #store: PeerStore

  constructor(store: PeerStore) {
    this.#store = store
  }

  /** Members met in earlier lives. */
  async known(): Promise<readonly PeerId[]> {
    return (await this.#store.all()).filter(({ tags }) => tags.has(MEMBER_TAG)).map(({ id }) => id.toString())
  }

  async remember(peer: PeerId): Promise<void> {
    await this.#store.merge(peerIdFromString(peer), { tags: { [MEMBER_TAG]: { value: 50 } } })
  }

  /** Where some of `peers` can be dialled, for a newcomer. */
  async addressesOf(peers: readonly PeerId[]): Promise<{ peer: PeerId; addresses: string[] }[]> {
    const found = await Promise.all(peers.slice(0, NEIGHBOURS).map(async peer => {
      const { addresses } = await this.#store.get(peerIdFromString(peer)).catch(() => ({ addresses: [] }))
      return { peer, addresses: addresses.slice(0, 8).map(({ multiaddr }) => `${multiaddr.toString()}/p2p/${peer}`).filter(address => address.length <= 300) }
    }))
    return found.filter(({ addresses }) => addresses.length > 0)
  }
}
