import type { InstanceAd } from '../../protocols/capacity.ts'
import type { BlockId, ContractId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Contract, InstanceInit } from '../../protocols/placement.ts'
import type { Signed } from '../../protocols/signed.ts'
import { Lru } from '../lib/lru.ts'
import { counts, type Observed } from './reconcile.ts'

/** Where the next instance goes, or what it starts with over the block's own data, because somebody said so. */
export type Spot = { readonly host?: PeerId | undefined; readonly gpus: readonly string[]; readonly init?: InstanceInit | undefined }
type Crash = { readonly at: Millis; readonly because: string }
/** See `StewardConfig.crashes`. */
type CrashPolicy = { readonly windowMs: Millis; readonly first: Millis; readonly most: Millis; readonly budget: number }
type Leaving = NonNullable<Observed['leaving']>
type Known = Observed & { readonly since: Millis; readonly envelope: Signed | undefined; readonly init: InstanceInit | undefined }
export type Sighting = { readonly host: PeerId; readonly ad: InstanceAd }

const GONE_BOUND = 1_024
const CRASHES_BOUND = 64
const RECENT_MS: Millis = 60_000
const ORPHANS_BOUND = 1_000

/** What a steward knows of one block: the contracts it made or found, and where not to place for now. */
export class Stewardship {
  readonly block: BlockId
  readonly epoch: number
  placing = 0
  placedBefore = false
  retryAt: Millis = 0
  failures = 0
  surplusSince: Millis | undefined
  /** Instances wanted, where somebody said so: the block's own bounds hold all the same. And since when. */
  desired: number | undefined
  scaledAt: Millis | undefined
  /** Taken one by one by the next placements. */
  readonly spots: Spot[] = []
  /** What lost instances were started with, for those that come in their place. */
  readonly #orphans: InstanceInit[] = []
  /** Instances that were awarded and lost, and that nothing has replaced: whoever stewards next must know of them, too. */
  readonly #missing = new Map<ContractId, Signed | undefined>()
  /** Those whose successor has been started with the same already. */
  readonly #succeeded = new Lru<ContractId, true>(GONE_BOUND)
  readonly #crashes: Crash[] = []
  readonly #leaving = new Map<ContractId, Leaving>()
  readonly #known = new Map<ContractId, Known>()
  /** Contracts that have ended: an ad that still shows one is late. */
  readonly #gone = new Lru<ContractId, true>(GONE_BOUND)
  readonly #mourned = new Lru<ContractId, true>(GONE_BOUND)
  readonly #avoid = new Lru<PeerId, { readonly until: Millis; readonly because: string }>(256)

  constructor(block: BlockId, epoch: number) {
    this.block = block
    this.epoch = epoch
  }

  observed(): readonly Observed[] {
    const marked = [...this.#known.values()].map(known => ({ ...known, leaving: this.#leaving.get(known.contract) }))
    return marked.sort((a, b) => (a.instance < b.instance ? -1 : 1))
  }

  /** Signed contracts for the mirrors. */
  envelopes(): readonly Signed[] {
    return [...[...this.#known.values()].map(({ envelope }) => envelope), ...this.#missing.values()].flatMap(envelope => envelope ?? [])
  }

  /** Instances that each host counts for. */
  hosting(): ReadonlyMap<PeerId, number> {
    const hosting = new Map<PeerId, number>()
    for (const known of this.#known.values()) if (counts(known)) hosting.set(known.host, (hosting.get(known.host) ?? 0) + 1)
    return hosting
  }

  /** Takes what hosts advertise; forgets what they no longer do, and what died with them. */
  sight(sightings: readonly Sighting[], isLive: (peer: PeerId) => boolean, now: Millis, graceMs: Millis, avoidMs: Millis): void {
    const seen = new Set<ContractId>()
    for (const { host, ad } of sightings) {
      seen.add(ad.contract)
      // A renewal may have found out first that it is over: why it is over counts all the same.
      if (ad.state === 'failed' && !this.#mourned.has(ad.contract)) {
        this.#mourned.set(ad.contract, true)
        if (!this.#gone.has(ad.contract)) this.ended(ad.contract, true)
        this.#crashes.push({ at: now, because: ad.because ?? 'it failed' })
        if (this.#crashes.length > CRASHES_BOUND) this.#crashes.shift()
        this.avoid(host, now + avoidMs, `an instance of the block failed there`)
      }
      this.placedBefore = true
      if (this.#gone.has(ad.contract)) continue
      this.#missing.delete(ad.contract)
      const before = this.#known.get(ad.contract)
      this.#known.set(ad.contract, {
        contract: ad.contract, instance: ad.instance, host, state: ad.state, inFlight: ad.inFlight, renewedAt: before?.renewedAt, since: before?.since ?? now, envelope: before?.envelope, terms: ad.terms ?? before?.terms, init: before?.init,
        // An ad may be older than the answer to a renewal.
        epoch: Math.max(ad.epoch, before?.epoch ?? 0),
      })
    }
    for (const known of this.#known.values()) {
      if (seen.has(known.contract)) continue
      if (isLive(known.host) && now - Math.max(known.since, known.renewedAt ?? 0) <= graceMs) continue
      // Not gone for good: a host that was wrongly given up comes back with its instance.
      this.#forget(known, counts(known))
    }
  }

  /** A host has answered with this contract. */
  holds(contract: Contract, envelope: Signed | undefined, now: Millis, renewed: boolean): void {
    const before = this.#known.get(contract.id)
    this.placedBefore = true
    this.#known.set(contract.id, {
      contract: contract.id, instance: contract.instance, host: contract.host, epoch: contract.epoch, state: before?.state ?? 'awarded', inFlight: before?.inFlight ?? 0,
      renewedAt: renewed ? now : before?.renewedAt, since: before?.since ?? now, envelope: envelope ?? before?.envelope, terms: contract.terms, init: contract.init,
    })
  }

  drains(contract: ContractId): void {
    const known = this.#known.get(contract)
    if (known !== undefined) this.#known.set(contract, { ...known, state: 'draining' })
  }

  /** It is over; `lost` when nobody meant it to be. */
  ended(contract: ContractId, lost: boolean): void {
    const known = this.#known.get(contract)
    if (known !== undefined) this.#forget(known, lost)
    else if (lost) this.misses(contract, undefined)
    this.#gone.set(contract, true)
  }

  /** Awarded instances that are gone and have no successor yet. */
  get lost(): number {
    return this.#missing.size
  }

  misses(contract: ContractId, envelope: Signed | undefined): void {
    if (this.#missing.size < ORPHANS_BOUND) this.#missing.set(contract, envelope)
  }

  /** A placement replaces one of them; the answer takes it back where it failed. */
  replaces(): () => void {
    const [first] = this.#missing
    if (first === undefined) return () => undefined
    this.#missing.delete(first[0])
    return () => this.misses(...first)
  }

  /** Of those that were lost no more than so many are still wanted. */
  missesAtMost(instances: number): void {
    for (const contract of this.#missing.keys()) {
      if (this.#missing.size <= instances) break
      this.#missing.delete(contract)
    }
  }

  #forget({ contract, init, envelope }: Known, lost: boolean): void {
    if (lost && this.#leaving.get(contract)?.how !== 'released') {
      this.misses(contract, envelope)
      if (!this.#succeeded.has(contract)) this.bequeath(init)
    }
    this.#known.delete(contract)
    this.#leaving.delete(contract)
  }

  /** Data of an instance that is gone, or could not be placed: the next one has them. */
  bequeath(init: InstanceInit | undefined): void {
    if (init !== undefined && this.#orphans.length < ORPHANS_BOUND) this.#orphans.push(init)
  }

  /** So many fewer are wanted: as many of those that are missing never come. */
  renounce(instances: number): void {
    this.#orphans.splice(0, Math.max(0, instances))
  }

  /** What the next instance starts with: the data of one that was lost, or of one that it is to replace. */
  inherit(terms: string | undefined): InstanceInit | undefined {
    const orphan = this.#orphans.shift()
    if (orphan !== undefined) return orphan
    const old = [...this.#known.values()].find(one => one.init !== undefined && !this.#succeeded.has(one.contract) && (this.#leaving.get(one.contract)?.how === 'replaced' || one.terms !== terms))
    if (old !== undefined) this.#succeeded.set(old.contract, true)
    return old?.init
  }

  /** Marks an instance to go. Whoever was to be replaced may also go at once. */
  leaves(contract: ContractId, leaving: Leaving): void {
    if (this.#known.has(contract)) this.#leaving.set(contract, leaving)
  }

  avoid(peer: PeerId, until: Millis, because: string): void {
    this.#avoid.set(peer, { until, because })
  }

  avoided(now: Millis): ReadonlyMap<PeerId, string> {
    return new Map([...this.#avoid].filter(([, { until }]) => until > now).map(([peer, { because }]) => [peer, because]))
  }

  /** Whoever changes a block mends it, perhaps. */
  forgive(): void {
    this.retryAt = 0
    this.#crashes.length = 0
  }

  /** Until when nothing is placed: a block whose instances fail again and again is tried less and less often. */
  restsUntil(now: Millis, { windowMs, first, most }: CrashPolicy): Millis {
    const recent = this.#crashesSince(now - windowMs)
    const last = recent.at(-1)
    return last === undefined || recent.length < 2 ? 0 : last.at + Math.min(most, first * 2 ** Math.min(16, recent.length - 2))
  }

  /** Why this block counts as failing, when it does. */
  failing(now: Millis, policy: CrashPolicy): string | undefined {
    const recent = this.#crashesSince(now - policy.windowMs)
    const again = this.restsUntil(now, policy)
    if (recent.length < policy.budget) return undefined
    return `${recent.length} instances failed in ${Math.round(policy.windowMs / 60_000)} min, the last one because ${recent.at(-1)?.because ?? ''}${again > now ? `; the next is tried in ${Math.ceil((again - now) / 1_000)} s` : ''}`
  }

  failed(now: Millis): string | undefined {
    return this.#crashesSince(now - RECENT_MS).at(-1)?.because
  }

  #crashesSince(then: Millis): readonly Crash[] {
    return this.#crashes.filter(({ at }) => at > then)
  }

  get empty(): boolean {
    return this.#known.size === 0
  }
}
