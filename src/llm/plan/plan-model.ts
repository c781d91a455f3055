import type { CapacityAd } from '../../../protocols/capacity.ts'
import { granted, refused, type Verdict } from '../../../protocols/errors.ts'
import type { PeerId } from '../../../protocols/ids.ts'
import type { ModelManifest } from '../../../protocols/model.ts'
import type { Needs } from '../../../protocols/resources.ts'
import { leastBottleneck } from './bottleneck.ts'
import { leastBottleneckInOrder, leastLatencyInOrder } from './in-order.ts'
import { EXACT_HOSTS, leastLatency } from './latency.ts'
import { planHosts, type Distance, type HostRefused, type HostSpeed, type PlanHosts } from './plan-hosts.ts'
import { StageCosts, type Plan } from './problem.ts'
import { stageNeeds, type Promised } from './stage-needs.ts'

export type PlanWish = Promised & {
  readonly aim: 'latency' | 'throughput'
  readonly shards: number | 'auto'
  /** These hosts, in this order, and no others: somebody has decided. Only the cuts are left to plan. */
  readonly order?: readonly PeerId[] | undefined
}

export type StageChoice = {
  readonly peer: PeerId
  readonly first: number
  readonly end: number
  readonly needs: Needs
  /** One token, computed alone. */
  readonly ms: number
  /** On to the next stage, or back to the origin. */
  readonly hopMs: number
  readonly because: string
}

export type ModelPlan = {
  readonly stages: readonly StageChoice[]
  /** One token of one stream, and the slowest stage. */
  readonly latencyMs: number
  readonly bottleneckMs: number
  /** One stream alone; and all promised sessions together, unbatched. */
  readonly tokensPerSecond: number
  readonly throughput: number
  /** Was every chain looked at, or the best found by search? */
  readonly exact: boolean
  readonly refused: readonly HostRefused[]
}

const MIB = 1_048_576
/** Chains longer than this are not tried for throughput: sessions cannot fill them. */
const LONGEST = 32

/** Who shall compute which layers, and why. Refused with what is missing when the hosts cannot hold the model. */
export function planModel(manifest: ModelManifest, ads: readonly CapacityAd[], wish: PlanWish, around: { readonly origin: PeerId; readonly distance: Distance; readonly avoid?: ReadonlyMap<PeerId, string> }): Verdict<ModelPlan> {
  const hosts = planHosts(manifest, ads, wish, around.distance, around.origin, around.avoid)
  const { problem } = hosts
  const layers = manifest.layers.length
  if (wish.contextTokens > manifest.facts.contextTokens) return refused(`the model knows contexts of ${manifest.facts.contextTokens} tokens, not ${wish.contextTokens}`)
  if (wish.shards !== 'auto' && wish.shards > layers) return refused(`${wish.shards} stages are more than the model's ${layers} layers`)
  if (problem.hosts.length === 0) return refused(`no host can run a stage: ${reasons(hosts.refused)}`, true)
  if (wish.shards !== 'auto' && wish.shards > problem.hosts.length) return refused(`${wish.shards} stages need as many hosts; ${problem.hosts.length} can run one${hosts.refused.length === 0 ? '' : ` (${reasons(hosts.refused)})`}`, true)
  const absent = wish.order?.find(peer => !problem.hosts.some(host => host.peer === peer))
  if (absent !== undefined) return refused(`${absent.slice(-6)} was chosen and ${hosts.refused.find(({ peer }) => peer === absent)?.because ?? 'is not known'}`, true)
  const plan = wish.order !== undefined ? inOrder(hosts, wish.order, wish.aim) : wish.aim === 'latency' ? quickest(hosts, wish.shards) : fullest(hosts, wish)
  if (plan === undefined) return refused(missing(manifest, hosts, wish), true)
  return granted(described(manifest, hosts, plan, wish))
}

function quickest({ problem }: PlanHosts, shards: PlanWish['shards']): Plan | undefined {
  const stages = shards === 'auto' ? {} : { stages: shards }
  // Where layers differ so much that the mean misleads, the other solver still finds a chain that fits.
  return leastLatency(problem, stages) ?? leastBottleneck(problem, stages)
}

function inOrder({ problem }: PlanHosts, order: readonly PeerId[], aim: PlanWish['aim']): Plan | undefined {
  const costs = new StageCosts(problem)
  const hosts = order.map(peer => problem.hosts.findIndex(host => host.peer === peer))
  return aim === 'latency' ? leastLatencyInOrder(costs, hosts) : leastBottleneckInOrder(costs, hosts)
}

/** The number of stages with most tokens a second: a long chain is only as good as the sessions that fill it. */
function fullest({ problem }: PlanHosts, { shards, sessions }: PlanWish): Plan | undefined {
  if (shards !== 'auto') return leastBottleneck(problem, { stages: shards })
  let best: Plan | undefined
  for (let stages = 1; stages <= Math.min(problem.hosts.length, problem.layerBytes.length, sessions, LONGEST); stages += 1) {
    const plan = leastBottleneck(problem, { stages })
    if (plan !== undefined && (best === undefined || throughput(plan, sessions) > throughput(best, sessions) * 1.01)) best = plan
  }
  return best ?? leastBottleneck(problem)
}

/** Tokens a second of so many streams, each waiting for its own token before the next. */
function throughput({ bottleneckMs, latencyMs }: Plan, sessions: number): number {
  return 1_000 * Math.min(1 / bottleneckMs, sessions / latencyMs)
}

function described(manifest: ModelManifest, { problem, speeds, refused: unfit }: PlanHosts, plan: Plan, wish: PlanWish): ModelPlan {
  const stages = plan.stages.map(({ host, first, end, ms, bytes }, at): StageChoice => {
    const next = plan.stages[at + 1]
    const one = problem.hosts[host]!
    return {
      peer: one.peer, first, end, ms, hopMs: next === undefined ? one.legMs : problem.hop(host, next.host),
      needs: stageNeeds(manifest, first, end, wish),
      because: why(speeds[host]!, bytes, one.memoryBytes, first === 0, end === manifest.layers.length),
    }
  })
  return {
    stages, latencyMs: plan.latencyMs, bottleneckMs: plan.bottleneckMs, tokensPerSecond: 1_000 / plan.latencyMs, throughput: throughput(plan, wish.sessions),
    exact: problem.hosts.length <= EXACT_HOSTS, refused: unfit,
  }
}

function why({ gflops, memoryGBs, measured }: HostSpeed, bytes: number, room: number, first: boolean, last: boolean): string {
  const speed = measured ? `${memoryGBs} GB/s, ${gflops} GFLOP/s` : 'not measured yet, taken as slow'
  const carries = [...(first ? ['embedding'] : []), ...(last ? ['head'] : [])]
  return `${speed}; ${Math.ceil(bytes / MIB)} of ${Math.floor(room / MIB)} MiB${carries.length === 0 ? '' : `; has the ${carries.join(' and the ')}`}`
}

function missing(manifest: ModelManifest, { problem, refused: unfit }: PlanHosts, wish: PlanWish): string {
  const needed = problem.layerBytes.reduce((sum, one) => sum + one, problem.embeddingBytes + problem.headBytes + problem.stageBytes)
  const there = problem.hosts.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0)
  const stages = wish.shards === 'auto' ? '' : ` in ${wish.shards} stages`
  return `${manifest.modelURI} with KV for ${wish.sessions} sessions of ${wish.contextTokens} tokens takes ${Math.ceil(needed / MIB)} MiB and more for each stage; ${problem.hosts.length} hosts have ${Math.floor(there / MIB)} MiB free, and no cut of it fits them${stages}: add hosts, or promise fewer sessions or a shorter context${unfit.length === 0 ? '' : ` (${reasons(unfit)})`}`
}

function reasons(unfit: readonly HostRefused[]): string {
  return unfit.length === 0 ? 'none is known' : unfit.slice(0, 4).map(({ peer, because }) => `${peer.slice(-6)} ${because}`).join('; ')
}
