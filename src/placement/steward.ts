import type { CapacityAd } from '../../protocols/capacity.ts'
import type { BlockId, InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Explanation } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import type { Allocation } from './allocation.ts'
import type { Bidder } from './bidder.ts'
import { Deeds } from './deeds.ts'
import { Mirrors } from './mirrors.ts'
import { DRAINING } from './rank.ts'
import { counts, reconcile, surplus, type Observed } from './reconcile.ts'
import { Stewardship, type Spot } from './stewardship.ts'
import { StewardEpochs } from './steward-epochs.ts'
import { Succession } from './succession.ts'
import { termsOf } from './terms.ts'
import type { StewardConfig } from './timings.ts'
import { Wishes } from './wishes.ts'

const BLOCKS_BOUND = 50_000
const WITHDRAWN_BOUND = 1_024
/** Ticks between two looks at everybody's right to steward. */
const SURVEY_TICKS = 20

/** A block as its steward knows it. Times are local and monotonic. */
export type Tended = {
  readonly record: BlockRecord
  readonly epoch: number
  readonly want: number
  readonly desired: number | undefined
  readonly scaledAt: Millis | undefined
  readonly observed: readonly Observed[]
  /** Its instances failed more often than they may: how often, when again, and why the last one did. */
  readonly failing: string | undefined
  /** Why one of them failed within the last minute. */
  readonly failed: string | undefined
}

/** Keeps alive the blocks that fall to this peer: places, renews, replaces and drains, fenced by an epoch it took before it acted. */
export class Steward {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'journal' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'blocks' | 'onBlock'>
  readonly #hostEpoch: (block: BlockId) => number
  readonly #keep: (block: BlockRecord) => void
  readonly #knowsMost: () => Promise<void>
  readonly #config: StewardConfig
  readonly #mirrors: Mirrors
  readonly #deeds: Deeds
  readonly #succession = new Succession()
  readonly #blocks = new Map<BlockId, BlockRecord>()
  /** Blocks withdrawn while we looked: their instances are released, not forgotten. */
  readonly #withdrawn = new Lru<BlockId, true>(WITHDRAWN_BOUND)
  readonly #stewardships = new Map<BlockId, Stewardship>()
  readonly #wishes = new Wishes()
  readonly #epochs: StewardEpochs
  readonly #yields = new Lru<BlockId, { readonly times: number; readonly at: Millis }>(4_096)
  readonly #kicked = new Set<BlockId>()
  readonly #busy = new Set<BlockId>()
  readonly #roleHearers = new Set<(block: BlockId) => void>()
  readonly #stops: (() => void)[] = []
  #cancelTick: (() => void) | undefined
  #kickPending = false
  #surveyPending = false
  #surveyedAt = -Infinity
  #ticks = 0
  /** Until then most of what seems to fall to us falls to somebody we have not heard of. */
  #settled = false
  #stopped = false

  constructor(
    ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>,
    roles: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'blocks' | 'onBlock'>; readonly allocation: Allocation; readonly bidder: Bidder; readonly hostEpoch: (block: BlockId) => number; readonly keep: (block: BlockRecord) => void; /** Resolves once this peer, which has just started, knows most of the mesh. */ readonly knowsMost: () => Promise<void> },
    config: StewardConfig,
  ) {
    this.#ports = ports
    this.#random = ports.random.fork('steward')
    this.#view = roles.view
    this.#catalogue = roles.catalogue
    this.#hostEpoch = roles.hostEpoch
    this.#keep = roles.keep
    this.#knowsMost = roles.knowsMost
    this.#config = config
    this.#epochs = new StewardEpochs(ports, config.unfitMs)
    this.#deeds = new Deeds(ports, this.#random, { allocation: roles.allocation, bidder: roles.bidder, kick: block => this.#kick(block), onOutranked: (stewardship, highest) => this.#heardEpoch(stewardship, highest) }, config)
    this.#mirrors = new Mirrors(ports, config, {
      line: block => this.#succession.line(block),
      isCurrent: stewardship => !this.#stopped && this.#stewardships.get(stewardship.block) === stewardship,
      highestEpoch: block => Math.max(this.#highestSeen(block), this.#stewardships.get(block)?.epoch ?? 0),
      onOutranked: (stewardship, highest) => this.#heardEpoch(stewardship, highest),
    })
  }

  async start(): Promise<void> {
    this.#mirrors.start()
    await this.#epochs.open()
    this.#stops.push(this.#catalogue.onBlock((id, block) => this.#registered(id, block)))
    for (const block of await this.#catalogue.blocks()) this.#registered(block.blockId, block)
    this.#stops.push(this.#view.onChange((peer, what) => this.#moved(peer, what)))
    this.#background(this.#settle())
    this.#tick()
  }

  stop(): void {
    this.#stopped = true
    for (const stop of this.#stops) stop()
    this.#cancelTick?.()
  }

  /** Could this peer make an epoch durable when it last tried? */
  get fit(): boolean {
    return this.#epochs.fit
  }

  /** Calls `hear` when this peer finds that it cannot steward. */
  onUnfit(hear: () => void): () => void {
    return this.#epochs.onUnfit(hear)
  }

  stewardOf(block: BlockId): PeerId | undefined {
    if (!this.#settled) this.#succession.settle()
    return this.#succession.line(block)[0]
  }

  lastPlacement(block: BlockId): Explanation | undefined {
    return this.#deeds.lastPlacement(block)
  }

  /** What this peer knows of a block that it stewards; undefined of others. */
  stewardship(block: BlockId): Tended | undefined {
    const held = this.#stewardships.get(block)
    const record = this.#blocks.get(block)
    if (held === undefined || record === undefined) return undefined
    const { epoch, desired, scaledAt } = held
    return { record, epoch, want: this.#want(block), desired, scaledAt, observed: held.observed(), failing: held.failing(this.#ports.clock.monotonic(), this.#config.crashes), failed: held.failed(this.#ports.clock.monotonic()) }
  }

  /** Between the block's own bounds, the registry's `minInstances` until somebody says otherwise; the first new ones at `spots`. False when this peer does not steward it. */
  setDesired(block: BlockId, instances: number, spots: readonly Spot[] = []): boolean {
    const held = this.#stewardships.get(block)
    if (held === undefined) return false
    held.renounce(this.#want(block) - instances)
    this.#wishes.set(held, instances, this.#ports.clock.monotonic())
    held.spots.splice(0, held.spots.length, ...spots)
    this.#mirrors.tellSoon(held)
    this.#kick(block)
    return true
  }

  /** These instances go: at once, or each as soon as another is ready in its place. Names of others are passed over. */
  send(block: BlockId, instances: readonly InstanceId[], how: 'released' | 'replaced', because: string): void {
    const held = this.#stewardships.get(block)
    for (const { contract, instance, host } of held?.observed() ?? []) {
      if (!instances.includes(instance)) continue
      held?.leaves(contract, { how, because })
      if (how === 'replaced') held?.avoid(host, this.#ports.clock.monotonic() + this.#config.avoidMs, because)
    }
    this.#kick(block)
  }

  /** Calls `hear` when this peer takes up a block or lets go of it. */
  onRole(hear: (block: BlockId) => void): () => void {
    this.#roleHearers.add(hear)
    return () => this.#roleHearers.delete(hear)
  }

  /** The blocks this peer stewards now. */
  stewarded(): readonly { readonly block: BlockId; readonly epoch: number; readonly ready: number; readonly least: number }[] {
    return [...this.#stewardships.values()].map(one => ({
      block: one.block, epoch: one.epoch, ready: one.observed().filter(({ state }) => state === 'ready').length, least: this.#want(one.block),
    }))
  }

  #want(block: BlockId): number {
    const record = this.#blocks.get(block)
    if (record === undefined) return 0
    return Math.min(record.maxInstances, Math.max(record.minInstances, this.#stewardships.get(block)?.desired ?? 0))
  }

  #registered(id: BlockId, block: BlockRecord | undefined): void {
    if (block !== undefined) {
      if (this.#blocks.size >= BLOCKS_BOUND && !this.#blocks.has(id)) return
      const before = this.#blocks.get(id)
      this.#blocks.set(id, block)
      // The word of whoever sets a new least is newer than what was asked for until then.
      if (before !== undefined && before.minInstances !== block.minInstances) this.#wishes.forget(id, this.#stewardships.get(id))
      this.#withdrawn.delete(id)
      this.#stewardships.get(id)?.forgive()
      for (const hear of this.#roleHearers) hear(id)
    } else if (this.#blocks.delete(id)) this.#withdrawn.set(id, true)
    this.#kick(id)
  }

  #moved(peer: PeerId, what: 'ad' | 'alive' | 'suspect' | 'dead' | 'left'): void {
    if (what === 'suspect') return
    const ad = this.#view.ad(peer)
    // Whether one that was able still has the right to it is looked at now and then.
    const able = what === 'ad' && this.#succession.has(peer) ? ad !== undefined && ad.stewards !== false : this.#isAble(ad)
    if (this.#succession.note(peer, able) && this.#settled) this.#survey()
    if (this.#stewardships.size === 0) return
    // New room may be what a block has been waiting for.
    if (what === 'alive') for (const stewardship of this.#stewardships.values()) stewardship.retryAt = Math.min(stewardship.retryAt, this.#ports.clock.monotonic() + this.#config.retryMs.first)
    if (what === 'ad') for (const { block } of ad?.instances ?? []) if (this.#stewardships.has(block)) this.#kick(block)
    for (const stewardship of this.#stewardships.values()) if (stewardship.hosting().has(peer)) this.#kick(stewardship.block)
  }

  async #settle(): Promise<void> {
    await this.#knowsMost()
    if (this.#stopped) return
    this.#settled = true
    this.#succession.update(this.#able())
    this.#kickAll()
  }

  #isAble(ad: CapacityAd | undefined): boolean {
    return ad !== undefined && ad.stewards !== false && this.#config.maySteward(ad.peer).ok
  }

  #able(): readonly PeerId[] {
    return this.#view.ads().filter(ad => this.#isAble(ad)).map(({ peer }) => peer)
  }

  /** Who comes first of a block may have changed. Peers come and go together: one look serves for all of them. */
  #survey(): void {
    if (this.#surveyPending || this.#stopped) return
    this.#surveyPending = true
    const { clock } = this.#ports
    clock.after(Math.max(this.#config.kickMs, this.#surveyedAt + this.#config.surveyMs - clock.monotonic()), () => {
      this.#surveyPending = false
      this.#surveyedAt = clock.monotonic()
      if (this.#succession.settle() && !this.#stopped) this.#kickAll()
    })
  }

  #tick(): void {
    this.#cancelTick = this.#ports.clock.after(Math.round(this.#config.tickMs * (0.9 + this.#random.float() * 0.2)), () => {
      // Rights run out without a word.
      if ((this.#ticks += 1) % SURVEY_TICKS === 0 && this.#succession.update(this.#able())) this.#kickAll()
      for (const block of this.#stewardships.keys()) this.#kick(block)
      this.#tick()
    })
  }

  #kickAll(): void {
    for (const block of this.#blocks.keys()) this.#kick(block)
    for (const [block] of this.#withdrawn) this.#kick(block)
  }

  #kick(block: BlockId): void {
    this.#kicked.add(block)
    if (this.#kickPending || this.#stopped) return
    this.#kickPending = true
    this.#ports.clock.after(this.#config.kickMs, () => {
      this.#kickPending = false
      const due = [...this.#kicked]
      this.#kicked.clear()
      for (const id of due) this.#background(this.#look(id))
    })
  }

  /** One look at one block at a time; what happens meanwhile asks for another. */
  async #look(block: BlockId): Promise<void> {
    if (this.#stopped || !this.#settled) return
    if (this.#busy.has(block)) {
      this.#kick(block)
      return
    }
    this.#busy.add(block)
    const record = this.#blocks.get(block)
    if (record !== undefined && this.#succession.line(block).includes(this.#ports.identity.peer)) this.#keep(record)
    try {
      const stewardship = await this.#role(block)
      if (stewardship !== undefined) this.#act(stewardship)
    } finally {
      this.#busy.delete(block)
    }
  }

  /** Our stewardship of a block, taken if it falls to us, dropped if it does not. */
  async #role(block: BlockId): Promise<Stewardship | undefined> {
    const mine = this.stewardOf(block) === this.#ports.identity.peer
    const held = this.#stewardships.get(block)
    const concerns = this.#blocks.has(block) || (this.#withdrawn.has(block) && this.#view.instancesOf(block).length > 0)
    if (!mine || (!concerns && (held === undefined || held.empty))) {
      if (held !== undefined) this.#drop(block, mine ? 'the block is gone' : 'another peer comes first')
      return undefined
    }
    const seen = this.#highestSeen(block)
    if (held !== undefined && held.epoch >= seen) return held
    if (held !== undefined) this.#outranked(block)
    if (!this.#mayTake(block)) return undefined
    const epoch = await this.#epochs.take(block, seen)
    if (epoch === undefined || this.#stopped) return undefined
    const taken = new Stewardship(block, epoch)
    // Their ads may have been missed. Renewing finds out what became of them; what died with the steward before is to be replaced.
    for (const { contract, envelope } of this.#mirrors.contracts(block)) {
      if (this.#isLive(contract.host)) taken.holds(contract, envelope, this.#ports.clock.monotonic(), false)
      else {
        taken.misses(contract.id, envelope)
        taken.bequeath(contract.init)
      }
    }
    this.#wishes.inherit(taken, this.#mirrors.desired(block), this.#ports.clock.monotonic())
    this.#stewardships.set(block, taken)
    for (const hear of this.#roleHearers) hear(block)
    this.#ports.telemetry.event('info', 'steward.took', { block, epoch })
    return taken
  }

  #drop(block: BlockId, because: string): void {
    this.#stewardships.delete(block)
    for (const hear of this.#roleHearers) hear(block)
    this.#ports.telemetry.event('info', 'steward.left', { block, because })
  }

  /** The highest epoch anybody has claimed, as far as we have heard. */
  #highestSeen(block: BlockId): number {
    return Math.max(this.#hostEpoch(block), this.#mirrors.epoch(block), ...this.#view.instancesOf(block).map(({ ad }) => ad.epoch))
  }

  /** Two peers that each believe to be first would raise the epoch for ever: each time again costs a longer wait. */
  #outranked(block: BlockId): void {
    const now = this.#ports.clock.monotonic()
    const before = this.#yields.peek(block)
    const times = before === undefined || now - before.at > this.#config.yieldMs.calmMs ? 0 : before.times + 1
    this.#yields.set(block, { times, at: now })
    this.#ports.telemetry.count('steward_outranked_total')
    this.#drop(block, 'a later epoch was seen')
  }

  #mayTake(block: BlockId): boolean {
    const yielded = this.#yields.peek(block)
    if (yielded === undefined || yielded.times === 0) return true
    const wait = Math.min(this.#config.yieldMs.most, this.#config.yieldMs.first * 2 ** yielded.times)
    const left = yielded.at + wait - this.#ports.clock.monotonic()
    if (left <= 0) return true
    this.#ports.clock.after(left, () => this.#kick(block))
    return false
  }

  #act(stewardship: Stewardship): void {
    const { block } = stewardship
    const { clock } = this.#ports
    const now = clock.monotonic()
    stewardship.sight(this.#view.instancesOf(block), peer => this.#isLive(peer), now, this.#config.graceMs, this.#config.avoidMs)
    const want = this.#want(block)
    const observed = this.#leaving(stewardship.observed())
    const record = this.#blocks.get(block)
    const terms = record === undefined ? undefined : termsOf(record)
    stewardship.surplusSince = surplus({ want, terms, observed }) > 0 ? stewardship.surplusSince ?? now : undefined
    stewardship.missesAtMost(Math.max(0, want - observed.filter(one => counts(one) && one.leaving?.how !== 'released').length - stewardship.placing))
    const { placing, lost, placedBefore, epoch, surplusSince } = stewardship
    const retryAt = Math.max(stewardship.retryAt, stewardship.restsUntil(now, this.#config.crashes))
    const steps = reconcile({ want, terms, observed, placing, lost, placedBefore, epoch, now, surplusSince, retryAt, renewEveryMs: this.#config.renewEveryMs, surplusMs: this.#config.surplusMs })
    for (const step of steps) {
      if (step.do === 'renew') this.#background(this.#deeds.lease(stewardship, step.target, 'renew', ''))
      else if (step.do === 'release') this.#background(this.#deeds.lease(stewardship, step.target, 'release', step.because))
      else if (step.do === 'wait') clock.after(Math.max(1, step.untilMs - now), () => this.#kick(block))
      else {
        // One round after the other, so that each sees where the last ones went.
        if (record === undefined || stewardship.placing > 0) continue
        stewardship.placing = stewardship.spots.length > 0 ? 1 : Math.min(step.count, this.#config.placeAtOnce)
        this.#background(this.#deeds.place(stewardship, record, step.action, stewardship.placing))
      }
    }
    this.#mirrors.tellSoon(stewardship)
  }

  /** Instances on hosts that drain are replaced as those of an earlier record are: others first, one at a time. */
  #leaving(observed: readonly Observed[]): readonly Observed[] {
    return observed.map(one => (this.#view.ad(one.host)?.labels[DRAINING] === undefined ? one : { ...one, terms: DRAINING }))
  }

  /** A host obeys somebody else. */
  #heardEpoch(stewardship: Stewardship, highest: number): void {
    const { block } = stewardship
    if (this.#stewardships.get(block) !== stewardship) return
    this.#epochs.heard(block, highest)
    this.#outranked(block)
    this.#kick(block)
  }

  #isLive(peer: PeerId): boolean {
    const state = this.#view.state(peer)
    return state === 'alive' || state === 'suspect'
  }

  #background(work: Promise<unknown>): void {
    background(this.#ports.telemetry, 'steward.failed', work)
  }
}

