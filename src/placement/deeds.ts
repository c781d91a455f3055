import { MeshError, type Verdict } from '../../protocols/errors.ts'
import type { BlockId } from '../../protocols/ids.ts'
import { contract as contractSchema, lease, type Ask, type Explanation, type InstanceInit } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'
import type { Allocation } from './allocation.ts'
import type { Bidder } from './bidder.ts'
import type { Placed } from './dealings.ts'
import type { Observed } from './reconcile.ts'
import type { Stewardship } from './stewardship.ts'
import { termsOf } from './terms.ts'
import type { StewardConfig } from './timings.ts'

export type DeedsParts = {
  readonly allocation: Allocation
  readonly bidder: Bidder
  /** Something changed: look at the block again. */
  readonly kick: (block: BlockId) => void
  /** A host obeys a later epoch. */
  readonly onOutranked: (stewardship: Stewardship, highest: number) => void
}

/** What an instance to be placed starts with, and who knows that it is to come in the place of another. */
type Start = { readonly init: InstanceInit | undefined; readonly giveBack: () => void }

const EXPLANATIONS_BOUND = 1_024

/** Carries out what a steward decided: places an instance, renews and releases contracts. */
export class Deeds {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #random: Pick<Random, 'float'>
  readonly #parts: DeedsParts
  readonly #config: StewardConfig
  readonly #explanations = new Lru<BlockId, Explanation>(EXPLANATIONS_BOUND)
  readonly #leasing = new Set<string>()

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>, random: Pick<Random, 'float'>, parts: DeedsParts, config: StewardConfig) {
    this.#ports = ports
    this.#random = random
    this.#parts = parts
    this.#config = config
  }

  lastPlacement(block: BlockId): Explanation | undefined {
    return this.#explanations.peek(block)
  }

  /** Places so many side by side; `stewardship.placing` counts them already. One at a time where somebody said where. */
  async place(stewardship: Stewardship, record: BlockRecord, action: Ask['action'], count: number): Promise<void> {
    const { clock, telemetry } = this.#ports
    const { allocation, kick } = this.#parts
    const { block, epoch } = stewardship
    // Taken before anything is awaited: each spot is for one instance, and one that cannot be had is not asked for twice.
    const spot = stewardship.spots.shift()
    const waiting = new Map<number, Start>()
    for (let at = 0; at < count; at += 1) waiting.set(at, { init: spot?.init ?? stewardship.inherit(termsOf(record)), giveBack: action === 'reassignment' ? stewardship.replaces() : () => undefined })
    const wish = { block: record, epoch, action, hosting: stewardship.hosting(), avoid: stewardship.avoided(clock.monotonic()) }
    let because: string | undefined
    const took = (at: number, verdict: Verdict<Placed>): void => {
      if (verdict.ok) {
        waiting.delete(at)
        this.#placed(stewardship, verdict.value)
      } else because = verdict.because
    }
    try {
      if (spot?.host === undefined) this.#explanations.set(block, await allocation.place({ ...wish, inits: [...waiting.values()].map(({ init }) => init) }, took))
      else {
        const { host, gpus } = spot
        const { verdict, explanation } = await allocation.placeAt({ ...wish, gpus, init: waiting.get(0)?.init }, host)
        this.#explanations.set(block, explanation)
        if (verdict.ok) took(0, verdict)
        else telemetry.event('warn', 'block.not-placed-there', { block, host, because: verdict.because })
      }
      if (because !== undefined) this.#restsAfter(stewardship, because)
    } finally {
      for (const { init, giveBack } of waiting.values()) {
        stewardship.bequeath(init)
        giveBack()
      }
      stewardship.placing -= waiting.size
      kick(block)
    }
  }

  #placed(stewardship: Stewardship, { contract, envelope }: Placed): void {
    const { block, epoch } = stewardship
    stewardship.holds(contract, envelope, this.#ports.clock.monotonic(), true)
    stewardship.placing -= 1
    stewardship.failures = 0
    stewardship.retryAt = 0
    this.#ports.telemetry.event('info', 'block.placed', { block, host: contract.host, epoch })
    this.#parts.kick(block)
  }

  /** Some that were wanted could not be placed: they are tried again later, and ever later. */
  #restsAfter(stewardship: Stewardship, because: string): void {
    const { first, most } = this.#config.retryMs
    stewardship.failures += 1
    stewardship.retryAt = this.#ports.clock.monotonic() + Math.min(most, first * 2 ** Math.min(16, stewardship.failures - 1)) * (0.75 + this.#random.float() / 2)
    this.#ports.telemetry.event('warn', 'block.not-placed', { block: stewardship.block, because })
  }

  async lease(stewardship: Stewardship, target: Observed, what: 'renew' | 'release', because: string): Promise<void> {
    const { clock, identity, network } = this.#ports
    const key = `${target.contract} ${what}`
    if (this.#leasing.has(key)) return
    this.#leasing.add(key)
    const { block, epoch } = stewardship
    try {
      const body = { do: what, block, contract: target.contract, epoch, leaseMs: this.#config.leaseMs, because: because.slice(0, 300), issuedAt: clock.unix() }
      const envelope = seal(identity, 'lease', body)
      const answer = target.host === identity.peer ? await this.#parts.bidder.lease(envelope, identity.peer) : await network.request(target.host, lease, envelope, this.#config.leaseDeadlineMs)
      if ('contract' in answer) {
        const { value, signer } = unseal(identity, 'contract', contractSchema, answer.contract, lease.limits.responseBytes)
        if (signer !== target.host || value.id !== target.contract || value.block !== block || value.host !== target.host) throw new MeshError('MESSAGE_INVALID', `${target.host} answered with a contract for something else`)
        stewardship.holds(value, answer.contract, clock.monotonic(), what === 'renew')
        if (what === 'release') stewardship.drains(target.contract)
        return
      }
      const { refusal } = answer
      if (refusal.highestEpoch !== undefined && refusal.highestEpoch >= epoch && refusal.highestEpoch > 0) this.#parts.onOutranked(stewardship, refusal.highestEpoch)
      else if (!refusal.retryable) {
        stewardship.ended(target.contract, what === 'renew')
        this.#parts.kick(block)
      }
    } finally {
      this.#leasing.delete(key)
    }
  }
}
