import { capacityTopic, type CapacityAd, capacityAd } from '../../protocols/capacity.ts'
import { decode, encode } from '../../protocols/codec.ts'
import { asMeshError } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import { hello } from '../../protocols/membership.ts'
import { askForBid, award, awardBody, bid, contract, type Contract } from '../../protocols/placement.ts'
import { needs as needsSchema, type Needs, type Resources } from '../../protocols/resources.ts'
import { type BlockRecord, blockRecord } from '../../protocols/specs.ts'
import { retry } from '../../src/lib/backoff.ts'
import type { Ports } from '../../src/ports.ts'
import { seal, unseal } from '../../src/trust/seal.ts'
import { acknowledgedSurvives, type Inspection, ledgerNeverOverPromised, NOTHING_TO_SEE, overPromised, type Promised, viewsConverge } from '../checkers.ts'
import { drawFaults } from '../faults.ts'
import { SeededRandom } from '../random.ts'
import type { Scenario, ScenarioOptions } from '../scenario.ts'
import { type SimPeer, World } from '../world.ts'

/** Mistakes that the checkers have to find. */
export const PLANTED_BUGS = ['promises-without-looking', 'answers-before-it-is-durable', 'is-silent-after-a-restart'] as const
export type PlantedBug = (typeof PLANTED_BUGS)[number]

export type MarketConfig = { readonly neighbours: readonly string[]; readonly adEveryMs: number; readonly askEveryMs: number; readonly bug?: PlantedBug }

const HOLD_MS = 3_000
const LEASE_MS = 15_000
const FORGET_MS = 6_000

const SAMPLE: BlockRecord = blockRecord.parse({
  blockId: 'sample',
  componentURI: 'node.sample:1-stable',
  component: 'bafyreisample',
  runtime: { name: 'node' },
  minInstances: 1,
  maxInstances: 1,
  needs: {},
  owner: '12D3KooWsample',
  revision: 0,
})

/**
 * The smallest peer that gossips, promises and remembers: it speaks the real protocols over the real ports and decides
 * naively. It keeps the simulator honest (its planted bugs must be found) and shows what the machinery itself costs.
 */
export class MarketPeer implements SimPeer {
  readonly #ports: Ports
  readonly #config: MarketConfig
  readonly #view = new Map<PeerId, { incarnation: number; sequence: number; heardAt: number }>()
  readonly #holds = new Map<string, { needs: Needs; until: number; awarded: boolean }>()
  readonly #contracts = new Map<string, { contract: Contract; until: number }>()
  #total: Resources = { cpuMilli: 0, memoryMb: 0, diskMb: 0, gpus: [] }
  #incarnation = 0
  #sequence = 0
  #stopped = false

  private constructor(ports: Ports, config: MarketConfig) {
    this.#ports = ports
    this.#config = config
  }

  static async create(ports: Ports, config: MarketConfig): Promise<MarketPeer> {
    const peer = new MarketPeer(ports, config)
    await peer.#begin()
    return peer
  }

  inspect(): Inspection {
    return {
      ...NOTHING_TO_SEE,
      total: this.#total,
      promised: this.#promised(),
      live: [this.#ports.identity.peer, ...this.#view.keys()],
      acknowledged: [...this.#contracts.keys()],
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true
  }

  async #begin(): Promise<void> {
    const { journal, machine, network } = this.#ports
    this.#total = (await machine.probe()).total
    const before = await journal.get('incarnation')
    this.#incarnation = (before?.[0] ?? 0) + 1
    await journal.set('incarnation', Uint8Array.of(this.#incarnation))
    for (const entry of await journal.read('contracts')) this.#keep(decode(contract, entry, 16_384, 'a contract'))
    network.handle(hello, async (_, from) => {
      network.admit(from)
      return {}
    })
    network.onConnection((peer, direction) => {
      if (direction === 'outbound') this.#background(this.#greet(peer))
    })
    network.subscribe(capacityTopic, envelope => this.#hear(unseal(this.#ports.identity, 'capacity', capacityAd, envelope).value))
    this.#answerAsks()
    for (const address of this.#config.neighbours) this.#background(this.#reach(address))
    network.onPeer((peer, state) => {
      const lost = state === 'gone' ? this.#config.neighbours.find(address => address.endsWith(peer)) : undefined
      if (lost !== undefined) this.#background(this.#reach(lost))
    })
    this.#every(this.#config.adEveryMs, () => this.#advertise())
    this.#every(this.#config.askEveryMs, () => this.#shop())
  }

  async #reach(address: string): Promise<void> {
    const { clock, network, random } = this.#ports
    await retry({ clock, random }, { firstMs: 200, maxMs: 5_000, retries: 20 }, () => network.dial([address], clock.deadline(10_000)))
  }

  async #greet(peer: PeerId): Promise<void> {
    const { clock, identity, network, random } = this.#ports
    await retry({ clock, random }, { firstMs: 100, maxMs: 2_000, retries: 8 }, () => network.request(peer, hello, seal(identity, 'hello', { to: peer })))
    network.admit(peer)
  }

  async #advertise(): Promise<void> {
    const { clock, identity, network } = this.#ports
    if (this.#config.bug === 'is-silent-after-a-restart' && this.#incarnation > 1) return
    this.#sequence += 1
    const ad: CapacityAd = {
      peer: identity.peer, cluster: 'c', incarnation: this.#incarnation, sequence: this.#sequence, issuedAt: clock.unix(), ttlMs: FORGET_MS, protocolMajor: 1,
      labels: {}, total: this.#total, free: this.#total, runtimes: [], memoryGBs: 1, cpuLoad: 0, instances: [], holds: [],
    }
    await network.publish(capacityTopic, seal(identity, 'capacity', ad))
    for (const [peer, { heardAt }] of this.#view) if (clock.monotonic() - heardAt > FORGET_MS) this.#view.delete(peer)
  }

  #hear(ad: CapacityAd): void {
    const known = this.#view.get(ad.peer)
    if (known !== undefined && (ad.incarnation < known.incarnation || (ad.incarnation === known.incarnation && ad.sequence <= known.sequence))) return
    this.#view.set(ad.peer, { incarnation: ad.incarnation, sequence: ad.sequence, heardAt: this.#ports.clock.monotonic() })
  }

  #answerAsks(): void {
    const { clock, identity, journal, network } = this.#ports
    network.handle(askForBid, async ask => {
      const because = this.#config.bug === 'promises-without-looking' ? undefined : overPromised(this.#total, [...this.#promised(), { needs: ask.needs, gpus: [] }])
      if (because !== undefined) return { refusal: { ask: ask.id, because: `already ${because}`, retryable: true } }
      this.#holds.set(ask.id, { needs: ask.needs, until: clock.monotonic() + HOLD_MS, awarded: false })
      return { bid: seal(identity, 'bid', { ask: ask.id, host: identity.peer, hold: ask.id, score: 1, gpus: [], holdMs: HOLD_MS, readyInMs: 0, because: 'it fits' }) }
    })
    network.handle(award, async (envelope, from) => {
      const { value } = unseal(identity, 'award', awardBody, envelope)
      const hold = this.#holds.get(value.hold)
      if (hold === undefined || hold.until <= clock.monotonic() || hold.awarded) return { refusal: { ask: value.ask, because: 'the hold expired', retryable: true } }
      const made: Contract = {
        id: `${identity.peer.slice(-8)}-${value.hold}`, block: value.block.blockId, instance: value.instance, component: value.block.component, steward: from, host: identity.peer,
        needs: hold.needs, gpus: [], epoch: value.epoch, leaseMs: LEASE_MS, issuedAt: clock.unix(),
      }
      // The promise is kept whole while the disk writes, however long it takes.
      this.#holds.set(value.hold, { ...hold, until: Infinity, awarded: true })
      const written = journal.append('contracts', [encode(made)])
      if (this.#config.bug === 'answers-before-it-is-durable') this.#background(written)
      else await written
      this.#holds.delete(value.hold)
      this.#keep(made)
      return { contract: seal(identity, 'contract', made) }
    })
  }

  async #shop(): Promise<void> {
    const { identity, network, random } = this.#ports
    const known = [...this.#view.keys()].sort()
    if (known.length === 0) return
    const needs = needsSchema.parse({ cpuMilli: 500 + random.below(2_000), memoryMb: 256 + random.below(2_048) })
    const candidates = [random.pick(known), random.pick(known)].filter(peer => peer !== identity.peer)
    for (const host of new Set(candidates)) {
      const id = `ask-${identity.peer.slice(-8)}-${random.below(1_000_000_000)}`
      const answer = await network.request(host, askForBid, { id, block: SAMPLE, needs, steward: identity.peer, epoch: 1, holdMs: HOLD_MS, action: 'allocation', dryRun: false })
      if (!('bid' in answer)) continue
      unseal(identity, 'bid', bid, answer.bid)
      await network.request(host, award, seal(identity, 'award', { ask: id, hold: id, block: SAMPLE, instance: `in-${random.below(1_000_000_000)}`, epoch: 1, leaseMs: LEASE_MS, issuedAt: 0 }))
      return
    }
  }

  #keep(made: Contract): void {
    const { clock } = this.#ports
    // A lease read back after a crash ends when it was going to end.
    this.#contracts.set(made.id, { contract: made, until: clock.monotonic() + made.issuedAt + made.leaseMs - clock.unix() })
  }

  #promised(): readonly Promised[] {
    const now = this.#ports.clock.monotonic()
    for (const [id, { until }] of this.#holds) if (until <= now) this.#holds.delete(id)
    const held = [...this.#holds.values()].map(({ needs }) => ({ needs, gpus: [] }))
    const leased = [...this.#contracts.values()].filter(({ until }) => until > now).map(({ contract: { needs, gpus } }) => ({ needs, gpus }))
    return [...held, ...leased]
  }

  #every(periodMs: number, run: () => Promise<void>): void {
    const { clock, random } = this.#ports
    const again = (): void => {
      if (this.#stopped) return
      this.#background(run())
      clock.after(Math.round(periodMs * (0.75 + random.float() / 2)), again)
    }
    clock.after(random.below(periodMs), again)
  }

  /** Unreachable, refused and late are everyday here; anything else is a bug and must surface. */
  #background(work: Promise<unknown>): void {
    work.catch(error => {
      if (asMeshError(error).code === 'INTERNAL') throw error
    })
  }
}

/** The market under faults: each peer knows six others and learns of the rest. */
export function drawMarket({ seed, peers, loss, churn, bug }: ScenarioOptions): Scenario<MarketPeer> {
  const random = new SeededRandom(`market ${seed}`)
  const faults = drawFaults(random, peers, { ...(loss === undefined ? {} : { loss }), ...(churn === undefined ? {} : { churn }) })
  const adEveryMs = 500 + random.below(1_500)
  const askEveryMs = 500 + random.below(3_000)
  const planted = PLANTED_BUGS.find(known => known === bug)
  const world: World<MarketPeer> = new World({
    seed,
    peers,
    weather: faults.weather,
    checkEveryMs: peers > 50 ? 200 : 20,
    checkers: [ledgerNeverOverPromised(), acknowledgedSurvives(), viewsConverge()],
    factory: (ports, host) => MarketPeer.create(ports, {
      neighbours: NEIGHBOURS.flatMap(step => world.hosts[(host.index + step) % peers]?.address ?? []).filter(address => address !== host.address),
      adEveryMs,
      askEveryMs,
      ...(planted === undefined ? {} : { bug: planted }),
    }),
  })
  return { drawn: { faults, adEveryMs, askEveryMs }, world, work: () => {}, settleMs: 60_000 }
}

const NEIGHBOURS = [1, 2, 5, 11, 23, 47]
