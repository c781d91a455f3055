import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Libp2p } from '@libp2p/interface'
import { LevelDatastore } from 'datastore-level'
import { createLibp2p } from 'libp2p'
import { MeshError } from '../../protocols/errors.ts'
import type { Clock, Random, Telemetry } from '../../src/ports.ts'
import type { Ed25519Identity } from './identity.ts'
import { parseAddress } from './network/addresses.ts'
import { Bans } from './network/bans.ts'
import { KeptPorts } from './network/kept-ports.ts'
import { Libp2pNetwork } from './network/libp2p-network.ts'
import { libp2pOptions, loopbackOnly, type Reach, type Services } from './network/options.ts'

export type NetworkOptions = Reach & {
  /** Where libp2p keeps what it knows of other peers. */
  readonly dir: string
  readonly identity: Ed25519Identity
  /** 32 bytes, shared by all members: bound into every handshake. */
  readonly secret: Uint8Array
  /** Addresses of members to dial at start and to come back to for ever. */
  readonly bootstrap?: readonly string[]
  /** Port of the direct TLS lane; 0, the default, takes any. Set it where a firewall opens ports by number. */
  readonly lanePort?: number
  /** Direct sockets: TLS between hosts, Unix sockets within one (not with `tls`). Default true. */
  readonly fastLane?: boolean | 'tls'
  /** Look for members and reconnect to lost ones by itself. Default true; conformance tests dial by hand. */
  readonly search?: boolean
  readonly clock: Clock
  readonly random: Random
  readonly telemetry: Telemetry
}

export type OpenNetwork = {
  readonly network: Libp2pNetwork
  readonly libp2p: Libp2p<Services>
  readonly services: Services
  readonly datastore: LevelDatastore
  /** Listens and dials. Register handlers first. */
  start(): Promise<void>
  /** Closes everything, the datastore included. */
  stop(): Promise<void>
}

/** The Network port of the daemon. Throws BAD_INPUT for an address that is none, STORAGE_FAILED when `dir` cannot be used or is in use. */
export async function createLibp2pNetwork(options: NetworkOptions): Promise<OpenNetwork> {
  for (const address of options.listen) parseAddress(address)
  const datastore = new LevelDatastore(join(options.dir, 'libp2p'))
  try {
    mkdirSync(options.dir, { recursive: true, mode: 0o700 })
    await datastore.open()
  } catch (cause) {
    throw new MeshError('STORAGE_FAILED', `${join(options.dir, 'libp2p')} cannot be opened: it is damaged, or the disk is. It holds what this peer knows of others' addresses; without it the peer starts and learns them anew`, { cause })
  }
  const ports = new KeptPorts(options.dir, options.listen)
  const listen = await ports.listen()
  const bans = new Bans(options.clock)
  const made: { network?: Libp2pNetwork } = {}
  const libp2p = await createLibp2p<Services>({
    ...libp2pOptions({
      privateKey: options.identity.toLibp2p(),
      secret: options.secret,
      datastore,
      reach: { ...options, listen },
      refused: peer => bans.because(peer) !== undefined,
      topicAllowed: topic => made.network?.topicAllowed(topic) === true,
    }),
    start: false,
  })
  const network = new Libp2pNetwork({ libp2p, clock: options.clock, random: options.random, telemetry: options.telemetry, bans, fastLane: options.fastLane ?? true })
  made.network = network
  let stopping: Promise<void> | undefined
  return {
    network,
    libp2p,
    services: libp2p.services,
    datastore,
    async start() {
      await network.start({ loopback: loopbackOnly(options.listen), lanePort: options.lanePort ?? 0, localLane: options.fastLane !== 'tls', given: options.bootstrap ?? [], search: options.search !== false })
      await ports.keep(network.addresses())
    },
    // libp2p does not close the datastore: the folder could not be opened again in this process.
    stop: () => (stopping ??= network.stop().finally(() => datastore.close())),
  }
}
