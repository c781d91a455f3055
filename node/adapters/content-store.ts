import { join } from 'node:path'
import type { HeliaWithLibp2p } from '@helia/libp2p'
import type { Cid, Millis, PeerId } from '../../protocols/ids.ts'
import type { Clock, Telemetry } from '../../src/ports.ts'
import { DiskContentStore } from './content.ts'
import { BlockFiles } from './content/block-files.ts'
import { createHelia } from './content/helia.ts'
import type { OpenNetwork } from './libp2p.ts'
import type { Services } from './network/options.ts'

const RESERVE_BYTES = 268_435_456

export type OpenContent = {
  readonly content: DiskContentStore
  /** For OrbitDB, and for members that ask by bitswap. */
  readonly helia: HeliaWithLibp2p<Services>
  /** After the network. */
  start(): Promise<void>
  /** Before the network. */
  stop(): Promise<void>
}

/** The Content port of the daemon, and the Helia node that shares its blocks. `reserveBytes` of the disk are never taken. */
export function createContentStore(options: {
  readonly dir: string
  readonly network: OpenNetwork
  readonly clock: Clock
  readonly telemetry: Telemetry
  readonly findHolders?: (cid: Cid) => Promise<readonly PeerId[]>
  readonly reserveBytes?: number
  readonly graceMs?: Millis
}): OpenContent {
  const { dir, network, clock, telemetry, findHolders } = options
  const files = new BlockFiles(join(dir, 'blocks'), options.reserveBytes ?? RESERVE_BYTES)
  const helia = createHelia({ libp2p: network.libp2p, datastore: network.datastore, files, guardProtocol: protocol => network.network.guardProtocol(protocol) })
  const content = new DiskContentStore({ dir, files, network: network.network, libp2p: network.libp2p, clock, telemetry, ...(findHolders === undefined ? {} : { findHolders }), ...(options.graceMs === undefined ? {} : { graceMs: options.graceMs }) })
  return {
    content,
    helia,
    start: async () => {
      await helia.start()
      await content.start()
    },
    stop: async () => {
      await content.stop()
      await helia.stop()
    },
  }
}
