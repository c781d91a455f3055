import assert from 'node:assert/strict'
import { Kernel } from '../../simulations/kernel.ts'
import { Beat } from '../../src/lib/beat.ts'

describe('a beat', () => {
  it('looks as long as there is something to look after, however often it is woken, and rests until it is woken again', async () => {
    const kernel = new Kernel(1)
    const looks: number[] = []
    let left = 0
    const beat = new Beat(kernel.clock(), 100, {
      needed: () => left > 0,
      look: () => {
        looks.push(kernel.now)
        left -= 1
        beat.wake()
      },
    })
    beat.wake()
    await kernel.run(1_000)
    assert.deepEqual(looks, [])
    left = 2
    beat.wake()
    beat.wake()
    await kernel.run(2_000)
    assert.deepEqual(looks, [1_100, 1_200])
    left = 1
    beat.wake()
    beat.stop()
    beat.wake()
    await kernel.run(3_000)
    assert.equal(looks.length, 2)
  })
})
