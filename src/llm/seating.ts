import type { BlockId, InstanceId, Millis, PeerId } from '../../protocols/ids.ts'
import { pickInstance, type Candidate } from '../blocks/balance.ts'
import { Lru } from '../lib/lru.ts'
import type { Clock, Random } from '../ports.ts'
import type { MeshView } from '../roles.ts'

/** An instance that may hold a stage of a session. */
export type Place = { readonly host: PeerId; readonly instance: InstanceId; readonly contractEpoch: number }

/** How long an instance that failed is left alone. */
const SHUNNED_MS: Millis = 5_000
const STICKY_BOUND = 10_000
const SHUNNED_BOUND = 4_096

/** Says which instance a session gets at each stage: the least loaded of two, the one that knows its prefix, none that just failed. */
export class Seating {
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #random: Random
  readonly #view: MeshView
  readonly #ours = new Map<InstanceId, number>()
  readonly #sticky = new Lru<string, InstanceId>(STICKY_BOUND)
  readonly #shunned = new Lru<InstanceId | PeerId, Millis>(SHUNNED_BOUND)

  constructor(clock: Pick<Clock, 'monotonic'>, random: Random, view: MeshView) {
    this.#clock = clock
    this.#random = random
    this.#view = view
  }

  /** `prefix`: names what an earlier session of ours may have left at an instance. */
  pick(block: BlockId, not: { readonly instances: ReadonlySet<InstanceId>; readonly hosts: ReadonlySet<PeerId> }, prefix: string | undefined): Place | undefined {
    const ready = this.#view.instancesOf(block).filter(({ host, ad }) => ad.state === 'ready' && !not.instances.has(ad.instance) && !not.hosts.has(host) && !this.shunned({ host, instance: ad.instance }) && this.#view.state(host) === 'alive')
    const candidates: readonly Candidate[] = ready.map(({ host, ad }) => ({ host, ad, ours: this.#ours.get(ad.instance) ?? 0 }))
    const known = prefix === undefined ? undefined : this.#sticky.get(`${block}\0${prefix}`)
    const warm = candidates.find(({ ad }) => ad.instance === known)
    const least = Math.min(...candidates.map(loadOf))
    // A warm cache is worth some waiting, not a queue.
    if (warm !== undefined && loadOf(warm) <= 2 * least + 4) return placeOf(warm)
    const picked = pickInstance(candidates, [this.#random.float(), this.#random.float()])
    return picked.ok ? placeOf(picked.value) : undefined
  }

  /** Of an instance's contract, as advertised; 0 where it is not. */
  epochOf(block: BlockId, instance: InstanceId): number {
    return this.#view.instancesOf(block).find(({ ad }) => ad.instance === instance)?.ad.epoch ?? 0
  }

  /** May a session go on at this instance? `draining` counts as no: it is to move. */
  state(block: BlockId, { host, instance }: Place): 'ready' | 'draining' | 'gone' {
    const life = this.#view.state(host)
    if (life === 'dead' || life === 'left') return 'gone'
    const ad = this.#view.instancesOf(block).find(each => each.ad.instance === instance)?.ad
    if (ad === undefined || ad.state === 'failed') return 'gone'
    return ad.state === 'draining' ? 'draining' : 'ready'
  }

  /** An instance that failed, or a whole host that cannot be reached. */
  shun(what: InstanceId | PeerId): void {
    this.#shunned.set(what, this.#clock.monotonic() + SHUNNED_MS)
  }

  shunned({ host, instance }: Pick<Place, 'host' | 'instance'>): boolean {
    return this.#clock.monotonic() < Math.max(this.#shunned.peek(instance) ?? 0, this.#shunned.peek(host) ?? 0)
  }

  taken(block: BlockId, { instance }: Place, prefix: string | undefined): void {
    this.#ours.set(instance, (this.#ours.get(instance) ?? 0) + 1)
    if (prefix !== undefined) this.#sticky.set(`${block}\0${prefix}`, instance)
  }

  left({ instance }: Place): void {
    const count = (this.#ours.get(instance) ?? 1) - 1
    if (count <= 0) this.#ours.delete(instance)
    else this.#ours.set(instance, count)
  }
}

function placeOf({ host, ad: { instance, epoch } }: Candidate): Place {
  return { host, instance, contractEpoch: epoch }
}

function loadOf({ ad, ours }: Candidate): number {
  return Math.max(ad.inFlight + ad.queued, ours)
}
