import type { InstanceAd } from '../../protocols/capacity.ts'
import { granted, type Verdict } from '../../protocols/errors.ts'
import type { BlockId, Cid, InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import type { Bid, Contract, Explanation } from '../../protocols/placement.ts'
import type { Resources } from '../../protocols/resources.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import type { Ports } from '../ports.ts'
import type { Catalogue, ContractBook, InstanceHost, MeshView, MetricsSource, PolicyCalls } from '../roles.ts'
import { Allocation, type AllocationConfig } from './allocation.ts'
import { Bidder, BIDDER, type BidderConfig } from './bidder.ts'
import { Bundles, BUNDLES, type BundlesConfig } from './bundles.ts'
import { aiosFilter } from './cluster-document.ts'
import type { Held, Wish } from './dealings.ts'
import { Hosting } from './hosting.ts'
import type { LedgerPromise } from './ledger.ts'
import { UNGOVERNED, type Governance } from './permission.ts'
import { Steward, type Tended } from './steward.ts'
import type { Spot } from './stewardship.ts'
import { placeTogether, type Member } from './together.ts'
import { HOSTING, STEWARD, type HostingConfig, type StewardConfig } from './timings.ts'

export type PlacementConfig = {
  /** May this peer award, renew and release here? Asked again for each message. */
  readonly maySteward: (peer: PeerId) => Verdict<true>
  readonly hosting: HostingConfig
  readonly bidder: Omit<BidderConfig, 'maySteward' | 'filter'>
  readonly steward: Omit<StewardConfig, 'maySteward'>
  readonly allocation: AllocationConfig
  readonly bundles: BundlesConfig
}

export const PLACEMENT: PlacementConfig = {
  maySteward: () => granted(true),
  hosting: HOSTING,
  bidder: BIDDER,
  steward: STEWARD,
  allocation: { askMs: 1_200, awardMs: 2_000, holdMs: 5_000, leaseMs: STEWARD.leaseMs, filter: aiosFilter },
  bundles: BUNDLES,
}

export type PlacementRoles = {
  readonly view: MeshView
  readonly catalogue: Pick<Catalogue, 'block' | 'blocks' | 'onBlock' | 'componentByCid'>
  readonly policies: PolicyCalls
  readonly instances: InstanceHost
  readonly metrics: Pick<MetricsSource, 'known' | 'clusters'>
  /** Absent: nobody's rules are asked, and every host is a cluster of itself. */
  readonly governance?: Governance
  /** Resolves once this peer knows most of the mesh it has come into. Absent: it does at once. */
  readonly knowsMost?: () => Promise<void>
}

/** Puts the host's side and the steward's side of placement together. */
export class Placement implements ContractBook {
  readonly #hosting: Hosting
  readonly #bidder: Bidder
  readonly #allocation: Allocation
  readonly #steward: Steward
  readonly #bundles: Bundles
  readonly #view: MeshView

  constructor(ports: Pick<Ports, 'clock' | 'random' | 'identity' | 'network' | 'journal' | 'machine' | 'content' | 'telemetry'>, roles: PlacementRoles, config: PlacementConfig = PLACEMENT) {
    const { maySteward } = config
    const governance = roles.governance ?? UNGOVERNED
    this.#view = roles.view
    this.#bundles = new Bundles(ports, roles.catalogue, config.bundles)
    this.#hosting = new Hosting(ports, roles, config.hosting)
    this.#bidder = new Bidder(ports, { hosting: this.#hosting, view: roles.view, policies: roles.policies, metrics: roles.metrics, governance }, { ...config.bidder, maySteward, filter: config.allocation.filter })
    this.#allocation = new Allocation(ports, { view: roles.view, policies: roles.policies, bidder: this.#bidder, governance, metrics: roles.metrics }, config.allocation)
    this.#steward = new Steward(ports, { ...roles, allocation: this.#allocation, bidder: this.#bidder, hostEpoch: block => this.#hosting.highestEpoch(block), keep: block => this.#bundles.keep(block), knowsMost: roles.knowsMost ?? (async () => undefined) }, { ...config.steward, maySteward })
  }

  /** Reads the contracts back. Call it before the first ad is said, so that the ad tells of them. */
  open(): Promise<void> {
    return this.#hosting.open()
  }

  /** Resumes instances, answers asks, and stewards what falls to this peer. */
  async start(): Promise<void> {
    this.#bidder.start()
    this.#hosting.onChange(() => {
      for (const { block } of this.#hosting.contracts()) this.#bundles.keep(block)
    })
    this.#hosting.run()
    await this.#steward.start()
  }

  /** Contracts stay in the journal; the instances are the instance host's to stop. */
  stop(): void {
    this.#steward.stop()
    this.#hosting.close()
    this.#bundles.stop()
  }

  contracts(): readonly { readonly contract: Contract; readonly block: BlockRecord; readonly leaseEnds: Millis }[] {
    return this.#hosting.contracts()
  }

  fence(instance: InstanceId, epoch: number): Verdict<Contract> {
    return this.#hosting.fence(instance, epoch)
  }

  /** What is promised to nobody. */
  free(): Resources {
    return this.#hosting.free()
  }

  /** For the ad: what no contract has taken. A bid's hold is no news: most end within seconds, and whoever asks is told. */
  uncontracted(): Resources {
    return this.#hosting.uncontracted()
  }

  /** For the ad: the instances of this host. */
  instances(): readonly InstanceAd[] {
    return this.#hosting.instances()
  }

  /** For the ad: components whose bundle is whole here. */
  holds(): readonly Cid[] {
    return this.#bundles.held()
  }

  /** For the ad: may others expect this peer to steward? */
  stewards(): boolean {
    return this.#steward.fit
  }

  /** Something the ad tells has changed. */
  onChange(hear: () => void): () => void {
    const stops = [this.#hosting.onChange(hear), this.#steward.onUnfit(hear)]
    return () => {
      for (const stop of stops) stop()
    }
  }

  total(): Resources {
    return this.#hosting.total()
  }

  promised(): readonly LedgerPromise[] {
    return this.#hosting.promised()
  }

  /** Highest epoch seen of each block that was placed here. */
  epochs(): ReadonlyMap<BlockId, number> {
    return this.#hosting.epochs()
  }

  stewarded(): ReturnType<Steward['stewarded']> {
    return this.#steward.stewarded()
  }

  stewardOf(block: BlockId): PeerId | undefined {
    return this.#steward.stewardOf(block)
  }

  lastPlacement(block: BlockId): Explanation | undefined {
    return this.#steward.lastPlacement(block)
  }

  /** The block as its steward knows it; undefined where this peer is not it. */
  tended(block: BlockId): Tended | undefined {
    return this.#steward.stewardship(block)
  }

  /** How many instances are wanted of a block, within the block's bounds, the first new ones at `spots`. False where this peer does not steward it. */
  setDesired(block: BlockId, instances: number, spots: readonly Spot[] = []): boolean {
    return this.#steward.setDesired(block, instances, spots)
  }

  /** Instances that are to go, at once or when others have come in their place. */
  send(block: BlockId, instances: readonly InstanceId[], how: 'released' | 'replaced', because: string): void {
    this.#steward.send(block, instances, how, because)
  }

  /** This peer took up a block or let go of it. */
  onRole(hear: (block: BlockId) => void): () => void {
    return this.#steward.onRole(hear)
  }

  /** One instance of each on the host named for it, or none of them; the blocks' stewards take over when the blocks are registered. */
  placeTogether(members: readonly Member[], epoch: number): ReturnType<typeof placeTogether> {
    return placeTogether(this.#allocation, members, epoch)
  }

  /** What a host would bid for an instance of a block that nobody has registered. Reserves nothing. */
  ask(block: BlockRecord, host: PeerId): Promise<Verdict<Bid>> {
    return this.#allocation.dealings.ask(unregistered(block), host, true)
  }

  /** The same, and the host keeps the room for so long. */
  reserve(block: BlockRecord, host: PeerId, holdMs: Millis): Promise<Verdict<Held>> {
    return this.#allocation.dealings.hold(unregistered(block), host, holdMs)
  }

  /** A reservation that nobody needs any more. Lost, it expires by itself. */
  giveBack(held: Held): void {
    this.#allocation.dealings.giveBack(held)
  }

  /** What placing one more instance would do now: who would be asked, who bids what, who refuses and why. Reserves nothing. */
  explain(block: BlockRecord): Promise<Explanation> {
    const hosting = new Map<PeerId, number>()
    for (const { host } of this.#view.instancesOf(block.blockId)) hosting.set(host, (hosting.get(host) ?? 0) + 1)
    return this.#allocation.explain(block, hosting)
  }
}

function unregistered(block: BlockRecord): Wish {
  return { block, epoch: 0, action: 'dry_run', hosting: new Map(), avoid: new Map() }
}
