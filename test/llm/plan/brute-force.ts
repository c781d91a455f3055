import type { Plan, PlanProblem } from '../../../src/llm/plan/problem.ts'
import { StageCosts } from '../../../src/llm/plan/problem.ts'

/** Every set, every order and every way to cut: the least of `measure`. For a handful of hosts and layers. */
export function bruteForce(problem: PlanProblem, measure: (plan: Plan) => number, stages?: number): Plan | undefined {
  const costs = new StageCosts(problem)
  let best: Plan | undefined
  const extend = (ranges: readonly { readonly host: number; readonly first: number; readonly end: number }[]): void => {
    const at = ranges.at(-1)?.end ?? 0
    if (at === costs.layers) {
      if (stages !== undefined && ranges.length !== stages) return
      const plan = costs.plan(ranges)
      if (best === undefined || measure(plan) < measure(best)) best = plan
      return
    }
    for (let host = 0; host < problem.hosts.length; host += 1) {
      if (ranges.some(range => range.host === host)) continue
      for (let end = at + 1; end <= costs.layers; end += 1) if (costs.may(host, at, end, Infinity)) extend([...ranges, { host, first: at, end }])
    }
  }
  extend([])
  return best
}
