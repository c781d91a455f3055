import { createHash } from 'node:crypto'
import { autoNAT } from '@libp2p/autonat'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { dcutr } from '@libp2p/dcutr'
import { gossipsub, type GossipSub } from '@libp2p/gossipsub'
import { identify, type Identify, identifyPush, type IdentifyPush } from '@libp2p/identify'
import type { ConnectionGater, PeerId as Libp2pPeerId, PrivateKey } from '@libp2p/interface'
import { kadDHT, type KadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { mdns } from '@libp2p/mdns'
import { noise } from '@libp2p/noise'
import { ping, type Ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { uPnPNAT } from '@libp2p/upnp-nat'
import { yamux } from '@libp2p/yamux'
import type { LevelDatastore } from 'datastore-level'
import type { Libp2pOptions } from 'libp2p'

const MIB = 1_048_576
/** A reply to IWANT carries many messages at once; below this length an honest one would cut the stream (and us off). */
const GOSSIP_RPC_BYTES = 16 * MIB
const DHT_RECORD_BYTES = 65_536
const REMEMBERED_MS = 180 * 86_400_000

export interface Services extends Record<string, unknown> {
  readonly identify: Identify
  readonly identifyPush: IdentifyPush
  readonly ping: Ping
  /** The name that OrbitDB asks for. */
  readonly pubsub: GossipSub
  readonly dht: KadDHT
}

export type Reach = {
  readonly listen: readonly string[]
  /** Announced instead of what we listen on: behind a mapped port or in a container. */
  readonly announce?: readonly string[]
  readonly mdns?: boolean
  readonly upnp?: boolean
  /** Carry other members' connections. */
  readonly relay?: boolean
}

export function loopbackOnly(listen: readonly string[]): boolean {
  return listen.every(address => address.startsWith('/ip4/127.') || address.startsWith('/ip6/::1/'))
}

/** Everything that libp2p is told. Each value that is not a default fences a defect or a danger named beside it. */
export function libp2pOptions(options: {
  readonly privateKey: PrivateKey
  readonly secret: Uint8Array
  readonly datastore: LevelDatastore
  readonly reach: Reach
  readonly refused: (peer: string) => boolean
  readonly topicAllowed: (topic: string) => boolean
}): Libp2pOptions<Services> {
  const { reach, secret } = options
  const denied = (peer: Libp2pPeerId): boolean => options.refused(peer.toString())
  // The default gater refuses private addresses in places; this one refuses peers only.
  const connectionGater: ConnectionGater = { denyDialMultiaddr: () => false, denyDialPeer: denied, denyInboundEncryptedConnection: denied, denyOutboundEncryptedConnection: denied }
  return {
    privateKey: options.privateKey,
    datastore: options.datastore,
    // By default a peer that has been away for six hours has forgotten everybody, and where they were after one.
    peerStore: { maxPeerAge: REMEMBERED_MS, maxAddressAge: REMEMBERED_MS },
    addresses: { listen: [...reach.listen], ...(reach.announce === undefined ? {} : { announce: [...reach.announce] }) },
    // No QUIC: it skips the noise handshake, and with it the network secret.
    transports: [tcp(), circuitRelayTransport()],
    // The secret is part of the handshake hash: without it there is no connection. (@libp2p/pnet would crash the process.)
    connectionEncrypters: [noise({ prologueBytes: createHash('sha256').update('aios-mesh/1 network secret\0').update(secret).digest() })],
    // With larger windows one bulk stream blocks small messages for tens of milliseconds, and pause() kills the stream.
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: MIB }, maxInboundStreams: 256 })],
    connectionGater,
    // Defaults refuse the sixth connection a second from one host, and the eleventh handshake at once.
    connectionManager: { maxConnections: 500, inboundConnectionThreshold: 100, maxIncomingPendingConnections: 100, reconnectRetries: 0 },
    // It drops connections whose ping was late, which on a busy host is most of them; the mux has pings of its own.
    connectionMonitor: { enabled: false },
    peerDiscovery: reach.mdns === true ? [mdns({ serviceTag: serviceTag(secret), interval: 10_000 })] : [],
    services: {
      identify: identify({ runOnLimitedConnection: true }),
      identifyPush: identifyPush({ runOnLimitedConnection: true }),
      ping: ping(),
      pubsub: gossipsub({
        allowPublishToZeroTopicPeers: true,
        fallbackToFloodsub: false,
        floodPublish: true,
        doPX: false,
        runOnLimitedConnection: true,
        // More than ten peers behind one address are otherwise taken for an attack.
        scoreParams: { IPColocationFactorWeight: 0 },
        maxInboundDataLength: GOSSIP_RPC_BYTES,
        maxOutboundBufferSize: GOSSIP_RPC_BYTES * 2,
        maxTopicBytesPerPeer: 262_144,
        // The library's own list of topics is fixed at start; this one follows what is subscribed.
        dataTransform: {
          inboundTransform: (topic, data) => {
            if (!options.topicAllowed(topic)) throw new Error(`nobody here listens to ${topic}`)
            return data
          },
          outboundTransform: (_topic, data) => data,
        },
      }),
      dht: kadDHT({
        protocol: '/aios/kad/1',
        clientMode: false,
        // The default mapper drops private addresses, which leaves a LAN with an empty routing table.
        peerInfoMapper: passthroughMapper,
        validators: {
          aios: (_key, value) => {
            if (value.byteLength > DHT_RECORD_BYTES) throw new Error('the record is too large')
          },
        },
        selectors: { aios: () => 0 },
      }),
      autoNAT: autoNAT(),
      dcutr: dcutr(),
      // The default limit cuts a relayed connection after 128 KiB.
      ...(reach.relay === true ? { relay: circuitRelayServer({ reservations: { applyDefaultLimit: false, maxReservations: 64 } }) } : {}),
      ...(reach.upnp === true && !loopbackOnly(reach.listen) ? { upnp: uPnPNAT() } : {}),
    },
  }
}

/** One a network, so that strangers on the same LAN are not even dialled. Says nothing of the secret it is made from. */
function serviceTag(secret: Uint8Array): string {
  const name = createHash('sha256').update('aios-mesh/1 mdns\0').update(secret).digest('hex').slice(0, 8)
  return `_aios-${name}._udp.local`
}
