import { createOrbitDB, isValidAddress, type OrbitDB } from '@orbitdb/core'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { asMeshError, MeshError } from '../../../protocols/errors.ts'
import type { Millis, PeerId } from '../../../protocols/ids.ts'
import { registryLog, registryLogTopic } from '../../../protocols/registry.ts'
import type { Signed } from '../../../protocols/signed.ts'
import type { Clock, Identity, Network, Random, Telemetry } from '../../../src/ports.ts'
import { Backoff } from '../../../src/lib/backoff.ts'
import type { RegistryReplica } from '../../../src/registries/replica.ts'
import type { Registries } from '../../../src/registries/store.ts'
import { seal, unseal } from '../../../src/trust/seal.ts'
import { LogSegment, packEntries, type LogDoor, type SegmentOptions, type SegmentTold } from './log-segment.ts'
import type { SqliteView } from './sqlite-view.ts'

export type LogStatus = { readonly address: string | undefined; readonly segment: number; readonly entries: number; readonly open: number; readonly outbox: number; readonly failures: number }

type LogParts = { readonly dir: string; readonly networkId: string; readonly helia: object; readonly view: SqliteView; readonly store: Registries; readonly replica: RegistryReplica; readonly segmentEntries: number | undefined }
type LogPorts = { readonly network: Network & Partial<LogDoor>; readonly identity: Identity; readonly clock: Clock; readonly random: Random; readonly telemetry: Telemetry }

const DOMAIN = 'registry-log'
/** Writers whose current log is open here. Those beyond it are followed through news and digests alone. */
const OPEN_LOGS = 48
const ANNOUNCE_MS = 10_000
const OPEN_MS = 15_000
const DRAIN_RECORDS = 512
/** Newcomers of this long are greeted together: they need the time to subscribe, and the topic has a rate. */
const GREET_MS = 600
const APPEND_MS = 100
const RETRY_MS = 1_000
const RETRY_CAP_MS = 60_000

type Followed = { readonly segment: number; readonly opening: Promise<LogSegment | undefined>; heardAt: Millis }

/**
 * Keeps this peer's OrbitDB log and follows those of live writers. Beside `/aios/registry-log/1`, each log has a gossip
 * topic named by its address, `/orbitdb/<base58btc CID>`, and a libp2p protocol, `/orbitdb/heads/orbitdb/<CID>`. A network
 * that lets only known topics and protocols pass is asked for both through `guardTopic` and `guardProtocol`, where it has them.
 */
export class RegistryLogs {
  readonly #parts: LogParts
  readonly #ports: LogPorts
  readonly #followed = new Map<PeerId, Followed>()
  readonly #stops: (() => void)[] = []
  readonly #timers = new Set<() => void>()
  /** Ends what waits for others when this peer stops. */
  readonly #ending = new AbortController()
  #orbitdb: OrbitDB | undefined
  #own: LogSegment | undefined
  #segment = 0
  #draining: Promise<void> | undefined
  readonly #backoff: Backoff
  #announceDue = false
  #failures = 0
  #recordsRead = 0
  #stopped = false

  constructor(parts: LogParts, ports: LogPorts) {
    this.#parts = parts
    this.#ports = ports
    // Retries never give up: the outbox is bounded, and without the log the records still travel by digests.
    this.#backoff = new Backoff(ports.random, { firstMs: RETRY_MS, maxMs: RETRY_CAP_MS, retries: Number.MAX_SAFE_INTEGER })
  }

  /** Opens our log, announces it and takes what still waits in the outbox. */
  async start(): Promise<void> {
    const directory = join(this.#parts.dir, 'orbitdb')
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    this.#orbitdb = await createOrbitDB({ ipfs: this.#parts.helia, id: this.#ports.identity.peer, directory })
    await this.#openOwn(Number(this.#parts.view.fact('segment') ?? '0'))
    const { network } = this.#ports
    this.#stops.push(
      network.subscribe(registryLogTopic, (envelope, from) => this.#hear(envelope, from)),
      network.onPeer((_, state) => {
        // A newcomer learns of our log at once instead of at the next round.
        if (state === 'joined') this.#announceSoon()
      }),
      this.#parts.store.onWritten(() => void this.drain()),
    )
    this.#scheduleRound()
    void this.#announce()
    void this.drain()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#ending.abort(new MeshError('CANCELLED', 'this peer is stopping'))
    for (const stop of this.#stops.splice(0)) stop()
    for (const cancel of this.#timers) cancel()
    await this.#draining
    for (const { opening } of this.#followed.values()) await (await opening)?.close().catch(error => this.#fail('close', error))
    this.#followed.clear()
    await this.#own?.close().catch(error => this.#fail('close', error))
    await this.#orbitdb?.stop()
  }

  status(): LogStatus {
    return { address: this.#own?.address, segment: this.#segment, entries: this.#own?.length ?? 0, open: this.#followed.size, outbox: this.#parts.view.outbox(0, DRAIN_RECORDS).length, failures: this.#failures }
  }

  writers(): readonly PeerId[] {
    return [...this.#followed.keys()].sort()
  }

  /** Records read from others' logs since the start. */
  get recordsRead(): number {
    return this.#recordsRead
  }

  /** Appends what waits in the outbox. A record leaves it only once its entry is stored. */
  drain(): Promise<void> {
    this.#draining ??= this.#drainAll().finally(() => (this.#draining = undefined))
    return this.#draining
  }

  async #drainAll(): Promise<void> {
    try {
      for (;;) {
        const waiting = this.#stopped ? [] : this.#parts.view.outbox(0, DRAIN_RECORDS)
        if (waiting.length === 0) break
        let at = 0
        for (const { value, count } of packEntries(waiting.map(outgoing => outgoing.envelope))) {
          if (this.#stopped) return
          if (this.#own?.full !== false) await this.#nextSegment()
          await this.#own?.append(value)
          at += count
          this.#parts.view.sent(waiting[at - 1]!.id)
          // Readers drop what comes faster than the topic allows.
          await this.#ports.clock.sleep(APPEND_MS)
        }
      }
      this.#backoff.reset()
    } catch (error) {
      this.#fail('append', error)
      this.#later(this.#backoff.next() ?? RETRY_CAP_MS, () => void this.drain())
    }
  }

  async #openOwn(segment: number): Promise<void> {
    if (this.#orbitdb === undefined) return
    const name = `registry/${this.#parts.networkId}/${this.#ports.identity.peer}/${segment}`
    const own = await LogSegment.openOwn(name, this.#segmentOf(this.#orbitdb, this.#ports.identity.peer))
    // At the same moment: who hears of a number with the address of the one before never asks for the right one.
    this.#own = own
    this.#segment = segment
  }

  async #nextSegment(): Promise<void> {
    const full = this.#own
    const next = this.#segment + 1
    this.#parts.view.setFact('segment', String(next))
    await this.#openOwn(next)
    await this.#announce()
    await full?.close()
  }

  #scheduleRound(): void {
    this.#later(ANNOUNCE_MS / 2 + this.#ports.random.below(ANNOUNCE_MS), () => void this.#round().finally(() => this.#scheduleRound()))
  }

  #later(wait: Millis, run: () => void): void {
    if (this.#stopped) return
    const cancel = this.#ports.clock.after(wait, () => {
      this.#timers.delete(cancel)
      run()
    })
    this.#timers.add(cancel)
  }

  async #round(): Promise<void> {
    await this.#announce()
    await this.#own?.reannounce().catch(error => this.#fail('announce', error))
  }

  #announceSoon(): void {
    if (this.#announceDue) return
    this.#announceDue = true
    this.#later(GREET_MS, () => {
      this.#announceDue = false
      void this.#announce()
    })
  }

  async #announce(): Promise<void> {
    if (this.#own === undefined || this.#stopped) return
    const { network, identity, clock } = this.#ports
    try {
      await network.publish(registryLogTopic, seal(identity, DOMAIN, { writer: identity.peer, segment: this.#segment, address: this.#own.address, issuedAt: clock.unix() }))
    } catch (error) {
      this.#fail('announce', error)
    }
  }

  #hear(envelope: Signed, from: PeerId): void {
    try {
      const { value, signer } = unseal(this.#ports.identity, DOMAIN, registryLog, envelope, registryLogTopic.limits.messageBytes)
      if (signer !== value.writer || signer === this.#ports.identity.peer || !isValidAddress(value.address)) return
      const known = this.#followed.get(signer)
      if (known !== undefined && known.segment >= value.segment) {
        known.heardAt = this.#ports.clock.monotonic()
        return
      }
      if (known === undefined && !this.#makeRoom()) return
      if (known !== undefined) void this.#leave(known)
      this.#follow(signer, value.segment, value.address)
    } catch (error) {
      this.#fail(`announcement from ${from}`, error)
    }
  }

  #follow(writer: PeerId, segment: number, address: string): void {
    const opening = this.#open(writer, address)
    const followed: Followed = { segment, opening, heardAt: this.#ports.clock.monotonic() }
    this.#followed.set(writer, followed)
    void opening.then(log => {
      // Not reachable yet: forgotten, so that the next announcement tries again.
      if (log === undefined && this.#followed.get(writer) === followed) this.#followed.delete(writer)
    })
  }

  async #open(writer: PeerId, address: string): Promise<LogSegment | undefined> {
    if (this.#orbitdb === undefined || this.#stopped) return undefined
    try {
      return await LogSegment.openTheirs(address, this.#segmentOf(this.#orbitdb, writer), this.#ports.clock.deadline(OPEN_MS, this.#ending.signal))
    } catch (error) {
      this.#fail('open', error)
      return undefined
    }
  }

  /** Closes the writer longest unheard when as many logs are open as may be; false when all are live. */
  #makeRoom(): boolean {
    if (this.#followed.size < OPEN_LOGS) return true
    const [oldest] = [...this.#followed].sort(([, a], [, b]) => a.heardAt - b.heardAt)
    if (oldest === undefined || this.#ports.clock.monotonic() - oldest[1].heardAt < 6 * ANNOUNCE_MS) return false
    this.#followed.delete(oldest[0])
    void this.#leave(oldest[1])
    return true
  }

  async #leave({ opening }: Followed): Promise<void> {
    await (await opening)?.close().catch(error => this.#fail('close', error))
  }

  #segmentOf(orbitdb: OrbitDB, writer: PeerId): SegmentOptions {
    const told: SegmentTold = {
      records: records => {
        this.#recordsRead += records.length
        void this.#parts.replica.take(records, writer, 'log').catch(error => this.#fail('take', error))
      },
      failed: (what, error) => this.#fail(`${what} of ${writer}`, error),
    }
    return { orbitdb, helia: this.#parts.helia, told, door: this.#ports.network, ...(this.#parts.segmentEntries === undefined ? {} : { limit: this.#parts.segmentEntries }) }
  }

  #fail(doing: string, error: unknown): void {
    const { code, message } = asMeshError(error)
    this.#failures++
    this.#ports.telemetry.count('registry_log_failures_total', { code })
    this.#ports.telemetry.event('warn', 'registry.log-failed', { doing, code, message })
  }
}
