import { MeshError } from '../../protocols/errors.ts'
import type { BlockId } from '../../protocols/ids.ts'
import { contract as contractSchema, lease, type Ask, type Explanation } from '../../protocols/placement.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports, Random } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'
import type { Allocation } from './allocation.ts'
import type { Bidder } from './bidder.ts'
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

  /** `stewardship.placing` counts this one already. */
  async place(stewardship: Stewardship, record: BlockRecord, action: Ask['action']): Promise<void> {
    const { clock, telemetry } = this.#ports
    const { block, epoch } = stewardship
    // Taken before anything is awaited: each spot is for one instance, and one that cannot be had is not asked for twice.
    const { host, gpus = [], init = stewardship.inherit(termsOf(record)) } = stewardship.spots.shift() ?? {}
    const giveBack = action === 'reassignment' ? stewardship.replaces() : (): void => undefined
    let placed = false
    try {
      const { verdict, explanation } = await this.#parts.allocation.place({ block: record, epoch, action, hosting: stewardship.hosting(), avoid: stewardship.avoided(clock.monotonic()), at: host === undefined ? undefined : { host, gpus }, init })
      this.#explanations.set(block, explanation)
      if (verdict.ok) {
        stewardship.holds(verdict.value.contract, verdict.value.envelope, clock.monotonic(), true)
        placed = true
        stewardship.failures = 0
        stewardship.retryAt = 0
        telemetry.event('info', 'block.placed', { block, host: verdict.value.contract.host, epoch })
      } else if (host !== undefined) {
        stewardship.bequeath(init)
        telemetry.event('warn', 'block.not-placed-there', { block, host, because: verdict.because })
      } else {
        stewardship.bequeath(init)
        const { first, most } = this.#config.retryMs
        stewardship.failures += 1
        stewardship.retryAt = clock.monotonic() + Math.min(most, first * 2 ** Math.min(16, stewardship.failures - 1)) * (0.75 + this.#random.float() / 2)
        telemetry.event('warn', 'block.not-placed', { block, because: verdict.because })
      }
    } finally {
      if (!placed) giveBack()
      stewardship.placing -= 1
      this.#parts.kick(block)
    }
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
