import assert from 'node:assert/strict'
import { NOTHING_TO_SEE } from '../../simulations/checkers.ts'
import { live, type Outcome } from '../../simulations/scenario.ts'
import { drawMarket, type PlantedBug } from '../../simulations/scenarios/market.ts'
import { World } from '../../simulations/world.ts'

function market(seed: number, bug?: PlantedBug): Promise<Outcome> {
  return live(drawMarket({ seed, peers: 10, seconds: 15, churn: 1, ...(bug === undefined ? {} : { bug }) }), 15)
}

describe('the simulated world', () => {
  it('peers that gossip and bid keep every promise through loss, churn and partitions', async () => {
    const outcomes = [await market(1), await market(2), await market(3)]
    assert.deepEqual(outcomes.map(outcome => outcome.violation), [undefined, undefined, undefined])
    assert.ok(outcomes.every(outcome => outcome.crashes > 3), 'there was churn to survive')
  })

  it('one seed always gives one fingerprint, and another seed another', async () => {
    const first = await market(7)
    assert.equal((await market(7)).fingerprint, first.fingerprint)
    assert.notEqual((await market(8)).fingerprint, first.fingerprint)
  })

  const bugs: readonly [PlantedBug, RegExp][] = [
    ['promises-without-looking', /ledger never over-promised/],
    ['answers-before-it-is-durable', /acknowledged survives/],
    ['is-silent-after-a-restart', /views converge/],
  ]
  for (const [bug, found] of bugs) {
    it(`a peer that ${bug.replaceAll('-', ' ')} is found out`, async () => {
      let violation: string | undefined
      for (let seed = 1; seed <= 20 && violation === undefined; seed += 1) violation = (await market(seed, bug)).violation
      assert.match(violation ?? 'nothing was found', found)
    })
  }

  it('an error nobody foresaw is a violation', async () => {
    const world = new World({
      seed: 1,
      peers: 1,
      factory: async ({ clock }) => {
        clock.after(5, () => void Promise.reject(new TypeError('x is not a function')))
        return { inspect: () => NOTHING_TO_SEE, stop: async () => {} }
      },
    })
    await world.startAll()
    await assert.rejects(world.run(100), /unhandled rejection.*x is not a function/s)
  })
})
