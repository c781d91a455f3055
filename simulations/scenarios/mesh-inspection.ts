import type { BlockId } from '../../protocols/ids.ts'
import type { Peer } from '../../src/peer.ts'
import { termsOf } from '../../src/placement/terms.ts'
import type { Inspection } from '../checkers.ts'
import type { SimulatedHost } from '../host.ts'
import type { Evidence } from './evidence.ts'

const WRITES_UNDER_WAY = 4_096
const QUEUED = 100
const IN_FLIGHT = 4

/** One look at a whole peer. Each part is read when a checker asks for it: there are very many looks, and most checkers want little of most peers. */
export class MeshInspection implements Inspection {
  readonly #peer: Peer
  readonly #host: SimulatedHost
  readonly #least: number
  readonly #evidence: Evidence
  #runs: Inspection['runs'] | undefined

  constructor(peer: Peer, host: SimulatedHost, least: number, evidence: Evidence) {
    this.#peer = peer
    this.#host = host
    this.#least = least
    this.#evidence = evidence
  }

  /** Not what the peer believes to have. */
  get total(): Inspection['total'] {
    return this.#host.total
  }

  get promised(): Inspection['promised'] {
    return this.#peer.placement.promised()
  }

  get epochs(): Inspection['epochs'] {
    return this.#peer.placement.epochs()
  }

  get fenced(): Inspection['fenced'] {
    return this.#evidence.fences(this.#host)
  }

  get contracts(): Inspection['contracts'] {
    return this.#peer.placement.contracts().map(({ contract: { id, block, instance, epoch, steward } }) => ({ id, block, instance, epoch, steward }))
  }

  get runs(): Inspection['runs'] {
    this.#runs ??= this.#peer.runs.inspect()
    return this.#runs
  }

  get live(): Inspection['live'] {
    return this.#peer.view.live()
  }

  get queues(): Inspection['queues'] {
    return [
      { name: 'the disk', size: this.#host.disk.backlog, limit: WRITES_UNDER_WAY },
      ...this.#peer.instances.running().flatMap(({ instance, queued, inFlight }) => [{ name: `the queue of ${instance}`, size: queued, limit: QUEUED }, { name: `the calls of ${instance}`, size: inFlight, limit: IN_FLIGHT }]),
    ]
  }

  get stewarded(): Inspection['stewarded'] {
    return this.#peer.placement.stewarded().map(({ block }) => this.#stewarded(block))
  }

  get acknowledged(): Inspection['acknowledged'] {
    return this.runs.filter(({ state }) => state !== 'running').map(({ run }) => run)
  }

  #stewarded(block: BlockId): Inspection['stewarded'][number] {
    const { view, placement } = this.#peer
    const record = placement.tended(block)?.record
    const ready = view.instancesOf(block).filter(({ ad }) => ad.state === 'ready')
    return { block, ready: ready.length, least: this.#least, outdated: record === undefined ? 0 : ready.filter(({ ad }) => ad.terms !== undefined && ad.terms !== termsOf(record)).length }
  }
}
