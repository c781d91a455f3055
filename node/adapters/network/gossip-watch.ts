import type { GossipSub } from '@libp2p/gossipsub'
import type { Millis } from '../../../protocols/ids.ts'
import type { Clock } from '../../../src/ports.ts'
import type { Session } from './session.ts'

const BEATS = 3
/** Gossip starts a little after its connection. */
const SETTLED_MS: Millis = 5_000

/**
 * One oversize message ends a peer's gossip stream for good while its connection stays up: it hears nothing any more and
 * nobody can tell. This finds connections without gossip both ways; dropping one makes both sides begin anew.
 */
export class GossipWatch {
  readonly #pubsub: GossipSub
  readonly #clock: Clock
  readonly #beats = new WeakMap<Session, number>()

  constructor(pubsub: GossipSub, clock: Clock) {
    this.#pubsub = pubsub
    this.#clock = clock
  }

  /** Called every heartbeat, a second. */
  deaf(sessions: Iterable<Session>): readonly Session[] {
    // What the library still reads; its streams stay open, unread, when it has given up on them.
    const read: unknown = 'streamsInbound' in this.#pubsub ? this.#pubsub.streamsInbound : undefined
    const found: Session[] = []
    for (const session of sessions) {
      if (!session.admitted || this.#clock.monotonic() - session.since < SETTLED_MS) continue
      const streams = [...session.connections].flatMap(connection => connection.streams).filter(stream => stream.protocol.startsWith('/meshsub/') && stream.status === 'open')
      const speaking = streams.some(stream => stream.direction === 'outbound')
      const hearing = streams.some(stream => stream.direction === 'inbound' && stream.remoteWriteStatus !== 'closed') && (!(read instanceof Map) || read.has(session.peer))
      const beats = speaking && hearing ? 0 : (this.#beats.get(session) ?? 0) + 1
      this.#beats.set(session, beats)
      if (beats >= BEATS) found.push(session)
    }
    return found
  }
}
