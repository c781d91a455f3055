import { asMeshError, refused } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import { hex } from '../../protocols/codec.ts'
import { registryDigest, registryNews, registryPage } from '../../protocols/registry.ts'
import type { Signed } from '../../protocols/signed.ts'
import { hedge } from '../lib/hedge.ts'
import { Lru } from '../lib/lru.ts'
import { sameBytes } from '../lib/same-bytes.ts'
import type { Clock, Network, Random, Telemetry } from '../ports.ts'
import { cidOf, type HeldRecord } from './record.ts'
import type { Registries } from './store.ts'

export type ReplicaPorts = { readonly clock: Clock; readonly random: Random; readonly network: Network; readonly telemetry: Telemetry }

export type ReplicaStatus = { readonly records: number; readonly synced: boolean; readonly refused: number; readonly lastRepairAt: Millis | undefined }

/** Where records of a batch came from, for counting. */
export type Source = 'news' | 'page' | 'log'

/** Records refused for good. Forged ones prove that whoever served them checks nothing, or lies. */
export type Taken = { readonly forged: number; readonly unauthorised: number }

export const REPAIR_MS = 4_000
/** Signatures checked before the event loop gets a turn: about 10 ms of Ed25519. */
const SLICE = 32
/** Records that share a commit, and so an fsync. */
const COMMIT_RECORDS = 256
const PAGE_RECORDS = 1_000
const PAGE_BYTES = 524_288
/** Pages of one pull: more is a peer that leads us on. */
const PAGES = 4_000
/** Buckets asked for in one go: small enough that several peers share a first copy. */
const RANGE = 16
const PARALLEL_PEERS = 4
/** Peers asked what there is, before a first copy. */
const TELLERS = 2
/** Buckets repaired in one round, so that a view that differs in everything is mended over several. */
const REPAIR_BUCKETS = 64
/** A digest is quick to answer: what takes longer was lost. */
const DIGEST = { againMs: 1_000, times: 3 }
/** A page takes its time on a slow link; one that was lost must not hold up the repairs after it until its deadline. */
const A_PAGE = { againMs: 2_000, times: 3 }
/** Records kept until their writers may have proved their rights, and how often and for how long they are looked at. */
const UNPROVED = 256
const LATER_BYTES = 65_536
const LATER_MS = 500
const LATER_LOOKS = 20
const NEWS_BYTES = 48_000
/** Messages of news: so many at once, and so many a second after that. Readers drop what comes faster than the topic allows. */
const NEWS_BURST = 8
const NEWS_PER_SECOND = 10
/** Refused records remembered, so that one offered again costs no signature check. */
const REFUSED_NAMES = 10_000
/** A peer that served what it had no right to is not asked again for this long. */
const DISTRUST_MS = 300_000

/**
 * Keeps one view like the others': copies it from several peers at the start, hears news, and every few seconds compares
 * digests with one random peer and fetches what differs. Every record is checked on its own, so it does not matter who
 * serves it; a peer that serves what does not check out is left for another.
 */
export class RegistryReplica {
  readonly #store: Registries
  readonly #ports: ReplicaPorts
  readonly #refusedNames = new Lru<string, true>(REFUSED_NAMES)
  readonly #distrusted = new Map<PeerId, Millis>()
  /** Offered before their writers had proved their rights. */
  readonly #unproved = new Lru<string, { readonly envelope: Signed; readonly from: PeerId }>(UNPROVED)
  readonly #stops: (() => void)[] = []
  #cancelRepair: (() => void) | undefined
  #copying: Promise<void> | undefined
  #repairing = false
  #looking = false
  #synced = false
  #refused = 0
  #lastRepairAt: Millis | undefined
  #comparedAt = -Infinity
  #outgoing: Signed[] = []
  #telling = false
  /** Until when the messages of news that were sent count against the burst. */
  #newsPaidAt: Millis = -Infinity
  #stopped = false

  constructor(store: Registries, ports: ReplicaPorts) {
    this.#store = store
    this.#ports = ports
  }

  /** Serves, listens and starts to copy from whoever is there. */
  start(): void {
    const { network } = this.#ports
    network.handle(registryDigest, async ({ root, buckets }) => {
      const differing = buckets === undefined ? [] : [...this.#store.view.differing(buckets)]
      return root === undefined ? { differing } : { differing, differs: !sameBytes(root, this.#store.view.root()) }
    })
    network.handle(registryPage, async ({ buckets, after, limit }) => {
      const page = this.#store.view.page(buckets, after, Math.min(limit, PAGE_RECORDS), PAGE_BYTES)
      return { records: [...page.records], ...(page.next === undefined ? {} : { next: page.next }) }
    })
    this.#stops.push(
      network.subscribe(registryNews, ({ records }, from) => void this.take(records, from, 'news').catch(error => this.#say('news', from, error))),
      this.#store.onWritten(records => this.#announce(records)),
      network.onPeer((peer, state) => {
        if (state === 'joined') this.#joined(peer)
      }),
    )
    this.#scheduleRepair()
    void this.copy()
  }

  stop(): void {
    this.#stopped = true
    this.#cancelRepair?.()
    for (const stop of this.#stops.splice(0)) stop()
  }

  status(): ReplicaStatus {
    return { records: this.#store.view.count(), synced: this.#synced, refused: this.#refused, lastRepairAt: this.#lastRepairAt }
  }

  /** Copies the whole view from several peers at once, a range of buckets each at a time. Does nothing while nobody is there. */
  copy(): Promise<void> {
    this.#copying ??= this.#copyAll().finally(() => (this.#copying = undefined))
    return this.#copying
  }

  /** Checks records in slices, so that nothing else waits long, and merges what holds. Never throws on bad records. */
  async take(envelopes: readonly Signed[], from: PeerId, source: Source): Promise<Taken> {
    let forged = 0
    let unauthorised = 0
    let checked: HeldRecord[] = []
    for (const [at, envelope] of envelopes.entries()) {
      if (at > 0 && at % SLICE === 0) await this.#ports.clock.sleep(0)
      if (this.#stopped) break
      const cid = cidOf(envelope)
      if (this.#store.view.holds(cid)) continue
      // The signature is part of the name: a forged copy must not get the true record refused.
      const name = `${cid}/${hex(envelope.signature)}/${envelope.signer}`
      const verdict = this.#refusedNames.get(name) === true ? refused('it was refused before') : this.#store.check(envelope)
      if (verdict.ok) checked.push(verdict.value)
      else if (verdict.retryable) this.#later(name, envelope, from)
      else {
        if (this.#store.signed(envelope)) unauthorised++
        else forged++
        this.#refuse(name, from, source, verdict.because)
      }
      if (checked.length >= COMMIT_RECORDS) {
        this.#store.admit(checked)
        checked = []
      }
    }
    if (checked.length > 0 && !this.#stopped) this.#store.admit(checked)
    return { forged, unauthorised }
  }

  /** Peers come in crowds, at a start and after a partition: one of them is compared with soon, the others in their turn. */
  #joined(peer: PeerId): void {
    if (!this.#synced) void this.copy()
    else if (this.#ports.clock.monotonic() - this.#comparedAt > REPAIR_MS / 2) void this.#repair(peer)
  }

  async #copyAll(): Promise<void> {
    let peers = this.#shuffled(this.#trusted())
    if (peers.length === 0) return
    const started = this.#ports.clock.monotonic()
    // Two say what there is to copy; what both leave out, the repair after the copy and those to come find.
    const said = await Promise.all(peers.slice(0, TELLERS).map(peer => this.#differing(peer).catch(error => this.#say('digest', peer, error))))
    if (said.every(buckets => buckets === undefined)) return
    const wanted = [...new Set(said.flatMap(buckets => buckets ?? []))].sort((a, b) => a - b)
    const ranges: number[][] = []
    for (let at = 0; at < wanted.length; at += RANGE) ranges.push(wanted.slice(at, at + RANGE))
    // A peer that fails or lies leaves its range to the others; those that were good go another round for it.
    while (ranges.length > 0 && peers.length > 0 && !this.#stopped) {
      const waiting = peers
      const good: PeerId[] = []
      const copyFrom = async (): Promise<void> => {
        for (let peer = waiting.pop(); peer !== undefined && ranges.length > 0; peer = waiting.pop()) if (await this.#drain(peer, ranges)) good.push(peer)
      }
      await Promise.all(Array.from({ length: PARALLEL_PEERS }, copyFrom))
      peers = good.concat(waiting)
    }
    if (ranges.length > 0 || this.#stopped) return
    this.#synced = true
    this.#ports.telemetry.event('info', 'registry.copied', { records: this.#store.view.count(), ms: this.#ports.clock.monotonic() - started })
    // One peer may have left something out: another is asked what it sees.
    await this.#repair()
  }

  /** Copies ranges from one peer until none is left; false when it failed or lied. */
  async #drain(peer: PeerId, ranges: number[][]): Promise<boolean> {
    for (let range = ranges.pop(); range !== undefined; range = ranges.pop()) {
      if (await this.#pull(peer, range)) continue
      ranges.push(range)
      return false
    }
    return true
  }

  /** True when the buckets were read to the end and nothing in them was forged. */
  async #pull(peer: PeerId, buckets: readonly number[]): Promise<boolean> {
    const { clock, network } = this.#ports
    let after: string | undefined
    try {
      for (let pages = 0; pages < PAGES; pages++) {
        const request = { buckets: [...buckets], limit: PAGE_RECORDS, ...(after === undefined ? {} : { after }) }
        const page = await hedge(clock, A_PAGE, () => network.request(peer, registryPage, request))
        const { forged, unauthorised } = await this.take(page.records, peer, 'page')
        if (forged > 0) {
          this.#distrusted.set(peer, this.#ports.clock.monotonic() + DISTRUST_MS)
          this.#ports.telemetry.event('warn', 'registry.liar', { peer, forged, unauthorised })
          return false
        }
        if (this.#stopped) return false
        if (page.next === undefined) return true
        if (page.next === after) return false
        after = page.next
      }
      return false
    } catch (error) {
      this.#say('page', peer, error)
      return false
    }
  }

  /** News travel faster than the proof of their writer's rights: what may yet prove good is looked at again soon. */
  #later(name: string, envelope: Signed, from: PeerId): void {
    if (envelope.payload.byteLength > LATER_BYTES || this.#unproved.peek(name) !== undefined) return
    this.#unproved.set(name, { envelope, from })
    this.#lookLater(LATER_LOOKS)
  }

  #lookLater(looks: number): void {
    if (this.#looking || looks === 0 || this.#unproved.size === 0) return
    this.#looking = true
    this.#ports.clock.after(LATER_MS, () => void this.#lookAgain().finally(() => {
      this.#looking = false
      if (looks === 1) this.#unproved.clear()
      this.#lookLater(looks - 1)
    }))
  }

  async #lookAgain(): Promise<void> {
    for (const [name, { envelope, from }] of this.#unproved) {
      if (this.#stopped) return
      const verdict = this.#store.check(envelope)
      if (!verdict.ok && verdict.retryable) continue
      this.#unproved.delete(name)
      await this.take([envelope], from, 'news')
    }
  }

  #scheduleRepair(): void {
    const wait = REPAIR_MS / 2 + this.#ports.random.below(REPAIR_MS)
    this.#cancelRepair = this.#ports.clock.after(wait, () => void (this.#synced ? this.#repair() : this.copy()).finally(() => this.#stopped || this.#scheduleRepair()))
  }

  async #repair(peer: PeerId | undefined = this.#someone()): Promise<void> {
    if (peer === undefined || this.#repairing || this.#stopped) return
    this.#repairing = true
    this.#comparedAt = this.#ports.clock.monotonic()
    try {
      const differing = await this.#differing(peer)
      if (differing.length > 0) {
        const buckets = this.#shuffled(differing).slice(0, REPAIR_BUCKETS)
        await this.#pull(peer, buckets)
        this.#ports.telemetry.count('registry_repaired_buckets_total', {}, buckets.length)
      }
      this.#lastRepairAt = this.#ports.clock.unix()
    } catch (error) {
      this.#say('digest', peer, error)
    } finally {
      this.#repairing = false
    }
  }

  /** The buckets in which a peer's view is not like ours. */
  async #differing(peer: PeerId): Promise<number[]> {
    const { clock, network } = this.#ports
    const { differs } = await hedge(clock, DIGEST, () => network.request(peer, registryDigest, { root: this.#store.view.root() }))
    if (differs === false) return []
    const { differing } = await hedge(clock, DIGEST, () => network.request(peer, registryDigest, { buckets: [...this.#store.view.digests()] }))
    return [...new Set(differing)]
  }

  #someone(): PeerId | undefined {
    const peers = this.#trusted()
    return peers.length === 0 ? undefined : this.#ports.random.pick(peers)
  }

  #announce(records: readonly HeldRecord[]): void {
    // News of a bulk write beyond the topic's rate would only be dropped: digests carry the rest.
    this.#outgoing.push(...records.slice(0, 1_024 - Math.min(1_024, this.#outgoing.length)).map(record => record.envelope))
    if (!this.#telling) void this.#publishNews()
  }

  async #publishNews(): Promise<void> {
    const { clock, network } = this.#ports
    this.#telling = true
    while (this.#outgoing.length > 0 && !this.#stopped) {
      const now = clock.monotonic()
      const waitMs = this.#newsPaidAt - now - ((NEWS_BURST - 1) * 1_000) / NEWS_PER_SECOND
      if (waitMs > 0) await clock.sleep(waitMs)
      this.#newsPaidAt = Math.max(now, this.#newsPaidAt) + 1_000 / NEWS_PER_SECOND
      let size = 0
      let count = 0
      while (count < Math.min(64, this.#outgoing.length)) {
        size += this.#outgoing[count]!.payload.byteLength + 256
        if (count > 0 && size > NEWS_BYTES) break
        count++
      }
      const records = this.#outgoing.splice(0, count)
      try {
        await network.publish(registryNews, { records })
      } catch (error) {
        this.#say('publish', network.self, error)
      }
    }
    // In the turn in which nothing was left: whatever is written from now on begins anew.
    this.#telling = false
  }

  #refuse(name: string, from: PeerId, source: Source, because: string): void {
    this.#refused++
    this.#ports.telemetry.count('registry_refused_total', { source })
    if (this.#refusedNames.get(name) === true) return
    this.#ports.telemetry.event('warn', 'registry.refused', { from, source, because })
    this.#refusedNames.set(name, true)
  }

  #trusted(): PeerId[] {
    const now = this.#ports.clock.monotonic()
    for (const [peer, until] of this.#distrusted) if (until < now) this.#distrusted.delete(peer)
    return this.#ports.network.peers().filter(peer => peer !== this.#ports.network.self && !this.#distrusted.has(peer))
  }

  #shuffled<T>(items: readonly T[]): T[] {
    const out = [...items]
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.#ports.random.below(i + 1)
      const swap = out[i]!
      out[i] = out[j]!
      out[j] = swap
    }
    return out
  }

  #say(doing: string, peer: PeerId, error: unknown): undefined {
    if (this.#stopped) return
    const { code, message } = asMeshError(error)
    this.#ports.telemetry.count('registry_failures_total', { doing, code })
    this.#ports.telemetry.event('debug', 'registry.failed', { doing, peer, code, message })
  }
}
