import { MeshError, type Verdict } from '../../protocols/errors.ts'
import type { BlockId, Millis, PeerId } from '../../protocols/ids.ts'
import { contract as contractSchema, stewardBody, stewardMirror, type Contract } from '../../protocols/placement.ts'
import type { Signed } from '../../protocols/signed.ts'
import { Lru } from '../lib/lru.ts'
import type { Ports } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'
import type { Stewardship } from './stewardship.ts'

export type MirrorsConfig = { readonly mirrorMs: Millis; readonly leaseDeadlineMs: Millis; readonly skewMs: Millis; readonly maySteward: (peer: PeerId) => Verdict<true> }
export type MirrorsParts = {
  /** The steward of a block and who follows it. */
  readonly line: (block: BlockId) => readonly PeerId[]
  readonly isCurrent: (stewardship: Stewardship) => boolean
  readonly highestEpoch: (block: BlockId) => number
  /** A mirror has seen a later epoch than that of the stewardship. */
  readonly onOutranked: (stewardship: Stewardship, highest: number) => void
}

const CONTRACTS_A_BLOCK = 512
const CONTRACT_BYTES = 16_384
const BLOCKS_BOUND = 4_096

/** Speaks the steward protocol: tells the next two in line what they would have to take over, and holds what others told us. */
export class Mirrors {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>
  readonly #config: MirrorsConfig
  readonly #parts: MirrorsParts
  readonly #held = new Lru<BlockId, { readonly epoch: number; readonly contracts: readonly Signed[]; readonly desired: number | undefined; readonly scaledAgoMs: Millis | undefined }>(BLOCKS_BOUND)
  /** What the mirrors were last told of each block. */
  readonly #told = new Lru<BlockId, string>(BLOCKS_BOUND)
  readonly #due = new Set<BlockId>()

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network' | 'telemetry'>, config: MirrorsConfig, parts: MirrorsParts) {
    this.#ports = ports
    this.#config = config
    this.#parts = parts
  }

  start(): void {
    this.#ports.network.handle(stewardMirror, async (envelope, from) => ({ highestEpoch: this.#hear(envelope, from) }))
  }

  /** The epoch that others told us of; 0 when none did. */
  epoch(block: BlockId): number {
    return this.#held.peek(block)?.epoch ?? 0
  }

  /** Instances that somebody asked the last steward for, as it told us. */
  desired(block: BlockId): { readonly epoch: number; readonly desired: number | undefined; readonly scaledAgoMs: Millis | undefined } | undefined {
    return this.#held.peek(block)
  }

  /** Contracts that the last steward told us of, each signed by its own host. */
  contracts(block: BlockId): readonly { readonly contract: Contract; readonly envelope: Signed }[] {
    const { identity, telemetry } = this.#ports
    return (this.#held.peek(block)?.contracts ?? []).flatMap(envelope => {
      try {
        const { value: contract, signer } = unseal(identity, 'contract', contractSchema, envelope, CONTRACT_BYTES)
        return signer === contract.host && contract.block === block ? [{ contract, envelope }] : []
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        telemetry.count('mirrored_contracts_refused_total')
        return []
      }
    })
  }

  /** Tells the next two in a moment, if they have not been told the same. */
  tellSoon(stewardship: Stewardship): void {
    const { block, epoch } = stewardship
    const news = (): string => JSON.stringify([epoch, stewardship.desired ?? null, this.#parts.line(block), stewardship.observed().map(({ contract, epoch }) => [contract, epoch])])
    if (this.#due.has(block) || this.#told.peek(block) === news()) return
    this.#due.add(block)
    this.#ports.clock.after(this.#config.mirrorMs, () => {
      this.#due.delete(block)
      if (!this.#parts.isCurrent(stewardship)) return
      this.#told.set(block, news())
      for (const peer of this.#parts.line(block)) if (peer !== this.#ports.identity.peer) void this.#tell(peer, stewardship)
    })
  }

  async #tell(peer: PeerId, stewardship: Stewardship): Promise<void> {
    const { clock, identity, network, telemetry } = this.#ports
    const { block, epoch } = stewardship
    const { desired, scaledAt } = stewardship
    const envelope = seal(identity, 'steward', {
      block, epoch, contracts: stewardship.envelopes().slice(0, CONTRACTS_A_BLOCK), issuedAt: clock.unix(),
      ...(desired === undefined ? {} : { desired }), ...(scaledAt === undefined ? {} : { scaledAgoMs: Math.max(0, Math.round(clock.monotonic() - scaledAt)) }),
    })
    try {
      const { highestEpoch } = await network.request(peer, stewardMirror, envelope, this.#config.leaseDeadlineMs)
      if (highestEpoch > epoch) this.#parts.onOutranked(stewardship, highestEpoch)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      // Said again with the next look: a mirror that was not reached must not count as told.
      this.#told.delete(block)
      telemetry.count('mirrors_not_told_total')
    }
  }

  #hear(envelope: Signed, from: PeerId): number {
    const { clock, identity } = this.#ports
    const { value, signer } = unseal(identity, 'steward', stewardBody, envelope, stewardMirror.limits.requestBytes)
    if (signer !== from || !this.#config.maySteward(from).ok) throw new MeshError('FORBIDDEN', `${from} may not steward block ${value.block}`)
    if (Math.abs(clock.unix() - value.issuedAt) > this.#config.skewMs) throw new MeshError('STALE', 'the mirrored state is too old: are both clocks right?')
    if (value.epoch >= this.epoch(value.block)) this.#held.set(value.block, { epoch: value.epoch, contracts: value.contracts, desired: value.desired, scaledAgoMs: value.scaledAgoMs })
    return this.#parts.highestEpoch(value.block)
  }
}
