import assert from 'node:assert/strict'
import fc from 'fast-check'
import { StageCosts, type PlanProblem } from '../../../src/llm/plan/problem.ts'
import { bestResponse, coverLayers } from '../../../src/llm/plan/replicas.ts'
import { SeededRandom } from '../../../simulations/random.ts'

const LAYERS = 12
const problems: fc.Arbitrary<PlanProblem> = fc.array(fc.record({ ms: fc.integer({ min: 1, max: 20 }), room: fc.integer({ min: 0, max: 14 }) }), { minLength: 1, maxLength: 10 }).map(hosts => ({
  hosts: hosts.map(({ ms, room }, at) => ({ peer: `host-${at}`, memoryBytes: room, layerMs: Array.from({ length: LAYERS }, () => ms), embeddingMs: 0, headMs: 0, legMs: 0 })),
  layerBytes: Array.from({ length: LAYERS }, () => 1), embeddingBytes: 1, headBytes: 1, stageBytes: 0, hop: () => 0,
}))

describe('overlapping replicas of stages', () => {
  it('offer spans that fit, count every layer by who offers it, and never beat the fluid bound', () => {
    fc.assert(fc.property(problems, fc.nat(), (problem, seed) => {
      const found = coverLayers(problem, new SeededRandom(`cover ${seed}`))
      const costs = new StageCosts(problem)
      const rates = Array.from({ length: LAYERS }, () => 0)
      const holders = Array.from({ length: LAYERS }, () => 0)
      for (const [host, span] of found.spans.entries()) {
        if (span === undefined) continue
        assert(costs.may(host, span.first, span.end, Infinity))
        for (let layer = span.first; layer < span.end; layer += 1) {
          rates[layer]! += 1 / costs.ms(host, span.first, span.end)
          holders[layer]! += 1
        }
      }
      for (const [layer, rate] of rates.entries()) assert(Math.abs(rate - found.rates[layer]!) < 1e-9)
      assert(Math.abs(found.rate - Math.min(...rates)) < 1e-9)
      assert(found.rate <= found.fluid * (1 + 1e-9))
      assert.deepEqual(found.single, [...holders.keys()].filter(layer => holders[layer] === 1))
    }), { numRuns: 60 })
  })

  it('cover all layers wherever a row of spans can', () => {
    fc.assert(fc.property(problems, fc.nat(), (problem, seed) => {
      const room = problem.hosts.reduce((sum, { memoryBytes }) => sum + Math.max(0, memoryBytes - 2), 0)
      fc.pre(room >= LAYERS)
      assert(coverLayers(problem, new SeededRandom(`cover ${seed}`)).rate > 0)
    }), { numRuns: 60 })
  })

  it('hosts that can hold everything reach the bound, and none of them wants to move', () => {
    const problem: PlanProblem = { hosts: [1, 2, 4].map((ms, at) => ({ peer: `host-${at}`, memoryBytes: 100, layerMs: Array.from({ length: LAYERS }, () => ms), embeddingMs: 0, headMs: 0, legMs: 0 })), layerBytes: Array.from({ length: LAYERS }, () => 1), embeddingBytes: 0, headBytes: 0, stageBytes: 0, hop: () => 0 }
    const found = coverLayers(problem, new SeededRandom('whole'))
    assert(found.rate > found.fluid * 0.999)
    assert.deepEqual(found.single, [])
    for (const [host, span] of found.spans.entries()) assert(bestResponse({ ...problem, hosts: [problem.hosts[host]!] }, found.rates, span, found.fluid).gain < 1e-6)
  })
})
