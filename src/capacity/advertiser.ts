import { capacityTopic, type CapacityAd, type CapacityDelta, type InstanceAd } from '../../protocols/capacity.ts'
import { decode, encode } from '../../protocols/codec.ts'
import type { Cid, Millis } from '../../protocols/ids.ts'
import type { Resources } from '../../protocols/resources.ts'
import type { Signed } from '../../protocols/signed.ts'
import { z } from 'zod'
import { background } from '../lib/background.ts'
import type { MachineReport, Ports } from '../ports.ts'
import { seal } from '../trust/seal.ts'
import { describeSelf, difference, isNews, type AdBody } from './ad.ts'

export type AdvertiserConfig = {
  readonly cluster: string
  readonly labels: Readonly<Record<string, string>>
  readonly protocolMajor: number
  readonly http: string | undefined
  /** TTL in a small mesh; it grows with the mesh so that the whole ads of all stay within a bounded rate. */
  readonly ttlMs: Millis
  readonly ttlMostMs: Millis
  /** Mesh size up to which `ttlMs` holds as it is. */
  readonly smallMesh: number
  /** A change waits this long for others before it is told. */
  readonly coalesceMs: Millis
  readonly deltaEveryMs: Millis
  /** How often load is looked at. */
  readonly pollMs: Millis
  /** The first word is kept back until somebody can hear it, but no longer. */
  readonly firstMs: Millis
}

/** What a host says of itself beyond its hardware. */
export type AdSources = {
  readonly free: () => Resources
  readonly instances: () => readonly InstanceAd[]
  readonly holds: () => readonly Cid[]
  /** False while this peer cannot steward blocks (its disk fails, say). */
  readonly stewards?: () => boolean
  /** Instead of the cluster it was configured with. */
  readonly cluster?: () => string
  /** Besides the labels it was configured with. */
  readonly labels?: () => Readonly<Record<string, string>>
}

export type AdvertiserParts = {
  readonly meshSize: () => number
  readonly ready: () => boolean
  /** Our own word, to be merged like anybody's. */
  readonly onWhole: (ad: CapacityAd, envelope: Signed) => void
  readonly onDelta: (delta: CapacityDelta, envelope: Signed) => void
}

/** A delta larger than this part of the whole is said as a whole: it costs as much and needs no base. */
const WORTH_A_DELTA = 0.75
/** A word that was said for a smaller mesh than it is now is said again so long after its TTL at the latest: older ones are not passed on. */
const OVERDUE_MS = 30_000
const INCARNATION = 'capacity/incarnation'

/** Says what this peer has: the whole at joining and every half of its TTL, and what changed in between. */
export class Advertiser {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'journal' | 'machine' | 'telemetry'>
  readonly #config: AdvertiserConfig
  readonly #parts: AdvertiserParts
  #sources: AdSources | undefined
  #report: MachineReport | undefined
  #incarnation = 0
  #sequence = 0
  #whole: { readonly body: AdBody; readonly sequence: number; readonly at: Millis } | undefined
  #said: AdBody | undefined
  #saidAt = -Infinity
  #cancelDelta: (() => void) | undefined
  #cancelWhole: (() => void) | undefined
  #cancelPoll: (() => void) | undefined
  #cancelFirst: (() => void) | undefined
  /** The newest whole ad, as signed. */
  #envelope: Signed | undefined
  /** Has anything been told yet? */
  #told = false
  #stopped = false

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'journal' | 'machine' | 'telemetry'>, config: AdvertiserConfig, parts: AdvertiserParts) {
    this.#ports = ports
    this.#config = config
    this.#parts = parts
  }

  version(): { readonly incarnation: number; readonly sequence: number } {
    return { incarnation: this.#incarnation, sequence: this.#sequence }
  }

  /** Takes a new incarnation, durable before the first word, and makes the first whole ad: who asks for it gets it, and `tell` says it to all. */
  async start(sources: AdSources): Promise<void> {
    const { clock, journal, machine } = this.#ports
    this.#sources = sources
    this.#report = await machine.probe()
    const saved = await journal.get(INCARNATION)
    const before = saved === undefined ? 0 : decode(z.int(), saved, 64, 'the saved incarnation')
    // Seconds since 1970 as a floor: a peer that lost its disk but not its key still outranks its ghost.
    await this.#raise(Math.max(before + 1, Math.floor(clock.unix() / 1_000)))
    this.#make()
    this.#cancelFirst = clock.after(this.#config.firstMs, () => this.#background(this.tell()))
    this.#poll()
  }

  /** Somebody can hear us now. Whoever starts says one whole ad, and not one into the void before it. */
  async tell(): Promise<void> {
    if (this.#told || this.#stopped || this.#envelope === undefined) return
    this.#told = true
    this.#cancelFirst?.()
    await this.#publish(this.#envelope)
  }

  /** The machine knows its speed by now: says so. Its size stays what the ledger was opened with, for `free` is reckoned from that. */
  async measured(): Promise<void> {
    const { total } = this.#report ?? UNKNOWN
    this.#report = { ...await this.#ports.machine.probe(), total }
    if (this.#told) await this.whole()
    else this.#make()
  }

  stop(): void {
    this.#stopped = true
    this.#cancelDelta?.()
    this.#cancelWhole?.()
    this.#cancelPoll?.()
    this.#cancelFirst?.()
  }

  /** Takes an incarnation above `incarnation` and says the whole ad under it. */
  async refute(incarnation: number): Promise<void> {
    if (incarnation < this.#incarnation) return
    await this.#raise(incarnation + 1)
    await this.whole()
  }

  /** Something may have changed. Cheap: many calls make one delta. */
  changed(): void {
    if (this.#stopped || this.#whole === undefined || this.#cancelDelta !== undefined) return
    const { clock } = this.#ports
    const wait = Math.max(this.#config.coalesceMs, this.#saidAt + this.#config.deltaEveryMs - clock.monotonic())
    this.#cancelDelta = clock.after(wait, () => {
      this.#cancelDelta = undefined
      this.#background(this.#delta())
    })
  }

  async whole(): Promise<void> {
    if (this.#stopped) return
    this.#told = true
    this.#cancelFirst?.()
    await this.#publish(this.#make())
  }

  #make(): Signed {
    this.#cancelWhole?.()
    this.#cancelWhole = undefined
    const body = this.#body()
    const sequence = this.#next()
    const ad: CapacityAd = { peer: this.#ports.identity.peer, incarnation: this.#incarnation, sequence, issuedAt: this.#ports.clock.unix(), ...body }
    const envelope = seal(this.#ports.identity, 'capacity', ad)
    this.#saidAt = this.#ports.clock.monotonic()
    this.#whole = { body, sequence, at: this.#saidAt }
    this.#said = body
    this.#envelope = envelope
    this.#parts.onWhole(ad, envelope)
    this.#renewIn(body.ttlMs / 2)
    return envelope
  }

  #renewIn(waitMs: Millis): void {
    this.#cancelWhole = this.#ports.clock.after(Math.max(1, Math.floor(waitMs)), () => this.#renew())
  }

  /** Who started with many others said its first word to few, for a short time: in what has become of them it lasts longer. */
  #renew(): void {
    const left = this.#renewalDue() - this.#ports.clock.monotonic()
    if (left > 0) this.#renewIn(left)
    else this.#background(this.whole())
  }

  #renewalDue(): Millis {
    if (this.#whole === undefined) return Infinity
    const { at, body } = this.#whole
    return at + Math.min(this.ttlMs() / 2, body.ttlMs + OVERDUE_MS)
  }

  /** How long a word lasts in a mesh as large as it is now. */
  ttlMs(): Millis {
    const { ttlMs, ttlMostMs, smallMesh } = this.#config
    return Math.min(ttlMostMs, Math.round(ttlMs * Math.max(1, this.#parts.meshSize() / smallMesh)))
  }

  async #delta(): Promise<void> {
    const whole = this.#whole
    if (this.#stopped || whole === undefined || this.#said === undefined) return
    const body = this.#body()
    if (!isNews(this.#said, body)) return
    if (!this.#told) {
      this.#make()
      return
    }
    const changed = difference(whole.body, body)
    // Back to what the whole ad said: only a new whole ad can say that.
    if (changed === undefined || encode(changed).byteLength > encode(body).byteLength * WORTH_A_DELTA) {
      await this.whole()
      return
    }
    const delta: CapacityDelta = { peer: this.#ports.identity.peer, incarnation: this.#incarnation, base: whole.sequence, sequence: this.#next(), issuedAt: this.#ports.clock.unix(), changed }
    this.#said = body
    this.#saidAt = this.#ports.clock.monotonic()
    const envelope = seal(this.#ports.identity, 'capacity-delta', delta)
    this.#parts.onDelta(delta, envelope)
    await this.#publish(envelope)
  }

  #body(): AdBody {
    const { cluster, labels, protocolMajor, http } = this.#config
    const { free, instances, holds } = this.#sources ?? NOTHING
    const report = this.#report ?? UNKNOWN
    return describeSelf({
      cluster: this.#sources?.cluster?.() ?? cluster, labels: { ...labels, ...this.#sources?.labels?.() }, protocolMajor, http, ttlMs: this.ttlMs(), stewards: this.#parts.ready() && this.#sources?.stewards?.() !== false,
      report, usage: this.#ports.machine.usage(), free: free(), instances: instances(), holds: holds(),
    })
  }

  #poll(): void {
    this.#cancelPoll = this.#ports.clock.after(this.#config.pollMs, () => {
      if (this.#said !== undefined && isNews(this.#said, this.#body())) this.changed()
      // The mesh may have become smaller.
      if (this.#ports.clock.monotonic() >= this.#renewalDue()) this.#renew()
      this.#poll()
    })
  }

  #next(): number {
    this.#sequence += 1
    return this.#sequence
  }

  async #raise(incarnation: number): Promise<void> {
    this.#incarnation = incarnation
    this.#sequence = 0
    await this.#ports.journal.set(INCARNATION, encode(incarnation))
  }

  async #publish(envelope: Signed): Promise<void> {
    await this.#ports.network.publish(capacityTopic, envelope)
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'ad.not-published', work, 'warn')
  }
}

const NO_RESOURCES: Resources = { cpuMilli: 0, memoryMb: 0, diskMb: 0, gpus: [] }
const NOTHING: AdSources = { free: () => NO_RESOURCES, instances: () => [], holds: () => [] }
const UNKNOWN: MachineReport = { total: NO_RESOURCES, runtimes: [], memoryGBs: 0, os: '', cpuModel: '', isolation: [], notes: [] }
