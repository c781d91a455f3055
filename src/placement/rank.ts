import type { CapacityAd } from '../../protocols/capacity.ts'
import { granted, refused, type Verdict } from '../../protocols/errors.ts'
import type { Millis, PeerId } from '../../protocols/ids.ts'
import type { BlockRecord } from '../../protocols/specs.ts'
import { externalServer } from '../blocks/external-server.ts'
import type { Random } from '../ports.ts'
import { fits } from './ledger.ts'

export type Offer = Pick<CapacityAd, 'labels' | 'runtimes' | 'free'>
export type Rank = { readonly peer: PeerId; readonly score: number; readonly because: string }
export type Refused = { readonly peer: PeerId; readonly because: string }

/** The label of a host that bids for nothing and whose instances are to move. */
export const DRAINING = 'aios.draining'

/** Has a host the labels that are wanted? A wanted value may name several, by commas; so may a host's own, and then each must do: data of one country does not go where it may end in two. */
export function carries(labels: CapacityAd['labels'], wanted: BlockRecord['labels']): Verdict<true> {
  for (const [label, value] of Object.entries(wanted)) {
    const has = labels[label]
    if (has === undefined) return refused(`has no label ${label}; the block wants ${label}=${value}`)
    const allowed = value.split(',').map(one => one.trim())
    if (!has.split(',').every(one => allowed.includes(one.trim()))) return refused(`is labelled ${label}=${has}; the block wants ${value}`)
  }
  return granted(true)
}

/** Could a host with these labels, runtimes and free resources run an instance of the block? Labels before size: data must not leave its region, however full the hosts there are. */
export function suits(block: BlockRecord, offer: Offer): Verdict<true> {
  return drains(offer) ? refused('was taken out of its cluster, and drains', true) : couldRun(block, offer)
}

/** As `suits`, but for a host that drains: it still runs what would run nowhere else. */
export function couldRun(block: BlockRecord, offer: Offer): Verdict<true> {
  const labelled = carries(offer.labels, block.labels)
  if (!labelled.ok) return labelled
  if (!offer.runtimes.some(({ name }) => name === block.runtime.name)) {
    const names = offer.runtimes.map(({ name }) => name).join(', ')
    return refused(`has no ${block.runtime.name} runtime (it has ${names || 'none'})`)
  }
  const reachable = block.runtime.name === 'external' ? mayCall(block, offer) : granted(true)
  if (!reachable.ok) return reachable
  const room = fits(block.needs, offer.free)
  return room.ok ? granted(true) : room
}

function drains({ labels }: Pick<Offer, 'labels'>): boolean {
  return labels[DRAINING] !== undefined
}

/** A host calls only the outside servers that its operator allows, and says which. */
function mayCall(block: BlockRecord, { runtimes }: Offer): Verdict<true> {
  const server = externalServer(block)
  if (!server.ok) return server
  const allowed = runtimes.find(({ name }) => name === 'external')?.providers ?? []
  return allowed.includes('*') || allowed.includes(server.value.origin) ? granted(true) : refused(`may not call ${server.value.origin} (its operator allows ${allowed.join(', ') || 'no server'})`)
}

export type Circumstances = {
  /** Instances of this block that each host runs or is about to. */
  readonly hosting: ReadonlyMap<PeerId, number>
  readonly rtt: (peer: PeerId) => Millis | undefined
  /** An instance that died is replaced: where no other host could, one that drains does. */
  readonly lastResort?: boolean
}

/** 0..1: free share, a bundle already there, little load, near. Halved by each instance of the block the host runs already. */
export function score(block: BlockRecord, ad: CapacityAd, { hosting, rtt }: Circumstances): Rank {
  const cpu = share(ad.free.cpuMilli - block.needs.cpuMilli, ad.total.cpuMilli)
  const memory = share(ad.free.memoryMb - block.needs.memoryMb, ad.total.memoryMb)
  const warm = ad.holds.includes(block.component)
  const idle = 1 - Math.min(1, ad.cpuLoad)
  const near = 1 / (1 + (rtt(ad.peer) ?? 50) / 50)
  const already = hosting.get(ad.peer) ?? 0
  const raw = 0.3 * cpu + 0.25 * memory + 0.2 * (warm ? 1 : 0) + 0.15 * idle + 0.1 * near
  const because = `${percent(cpu)} CPU and ${percent(memory)} memory left after it${warm ? ', bundle already there' : ''}${already === 0 ? '' : `, runs ${already} of the block already`}`
  return { peer: ad.peer, score: raw / 2 ** Math.min(already, 16), because }
}

/** Hosts that could, best first, and why the others could not. */
export function rank(block: BlockRecord, ads: readonly CapacityAd[], around: Circumstances): { readonly ranked: readonly Rank[]; readonly refused: readonly Refused[] } {
  const ranked: Rank[] = []
  const refusals: Refused[] = []
  for (const ad of ads) {
    const verdict = suits(block, ad)
    if (verdict.ok) ranked.push(score(block, ad, around))
    else refusals.push({ peer: ad.peer, because: verdict.because })
  }
  if (ranked.length === 0 && around.lastResort === true) return drained(block, ads, around, refusals)
  return { ranked: ranked.sort(byScore), refused: refusals }
}

function drained(block: BlockRecord, ads: readonly CapacityAd[], around: Circumstances, refusals: readonly Refused[]): ReturnType<typeof rank> {
  const ranked = ads.filter(ad => drains(ad) && couldRun(block, ad).ok).map(ad => score(block, ad, around)).map(rank => ({ ...rank, because: `drains, but nobody else could; ${rank.because}` })).sort(byScore)
  return { ranked, refused: refusals.filter(({ peer }) => !ranked.some(rank => rank.peer === peer)) }
}

export function byScore(a: Rank, b: Rank): number {
  return b.score - a.score || (a.peer < b.peer ? -1 : 1)
}

/** How many hosts are asked in a mesh of `hosts`: enough choices that one more hardly helps, however many there are. */
export function choices(hosts: number): number {
  return Math.max(8, Math.ceil(2 * Math.log2(Math.max(2, hosts))))
}

/**
 * The hosts to ask: all of a few; of many, the best of a random sample twice as large (power of d choices, Mitzenmacher
 * 2001), so that stewards who see the same ads do not all run to the same host.
 */
export function sample(ranked: readonly Rank[], d: number, random: Pick<Random, 'below'>): readonly Rank[] {
  if (ranked.length <= d) return ranked
  const pool = [...ranked]
  const drawn: Rank[] = []
  while (drawn.length < d * 2 && pool.length > 0) {
    const at = random.below(pool.length)
    const last = pool.pop()!
    drawn.push(pool[at] ?? last)
    if (at < pool.length) pool[at] = last
  }
  return drawn.sort(byScore).slice(0, d)
}

function share(part: number, whole: number): number {
  return whole <= 0 ? 0 : Math.max(0, Math.min(1, part / whole))
}

function percent(value: number): string {
  return `${Math.round(value * 100)}%`
}
