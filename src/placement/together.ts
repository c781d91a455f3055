import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { PeerId } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import type { Allocation } from './allocation.ts'
import type { Dealings, Held, Placed } from './dealings.ts'

/** One block of a group, and the host that is to run its first instance. */
export type Member = { readonly block: BlockRecord; readonly host: PeerId }
/** Who would not, and why. */
export type Refuser = { readonly host: PeerId; readonly because: string }
export type PlacedGroup = { readonly placed: readonly Placed[] }

/**
 * Places one instance of each block of a group on the host named for it, or none at all: every host is asked and holds the room
 * (call, bid), and only when all have bid is any awarded. Otherwise every reservation is given back, what was awarded before an
 * award failed is ended, and `refusers` says who would not. `epoch` must be above any that these blocks ever had.
 */
export async function placeTogether(allocation: Allocation, members: readonly Member[], epoch: number): Promise<{ readonly verdict: Verdict<PlacedGroup>; readonly refusers: readonly Refuser[] }> {
  const { dealings } = allocation
  const wishes = members.map(({ block }) => ({ block, epoch, action: 'allocation' as const, hosting: new Map<PeerId, number>(), avoid: new Map<PeerId, string>() }))
  for (const [at, wish] of wishes.entries()) {
    const permitted = await allocation.permitted(wish, members[at]!.host)
    if (!permitted.ok) return { verdict: permitted, refusers: [] }
  }
  const asked = await Promise.all(members.map(async ({ host }, at) => ({ host, verdict: await dealings.hold(wishes[at]!, host) })))
  const held = asked.flatMap(({ verdict }) => (verdict.ok ? [verdict.value] : []))
  if (held.length < members.length) {
    for (const one of held) dealings.giveBack(one)
    return none(asked.flatMap(({ host, verdict }) => (verdict.ok ? [] : [{ host, because: verdict.because }])))
  }
  const awarded = await Promise.all(held.map(async one => ({ held: one, verdict: await dealings.award(one) })))
  const failed = awarded.flatMap(({ held: one, verdict }) => (verdict.ok ? [] : [{ host: one.bid.host, because: verdict.because }]))
  if (failed.length === 0) return { verdict: granted({ placed: awarded.flatMap(({ verdict }) => (verdict.ok ? [verdict.value] : [])) }), refusers: [] }
  for (const { held: one, verdict } of awarded) undo(dealings, one, verdict)
  return none(failed)
}

/** An award whose answer was lost may have been taken: its reservation is given back in any case. */
function undo(dealings: Dealings, held: Held, verdict: Verdict<Placed>): void {
  if (verdict.ok) dealings.takeBack(held, verdict.value, 'another stage could not be placed')
  else dealings.giveBack(held)
}

function none(refusers: readonly Refuser[]): { readonly verdict: Verdict<PlacedGroup>; readonly refusers: readonly Refuser[] } {
  return { verdict: refused(refusers.map(({ host, because }) => `${host.slice(-6)}: ${because}`).join('; '), true), refusers }
}
