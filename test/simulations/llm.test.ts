import assert from 'node:assert/strict'
import { live, type Outcome } from '../../simulations/scenario.ts'
import { drawLlmKill, figuresOf } from '../../simulations/scenarios/llm-kill.ts'
import { drawLlm, llmWorld, type LlmShape } from '../../simulations/scenarios/llm.ts'
import type { PlantedInStages } from '../../simulations/scenarios/planted-stages.ts'

function lived(seed: number, options: { readonly bug?: PlantedInStages; readonly churn?: number; readonly cuts?: boolean; readonly loss?: number } = {}): Promise<Outcome> {
  return live(drawLlm({ seed, peers: 6, seconds: 5, loss: 0, ...options }), 5)
}

/** Kills in one generation after another until a property breaks, and says how. */
async function found(bug: PlantedInStages): Promise<string> {
  for (const seed of [1, 2, 3, 4, 5]) {
    const { violation } = await live(drawLlmKill({ seed, peers: 6, seconds: 20, bug }), 20)
    if (violation !== undefined) return violation
  }
  return 'nothing'
}

describe('a split model in the virtual world', function () {
  this.timeout(120_000)

  it('gives every client the tokens of an unfailed run', async () => {
    const outcome = await lived(1, { churn: 0.0001, cuts: false })
    assert.equal(outcome.violation, undefined)
    assert.ok(outcome.runs > 3, JSON.stringify(outcome))
  })

  it('does so through the deaths of stages, standbys, origins and mirrors', async () => {
    const outcomes = [await lived(5, { churn: 1.5, cuts: false }), await lived(6, { churn: 1.5, cuts: false })]
    assert.deepEqual(outcomes.map(({ violation }) => violation), [undefined, undefined])
    assert.ok(outcomes.every(({ crashes, runs }) => crashes > 0 && runs > 3), JSON.stringify(outcomes))
  })

  it('a client waits a few token times when a stage, a standby or the origin dies', async () => {
    const scenario = drawLlmKill({ seed: 1, peers: 6, seconds: 40 })
    const { violation } = await live(scenario, 40)
    const { runs = 0, identical, stall_p50_tokens = Infinity } = figuresOf(scenario.killed)
    assert.equal(violation, undefined)
    assert.ok(runs > 3 && identical === runs && stall_p50_tokens <= 5, JSON.stringify(scenario.killed))
  })

  it('a small model on the origin makes the same tokens come faster where hops are long, and none slower when it is mostly wrong', async () => {
    const timed = async (draft?: LlmShape['draft']): Promise<number> => {
      const model = { layers: 4, vocab: 100, contextTokens: 1_024, kvTokens: 16_384, layerMs: 5, positionMs: 0.05, astray: 0 }
      const { world, clients, prepare } = llmWorld({ seed: 5, peers: 4 }, { stages: 2, standbys: 1, model, askEveryMs: 0, prompt: 50, tokens: 256, ...(draft === undefined ? {} : { draft }) }, { weather: { delayMs: [50, 50], loss: 0, duplicate: 0 } })
      await world.startAll()
      await world.drive(prepare(), 120_000)
      const { wrong, end, times } = await world.drive(clients.ask({ prompt: 50, tokens: 256, temperature: 0 }), 600_000)
      assert.deepEqual([wrong, end?.reason], [undefined, 'length'])
      return (times.at(-1) ?? 0) - (times[0] ?? 0)
    }
    const plain = await timed()
    assert.ok(plain / await timed({ astray: 0.3, layerMs: 0.5 }) >= 2)
    assert.ok(plain / await timed({ astray: 0.97, layerMs: 1 }) >= 0.97)
  })

  const planted: readonly (readonly [PlantedInStages, RegExp])[] = [
    ['gives-its-standby-other-rows', /tokens are those of an unfailed run/],
    ['keeps-rows-it-should-overwrite', /tokens are those of an unfailed run/],
    ['computes-otherwise-now-and-then', /tokens are those of an unfailed run/],
    ['never-closes-a-session', /seats are given back/],
    ['swallows-an-event', /tokens are those of an unfailed run/],
  ]
  for (const [bug, checker] of planted) it(`a host that ${bug.replaceAll('-', ' ')} is found`, async () => assert.match(await found(bug), checker))
})
