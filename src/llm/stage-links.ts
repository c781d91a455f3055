import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { stageStream, type StageFrame } from '../../protocols/stage.ts'
import type { Ports, Stream } from '../ports.ts'

const OPEN_MS = 3_000
/** Frames that may wait for one peer: beyond it the link counts as lost, and whoever used it looks for another way. */
const WAITING_BOUND = 8_192

type Ear = (frame: StageFrame, from: PeerId) => void

/** Carries stage frames: one warm stream to each peer, for all sessions. A peer's frames arrive in order or not at all. */
export class StageLinks {
  readonly #ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>
  readonly #links = new Map<PeerId, Link>()
  readonly #ears: Ear[] = []
  readonly #losses = new Set<(peer: PeerId, because: MeshError) => void>()
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'network' | 'telemetry'>) {
    this.#ports = ports
  }

  /** `may`: whether a peer may speak to stages now. */
  start(may: (peer: PeerId) => boolean): void {
    this.#ports.network.accept(stageStream, async (stream, from) => {
      if (!may(from)) throw new MeshError('FORBIDDEN', 'only members may use stages')
      await stream.each(frame => this.#hear(frame, from))
    })
  }

  stop(): void {
    this.#stopped = true
    for (const link of this.#links.values()) link.close(new MeshError('CANCELLED', 'the peer is stopping'))
    this.#links.clear()
  }

  /** Everybody hears every frame, and answers for the kinds that concern it. */
  listen(ear: Ear): void {
    this.#ears.push(ear)
  }

  /** Frames sent to `peer` may not have arrived. */
  onLost(hear: (peer: PeerId, because: MeshError) => void): void {
    this.#losses.add(hear)
  }

  send(to: PeerId, frame: StageFrame): void {
    if (this.#stopped) return
    if (to === this.#ports.network.self) {
      // In a turn of its own, as if it came from afar.
      void Promise.resolve().then(() => this.#hear(frame, to))
      return
    }
    this.#link(to).send(frame)
  }

  #hear(frame: StageFrame, from: PeerId): void {
    if (this.#stopped) return
    for (const hear of this.#ears) hear(frame, from)
  }

  #link(peer: PeerId): Link {
    const known = this.#links.get(peer)
    if (known !== undefined) return known
    const link = new Link(this.#ports, peer, because => {
      if (this.#links.get(peer) !== link) return
      this.#links.delete(peer)
      this.#ports.telemetry.event('debug', 'stage.link_lost', { peer, because: because.message })
      if (!this.#stopped) for (const hear of this.#losses) hear(peer, because)
    })
    this.#links.set(peer, link)
    return link
  }
}

/** One way to one peer: frames leave in the turn in which they are sent, unless one before them waits. Ends with the first failure. */
class Link {
  readonly #waiting: StageFrame[] = []
  readonly #lost: (because: MeshError) => void
  #held = true
  #failure: MeshError | undefined
  #stream: Stream<StageFrame> | undefined

  constructor(ports: Pick<Ports, 'clock' | 'network'>, peer: PeerId, lost: (because: MeshError) => void) {
    this.#lost = lost
    this.#run(ports, peer).catch(error => this.close(asMeshError(error)))
  }

  send(frame: StageFrame): void {
    if (this.#failure !== undefined) return
    if (!this.#held && this.#stream !== undefined) return this.#give(this.#stream, frame)
    this.#waiting.push(frame)
    if (this.#waiting.length > WAITING_BOUND) this.close(new MeshError('OVERLOADED', `${WAITING_BOUND} frames wait for it`))
  }

  close(because: MeshError): void {
    if (this.#failure !== undefined) return
    this.#failure = because
    this.#waiting.length = 0
    this.#stream?.abort(because)
    this.#lost(because)
  }

  async #run(ports: Pick<Ports, 'clock' | 'network'>, peer: PeerId): Promise<void> {
    // A deadline would end the stream, too, when it is long open.
    const opening = new AbortController()
    const cancel = ports.clock.after(OPEN_MS, () => opening.abort(new MeshError('PEER_UNREACHABLE', `no stream to ${peer} within ${OPEN_MS} ms`)))
    const stream = await ports.network.open(peer, stageStream, opening.signal).finally(cancel)
    this.#stream = stream
    const down = (): void => this.close(asMeshError(stream.signal.reason))
    stream.signal.addEventListener('abort', down, { once: true })
    if (stream.signal.aborted) down()
    if (this.#failure === undefined) this.#drain(stream)
    else stream.abort(this.#failure)
  }

  #drain(stream: Stream<StageFrame>): void {
    this.#held = false
    while (!this.#held) {
      const frame = this.#waiting.shift()
      if (frame === undefined) return
      this.#give(stream, frame)
    }
  }

  #give(stream: Stream<StageFrame>, frame: StageFrame): void {
    try {
      const waits = stream.offer(frame)
      if (waits === undefined) return
      this.#held = true
      waits.then(() => this.#drain(stream), error => this.close(asMeshError(error)))
    } catch (error) {
      this.#held = true
      // In a turn of its own: who sends is not told in the middle of it.
      void Promise.resolve().then(() => this.close(asMeshError(error)))
    }
  }
}
