import { type GossipSub, type Message, TopicValidatorResult } from '@libp2p/gossipsub'
import type { PeerId as Libp2pPeerId } from '@libp2p/interface'
import { decode, encode, type Topic } from '../../../protocols/codec.ts'
import { MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { Telemetry } from '../../../src/ports.ts'
import { TokenBuckets } from './token-bucket.ts'

/** What one neighbour may forward, against what one author may say. */
const FORWARD_FACTOR = 64
/** Messages a second, of this many, that no peer of ours would send, before its connection is dropped. */
const OFFENCES_PER_SECOND = 20

/** Method shorthand: one topic id has one definition, so what its schema returned is what its listeners take. */
type Ear = { hear(message: unknown, from: PeerId): void }
type Channel = { readonly ears: Set<Ear> }

/** Speaks on topics: sizes, rates and shapes are checked before anyone here hears, and before anything is passed on. */
export class Gossip {
  readonly #pubsub: GossipSub
  readonly #self: PeerId
  readonly #telemetry: Telemetry
  readonly #admitted: (peer: PeerId) => boolean
  readonly #offended: (peer: PeerId) => void
  readonly #channels = new Map<string, Channel>()
  readonly #values = new WeakMap<Message, unknown>()
  readonly #buckets: TokenBuckets
  #started = false

  constructor(options: { readonly pubsub: GossipSub; readonly self: PeerId; readonly telemetry: Telemetry; readonly now: () => number; readonly admitted: (peer: PeerId) => boolean; readonly offended: (peer: PeerId) => void }) {
    this.#pubsub = options.pubsub
    this.#self = options.self
    this.#telemetry = options.telemetry
    this.#admitted = options.admitted
    this.#offended = options.offended
    this.#buckets = new TokenBuckets(options.now)
    this.#pubsub.addEventListener('gossipsub:message', event => this.#deliver(event.detail.msg))
  }

  /** The library takes subscriptions only once it runs; ours may come before. */
  start(): void {
    this.#started = true
    for (const topic of this.#channels.keys()) this.#pubsub.subscribe(topic)
  }

  /** Throws MESSAGE_TOO_LARGE: an oversize message makes its receivers deaf, so none is ever sent. */
  async publish<M>(topic: Topic<M>, message: M): Promise<void> {
    const bytes = encode(message)
    const { messageBytes, perPeerPerSecond } = topic.limits
    if (bytes.byteLength > messageBytes) throw new MeshError('MESSAGE_TOO_LARGE', `a message on ${topic.id} is ${bytes.byteLength} bytes; the limit is ${messageBytes}`, { details: { bytes: bytes.byteLength, limit: messageBytes } })
    if (!this.#buckets.take(`${topic.id} ${this.#self}`, perPeerPerSecond)) {
      this.#drop(topic.id, 'own rate')
      return
    }
    try {
      await this.#pubsub.publish(topic.id, bytes)
    } catch (error) {
      // Gossip is best effort: what is lost, digests and the next message make good.
      this.#telemetry.event('debug', 'gossip.publish-failed', { topic: topic.id, because: String(error) })
    }
  }

  subscribe<M>(topic: Topic<M>, hear: (message: M, from: PeerId) => void): () => void {
    const known = this.#channels.get(topic.id)
    const ear: Ear = { hear }
    const channel: Channel = known ?? { ears: new Set() }
    channel.ears.add(ear)
    if (known === undefined) {
      this.#channels.set(topic.id, channel)
      this.#pubsub.topicValidators.set(topic.id, (source, message) => this.#judge(topic, source, message))
      if (this.#started) this.#pubsub.subscribe(topic.id)
    }
    return () => {
      channel.ears.delete(ear)
      if (channel.ears.size > 0 || this.#channels.get(topic.id) !== channel) return
      this.#channels.delete(topic.id)
      if (this.#started) this.#pubsub.unsubscribe(topic.id)
      this.#pubsub.topicValidators.delete(topic.id)
    }
  }

  /** For topics that somebody else reads (OrbitDB's): admission, size and rate are checked, the shape is not. */
  guard(topic: string, limits: { readonly messageBytes: number; readonly perPeerPerSecond: number }): () => void {
    this.#pubsub.topicValidators.set(topic, (source, message) => this.#admit({ id: topic, limits }, source, message))
    return () => void this.#pubsub.topicValidators.delete(topic)
  }

  /** Topics that are heard here: anything else is dropped unread. */
  isAllowed(topic: string): boolean {
    return this.#pubsub.topicValidators.has(topic)
  }

  #judge(topic: Topic<unknown>, source: Libp2pPeerId, message: Message): TopicValidatorResult {
    const admitted = this.#admit(topic, source, message)
    if (admitted !== TopicValidatorResult.Accept) return admitted
    try {
      this.#values.set(message, decode(topic.message, message.data, topic.limits.messageBytes, topic.id))
      return TopicValidatorResult.Accept
    } catch {
      return this.#offence(topic.id, source, 'shape')
    }
  }

  #admit(topic: { readonly id: string; readonly limits: Topic<unknown>['limits'] }, source: Libp2pPeerId, message: Message): TopicValidatorResult {
    const { messageBytes, perPeerPerSecond } = topic.limits
    if (message.type !== 'signed') return this.#offence(topic.id, source, 'unsigned')
    const forwarder = source.toString()
    // Our own messages pass here too, on their way out.
    if (forwarder !== this.#self) {
      if (!this.#admitted(forwarder)) return this.#ignore(topic.id, 'stranger')
      if (message.data.byteLength > messageBytes) return this.#offence(topic.id, source, 'size')
      if (!this.#buckets.take(`${topic.id} > ${forwarder}`, perPeerPerSecond * FORWARD_FACTOR)) return this.#offence(topic.id, source, 'forwarded rate')
      const author = message.from.toString()
      if (!this.#buckets.take(`${topic.id} ${author}`, perPeerPerSecond)) return author === forwarder ? this.#offence(topic.id, source, 'rate') : this.#ignore(topic.id, 'rate')
    }
    return TopicValidatorResult.Accept
  }

  #ignore(topic: string, because: string): TopicValidatorResult {
    this.#drop(topic, because)
    return TopicValidatorResult.Ignore
  }

  #offence(topic: string, source: Libp2pPeerId, because: string): TopicValidatorResult {
    this.#drop(topic, because)
    const peer = source.toString()
    if (!this.#buckets.take(`offence ${peer}`, OFFENCES_PER_SECOND)) this.#offended(peer)
    // A rate may be exceeded by bad luck; the rest no peer of ours does.
    return because.endsWith('rate') ? TopicValidatorResult.Ignore : TopicValidatorResult.Reject
  }

  #drop(topic: string, because: string): void {
    this.#telemetry.count('gossip_dropped_total', { topic, because })
  }

  #deliver(message: Message): void {
    const channel = this.#channels.get(message.topic)
    if (channel === undefined || message.type !== 'signed') return
    const value = this.#values.get(message)
    if (value === undefined) return
    const from = message.from.toString()
    if (from === this.#self) return
    for (const ear of channel.ears) {
      try {
        ear.hear(value, from)
      } catch (error) {
        this.#telemetry.event('error', 'gossip.listener-failed', { topic: message.topic, because: error instanceof Error ? error.stack : String(error) })
      }
    }
  }
}
