import { networkConformance } from '../conformance/network.ts'
import { startNode } from './node-under-test.ts'

for (const [name, fastLane] of [['libp2p and a Unix socket', true], ['libp2p and TLS', 'tls'], ['libp2p alone', false]] as const) {
  networkConformance(name, async () => {
    const [mine, theirs, stranger] = await Promise.all([startNode({ admits: false, fastLane }), startNode({ admits: false, fastLane }), startNode({ admits: false, secret: new Uint8Array(32).fill(9) })])
    return {
      mine: mine.network,
      theirs: theirs.network,
      stranger: stranger.network,
      clock: mine.clock,
      close: async () => {
        await Promise.all([mine.close(), theirs.close(), stranger.close()])
      },
    }
  })
}
