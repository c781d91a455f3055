import { networkInterfaces } from 'node:os'
import { MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { laneOffer } from '../../../protocols/mux.ts'
import type { Clock, Network, Random, Telemetry } from '../../../src/ports.ts'
import { Backoff } from '../../../src/lib/backoff.ts'
import { type Certificate, selfSigned } from './certificate.ts'
import type { SocketLane } from './socket-lane.ts'
import { dialLane, TlsListener } from './tls-lane.ts'
import { dialUnix, TOKEN_BYTES, UnixListener } from './unix-lane.ts'

const DIAL_MS = 3_000
const TOKEN_MS = 10_000
/** A host that cannot be reached directly now may be later (a mapped port, a repaired route), but rarely. */
const RETRY = { firstMs: 500, maxMs: 600_000, retries: 20 }

/** Where a peer can be dialled directly; undefined through a relay. */
export type DirectHost = (peer: PeerId) => string | undefined

/** Gives pairs of peers a direct socket beside libp2p, when they can reach each other; silently none when not. */
export class FastLanes {
  readonly #network: Pick<Network, 'request' | 'handle'>
  readonly #clock: Clock
  readonly #random: Random
  readonly #telemetry: Telemetry
  readonly #certificate: Certificate = selfSigned()
  readonly #listener: TlsListener
  readonly #local: UnixListener
  readonly #hostOf: DirectHost
  readonly #up: (peer: PeerId, lane: SocketLane, opener: boolean) => void
  readonly #trying = new Map<PeerId, AbortController>()

  constructor(options: { readonly network: Pick<Network, 'request' | 'handle'>; readonly clock: Clock; readonly random: Random; readonly telemetry: Telemetry; readonly hostOf: DirectHost; readonly up: (peer: PeerId, lane: SocketLane, opener: boolean) => void }) {
    this.#network = options.network
    this.#clock = options.clock
    this.#random = options.random
    this.#telemetry = options.telemetry
    this.#hostOf = options.hostOf
    this.#up = options.up
    this.#listener = new TlsListener(this.#certificate, options.clock)
    this.#local = new UnixListener(options.clock)
  }

  /** `port` 0: any. Without a port to listen on, lanes can still be dialled out. `local`: also Unix sockets, within this host. */
  async start(loopback: boolean, port: number, local: boolean): Promise<void> {
    this.#network.handle(laneOffer, async (offer, from) => {
      if (offer.dialMe) void this.#dial(from, offer).catch(error => this.#note(from, error))
      const token = this.#random.bytes(TOKEN_BYTES)
      this.#listener.expect(token, TOKEN_MS, { fingerprint: offer.fingerprint, arrived: lane => this.#up(from, lane, false) })
      const { path } = this.#local
      if (path === undefined || !isLocal(this.#hostOf(from))) return { fingerprint: this.#certificate.fingerprint, port: this.#listener.port, token }
      this.#local.expect(token, TOKEN_MS, { reply: offer.token, arrived: lane => this.#up(from, lane, false) })
      return { fingerprint: this.#certificate.fingerprint, port: this.#listener.port, token, path }
    })
    if (local) await this.#local.listen().catch(error => this.#telemetry.event('info', 'lane.no-local-socket', { because: String(error) }))
    for (const host of loopback ? ['127.0.0.1'] : ['::', '0.0.0.0']) {
      try {
        await this.#listener.listen(host, port)
        return
      } catch (error) {
        this.#telemetry.event('warn', 'lane.not-listening', { host, port, because: String(error) })
      }
    }
  }

  stop(): void {
    for (const trying of this.#trying.values()) trying.abort(new MeshError('CANCELLED', 'the peer is stopping'))
    this.#listener.close()
    this.#local.close()
  }

  /** Keeps trying, ever more rarely, until a lane is up, `give` says stop, or the tries are spent. */
  seek(peer: PeerId, unwanted: () => boolean): void {
    if (this.#trying.has(peer)) return
    const controller = new AbortController()
    this.#trying.set(peer, controller)
    void this.#seek(peer, unwanted, controller.signal).catch(() => undefined).finally(() => this.#trying.delete(peer))
  }

  leave(peer: PeerId): void {
    this.#trying.get(peer)?.abort(new MeshError('CANCELLED', `${peer} is gone`))
  }

  async #seek(peer: PeerId, unwanted: () => boolean, signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(this.#random, RETRY)
    for (let wait: Millis | undefined = 0; wait !== undefined; wait = backoff.next()) {
      if (wait > 0) await this.#clock.sleep(wait, signal)
      if (unwanted()) return
      try {
        await this.#attempt(peer, signal)
        return
      } catch (error) {
        this.#note(peer, error)
      }
    }
  }

  async #attempt(peer: PeerId, signal: AbortSignal): Promise<void> {
    const offer = (dialMe: boolean, token: Uint8Array) => this.#network.request(peer, laneOffer, { fingerprint: this.#certificate.fingerprint, port: this.#listener.port, token, dialMe }, signal)
    const mine = this.#random.bytes(TOKEN_BYTES)
    const answer = await offer(false, mine)
    if (answer.path !== undefined && this.#local.path !== undefined && isLocal(this.#hostOf(peer))) {
      const lane = await dialUnix(answer.path, answer.token, mine, this.#clock.deadline(DIAL_MS, signal)).catch(() => undefined)
      if (lane !== undefined) {
        this.#up(peer, lane, true)
        return
      }
    }
    try {
      await this.#dial(peer, answer)
    } catch (error) {
      if (this.#listener.port === 0) throw error
      // Perhaps they can reach us.
      const token = this.#random.bytes(TOKEN_BYTES)
      const arrived = Promise.withResolvers<void>()
      const forget = this.#listener.expect(token, TOKEN_MS, {
        fingerprint: answer.fingerprint,
        arrived: lane => {
          this.#up(peer, lane, false)
          arrived.resolve()
        },
      })
      const late = this.#clock.deadline(TOKEN_MS, signal)
      late.addEventListener('abort', () => arrived.reject(late.reason), { once: true })
      try {
        await offer(true, token)
        await arrived.promise
      } finally {
        forget()
      }
    }
  }

  async #dial(peer: PeerId, at: { readonly fingerprint: Uint8Array; readonly port: number; readonly token: Uint8Array }): Promise<void> {
    const host = this.#hostOf(peer)
    if (host === undefined || at.port === 0) throw new MeshError('PEER_UNREACHABLE', `${peer} has no direct address`)
    const lane = await dialLane({ host, port: at.port, certificate: this.#certificate, fingerprint: at.fingerprint, token: at.token, signal: this.#clock.deadline(DIAL_MS) })
    this.#up(peer, lane, true)
  }

  #note(peer: PeerId, error: unknown): void {
    this.#telemetry.count('fast_lane_failed_total')
    this.#telemetry.event('debug', 'lane.failed', { peer, because: error instanceof Error ? error.message : String(error) })
  }
}

function isLocal(host: string | undefined): boolean {
  return host !== undefined && (host.startsWith('127.') || host === '::1' || Object.values(networkInterfaces()).some(addresses => addresses?.some(({ address }) => address === host)))
}
