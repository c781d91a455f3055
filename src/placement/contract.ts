import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis } from '../../protocols/ids.ts'
import type { Contract } from '../../protocols/placement.ts'

export type ContractState = 'awarded' | 'starting' | 'running' | 'draining' | 'released' | 'expired' | 'failed'

/** One contract on its host. `held` comes before it and lives in the ledger alone: a hold has no contract yet. */
export type HeldContract = {
  readonly contract: Contract
  readonly state: ContractState
  /** The epoch it was first awarded under; later stewards take it over under higher ones. */
  readonly bornEpoch: number
  /** Local monotonic time. */
  readonly leaseEnds: Millis
  readonly because: string
}

export type ContractEvent =
  | { readonly type: 'start' }
  | { readonly type: 'started' }
  /** The instance died; it may be started again here. */
  | { readonly type: 'crashed'; readonly because: string }
  | { readonly type: 'failed'; readonly because: string }
  /** A steward renews, or takes over under a higher epoch. */
  | { readonly type: 'lease'; readonly steward: Contract['steward']; readonly epoch: number; readonly leaseMs: Millis; readonly now: Millis; readonly unix: Millis }
  | { readonly type: 'release'; readonly epoch: number; readonly because: string }
  /** No steward wants it and another has taken its place. */
  | { readonly type: 'lapse'; readonly because: string }
  | { readonly type: 'stopped' }

const LIVE: ReadonlySet<ContractState> = new Set(['awarded', 'starting', 'running'])

export function isLive({ state }: Pick<HeldContract, 'state'>): boolean {
  return LIVE.has(state)
}

/** Does it still hold resources? */
export function isOpen({ state }: Pick<HeldContract, 'state'>): boolean {
  return LIVE.has(state) || state === 'draining'
}

/** The life of a contract: awarded, starting, running, draining, then released, expired or failed, which nothing leaves. */
export function step(held: HeldContract, event: ContractEvent): Verdict<HeldContract> {
  const { contract, state } = held
  if (!isOpen(held)) return refused(`contract ${contract.id} is ${state}: ${held.because}`)
  switch (event.type) {
    case 'start':
      return isLive(held) ? granted({ ...held, state: 'starting', because: '' }) : draining(held)
    case 'started':
      return isLive(held) ? granted({ ...held, state: 'running', because: '' }) : draining(held)
    case 'crashed':
      return isLive(held) ? granted({ ...held, state: 'starting', because: event.because }) : granted({ ...held, state: 'released' })
    case 'failed':
      return granted({ ...held, state: isLive(held) ? 'failed' : 'released', because: event.because })
    case 'lease':
      return isLive(held) ? renewed(held, event) : draining(held)
    case 'release':
      if (event.epoch < contract.epoch) return outranked(held)
      return granted({ ...held, state: 'draining', because: event.because })
    case 'lapse':
      return isLive(held) ? granted({ ...held, state: 'draining', because: event.because }) : draining(held)
    case 'stopped':
      return state === 'draining' ? granted({ ...held, state: 'released' }) : granted({ ...held, state: 'expired' })
  }
}

function renewed(held: HeldContract, { steward, epoch, leaseMs, now, unix }: Extract<ContractEvent, { type: 'lease' }>): Verdict<HeldContract> {
  const { contract } = held
  if (epoch < contract.epoch) return outranked(held)
  // Two stewards under one epoch: the first keeps it, the other has to take a higher one.
  if (epoch === contract.epoch && steward !== contract.steward) return outranked(held)
  const leaseEnds = Math.max(held.leaseEnds, now + leaseMs)
  if (epoch === contract.epoch) return granted({ ...held, leaseEnds })
  return granted({ ...held, contract: { ...contract, steward, epoch, leaseMs, issuedAt: unix }, leaseEnds })
}

function outranked({ contract }: HeldContract): Verdict<HeldContract> {
  return refused(`contract ${contract.id} obeys ${contract.steward} under epoch ${contract.epoch}`)
}

function draining({ contract, because }: HeldContract): Verdict<HeldContract> {
  return refused(`contract ${contract.id} is being ended: ${because}`)
}
