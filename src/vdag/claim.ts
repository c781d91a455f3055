import { asMeshError, MeshError } from '../../protocols/errors.ts'
import type { PeerId, RunId } from '../../protocols/ids.ts'
import { runClaim } from '../../protocols/runs.ts'
import { foremost } from '../lib/rendezvous.ts'
import { vote } from '../lib/vote.ts'
import type { Ports } from '../ports.ts'
import type { MeshView } from '../roles.ts'
import { seal } from '../trust/seal.ts'
import type { ClaimAnswer, Registrar } from './registrar.ts'

/** How many peers vouch for a run. */
export const REGISTRARS = 3
/** How many of them, other than the coordinator, keep its events. */
export const MIRRORS = 2

export type Copy = { readonly peer: PeerId; readonly events: number; readonly lastEpoch: number }
export type ClaimResult =
  | { readonly won: true; readonly copies: readonly Copy[] }
  /** `coordinator` holds it, as far as a registrar knows; `epoch` is the highest that was heard of. */
  | { readonly won: false; readonly coordinator: PeerId | undefined; readonly epoch: number; readonly finished: boolean }

/** The peers that vouch for a run: the same for all who believe in the same members. */
export function registrarsOf(run: RunId, live: readonly PeerId[]): readonly PeerId[] {
  return foremost(run, live, REGISTRARS)
}

/** The peers that keep copies of what `coordinator` journals. */
export function mirrorsOf(run: RunId, live: readonly PeerId[], coordinator: PeerId): readonly PeerId[] {
  return foremost(run, live.filter(peer => peer !== coordinator), MIRRORS)
}

/** Asks the registrars of a run for it. */
export class Claims {
  readonly #ports: Pick<Ports, 'clock' | 'identity' | 'network'>
  readonly #view: Pick<MeshView, 'self' | 'live'>
  readonly #registrar: Registrar

  constructor(ports: Pick<Ports, 'clock' | 'identity' | 'network'>, view: Pick<MeshView, 'self' | 'live'>, registrar: Registrar) {
    this.#ports = ports
    this.#view = view
    this.#registrar = registrar
  }

  /**
   * One round: won where the registrars agree by a majority of those that can be reached. `also` are peers known to hold
   * copies, who have a say as well.
   */
  async claim(run: RunId, epoch: number, also: readonly PeerId[]): Promise<ClaimResult> {
    const registrars = registrarsOf(run, this.#view.live())
    const asked = [...registrars, ...also.filter(peer => !registrars.includes(peer))]
    const answers = [...await vote(asked, peer => this.#ask(peer, run, epoch), ({ answer }) => answer.granted)]
    const refusals = answers.filter(({ answer }) => !answer.granted)
    const higher = refusals.find(({ answer }) => answer.finished || answer.epoch > epoch) ?? (refusals.length * 2 >= answers.length ? refusals[0] : undefined)
    if (answers.length > 0 && higher === undefined) {
      // What this peer knows itself is not durable until it, too, has promised.
      if (!answers.some(({ peer }) => peer === this.#view.self)) {
        const own = await this.#registrar.grant(run, this.#view.self, epoch, mirrorsOf(run, this.#view.live(), this.#view.self))
        if (!own.granted) return { won: false, coordinator: own.coordinator, epoch: own.epoch, finished: own.finished }
        answers.push({ peer: this.#view.self, answer: own })
      }
      return { won: true, copies: answers.map(({ peer, answer }) => ({ peer, events: answer.events, lastEpoch: answer.lastEpoch ?? 0 })) }
    }
    return { won: false, coordinator: higher?.answer.coordinator, epoch: Math.max(0, ...answers.map(({ answer }) => answer.epoch)), finished: answers.some(({ answer }) => answer.finished) }
  }

  async #ask(peer: PeerId, run: RunId, epoch: number): Promise<readonly { readonly peer: PeerId; readonly answer: ClaimAnswer }[]> {
    const { self } = this.#view
    try {
      if (peer === self) return [{ peer, answer: await this.#registrar.grant(run, self, epoch, mirrorsOf(run, this.#view.live(), self)) }]
      const claim = seal(this.#ports.identity, 'run-claim', { run, coordinator: self, epoch, issuedAt: this.#ports.clock.unix() })
      const answer = await this.#ports.network.request(peer, runClaim, claim)
      return [{ peer, answer: { ...answer, lastEpoch: answer.lastEpoch ?? 0 } }]
    } catch (error) {
      const failure = asMeshError(error)
      if (failure.code === 'INTERNAL') throw failure
      // A registrar that is full says so; one that cannot be reached has no say.
      if (peer === self) throw new MeshError(failure.code, failure.message, { cause: failure })
      return []
    }
  }
}
