import type { CapacityAd } from '../../../protocols/capacity.ts'
import { granted, refused, type Verdict } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { ModelManifest } from '../../../protocols/model.ts'
import type { Random } from '../../ports.ts'
import { planHosts, type Distance, type HostRefused } from './plan-hosts.ts'
import { coverLayers } from './replicas.ts'
import type { Promised } from './stage-needs.ts'

/** Which layers each host would offer if all of them served the model at once, in spans that overlap. */
export type ReplicaPlan = {
  readonly spans: readonly { readonly peer: PeerId; readonly first: number; readonly end: number; readonly tokensPerSecond: number }[]
  /** Tokens a second of all streams together, and what even spreading would give: no arrangement gives more. */
  readonly throughput: number
  readonly bound: number
  /** Layers that only one host would offer. */
  readonly single: readonly number[]
  readonly unused: readonly PeerId[]
  readonly refused: readonly HostRefused[]
}

/** Refused when the hosts together cannot offer every layer. */
export function planReplicas(manifest: ModelManifest, ads: readonly CapacityAd[], promised: Promised, around: { readonly origin: PeerId; readonly distance: Distance }, random: Random): Verdict<ReplicaPlan> {
  const { problem, refused: unfit } = planHosts(manifest, ads, promised, around.distance, around.origin)
  const found = coverLayers(problem, random)
  if (!(found.rate > 0)) return refused(`${problem.hosts.length} hosts cannot hold every layer of ${manifest.modelURI} between them: add hosts, or promise fewer sessions or a shorter context`, true)
  const offers = found.spans.map((span, host) => ({ span, peer: problem.hosts[host]!.peer, layerMs: problem.hosts[host]!.layerMs }))
  return granted({
    spans: offers.flatMap(({ span, peer, layerMs }) => (span === undefined ? [] : [{ peer, ...span, tokensPerSecond: 1_000 / layerMs.slice(span.first, span.end).reduce((sum, ms) => sum + ms, 0) }]))
      .sort((a, b) => a.first - b.first || a.end - b.end),
    throughput: found.rate * 1_000, bound: found.fluid * 1_000, single: found.single,
    unused: offers.flatMap(({ span, peer }) => (span === undefined ? [peer] : [])), refused: unfit,
  })
}
