import type { CapacityAd } from '../../../protocols/capacity.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { ModelCost, ModelManifest } from '../../../protocols/model.ts'
import { carries } from '../../placement/rank.ts'
import type { PlanHost, PlanProblem } from './problem.ts'
import { endBytes, layerBytes, stageBytes, STAGE_CPU_MILLI, widening, type Promised } from './stage-needs.ts'

const MIB = 1_048_576
/** A hop costs this much beside the distance: framing, waking the other end. */
export const HOP_MS = 0.3
/** Two hosts of whose distance nobody has told. */
const FAR_MS = 25
/** Where nobody has measured anything yet. */
const UNMEASURED = { gflops: 5, memoryGBs: 5 } as const

/** Measured one-way distance of two peers in milliseconds, where either of them has told. */
export type Distance = (from: PeerId, to: PeerId) => number | undefined

export type HostSpeed = { readonly gflops: number; readonly memoryGBs: number; readonly measured: boolean }
export type HostRefused = { readonly peer: PeerId; readonly because: string }
export type PlanHosts = { readonly problem: PlanProblem; readonly speeds: readonly HostSpeed[]; readonly refused: readonly HostRefused[] }

/**
 * The hosts that could run a stage, as their ads describe them. Times by the roofline (Williams et al. 2009): what a
 * token takes is the greater of computing (measured GFLOP/s) and reading (measured GB/s) — in decoding nearly always reading:
 * every weight, and the KV of half a promised context.
 */
export function planHosts(manifest: ModelManifest, ads: readonly CapacityAd[], promised: Promised, distance: Distance, origin: PeerId, avoid: ReadonlyMap<PeerId, string> = new Map()): PlanHosts {
  const refused: HostRefused[] = []
  const speeds: HostSpeed[] = []
  const hosts: PlanHost[] = []
  const slowest = slowestOf(ads)
  const widened = widening(manifest)
  for (const ad of ads) {
    const because = avoid.get(ad.peer) ?? unfit(ad, promised.labels ?? {})
    if (because !== undefined) {
      refused.push({ peer: ad.peer, because })
      continue
    }
    const speed = speedOf(ad, slowest)
    const ms = ({ flops, readBytes }: ModelCost, kvBytes = 0): number => Math.max(flops / speed.gflops / 1e6, (readBytes * widened + kvBytes * promised.contextTokens / 2) / speed.memoryGBs / 1e6)
    hosts.push({
      peer: ad.peer,
      memoryBytes: ad.free.memoryMb * MIB,
      layerMs: manifest.layers.map(layer => ms(layer, layer.kvBytes)),
      embeddingMs: ms(manifest.embedding),
      headMs: ms(manifest.head),
      legMs: ad.peer === origin ? 0 : (distance(origin, ad.peer) ?? FAR_MS) + HOP_MS,
    })
    speeds.push(speed)
  }
  const ends = endBytes(manifest)
  const hops = hosts.map(from => hosts.map(to => (from === to ? 0 : (distance(from.peer, to.peer) ?? distance(to.peer, from.peer) ?? estimated(from, to)) + HOP_MS)))
  return {
    problem: {
      hosts, layerBytes: manifest.layers.map((_, at) => layerBytes(manifest, at, promised)), embeddingBytes: ends.embedding, headBytes: ends.head, stageBytes,
      hop: (from, to) => hops[from]?.[to] ?? FAR_MS,
    },
    speeds, refused,
  }
}

function unfit(ad: CapacityAd, wanted: Readonly<Record<string, string>>): string | undefined {
  const labelled = carries(ad.labels, wanted)
  if (!labelled.ok) return labelled.because
  if (!ad.runtimes.some(({ name }) => name === 'llm')) return 'has no llm runtime'
  if (ad.free.cpuMilli < STAGE_CPU_MILLI) return `has ${ad.free.cpuMilli / 1_000} cores free, a stage takes ${STAGE_CPU_MILLI / 1_000}`
  return undefined
}

/** A host that has not measured itself yet counts as slower than any that has, so that measured ones come first. */
function speedOf(ad: CapacityAd, slowest: Omit<HostSpeed, 'measured'>): HostSpeed {
  const gflops = ad.runtimes.find(({ name }) => name === 'llm')?.gflops ?? 0
  const measured = gflops > 0 && ad.memoryGBs > 0
  return { gflops: gflops > 0 ? gflops : slowest.gflops, memoryGBs: ad.memoryGBs > 0 ? ad.memoryGBs : slowest.memoryGBs, measured }
}

function slowestOf(ads: readonly CapacityAd[]): Omit<HostSpeed, 'measured'> {
  const least = (values: readonly number[], otherwise: number): number => {
    const measured = values.filter(value => value > 0)
    return measured.length === 0 ? otherwise : Math.min(...measured) * 0.9
  }
  return {
    gflops: least(ads.flatMap(({ runtimes }) => runtimes.filter(({ name }) => name === 'llm').map(({ gflops }) => gflops)), UNMEASURED.gflops),
    memoryGBs: least(ads.map(({ memoryGBs }) => memoryGBs), UNMEASURED.memoryGBs),
  }
}

/** Of two hosts that nobody measured one can only say that they are no further apart than over the origin. */
function estimated(from: PlanHost, to: PlanHost): number {
  return Math.min(FAR_MS, from.legMs + to.legMs)
}
