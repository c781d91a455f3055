import { z } from 'zod'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { decode, encode } from '../../protocols/codec.ts'
import { MeshError } from '../../protocols/errors.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import { contract as contractSchema, lease, type Explanation } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { background } from '../lib/background.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import type { Catalogue, MeshView } from '../roles.ts'
import { seal, unseal } from '../trust/seal.ts'
import type { Allocation } from './allocation.ts'
import type { Bidder } from './bidder.ts'
import { Mirrors } from './mirrors.ts'
import { DRAINING } from './rank.ts'
import { reconcile, surplus, type Observed } from './reconcile.ts'
import { Stewardship } from './stewardship.ts'
import { Succession } from './succession.ts'
import { termsOf } from './terms.ts'
import type { StewardConfig } from './timings.ts'

const EPOCH = 'placement/steward/'
const BLOCKS_BOUND = 50_000
const EXPLANATIONS_BOUND = 1_024
/** Ticks between two looks at everybody's right to steward. */
const SURVEY_TICKS = 5

/** Keeps alive the blocks that fall to this peer: places, renews, replaces and drains, fenced by an epoch it took before it acted. */
export class Steward {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'journal' | 'telemetry'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #catalogue: Pick<Catalogue, 'blocks' | 'onBlock'>
  readonly #allocation: Allocation
  readonly #bidder: Bidder
  readonly #hostEpoch: (block: BlockId) => number
  readonly #keep: (block: BlockRecord) => void
  readonly #config: StewardConfig
  readonly #mirrors: Mirrors
  readonly #succession = new Succession()
  readonly #blocks = new Map<BlockId, BlockRecord>()
  /** Blocks withdrawn while we looked: their instances are released, not forgotten. */
  readonly #withdrawn = new Lru<BlockId, true>(EXPLANATIONS_BOUND)
  readonly #stewardships = new Map<BlockId, Stewardship>()
  readonly #desired = new Lru<BlockId, number>(BLOCKS_BOUND)
  readonly #epochs = new Lru<BlockId, number>(BLOCKS_BOUND)
  readonly #explanations = new Lru<BlockId, Explanation>(EXPLANATIONS_BOUND)
  readonly #yields = new Lru<BlockId, { readonly times: number; readonly at: Millis }>(4_096)
  readonly #kicked = new Set<BlockId>()
  readonly #busy = new Set<BlockId>()
  readonly #leasing = new Set<string>()
  readonly #unfitHearers = new Set<() => void>()
  readonly #stops: (() => void)[] = []
  #cancelTick: (() => void) | undefined
  #unfitUntil = -Infinity
  #kickPending = false
  #surveyPending = false
  #ticks = 0
  #stopped = false

  constructor(
    ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'telemetry'>,
    roles: { readonly view: MeshView; readonly catalogue: Pick<Catalogue, 'blocks' | 'onBlock'>; readonly allocation: Allocation; readonly bidder: Bidder; readonly hostEpoch: (block: BlockId) => number; readonly keep: (block: BlockRecord) => void },
    config: StewardConfig,
  ) {
    this.#ports = ports
    this.#random = ports.random.fork('steward')
    this.#view = roles.view
    this.#catalogue = roles.catalogue
    this.#allocation = roles.allocation
    this.#bidder = roles.bidder
    this.#hostEpoch = roles.hostEpoch
    this.#keep = roles.keep
    this.#config = config
    this.#mirrors = new Mirrors(ports, config, {
      line: block => this.#succession.line(block),
      isCurrent: stewardship => !this.#stopped && this.#stewardships.get(stewardship.block) === stewardship,
      highestEpoch: block => Math.max(this.#highestSeen(block), this.#stewardships.get(block)?.epoch ?? 0),
      onOutranked: (stewardship, highest) => this.#heardEpoch(stewardship, highest),
    })
  }

  async start(): Promise<void> {
    const { journal } = this.#ports
    this.#mirrors.start()
    for (const key of await journal.keys(EPOCH)) {
      const cell = await journal.get(key)
      if (cell !== undefined) this.#epochs.set(key.slice(EPOCH.length), decode(z.int(), cell, 64, key))
    }
    this.#stops.push(this.#catalogue.onBlock((id, block) => this.#registered(id, block)))
    for (const block of await this.#catalogue.blocks()) this.#registered(block.blockId, block)
    this.#stops.push(this.#view.onChange((peer, what) => this.#moved(peer, what)))
    this.#succession.update(this.#able())
    this.#kickAll()
    this.#tick()
  }

  stop(): void {
    this.#stopped = true
    for (const stop of this.#stops) stop()
    this.#cancelTick?.()
  }

  /** Could this peer make an epoch durable when it last tried? */
  get fit(): boolean {
    return this.#ports.clock.monotonic() >= this.#unfitUntil
  }

  /** Calls `hear` when this peer finds that it cannot steward. */
  onUnfit(hear: () => void): () => void {
    this.#unfitHearers.add(hear)
    return () => this.#unfitHearers.delete(hear)
  }

  stewardOf(block: BlockId): PeerId | undefined {
    return this.#succession.line(block)[0]
  }

  lastPlacement(block: BlockId): Explanation | undefined {
    return this.#explanations.peek(block)
  }

  /** Between the block's own bounds; the registry's `minInstances` until somebody (an autoscaler) says otherwise. */
  setDesired(block: BlockId, instances: number): void {
    this.#desired.set(block, instances)
    this.#kick(block)
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
    return Math.min(record.maxInstances, Math.max(record.minInstances, this.#desired.peek(block) ?? 0))
  }

  #registered(id: BlockId, block: BlockRecord | undefined): void {
    if (block !== undefined) {
      if (this.#blocks.size >= BLOCKS_BOUND && !this.#blocks.has(id)) return
      this.#blocks.set(id, block)
      this.#withdrawn.delete(id)
      const stewardship = this.#stewardships.get(id)
      if (stewardship !== undefined) stewardship.retryAt = 0
    } else if (this.#blocks.delete(id)) this.#withdrawn.set(id, true)
    this.#kick(id)
  }

  #moved(peer: PeerId, what: 'ad' | 'alive' | 'suspect' | 'dead' | 'left'): void {
    if (what === 'suspect') return
    if (this.#succession.note(peer, this.#isAble(this.#view.ad(peer)))) this.#survey()
    // New room may be what a block has been waiting for.
    if (what === 'alive') for (const stewardship of this.#stewardships.values()) stewardship.retryAt = Math.min(stewardship.retryAt, this.#ports.clock.monotonic() + this.#config.retryMs.first)
    if (what === 'ad') for (const { block } of this.#view.ad(peer)?.instances ?? []) if (this.#stewardships.has(block)) this.#kick(block)
    for (const stewardship of this.#stewardships.values()) if (stewardship.hosting().has(peer)) this.#kick(stewardship.block)
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
    this.#ports.clock.after(this.#config.kickMs, () => {
      this.#surveyPending = false
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
    if (this.#stopped) return
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
    const epoch = Math.max(seen, this.#epochs.peek(block) ?? 0) + 1
    this.#epochs.set(block, epoch)
    if (!(await this.#persist(block, epoch)) || this.#stopped) return undefined
    const taken = new Stewardship(block, epoch)
    // Their ads may have been missed. Renewing finds out what became of them.
    for (const { contract, envelope } of this.#mirrors.contracts(block)) if (this.#isLive(contract.host)) taken.holds(contract, envelope, this.#ports.clock.monotonic(), false)
    this.#stewardships.set(block, taken)
    this.#ports.telemetry.event('info', 'steward.took', { block, epoch })
    return taken
  }

  /** An epoch is durable before anybody hears of it. A peer that cannot write steps aside for the next in line. */
  async #persist(block: BlockId, epoch: number): Promise<boolean> {
    const { clock, journal, telemetry } = this.#ports
    try {
      await journal.set(EPOCH + block, encode(epoch))
      this.#unfitUntil = -Infinity
      return true
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      telemetry.event('error', 'steward.cannot-write', { block, code: error.code, because: error.message })
      this.#unfitUntil = clock.monotonic() + this.#config.unfitMs
      for (const hear of this.#unfitHearers) hear()
      return false
    }
  }

  #drop(block: BlockId, because: string): void {
    this.#stewardships.delete(block)
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
    const { placing, lost, placedBefore, epoch, surplusSince, retryAt } = stewardship
    const steps = reconcile({ want, terms, observed, placing, lost, placedBefore, epoch, now, surplusSince, retryAt, renewEveryMs: this.#config.renewEveryMs, surplusMs: this.#config.surplusMs })
    for (const step of steps) {
      if (step.do === 'renew') this.#background(this.#lease(stewardship, step.target, 'renew', ''))
      else if (step.do === 'release') this.#background(this.#lease(stewardship, step.target, 'release', step.because))
      else if (step.do === 'wait') clock.after(Math.max(1, step.untilMs - now), () => this.#kick(block))
      else {
        // One after the other, so that each sees where the last one went; several at once only where many are missing.
        const lanes = step.count > 8 ? this.#config.placeAtOnce : 1
        if (record === undefined) continue
        for (let at = placing; at < Math.min(placing + step.count, lanes); at += 1) {
          stewardship.placing += 1
          this.#background(this.#place(stewardship, record, step.action))
        }
      }
    }
    this.#mirrors.tellSoon(stewardship)
  }

  /** Instances on hosts that drain are replaced as those of an earlier record are: others first, one at a time. */
  #leaving(observed: readonly Observed[]): readonly Observed[] {
    return observed.map(one => (this.#view.ad(one.host)?.labels[DRAINING] === undefined ? one : { ...one, terms: DRAINING }))
  }

  async #place(stewardship: Stewardship, record: BlockRecord, action: 'dry_run' | 'allocation' | 'scale' | 'reassignment'): Promise<void> {
    const { clock, telemetry } = this.#ports
    const { block, epoch } = stewardship
    try {
      const { verdict, explanation } = await this.#allocation.place({ block: record, epoch, action, hosting: stewardship.hosting(), avoid: stewardship.avoided(clock.monotonic()) })
      this.#explanations.set(block, explanation)
      if (verdict.ok) {
        stewardship.holds(verdict.value.contract, verdict.value.envelope, clock.monotonic(), true)
        stewardship.lost = false
        stewardship.failures = 0
        stewardship.retryAt = 0
        telemetry.event('info', 'block.placed', { block, host: verdict.value.contract.host, epoch })
      } else {
        const { first, most } = this.#config.retryMs
        stewardship.failures += 1
        stewardship.retryAt = clock.monotonic() + Math.min(most, first * 2 ** Math.min(16, stewardship.failures - 1)) * (0.75 + this.#random.float() / 2)
        telemetry.event('warn', 'block.not-placed', { block, because: verdict.because })
      }
    } finally {
      stewardship.placing -= 1
      this.#kick(block)
    }
  }

  async #lease(stewardship: Stewardship, target: Observed, what: 'renew' | 'release', because: string): Promise<void> {
    const { clock, identity, network } = this.#ports
    const key = `${target.contract} ${what}`
    if (this.#leasing.has(key)) return
    this.#leasing.add(key)
    const { block, epoch } = stewardship
    try {
      const body = { do: what, block, contract: target.contract, epoch, leaseMs: this.#config.leaseMs, because, issuedAt: clock.unix() }
      const envelope = seal(identity, 'lease', body)
      const answer = target.host === identity.peer ? await this.#bidder.lease(envelope, identity.peer) : await network.request(target.host, lease, envelope, clock.deadline(this.#config.leaseDeadlineMs))
      if ('contract' in answer) {
        const { value, signer } = unseal(identity, 'contract', contractSchema, answer.contract, lease.limits.responseBytes)
        if (signer !== target.host || value.id !== target.contract || value.block !== block || value.host !== target.host) throw new MeshError('MESSAGE_INVALID', `${target.host} answered with a contract for something else`)
        stewardship.holds(value, answer.contract, clock.monotonic(), what === 'renew')
        if (what === 'release') stewardship.drains(target.contract)
        return
      }
      const { refusal } = answer
      if (refusal.highestEpoch !== undefined && refusal.highestEpoch >= epoch && refusal.highestEpoch > 0) this.#heardEpoch(stewardship, refusal.highestEpoch)
      else if (!refusal.retryable) {
        stewardship.ended(target.contract, what === 'renew')
        this.#kick(block)
      }
    } finally {
      this.#leasing.delete(key)
    }
  }

  /** A host obeys somebody else. */
  #heardEpoch(stewardship: Stewardship, highest: number): void {
    const { block } = stewardship
    if (this.#stewardships.get(block) !== stewardship) return
    this.#epochs.set(block, Math.max(highest, this.#epochs.peek(block) ?? 0))
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

