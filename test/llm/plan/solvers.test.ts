import assert from 'node:assert/strict'
import fc from 'fast-check'
import { leastBottleneck } from '../../../src/llm/plan/bottleneck.ts'
import { searchChains } from '../../../src/llm/plan/chain-search.ts'
import { leastLatency } from '../../../src/llm/plan/latency.ts'
import { StageCosts, type Plan, type PlanProblem } from '../../../src/llm/plan/problem.ts'
import { bruteForce } from './brute-force.ts'

/** Small problems: memory that may be short, an embedding and a head that weigh as much as layers, hops that need not be symmetric. */
function problems({ alike, hosts = 4, layers = 6 }: { readonly alike: boolean; readonly hosts?: number; readonly layers?: number }): fc.Arbitrary<PlanProblem> {
  const cost = fc.integer({ min: 1, max: 40 }).map(value => value / 4)
  return fc.record({ layers: fc.integer({ min: 1, max: layers }), hosts: fc.integer({ min: 1, max: hosts }) }).chain(size => fc.record({
    weights: alike ? cost.map(value => Array.from({ length: size.layers }, () => value)) : fc.array(cost, { minLength: size.layers, maxLength: size.layers }),
    embedding: fc.integer({ min: 0, max: 12 }), head: fc.integer({ min: 0, max: 12 }), stage: fc.integer({ min: 0, max: 3 }),
    hosts: fc.array(fc.record({ slow: cost, memory: fc.integer({ min: 5, max: 120 }), leg: fc.integer({ min: 0, max: 20 }) }), { minLength: size.hosts, maxLength: size.hosts }),
    hops: fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 16, maxLength: 16 }),
  })).map(({ weights, embedding, head, stage, hosts, hops }) => ({
    hosts: hosts.map(({ slow, memory, leg }, at) => ({ peer: `host-${at}`, memoryBytes: memory, layerMs: weights.map(weight => weight * slow), embeddingMs: embedding * slow / 10, headMs: head * slow, legMs: leg })),
    layerBytes: weights, embeddingBytes: embedding, headBytes: head, stageBytes: stage, hop: (from: number, to: number) => hops[(from * 4 + to) % 16] ?? 0,
  }))
}

function valid(problem: PlanProblem, plan: Plan): void {
  const costs = new StageCosts(problem)
  let at = 0
  for (const { host, first, end } of plan.stages) {
    assert.equal(first, at)
    assert(end > first && costs.may(host, first, end, Infinity), `stage ${first}..${end} does not fit host ${host}`)
    at = end
  }
  assert.equal(at, costs.layers)
  assert.equal(new Set(plan.stages.map(({ host }) => host)).size, plan.stages.length)
}

const close = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-6 * Math.max(1, b)

describe('the solvers of a chain of stages', () => {
  it('find the least bottleneck there is, whatever the layers cost', () => {
    fc.assert(fc.property(problems({ alike: false }), problem => {
      const found = leastBottleneck(problem)
      const best = bruteForce(problem, ({ bottleneckMs }) => bottleneckMs)
      assert.equal(found === undefined, best === undefined)
      if (found === undefined || best === undefined) return
      valid(problem, found)
      assert(close(found.bottleneckMs, best.bottleneckMs), `${found.bottleneckMs} is not ${best.bottleneckMs}`)
    }), { numRuns: 300 })
  })

  it('find the least latency there is where layers cost alike', () => {
    fc.assert(fc.property(problems({ alike: true }), problem => {
      const found = leastLatency(problem)
      const best = bruteForce(problem, ({ latencyMs }) => latencyMs)
      assert.equal(found === undefined, best === undefined)
      if (found === undefined || best === undefined) return
      valid(problem, found)
      assert(close(found.latencyMs, best.latencyMs), `${found.latencyMs} is not ${best.latencyMs}`)
    }), { numRuns: 300 })
  })

  it('keep to a number of stages and stay optimal for it', () => {
    fc.assert(fc.property(problems({ alike: true }), fc.integer({ min: 1, max: 4 }), (problem, stages) => {
      for (const [solve, measure] of [
        [leastLatency, (plan: Plan) => plan.latencyMs],
        [leastBottleneck, (plan: Plan) => plan.bottleneckMs],
      ] as const) {
        const found = solve(problem, { stages })
        const best = bruteForce(problem, measure, stages)
        assert.equal(found === undefined, best === undefined)
        if (found === undefined || best === undefined) continue
        valid(problem, found)
        assert.equal(found.stages.length, stages)
        assert(close(measure(found), measure(best)), `${measure(found)} is not ${measure(best)}`)
      }
    }), { numRuns: 200 })
  })

  it('take the shortest of the chains with the least bottleneck', () => {
    fc.assert(fc.property(problems({ alike: true }), problem => {
      const found = leastBottleneck(problem)
      if (found === undefined) return
      const best = bruteForce(problem, ({ bottleneckMs, latencyMs }) => (bottleneckMs > found.bottleneckMs * (1 + 1e-9) ? Infinity : latencyMs))
      assert(best !== undefined && close(found.latencyMs, best.latencyMs), `${found.latencyMs} is not ${best?.latencyMs}`)
    }), { numRuns: 200 })
  })

  it('search large meshes close to what looking at everything finds', () => {
    let worst = 1
    fc.assert(fc.property(problems({ alike: true, hosts: 8, layers: 24 }), problem => {
      const exact = leastLatency(problem)
      const found = searchChains(new StageCosts(problem), {})
      assert.equal(found === undefined, exact === undefined)
      if (found === undefined || exact === undefined) return
      valid(problem, found)
      worst = Math.max(worst, found.latencyMs / exact.latencyMs)
      assert(found.latencyMs <= exact.latencyMs * 1.1, `${found.latencyMs / exact.latencyMs}`)
    }), { numRuns: 200, seed: 7 })
    assert(worst < 1.1)
  })

  it('count by count, more than twelve hosts have the least bottleneck too', () => {
    fc.assert(fc.property(problems({ alike: true }), problem => {
      // Hosts that can take nothing make it a large mesh and change nothing else.
      const padded: PlanProblem = { ...problem, hosts: [...problem.hosts, ...Array.from({ length: 13 }, (_, at) => ({ ...problem.hosts[0]!, peer: `full-${at}`, memoryBytes: 0 }))] }
      const found = leastBottleneck(padded)
      const best = bruteForce(problem, ({ bottleneckMs }) => bottleneckMs)
      assert.equal(found === undefined, best === undefined)
      if (found === undefined || best === undefined) return
      valid(padded, found)
      assert(close(found.bottleneckMs, best.bottleneckMs), `${found.bottleneckMs} is not ${best.bottleneckMs}`)
    }), { numRuns: 300 })
  })
})
