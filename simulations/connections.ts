import { asMeshError, MeshError } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import type { Life } from './kernel.ts'
import type { NetworkPort } from './network-port.ts'
import type { Host, SimulatedNetwork } from './network.ts'

export type Direction = 'inbound' | 'outbound'

/** Our half of a connection to one life of another peer. */
export type Connection = {
  readonly host: Host
  readonly port: NetworkPort
  /** The other peer's half. */
  twin: Connection | undefined
  admitted: boolean
  rtt: Millis
  /** Questions that wait for an answer over it, in no order: there are very many. */
  readonly calls: { place: number; fail(failure: MeshError): void }[]
  /** What else must be told when the connection is lost. */
  readonly pending: Set<{ fail(failure: MeshError): void }>
  readonly streams: Set<{ sever(failure: MeshError): void; readonly closed: boolean }>
  /** Calls off the end of a connection that nobody admits. */
  welcome: () => void
  /** Who waits for the peer's admission. */
  readonly waiting: Set<() => void>
}

export const RETRANSMIT_MS = 200
/** A connection that has not proved membership by then is closed, as by the real adapter. */
const STRANGER_MS = 10_000
const BAN_MS = 60_000
const UNANSWERED_MS = 5_000

/** The connections of one life of one peer: dialled, admitted, banned, lost. */
export class Connections {
  readonly #net: SimulatedNetwork
  readonly #port: NetworkPort
  readonly #host: Host
  readonly #life: Life
  readonly #open = new Map<PeerId, Connection>()
  readonly #dialling = new Map<PeerId, Promise<PeerId>>()
  readonly #banned = new Map<PeerId, { readonly because: string; readonly until: Millis }>()
  readonly #connectionEars = new Set<(peer: PeerId, direction: Direction) => void>()
  readonly #peerEars = new Set<(peer: PeerId, state: 'joined' | 'gone') => void>()
  #admitted: readonly PeerId[] | undefined

  constructor(net: SimulatedNetwork, port: NetworkPort, host: Host, life: Life) {
    this.#net = net
    this.#port = port
    this.#host = host
    this.#life = life
  }

  get(peer: PeerId): Connection | undefined {
    return this.#open.get(peer)
  }

  /** All, admitted or not, sorted. */
  open(): readonly PeerId[] {
    return [...this.#open.keys()].sort()
  }

  /** Hosts that messages can go to and come from, in no promised order. */
  *neighbours(): IterableIterator<Host> {
    for (const connection of this.#open.values()) if (connection.admitted && connection.twin?.admitted === true) yield connection.host
  }

  admitted(): readonly PeerId[] {
    this.#admitted ??= [...this.#open].filter(([, connection]) => connection.admitted).map(([peer]) => peer).sort()
    return this.#admitted
  }

  onConnection(hear: (peer: PeerId, direction: Direction) => void): () => void {
    this.#connectionEars.add(hear)
    return () => {
      this.#connectionEars.delete(hear)
    }
  }

  onPeer(hear: (peer: PeerId, state: 'joined' | 'gone') => void): () => void {
    this.#peerEars.add(hear)
    return () => {
      this.#peerEars.delete(hear)
    }
  }

  admit(peer: PeerId): void {
    const connection = this.#open.get(peer)
    if (connection === undefined || connection.admitted) return
    connection.admitted = true
    connection.welcome()
    this.#admitted = undefined
    if (connection.twin?.admitted === true) this.#net.joined(this.#host, connection.host)
    for (const hear of this.#peerEars) hear(peer, 'joined')
    for (const wake of connection.waiting) wake()
  }

  ban(peer: PeerId, because: string): void {
    this.#banned.set(peer, { because, until: this.#net.kernel.now + BAN_MS })
    this.#close(peer)
  }

  bannedBecause(peer: PeerId): string | undefined {
    const ban = this.#banned.get(peer)
    return ban === undefined || ban.until <= this.#net.kernel.now ? undefined : ban.because
  }

  /** The connection is gone; with `port`, only if it still leads to that life of the peer. */
  lose(peer: PeerId, port?: NetworkPort): void {
    const connection = this.#open.get(peer)
    if (!this.#life.alive || connection === undefined || (port !== undefined && connection.port !== port)) return
    this.#open.delete(peer)
    this.#admitted = undefined
    const wasAdmitted = connection.admitted
    // Whoever waited for admission must not take a lost connection for an admitted one.
    connection.admitted = false
    if (wasAdmitted) this.#net.topologyChanged()
    const failure = new MeshError('PEER_UNREACHABLE', `the connection to ${peer} was lost`)
    for (const call of connection.calls.splice(0)) call.fail(failure)
    for (const waiting of connection.pending) waiting.fail(failure)
    for (const stream of connection.streams) stream.sever(failure)
    for (const wake of connection.waiting) wake()
    if (wasAdmitted) for (const hear of this.#peerEars) hear(peer, 'gone')
  }

  /** Dials, or joins the dial under way. Throws PEER_UNREACHABLE or NETWORK_REFUSED. */
  reach(target: Host): Promise<PeerId> {
    if (target.peer === this.#host.peer) return Promise.reject(new MeshError('PEER_UNREACHABLE', 'a peer cannot dial itself'))
    if (this.#open.has(target.peer)) return Promise.resolve(target.peer)
    const under = this.#dialling.get(target.peer)
    if (under !== undefined) return under
    const dialling = new Promise<PeerId>((resolve, reject) => this.#dial(target, resolve, reject))
    this.#dialling.set(target.peer, dialling)
    return dialling
  }

  /** Calls `go` with a connection to an admitted peer (`unadmitted`: any), dialling and waiting for it; or `fail`. */
  whenReady(to: PeerId, options: { readonly patienceMs: Millis; readonly unadmitted: boolean }, go: (connection: Connection) => void, fail: (failure: MeshError) => void): void {
    const connection = this.#open.get(to)
    if (connection === undefined) {
      const target = this.#net.host(to)
      if (target === undefined) {
        fail(new MeshError('PEER_UNREACHABLE', `no address is known for ${to}`))
        return
      }
      this.reach(target).then(() => {
        if (this.#open.has(to)) this.whenReady(to, options, go, fail)
        else fail(new MeshError('PEER_UNREACHABLE', `the connection to ${to} was lost`))
      }, error => fail(asMeshError(error)))
    } else if (connection.admitted || options.unadmitted) go(connection)
    else this.whenAdmitted(connection, options.patienceMs, () => go(connection), () => fail(new MeshError('PEER_UNREACHABLE', `${to} is connected but was not admitted within ${options.patienceMs} ms`)))
  }

  whenAdmitted(connection: Connection, patienceMs: Millis, go: () => void, fail: () => void): void {
    const done = (): void => {
      connection.waiting.delete(done)
      cancel()
      if (connection.admitted) go()
      else fail()
    }
    const cancel = this.#net.kernel.after(patienceMs, done, this.#life)
    connection.waiting.add(done)
  }

  /** We spoke to an earlier life of a host that is up again: it knows nothing of the connection, and says so. */
  restarted({ host, port }: Connection): void {
    if (host.port === undefined) return
    const { kernel, links } = this.#net
    kernel.after(links.delay(host.index, this.#host.index), () => {
      if (!links.severed(host.index, this.#host.index)) this.lose(host.peer, port)
    }, this.#life)
  }

  /** Somebody speaks over a connection that we have given up: as TCP does, we say so. */
  reset(from: PeerId): void {
    const other = this.#net.host(from)
    const port = other?.port
    if (other === undefined || port === undefined) return
    const { kernel, links } = this.#net
    kernel.after(links.delay(this.#host.index, other.index), () => {
      if (!links.severed(this.#host.index, other.index)) port.connections.lose(this.#host.peer, this.#port)
    }, port.life)
  }

  /** Hangs up; the other side hears it a little later. */
  #close(peer: PeerId): void {
    const connection = this.#open.get(peer)
    if (connection === undefined) return
    this.#net.kernel.after(this.#net.links.delay(this.#host.index, connection.host.index), () => connection.port.connections.lose(this.#host.peer, this.#port))
    this.lose(peer)
  }

  #refuseStranger(connection: Connection): void {
    const { peer } = connection.host
    connection.welcome = this.#net.kernel.after(STRANGER_MS, () => {
      if (!connection.admitted && this.#open.get(peer) === connection) this.#close(peer)
    }, this.#life)
  }

  #dial(target: Host, resolve: (peer: PeerId) => void, reject: (failure: MeshError) => void): void {
    const { kernel, links } = this.#net
    const oneWay = links.delay(this.#host.index, target.index)
    const fail = (failure: MeshError): void => {
      this.#dialling.delete(target.peer)
      reject(failure)
    }
    // TCP, noise and muxer negotiation: about three round trips, and a retransmission when unlucky.
    kernel.after(oneWay * 6 + (links.lost() ? RETRANSMIT_MS : 0), () => {
      if (links.severed(this.#host.index, target.index)) {
        kernel.after(UNANSWERED_MS, () => fail(new MeshError('PEER_UNREACHABLE', `${target.peer} did not answer within ${UNANSWERED_MS} ms`)), this.#life)
        return
      }
      const port = target.port
      const refusal = this.#refusal(target)
      if (refusal !== undefined || port === undefined) {
        fail(refusal ?? new MeshError('PEER_UNREACHABLE', `${target.peer} is not running`))
        return
      }
      this.#dialling.delete(target.peer)
      this.#join(target, port, oneWay)
      resolve(target.peer)
    }, this.#life)
  }

  #refusal(target: Host): MeshError | undefined {
    if (target.secret !== this.#host.secret) return new MeshError('NETWORK_REFUSED', `${target.peer} is in another network: the handshake did not match`)
    const because = target.port?.connections.bannedBecause(this.#host.peer) ?? this.bannedBecause(target.peer)
    return because === undefined ? undefined : new MeshError('NETWORK_REFUSED', `the connection with ${target.peer} is banned: ${because}`)
  }

  #join(target: Host, port: NetworkPort, oneWay: Millis): void {
    // Both dialled each other at once: the connection that came first stays.
    if (this.#open.has(target.peer)) return
    const theirs = port.connections
    // What they still hold leads to an earlier life of ours.
    theirs.lose(this.#host.peer)
    const [mine, twin] = [fresh(target, port, oneWay), fresh(this.#host, this.#port, oneWay)]
    mine.twin = twin
    twin.twin = mine
    this.#open.set(target.peer, mine)
    theirs.#open.set(this.#host.peer, twin)
    this.#refuseStranger(mine)
    theirs.#refuseStranger(twin)
    for (const hear of theirs.#connectionEars) hear(this.#host.peer, 'inbound')
    for (const hear of this.#connectionEars) hear(target.peer, 'outbound')
  }
}

function fresh(host: Host, port: NetworkPort, oneWay: Millis): Connection {
  return { host, port, twin: undefined, admitted: false, rtt: oneWay * 2, welcome: () => undefined, calls: [], pending: new Set(), streams: new Set(), waiting: new Set() }
}
