import type { StagePlan } from '../../protocols/generation.ts'
import type { InstanceId, PeerId } from '../../protocols/ids.ts'
import type { ServedModel } from '../../protocols/model.ts'
import type { Place, Seating } from './seating.ts'

/** The session as its stages need to know it. */
export type Chained = {
  readonly session: string
  readonly served: ServedModel
  readonly reserve: number
  readonly prefix: readonly string[]
  readonly prompt: readonly number[]
  readonly trace?: string
  /** Tells this peer's epochs from those of others. */
  readonly mark: number
  /** Positions whose tokens are known now. */
  readonly known: () => number
}

/** One stage of a session's chain: who serves it, and who stands by. */
export type ChainLink = {
  readonly block: string
  readonly first: number
  readonly end: number
  primary: Place | undefined
  standby: Place | undefined
  /** The primary knows its standby. */
  guarded: boolean
  /** What the standby is known to hold, once it hurries. */
  caught: number | undefined
}

/** The stages of a served model, seated as an earlier plan says. */
export function linksOf(served: ServedModel, plan: readonly StagePlan[], seating: Seating): ChainLink[] {
  return served.stages.map(({ block, first, end }) => {
    const known = plan.find(stage => stage.block === block)
    // Contracts only gain epochs, and hosts take any since the instance began.
    const place = (at: { readonly host: PeerId; readonly instance: InstanceId } | undefined): Place | undefined => (at === undefined ? undefined : { host: at.host, instance: at.instance, contractEpoch: seating.epochOf(block, at.instance) })
    return { block, first, end, primary: place(known), standby: place(known?.standby), guarded: false, caught: undefined }
  })
}

export function planOf(links: readonly ChainLink[]): readonly StagePlan[] {
  return links.flatMap(({ block, first, end, primary, standby }) => (primary === undefined ? [] : [{
    block, first, end, host: primary.host, instance: primary.instance, ...(standby === undefined ? {} : { standby: { host: standby.host, instance: standby.instance } }),
  }]))
}
