import { distances } from '../../../protocols/capacity.ts'
import { MeshError } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { Ports } from '../../ports.ts'
import type { Distance } from '../plan/plan-hosts.ts'

const ASKED = 32
const NAMED = 64

/** Answers how far other peers are from this one, and gathers the same from those between whom work is to be divided. */
export class Distances {
  readonly #ports: Pick<Ports, 'network'>

  constructor(ports: Pick<Ports, 'network'>) {
    this.#ports = ports
  }

  start(): void {
    const { network } = this.#ports
    network.handle(distances, async ({ of }) => ({ rttMs: of.map(peer => network.rtt(peer) ?? null) }))
  }

  /** One-way distances between these peers, as far as they or we have measured them. A peer that does not answer leaves a gap. */
  async between(peers: readonly PeerId[]): Promise<Distance> {
    const { network } = this.#ports
    const known = new Map<PeerId, ReadonlyMap<PeerId, number>>()
    const of = peers.slice(0, NAMED)
    const own = new Map(of.flatMap(peer => {
      const rtt = network.rtt(peer)
      return rtt === undefined ? [] : [[peer, rtt] as const]
    }))
    known.set(network.self, own)
    await Promise.all(of.filter(peer => peer !== network.self).slice(0, ASKED).map(async peer => {
      try {
        const { rttMs } = await network.request(peer, distances, { of: [...of] })
        known.set(peer, new Map(of.flatMap((other, at) => {
          const rtt = rttMs[at]
          return rtt === undefined || rtt === null ? [] : [[other, rtt] as const]
        })))
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
      }
    }))
    return (from, to) => {
      const rtt = known.get(from)?.get(to) ?? known.get(to)?.get(from)
      return rtt === undefined ? undefined : rtt / 2
    }
  }
}
