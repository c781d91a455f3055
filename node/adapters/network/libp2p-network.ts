import type { Connection, Libp2p, Stream as Libp2pStream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import type { Multiaddr } from '@multiformats/multiaddr'
import type { Protocol, StreamProtocol, Topic } from '../../../protocols/codec.ts'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { hello } from '../../../protocols/membership.ts'
import { MUX_ID, neighbours } from '../../../protocols/mux.ts'
import type { Clock, Network, Random, Stream, Telemetry } from '../../../src/ports.ts'
import { directHost, isAddress, parseAddress, peerIn, unlistenable, unreachable } from './addresses.ts'
import { Acquaintances } from './acquaintances.ts'
import { Bans } from './bans.ts'
import { Dials } from './dials.ts'
import { OpenDoor } from './door.ts'
import { FastLanes } from './fast-lanes.ts'
import { GossipWatch } from './gossip-watch.ts'
import { Gossip } from './gossip.ts'
import { Hears } from './hears.ts'
import { KeepConnected } from './keep-connected.ts'
import { Libp2pLane } from './lane.ts'
import { Mux } from './mux.ts'
import type { Services } from './options.ts'
import { guardProtocol } from './protocol-guard.ts'
import { Session } from './session.ts'
import type { SocketLane } from './socket-lane.ts'

/** A connection that has not proved membership by then is closed. */
const STRANGER_MS = 10_000
const DIAL_MS = 10_000
const MUX_MS = 5_000
const REOPEN_MS = 200

/** The Network port over libp2p: one mux a pair of peers, on a direct TLS socket where one can be had. */
export class Libp2pNetwork implements Network {
  readonly self: PeerId
  readonly #libp2p: Libp2p<Services>
  readonly #clock: Clock
  readonly #telemetry: Telemetry
  readonly #gossip: Gossip
  readonly #lanes: FastLanes | undefined
  readonly #keep: KeepConnected
  readonly #sessions = new Map<PeerId, Session>()
  readonly #dials: Dials
  readonly #door: OpenDoor
  readonly #onConnection: Hears<[PeerId, 'inbound' | 'outbound']>
  readonly #onPeer: Hears<[PeerId, 'joined' | 'gone']>
  readonly #acquaintances: Acquaintances
  readonly #bans: Bans
  readonly #isAdmitted = (peer: PeerId): boolean => this.#sessions.get(peer)?.admitted === true
  #peers: readonly PeerId[] = []
  #stopped = false

  constructor(options: { readonly libp2p: Libp2p<Services>; readonly clock: Clock; readonly random: Random; readonly telemetry: Telemetry; readonly bans: Bans; readonly fastLane: boolean | 'tls' }) {
    this.#libp2p = options.libp2p
    this.#clock = options.clock
    this.#telemetry = options.telemetry
    this.#bans = options.bans
    this.#dials = new Dials(options.libp2p, options.clock, options.bans)
    this.self = options.libp2p.peerId.toString()
    this.#door = new OpenDoor(this.self, options.telemetry, peer => this.#sessions.get(peer))
    this.#onConnection = new Hears(error => this.#door.bug(error, 'listener'))
    this.#onPeer = new Hears(error => this.#door.bug(error, 'listener'))
    this.#acquaintances = new Acquaintances(options.libp2p.peerStore)
    this.#gossip = new Gossip({ pubsub: options.libp2p.services.pubsub, self: this.self, telemetry: options.telemetry, now: () => performance.now(), admitted: this.#isAdmitted, offended: peer => this.ban(peer, 'it floods us with gossip that no peer of ours sends') })
    this.#lanes = options.fastLane !== false ? new FastLanes({ network: this, clock: options.clock, random: options.random, telemetry: options.telemetry, hostOf: peer => directHost(this.#sessions.get(peer)?.carrier), up: (peer, lane, opener) => this.#laneUp(peer, lane, opener) }) : undefined
    this.#keep = new KeepConnected({
      clock: options.clock,
      random: options.random,
      connected: key => this.#sessions.has(key) || this.#bans.because(key) !== undefined,
      count: () => this.#sessions.size,
      dial: (key, addresses) => this.#redial(key, addresses),
    })
  }

  /** Starts libp2p, then everything above it. `given`: addresses of members to come back to for ever. */
  async start(options: { readonly loopback: boolean; readonly lanePort: number; readonly localLane: boolean; readonly given: readonly string[]; readonly search: boolean }): Promise<void> {
    const { services } = this.#libp2p
    this.#libp2p.addEventListener('connection:open', event => this.#opened(event.detail))
    this.#libp2p.addEventListener('connection:close', event => this.#closed(event.detail))
    this.#libp2p.addEventListener('peer:discovery', event => this.#keep.learn(event.detail.id.toString(), event.detail.multiaddrs.map(String)))
    const watch = new GossipWatch(services.pubsub, this.#clock)
    services.pubsub.addEventListener('gossipsub:heartbeat', () => {
      for (const session of watch.deaf(this.#sessions.values())) {
        this.#telemetry.count('gossip_deaf_total')
        this.#drop(session.peer, new MeshError('PEER_UNREACHABLE', `gossip with ${session.peer} had stopped`))
      }
    })
    await this.#libp2p.handle(MUX_ID, (stream, connection) => this.#muxOpened(stream, connection), { maxInboundStreams: 8, maxOutboundStreams: 8, runOnLimitedConnection: true })
    this.handle(neighbours, async () => ({ peers: await this.#acquaintances.addressesOf(this.#peers) }))
    await this.#lanes?.start(options.loopback, options.lanePort, options.localLane)
    await Promise.resolve(this.#libp2p.start()).catch((error: unknown) => Promise.reject(unlistenable(error)))
    this.#gossip.start()
    for (const address of options.given) this.#keep.learn(peerIn(address) ?? address, [address], true)
    for (const peer of await this.#acquaintances.known()) this.#keep.learn(peer, [], true)
    if (options.search) this.#keep.start()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#keep.stop()
    this.#lanes?.stop()
    for (const session of this.#sessions.values()) session.end(new MeshError('CANCELLED', 'this peer is stopping'))
    await this.#libp2p.stop()
  }

  addresses(): readonly string[] {
    return this.#libp2p.getMultiaddrs().map(String)
  }

  async dial(addresses: readonly string[], signal: AbortSignal): Promise<PeerId> {
    const groups = new Map<string, Multiaddr[]>()
    for (const address of addresses) {
      const parsed = parseAddress(address)
      const key = peerIn(address) ?? address
      groups.set(key, [...(groups.get(key) ?? []), parsed])
    }
    if (groups.size === 0) throw new MeshError('BAD_INPUT', 'no address to dial')
    try {
      return await Promise.any([...groups.values()].map(group => this.#dialGroup(group, signal)))
    } catch (error) {
      // It may have answered, and not have taken us in, before the dial was done.
      const [banned] = [...groups.keys()].flatMap(key => this.#bans.because(key) ?? [])
      throw banned === undefined ? unreachable(error, addresses, signal) : new MeshError('NETWORK_REFUSED', `${addresses.join(', ')} is refused here for now: ${banned}`, { cause: error })
    }
  }

  async request<Q, R>(to: PeerId, protocol: Protocol<Q, R>, request: Q, until?: AbortSignal | Millis): Promise<R> {
    const [signal, deadlineMs] = typeof until === 'number' ? [undefined, Math.min(protocol.limits.deadlineMs, until)] : [until, protocol.limits.deadlineMs]
    const mux = this.#open(to)
    if (mux !== undefined) return mux.request(protocol, request, signal, deadlineMs)
    const began = this.#clock.monotonic()
    const late = this.#clock.deadline(deadlineMs, signal)
    const ready = await this.#ready(to, protocol.id === hello.id, deadlineMs, late)
    return ready.request(protocol, request, signal, Math.max(1, deadlineMs - (this.#clock.monotonic() - began)))
  }

  handle<Q, R>(protocol: Protocol<Q, R>, answer: (request: Q, from: PeerId, signal: AbortSignal) => Promise<R>): void {
    this.#door.handle(protocol, answer)
  }

  async open<F>(to: PeerId, protocol: StreamProtocol<F>, signal: AbortSignal): Promise<Stream<F>> {
    signal.throwIfAborted()
    const mux = this.#open(to) ?? await this.#ready(to, false, DIAL_MS, signal)
    return mux.open(protocol, signal)
  }

  accept<F>(protocol: StreamProtocol<F>, serve: (stream: Stream<F>, from: PeerId) => Promise<void>): void {
    this.#door.accept(protocol, serve)
  }

  publish<M>(topic: Topic<M>, message: M): Promise<void> {
    return this.#gossip.publish(topic, message)
  }

  subscribe<M>(topic: Topic<M>, hear: (message: M, from: PeerId) => void): () => void {
    return this.#gossip.subscribe(topic, hear)
  }

  /** Lets a topic of another library (OrbitDB) through, from admitted peers, within limits. Returns how to stop. */
  guardTopic(topic: string, limits: { readonly messageBytes: number; readonly perPeerPerSecond: number }): () => void {
    return this.#gossip.guard(topic, limits)
  }

  /** Resets streams of a libp2p protocol of another library (OrbitDB, bitswap) that come from peers not admitted. */
  guardProtocol(protocol: string): void {
    guardProtocol(this.#libp2p, protocol, this.#isAdmitted)
  }

  topicAllowed(topic: string): boolean {
    return this.#gossip.isAllowed(topic)
  }

  onConnection(hear: (peer: PeerId, direction: 'inbound' | 'outbound') => void): () => void {
    return this.#onConnection.add(hear)
  }

  admit(peer: PeerId): void {
    const session = this.#sessions.get(peer)
    if (session === undefined || !session.admit()) return
    this.#peers = [...this.#peers, peer].sort()
    this.#onPeer.tell(peer, 'joined')
    this.#seekLane(session)
    void this.#remember(peer).catch(error => this.#telemetry.event('debug', 'network.not-remembered', { peer, because: String(error) }))
  }

  peers(): readonly PeerId[] {
    return this.#peers
  }

  onPeer(hear: (peer: PeerId, state: 'joined' | 'gone') => void): () => void {
    return this.#onPeer.add(hear)
  }

  /** For a minute, or until `allow`: a peer that was refused may come back with a better invite. */
  ban(peer: PeerId, because: string): void {
    this.#telemetry.event('warn', 'network.banned', { peer, because })
    this.#bans.ban(peer, because)
    this.#drop(peer, new MeshError('NETWORK_REFUSED', because))
  }

  allow(peer: PeerId): void {
    this.#bans.lift(peer)
  }

  rtt(peer: PeerId): Millis | undefined {
    const session = this.#sessions.get(peer)
    return session?.fast?.rtt ?? session?.control?.rtt
  }

  /** What calls to `peer` take now: the libp2p connection, or a direct socket beside it. */
  laneOf(peer: PeerId): 'libp2p' | 'tls' | 'unix' | undefined {
    return this.#sessions.get(peer)?.mux?.lane.name
  }

  /** The mux that calls to an admitted peer take right now. */
  #open(to: PeerId): Mux | undefined {
    const session = this.#sessions.get(to)
    return session?.admitted === true ? session.mux : undefined
  }

  async #ready(to: PeerId, unadmitted: boolean, patienceMs: Millis, signal: AbortSignal): Promise<Mux> {
    if (to === this.self) throw new MeshError('PEER_UNREACHABLE', 'a peer does not call itself over the network')
    const session = this.#sessions.get(to) ?? await this.#reach(to, signal)
    await session.ready({ unadmitted }, patienceMs, signal)
    if (session.mux === undefined) throw new MeshError('PEER_UNREACHABLE', `the connection to ${to} was lost`)
    return session.mux
  }

  async #reach(to: PeerId, signal: AbortSignal): Promise<Session> {
    await this.#dials.reach(to, signal)
    const session = this.#sessions.get(to)
    if (session === undefined) throw new MeshError('PEER_UNREACHABLE', `${to} closed the connection at once: it may have refused this peer`)
    return session
  }

  async #dialGroup(group: Multiaddr[], signal: AbortSignal): Promise<PeerId> {
    const connection = await this.#libp2p.dial(group, { signal })
    const peer = connection.remotePeer.toString()
    const session = this.#sessions.get(peer)
    if (session === undefined) throw new MeshError('PEER_UNREACHABLE', `${peer} closed the connection at once: it may have refused this peer`)
    await session.ready({ unadmitted: true }, MUX_MS, signal)
    this.#keep.learn(peer, group.map(String))
    return peer
  }

  async #redial(key: string, addresses: readonly string[]): Promise<PeerId> {
    const signal = this.#clock.deadline(DIAL_MS)
    if (addresses.length > 0) return this.dial(addresses, signal)
    await this.#reach(key, signal)
    return key
  }

  #opened(connection: Connection): void {
    const peer = connection.remotePeer.toString()
    if (this.#stopped || this.#bans.because(peer) !== undefined) {
      connection.abort(new Error('refused'))
      return
    }
    const session = this.#session(peer)
    session.connections.add(connection)
    // One side opens the mux, whoever dialled: both dialling at once still makes one. A direct connection beats a relayed one.
    const better = session.control === undefined || (session.carrier?.limits !== undefined && connection.limits === undefined)
    if (this.self < peer && better) void this.#openMux(session, connection)
  }

  #session(peer: PeerId): Session {
    const known = this.#sessions.get(peer)
    if (known !== undefined) return known
    const session = new Session(peer, this.#clock)
    this.#sessions.set(peer, session)
    this.#clock.after(STRANGER_MS, () => {
      if (session.ended || session.admitted) return
      this.#telemetry.count('strangers_closed_total')
      this.#drop(peer, new MeshError('UNAUTHENTICATED', `${peer} did not prove membership within ${STRANGER_MS} ms`))
    })
    return session
  }

  async #openMux(session: Session, connection: Connection): Promise<void> {
    if (session.opening) return
    session.opening = true
    try {
      const stream = await connection.newStream(MUX_ID, { runOnLimitedConnection: true, signal: this.#clock.deadline(MUX_MS) })
      this.#startMux(session, stream, connection, true)
    } catch (error) {
      this.#telemetry.event('debug', 'network.mux-failed', { peer: session.peer, because: String(error) })
      connection.abort(new Error('no mux'))
    } finally {
      session.opening = false
    }
  }

  #muxOpened(stream: Libp2pStream, connection: Connection): void {
    const peer = connection.remotePeer.toString()
    if (this.#stopped || this.self < peer || this.#bans.because(peer) !== undefined) {
      stream.abort(new Error('not yours to open'))
      return
    }
    const session = this.#session(peer)
    session.connections.add(connection)
    this.#startMux(session, stream, connection, false)
  }

  #startMux(session: Session, stream: Libp2pStream, connection: Connection, opener: boolean): void {
    if (session.ended || this.#sessions.get(session.peer) !== session) {
      stream.abort(new Error('the session is over'))
      return
    }
    const mux: Mux = new Mux({ peer: session.peer, lane: new Libp2pLane(stream), opener, door: this.#door, clock: this.#clock, telemetry: this.#telemetry, onClose: (because, hostile) => this.#muxClosed(session, mux, because, hostile) })
    session.setControl(mux, connection)
    mux.start()
    if (mux.closed) return
    this.#onConnection.tell(session.peer, connection.direction)
    this.#seekLane(session)
  }

  #muxClosed(session: Session, mux: Mux, because: MeshError, hostile: boolean): void {
    const which = session.lose(mux)
    if (session.ended || this.#stopped || which === 'neither') return
    if (hostile) {
      this.#telemetry.event('warn', 'network.dropped', { peer: session.peer, because: because.message })
      this.#drop(session.peer, because)
      return
    }
    if (which === 'fast') {
      this.#seekLane(session)
      return
    }
    // The connection under it is gone, too: whoever counts on the peer hears of it now, not when all is tidied up.
    if ([...session.connections].every(({ status }) => status !== 'open')) {
      this.#end(session, because)
      return
    }
    // Its connection may have been one of several (a relay that gave way to a direct one): try another.
    this.#clock.after(REOPEN_MS, () => {
      if (session.ended || session.control !== undefined) return
      const [left] = [...session.connections].filter(connection => connection.status === 'open').sort((a, b) => Number(a.limits !== undefined) - Number(b.limits !== undefined))
      if (left !== undefined && this.self < session.peer) void this.#openMux(session, left)
    })
    this.#clock.after(MUX_MS, () => {
      if (!session.ended && session.control === undefined) this.#drop(session.peer, because)
    })
  }

  #laneUp(peer: PeerId, lane: SocketLane, opener: boolean): void {
    const session = this.#sessions.get(peer)
    if (session === undefined || !session.admitted || session.ended) {
      lane.close()
      return
    }
    const mux: Mux = new Mux({ peer, lane, opener, door: this.#door, clock: this.#clock, telemetry: this.#telemetry, onClose: (because, hostile) => this.#muxClosed(session, mux, because, hostile) })
    session.setFast(mux)
    mux.start()
    this.#telemetry.count('fast_lane_up_total')
  }

  /** The side that dialled libp2p is the one that can probably dial again. */
  #seekLane(session: Session): void {
    if (this.#lanes === undefined || !session.admitted || session.carrier?.direction !== 'outbound' || session.carrier.limits !== undefined) return
    this.#lanes.seek(session.peer, () => session.ended || session.fast !== undefined)
  }

  #closed(connection: Connection): void {
    const peer = connection.remotePeer.toString()
    const session = this.#sessions.get(peer)
    if (session === undefined || !session.connections.delete(connection) || session.connections.size > 0) return
    this.#end(session, new MeshError('PEER_UNREACHABLE', `the connection to ${peer} was lost`))
  }

  /** Closes everything to a peer now, and says so. */
  #drop(peer: PeerId, because: MeshError): void {
    const session = this.#sessions.get(peer)
    if (session !== undefined) this.#end(session, because)
    for (const connection of this.#libp2p.getConnections(peerIdFromString(peer))) connection.abort(because)
  }

  #end(session: Session, because: MeshError): void {
    if (this.#sessions.get(session.peer) !== session) return
    this.#sessions.delete(session.peer)
    this.#lanes?.leave(session.peer)
    session.end(because)
    this.#keep.lost(session.peer)
    if (!session.admitted) return
    this.#peers = this.#peers.filter(peer => peer !== session.peer)
    this.#onPeer.tell(session.peer, 'gone')
  }

  async #remember(peer: PeerId): Promise<void> {
    this.#keep.learn(peer, [])
    await this.#acquaintances.remember(peer)
    const { peers } = await this.request(peer, neighbours, {})
    for (const other of peers) if (other.peer !== this.self && !this.#sessions.has(other.peer) && other.addresses.every(isAddress)) this.#keep.learn(other.peer, other.addresses)
  }
}
