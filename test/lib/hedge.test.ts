import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import { Kernel } from '../../simulations/kernel.ts'
import { hedge } from '../../src/lib/hedge.ts'

describe('hedged questions', () => {
  it('are asked once when the answer is quick', async () => {
    const kernel = new Kernel(1)
    const clock = kernel.clock()
    let asked = 0
    const answer = hedge(clock, { againMs: 100, times: 3 }, async () => {
      asked += 1
      await clock.sleep(50)
      return asked
    })
    assert.equal(await kernel.drive(answer), 1)
    await kernel.run(1_000)
    assert.equal(asked, 1)
  })

  it('survive the loss of the first, and are asked so often and no more', async () => {
    const kernel = new Kernel(1)
    const asked: number[] = []
    const silent = new MeshError('DEADLINE', 'nothing came')
    const ask = (answered: number) => async (): Promise<number> => {
      asked.push(kernel.now)
      if (asked.length === answered) return answered
      await kernel.clock().sleep(1_000)
      throw silent
    }
    assert.equal(await kernel.drive(hedge(kernel.clock(), { againMs: 100, times: 3 }, ask(2))), 2)
    assert.deepEqual(asked, [0, 100])
    asked.length = 0
    const from = kernel.now
    await assert.rejects(kernel.drive(hedge(kernel.clock(), { againMs: 100, times: 3 }, ask(Infinity))), silent)
    assert.deepEqual(asked, [from, from + 100, from + 200])
  })

  it('end with the first failure', async () => {
    const kernel = new Kernel(1)
    let asked = 0
    await assert.rejects(kernel.drive(hedge(kernel.clock(), { againMs: 100, times: 3 }, async () => {
      asked += 1
      throw new MeshError('PEER_UNREACHABLE', 'refused')
    })), { code: 'PEER_UNREACHABLE' })
    await kernel.run(1_000)
    assert.equal(asked, 1)
  })
})
