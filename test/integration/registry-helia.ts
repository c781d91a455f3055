import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import * as dagCbor from '@ipld/dag-cbor'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { FsBlockstore } from 'blockstore-fs'
import { MemoryDatastore } from 'datastore-core'
import { createHeliaLight } from 'helia'
import { join } from 'node:path'

/** A small real peer: TCP, noise, yamux, gossipsub and bitswap; blocks in `dir`. */
export async function startHelia(dir: string) {
  const helia = withBitswap(withLibp2pLight(createHeliaLight({ blockstore: new FsBlockstore(join(dir, 'blocks')), datastore: new MemoryDatastore(), codecs: [dagCbor] }), {
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, scoreParams: { IPColocationFactorWeight: 0 } }) },
  }))
  await helia.start()
  return helia
}

export type SmallHelia = Awaited<ReturnType<typeof startHelia>>
