import { leastBottleneck } from '../../src/llm/plan/bottleneck.ts'
import { leastLatency } from '../../src/llm/plan/latency.ts'
import { bestResponse, coverLayers } from '../../src/llm/plan/replicas.ts'
import type { PlanProblem } from '../../src/llm/plan/problem.ts'
import { SeededRandom } from '../random.ts'
import { drawHosts, LAYERS, mean, problemOf, quantile, type Host } from './draws.ts'
import { greedyPipelines, memoryShares, pipelinesRate, programmedPipelines, waterFill } from './rivals.ts'

const HOP_MS = 20
const DP_STATES = 3_000_000

/** Prints one JSON line: how far from the optimum each way of dividing a model is, and how long ours takes. */
const figures: Record<string, number> = {}
const put = (name: string, value: number): void => {
  figures[name] = Math.round(value * 10_000) / 10_000
}
const count = Number(process.argv[2] ?? 10_000)
pipelines(count)
swarms(25)
times()
process.stdout.write(`${JSON.stringify({ pipelines: count, ...figures })}\n`)

/** B1, B2: pipelines of 2 to 6 hosts whose memory holds the model. */
function pipelines(wanted: number): void {
  const random = new SeededRandom('planning/pipelines')
  const bottleneck: Record<string, number[]> = { ours: [], parallax: [], exo: [] }
  const latency: Record<string, number[]> = { ours: [], parallax: [], exo: [] }
  let exoImpossible = 0
  for (let drawn = 0; drawn < wanted;) {
    const hosts = drawHosts(random, 2 + random.below(5))
    if (hosts.reduce((sum, { layers }) => sum + layers, 0) < LAYERS) continue
    drawn += 1
    const problem = problemOf(hosts, LAYERS, HOP_MS)
    const best = optimum(hosts)
    const shortest = shortestOf(hosts)
    const measure = (name: string, shares: readonly number[] | undefined): void => {
      if (shares === undefined) {
        exoImpossible += 1
        return
      }
      const used = shares.map((share, at) => share * hosts[at]!.layerMs).filter(ms => ms > 0)
      bottleneck[name]!.push(Math.max(...used) / best)
      latency[name]!.push((used.reduce((sum, ms) => sum + ms, 0) + (used.length + 1) * HOP_MS) / shortest)
    }
    measure('parallax', waterFill(hosts, LAYERS))
    measure('exo', memoryShares(hosts, LAYERS))
    bottleneck['ours']!.push((leastBottleneck(problem)?.bottleneckMs ?? Infinity) / best)
    latency['ours']!.push((leastLatency(problem)?.latencyMs ?? Infinity) / shortest)
  }
  for (const [what, ratios] of [['bottleneck', bottleneck], ['latency', latency]] as const) {
    for (const [name, values] of Object.entries(ratios)) {
      put(`${what}_${name}_mean`, mean(values))
      put(`${what}_${name}_p95`, quantile(values, 0.95))
      put(`${what}_${name}_max`, Math.max(...values))
    }
  }
  put('exo_overflows', exoImpossible / wanted)
}

/** The least bottleneck by its own formula: the smallest k·t at which there is room for all layers. */
function optimum(hosts: readonly Host[]): number {
  const times = hosts.flatMap(({ layers, layerMs }) => Array.from({ length: Math.min(layers, LAYERS) }, (_, at) => (at + 1) * layerMs)).sort((a, b) => a - b)
  let low = 0
  let high = times.length - 1
  const room = (most: number): number => hosts.reduce((sum, { layers, layerMs }) => sum + Math.min(layers, Math.floor(most / layerMs * (1 + 1e-12))), 0)
  while (low < high) {
    const middle = (low + high) >> 1
    if (room(times[middle]!) >= LAYERS) high = middle
    else low = middle + 1
  }
  return times[low]!
}

/** The least latency by looking at every set: with equal hops the order does not matter. */
function shortestOf(hosts: readonly Host[]): number {
  let best = Infinity
  const fastest = hosts.map((_, at) => at).sort((a, b) => hosts[a]!.layerMs - hosts[b]!.layerMs)
  for (let set = 1; set < 1 << hosts.length; set += 1) {
    const members = fastest.filter(at => (set & (1 << at)) !== 0)
    let rest = LAYERS - members.length
    let ms = (members.length + 1) * HOP_MS
    for (const at of members) {
      const more = Math.min(rest, hosts[at]!.layers - 1)
      ms += (1 + more) * hosts[at]!.layerMs
      rest -= more
    }
    if (rest === 0) best = Math.min(best, ms)
  }
  return best
}

/** B3: swarms of 8 to 14 hosts, and one of 1,000. */
function swarms(draws: number): void {
  const random = new SeededRandom('planning/swarms')
  const ratios: Record<string, number[]> = { ours: [], greedy: [], dp: [] }
  const unused: number[] = []
  let abandoned = 0
  for (let draw = 0; draw < draws;) {
    const hosts = drawHosts(random, 8 + random.below(7))
    if (hosts.reduce((sum, { layers }) => sum + layers, 0) < LAYERS) continue
    draw += 1
    const found = coverLayers(problemOf(hosts, LAYERS, HOP_MS), random.fork('cover'))
    ratios['ours']!.push(found.rate / found.fluid)
    unused.push(found.spans.filter(span => span === undefined).length / hosts.length)
    ratios['greedy']!.push(pipelinesRate(hosts, LAYERS, greedyPipelines(hosts, LAYERS)) / found.fluid)
    const programmed = programmedPipelines(hosts, LAYERS, DP_STATES)
    if (programmed === undefined) abandoned += 1
    else ratios['dp']!.push(pipelinesRate(hosts, LAYERS, programmed) / found.fluid)
  }
  put('swarm_ours_mean', mean(ratios['ours']!))
  put('swarm_ours_min', Math.min(...ratios['ours']!))
  put('swarm_unused', mean(unused))
  put('swarm_parallax_greedy_mean', mean(ratios['greedy']!))
  put('swarm_parallax_dp_mean', mean(ratios['dp']!))
  put('swarm_parallax_dp_given_up', abandoned)
  const many = problemOf(drawHosts(random, 1_000), LAYERS, HOP_MS)
  const found = coverLayers(many, random.fork('many'))
  put('swarm_1000', found.rate / found.fluid)
}

/** B4: processor time of one answer, the median of five. */
function times(): void {
  const random = new SeededRandom('planning/times')
  const cpu = (run: () => void): number => {
    run()
    return quantile(Array.from({ length: 5 }, () => {
      const began = process.cpuUsage()
      run()
      const { user, system } = process.cpuUsage(began)
      return (user + system) / 1_000
    }), 0.5)
  }
  for (const size of [6, 12, 24, 100, 1_000]) {
    const problem = problemOf(drawHosts(random, size), LAYERS, HOP_MS)
    put(`latency_${size}_cpu_ms`, cpu(() => leastLatency(problem)))
    put(`bottleneck_${size}_cpu_ms`, cpu(() => leastBottleneck(problem)))
    put(`swarm_${size}_cpu_ms`, cpu(() => coverLayers(problem, random.fork(`cover ${size}`))))
  }
  const many = problemOf(drawHosts(random, 1_000), LAYERS, HOP_MS)
  const { spans, rates, fluid } = coverLayers(many, random.fork('spans'))
  put('response_1000_cpu_ms', cpu(() => bestResponse(aloneOf(many, 17), rates, spans[17], fluid)))
}

function aloneOf(problem: PlanProblem, host: number): PlanProblem {
  return { ...problem, hosts: [problem.hosts[host]!] }
}
