import { decode, encode, type ProtocolId, type Topic } from '../protocols/codec.ts'
import { MeshError } from '../protocols/errors.ts'
import type { Millis, PeerId } from '../protocols/ids.ts'
import { Carriage, freeze } from './carriage.ts'
import { Fingerprint } from './fingerprint.ts'
import { hashBytes } from './identity.ts'
import type { Kernel, Life } from './kernel.ts'
import { Links, type Weather } from './links.ts'
import { NetworkPort } from './network-port.ts'

/** A machine on the simulated internet. Survives crashes of the peer on it. */
export type Host = { readonly peer: PeerId; readonly index: number; readonly address: string; readonly secret: string; port: NetworkPort | undefined }

/** Method shorthand: an ear for one message type may stand among ears for unknown ones; the schema has checked it. */
type Ear = { readonly port: NetworkPort; hear(message: unknown, from: PeerId): void }
type Channel = { readonly topic: Topic<unknown>; readonly ears: Set<Ear> }

/** A silent connection (cut link, lost power) is given up after this long: two missed yamux keep-alives of 10 s. */
export const KEEP_ALIVE_MS = 20_000

/** The simulated internet: hosts, the connections between them, and gossip over the connections that are up. */
export class SimulatedNetwork {
  readonly kernel: Kernel
  readonly links: Links
  readonly carriage: Carriage
  readonly counts = { delivered: 0, lost: 0, published: 0, requests: 0, rateLimited: 0 }
  readonly #fingerprint = new Fingerprint()
  readonly #hosts = new Map<PeerId, Host>()
  readonly #byAddress = new Map<string, Host>()
  readonly #order: Host[] = []
  readonly #channels = new Map<ProtocolId, Channel>()
  readonly #onBug: (error: unknown, peer: PeerId) => void
  #component: number[] = []
  #componentStale = true

  /** `realEvery`: one in so many requests and answers is carried as bytes; of gossip and streams all are. */
  constructor(kernel: Kernel, weather: Weather, onBug: (error: unknown, peer: PeerId) => void, realEvery = 1) {
    this.kernel = kernel
    this.carriage = new Carriage(realEvery, kernel.seed)
    this.links = new Links(kernel.random.fork('links'), weather)
    this.#onBug = onBug
  }

  /** A machine with an address. `secret` stands for the network secret bound into every handshake. */
  addHost(peer: PeerId, secret = 'shared'): Host {
    const index = this.links.add()
    const host: Host = { peer, index, address: `/sim/${index}/p2p/${peer}`, secret, port: undefined }
    this.#hosts.set(peer, host)
    this.#byAddress.set(host.address, host)
    this.#order.push(host)
    this.#componentStale = true
    return host
  }

  /** Plugs a (re)started peer in. */
  connect(host: Host, life: Life): NetworkPort {
    host.port = new NetworkPort(this, host, life)
    return host.port
  }

  /** The peer's process died. The others hear it at once, unless its power went (`silent`) or the link is cut. */
  unplug(host: Host, silent = false): void {
    const port = host.port
    host.port = undefined
    this.topologyChanged()
    for (const channel of this.#channels.values()) for (const ear of channel.ears) if (ear.port === port) channel.ears.delete(ear)
    for (const peer of port?.connections.open() ?? []) {
      const other = this.host(peer)?.port
      const otherIndex = this.host(peer)?.index ?? 0
      const notice = silent || this.links.severed(host.index, otherIndex) ? KEEP_ALIVE_MS : this.links.delay(host.index, otherIndex)
      this.kernel.after(notice, () => other?.connections.lose(host.peer, port))
    }
  }

  host(peer: PeerId): Host | undefined {
    return this.#hosts.get(peer)
  }

  at(address: string): Host | undefined {
    return this.#byAddress.get(address)
  }

  hosts(): readonly Host[] {
    return this.#order
  }

  /** Cuts two groups off from each other; the returned function heals. Connections die of silence after a while. */
  partition(one: readonly PeerId[], other: readonly PeerId[]): () => void {
    const indices = (peers: readonly PeerId[]): number[] => peers.flatMap(peer => this.host(peer)?.index ?? [])
    const heal = this.links.cut(indices(one), indices(other))
    this.topologyChanged()
    this.kernel.after(KEEP_ALIVE_MS, () => this.#giveUpSevered())
    return () => {
      heal()
      this.topologyChanged()
    }
  }

  healAll(): void {
    this.links.healAll()
    this.topologyChanged()
  }

  /** Two hosts admitted each other: an edge more never splits, it only merges. */
  joined(one: Host, other: Host): void {
    if (this.#componentStale) return
    const [kept, merged] = [this.#component[one.index], this.#component[other.index]]
    if (kept === undefined || merged === undefined || kept === merged || this.links.severed(one.index, other.index)) return
    for (let index = 0; index < this.#component.length; index += 1) if (this.#component[index] === merged) this.#component[index] = kept
  }

  topologyChanged(): void {
    this.#componentStale = true
  }

  /** Can gossip or a relayed fetch get from one to the other over admitted connections that are up? */
  reachable(from: PeerId, to: PeerId): boolean {
    const a = this.host(from)
    const b = this.host(to)
    if (a?.port === undefined || b?.port === undefined) return false
    const component = this.#components()
    return component[a.index] === component[b.index]
  }

  fingerprint(): string {
    return this.#fingerprint.toString()
  }

  record(from: number, to: number, hash: number): void {
    this.counts.delivered += 1
    this.#fingerprint.mix(this.kernel.now)
    this.#fingerprint.mix((from << 16) ^ to)
    this.#fingerprint.mix(hash)
  }

  /** A handler threw something that is not a MeshError: a bug in the code under test. */
  bug(error: unknown, peer: PeerId): void {
    this.#onBug(error, peer)
  }

  subscribe<M>(port: NetworkPort, topic: Topic<M>, hear: (message: M, from: PeerId) => void): () => void {
    let channel = this.#channels.get(topic.id)
    if (channel === undefined) {
      channel = { topic, ears: new Set() }
      this.#channels.set(topic.id, channel)
    }
    const { ears } = channel
    const ear: Ear = { port, hear }
    ears.add(ear)
    return () => {
      ears.delete(ear)
    }
  }

  /** Encodes and checks once; the receivers share one frozen value. Hearers with the same delay share one task. */
  publish<M>(from: Host, topic: Topic<M>, message: M): void {
    const bytes = encode(message)
    if (bytes.byteLength > topic.limits.messageBytes) throw new MeshError('MESSAGE_TOO_LARGE', `a message on ${topic.id} is ${bytes.byteLength} bytes; the limit is ${topic.limits.messageBytes}`)
    this.counts.published += 1
    const channel = this.#channels.get(topic.id)
    if (channel === undefined) return
    let value: unknown
    try {
      value = freeze(decode(channel.topic.message, bytes, channel.topic.limits.messageBytes, topic.id))
    } catch (error) {
      // What does not parse is dropped before anyone sees it.
      if (error instanceof MeshError) return
      throw error
    }
    const hash = hashBytes(bytes, from.index)
    const component = this.#components()
    const home = component[from.index]
    const groups = new Map<Millis, Ear[]>()
    for (const ear of channel.ears) {
      const to = ear.port.host.index
      if (to === from.index || component[to] !== home) continue
      if (this.links.lost()) {
        this.counts.lost += 1
        continue
      }
      // Gossip takes a hop or two more than the direct way.
      this.#group(groups, this.links.delay(from.index, to) * 2, ear)
      if (this.links.duplicated()) this.#group(groups, this.links.delay(from.index, to) * 4, ear)
    }
    for (const [delay, ears] of groups) {
      this.kernel.after(delay, () => {
        for (const ear of ears) this.#deliver(from, ear, channel, value, hash)
      })
    }
  }

  #group(groups: Map<Millis, Ear[]>, delay: Millis, ear: Ear): void {
    const group = groups.get(delay)
    if (group === undefined) groups.set(delay, [ear])
    else group.push(ear)
  }

  #deliver(from: Host, ear: Ear, channel: Channel, value: unknown, hash: number): void {
    const host = ear.port.host
    if (!ear.port.life.alive || !channel.ears.has(ear) || (!this.links.whole && this.links.severed(from.index, host.index))) return
    this.record(from.index, host.index, hash)
    try {
      ear.hear(value, from.peer)
    } catch (error) {
      if (!(error instanceof MeshError)) this.bug(error, host.peer)
    }
  }

  #giveUpSevered(): void {
    for (const host of this.#order) {
      for (const peer of host.port?.connections.open() ?? []) {
        const other = this.host(peer)
        if (other !== undefined && this.links.severed(host.index, other.index)) host.port?.connections.lose(peer)
      }
    }
  }

  /** Which component of the admitted graph each host is in, by index. Recomputed only after an edge was lost. */
  #components(): readonly number[] {
    if (!this.#componentStale) return this.#component
    const component = this.#order.map(() => -1)
    let left = this.#order.length
    for (const start of this.#order) {
      if (component[start.index] !== -1) continue
      component[start.index] = start.index
      left -= 1
      const frontier = [start]
      for (let host = frontier.pop(); host !== undefined && left > 0; host = frontier.pop()) {
        if (host.port === undefined) continue
        for (const next of host.port.connections.neighbours()) {
          if (component[next.index] !== -1 || (!this.links.whole && this.links.severed(host.index, next.index))) continue
          component[next.index] = start.index
          left -= 1
          frontier.push(next)
        }
      }
    }
    this.#component = component
    this.#componentStale = false
    return component
  }
}
