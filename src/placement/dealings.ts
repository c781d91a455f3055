import type { Millis, PeerId } from '../../protocols/ids.ts'
import { hex } from '../../protocols/codec.ts'
import { asMeshError, granted, MeshError, refused, type Verdict } from '../../protocols/errors.ts'
import { askForBid, award, bid as bidSchema, contract as contractSchema, lease, type Ask, type Bid, type Contract, type InstanceInit } from '../../protocols/placement.ts'
import type { Signed } from '../../protocols/signed.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { hedgeWithin } from '../lib/hedge.ts'
import type { Ports, Random } from '../ports.ts'
import { seal, unseal } from '../trust/seal.ts'
import type { Bidder } from './bidder.ts'

export type DealingsConfig = {
  readonly askMs: Millis
  readonly awardMs: Millis
  readonly holdMs: Millis
  readonly leaseMs: Millis
}

export type Wish = {
  readonly block: BlockRecord
  readonly epoch: number
  readonly action: Ask['action']
  readonly hosting: ReadonlyMap<PeerId, number>
  /** Hosts not to ask now, and why. */
  readonly avoid: ReadonlyMap<PeerId, string>
  /** These are asked for, where somebody said which. */
  readonly gpus?: readonly string[]
  /** What this instance alone starts with, over the block's own data. */
  readonly init?: InstanceInit | undefined
}
export type Placed = { readonly contract: Contract; readonly envelope: Signed }
/** A reservation that a host has signed for. */
export type Held = { readonly wish: Wish; readonly bid: Bid }

/** Who has not answered by then may not have heard. Asks and awards are idempotent. */
const ASKED = { againMs: 200, times: 3 }
const AWARDED = { againMs: 500, times: 3 }

/** The buyer's words to one host at a time, this one among them: asks for bids, takes or gives back what they hold. */
export class Dealings {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network'>
  readonly #random: Random
  readonly #bidder: Bidder
  readonly #config: DealingsConfig

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network'>, random: Random, bidder: Bidder, config: DealingsConfig) {
    this.#ports = ports
    this.#random = random
    this.#bidder = bidder
    this.#config = config
  }

  /** Asks this one host to keep room for an instance, for those who must place several or none. */
  async hold(wish: Wish, host: PeerId, holdMs: Millis = this.#config.holdMs): Promise<Verdict<Held>> {
    const verdict = await this.ask(wish, host, false, holdMs)
    return verdict.ok ? granted({ wish, bid: verdict.value }) : verdict
  }

  /** What this host would bid now. Unless it is a `dryRun`, it keeps the room for a while. */
  async ask({ block, epoch, action, gpus = [] }: Wish, host: PeerId, dryRun: boolean, holdMs: Millis = this.#config.holdMs): Promise<Verdict<Bid>> {
    const { clock, identity, network } = this.#ports
    const ask: Ask = { id: `ask-${hex(this.#random.bytes(8))}`, block, needs: block.needs, steward: identity.peer, epoch, holdMs, action, dryRun, ...(gpus.length === 0 ? {} : { gpus: [...gpus] }) }
    try {
      const answer = host === identity.peer ? await this.#bidder.ask(ask, host) : await hedgeWithin(clock, { ...ASKED, windowMs: this.#config.askMs }, leftMs => network.request(host, askForBid, ask, leftMs))
      if ('refusal' in answer) return refused(answer.refusal.because, answer.refusal.retryable)
      const { value, signer } = unseal(identity, 'bid', bidSchema, answer.bid, askForBid.limits.responseBytes)
      if (signer !== host || value.host !== host || value.ask !== ask.id) return refused('it answered with a bid for something else')
      if (!Number.isFinite(value.score) || value.score < 0 || value.score > 1) return refused(`its score ${value.score} is outside 0..1`)
      return granted(value)
    } catch (error) {
      return unreachable(error)
    }
  }

  /** Takes a reservation: the host starts the instance. Idempotent. */
  async award({ wish, bid }: Held): Promise<Verdict<Placed>> {
    const { clock, identity, network } = this.#ports
    const body = { ask: bid.ask, hold: bid.hold, block: wish.block, instance: `in-${hex(this.#random.bytes(6))}`, epoch: wish.epoch, leaseMs: this.#config.leaseMs, issuedAt: clock.unix(), ...(wish.init === undefined ? {} : { init: wish.init }) }
    const envelope = seal(identity, 'award', body)
    const send = async (): Promise<Verdict<Placed>> => {
      const answer = bid.host === identity.peer ? await this.#bidder.award(envelope, identity.peer) : await hedgeWithin(clock, { ...AWARDED, windowMs: this.#config.awardMs }, leftMs => network.request(bid.host, award, envelope, leftMs))
      if ('refusal' in answer) return refused(answer.refusal.because, answer.refusal.retryable)
      const { value, signer } = unseal(identity, 'contract', contractSchema, answer.contract, award.limits.responseBytes)
      const asAwarded = signer === bid.host && value.host === bid.host && value.instance === body.instance && value.block === wish.block.blockId && value.epoch >= wish.epoch
      return asAwarded ? granted({ contract: value, envelope: answer.contract }) : refused('it answered with a contract for something else')
    }
    try {
      return await send()
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code !== 'DEADLINE') return unreachable(error)
      // The award may have arrived and its answer been lost. It is idempotent: ask once more before going elsewhere.
      return send().catch(unreachable)
    }
  }

  /** Tells a host that its reservation is not needed, so that the next ask finds the room. Lost, it expires by itself. */
  giveBack({ wish, bid }: Held): void {
    this.#release(wish, bid.host, bid.hold, 'another bid was taken')
  }

  /** Ends what was awarded a moment ago, because the rest of what it belongs to could not be placed. Lost, its lease runs out. */
  takeBack({ wish, bid }: Held, { contract }: Placed, because: string): void {
    this.#release({ ...wish, epoch: Math.max(wish.epoch, contract.epoch) }, bid.host, contract.id, because)
  }

  #release({ block, epoch }: Wish, host: PeerId, what: string, because: string): void {
    const { clock, identity, network } = this.#ports
    const envelope = seal(identity, 'lease', { do: 'release', block: block.blockId, contract: what, epoch, leaseMs: 0, because, issuedAt: clock.unix() })
    const sent = host === identity.peer ? this.#bidder.lease(envelope, identity.peer) : network.request(host, lease, envelope, this.#config.askMs)
    sent.catch(unreachable)
  }
}

function unreachable(error: unknown): { readonly ok: false; readonly because: string; readonly retryable: boolean } {
  if (!(error instanceof MeshError)) throw error
  return refused(`${error.code}: ${error.message}`, true)
}
