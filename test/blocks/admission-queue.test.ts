import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { AdmissionQueue } from '../../src/blocks/admission-queue.ts'

const never = new AbortController().signal

describe('admission queue', () => {
  it('runs as many as it is wide, keeps as many as it is deep, refuses the next at once', async () => {
    const queue = new AdmissionQueue(2, 1)
    const leave = await queue.enter(never, 'in-1')
    await queue.enter(never, 'in-1')
    const third = queue.enter(never, 'in-1')
    await assert.rejects(queue.enter(never, 'in-1'), { code: 'OVERLOADED', retryable: true })
    assert.deepEqual([queue.running, queue.waiting], [2, 1])
    leave()
    await third
    assert.deepEqual([queue.running, queue.waiting], [2, 0])
  })

  it('a caller that gives up while waiting leaves no trace', async () => {
    const queue = new AdmissionQueue(1, 5)
    const leave = await queue.enter(never, 'in-1')
    const gone = new AbortController()
    const waiting = queue.enter(gone.signal, 'in-1')
    gone.abort(new Error('gave up'))
    await assert.rejects(waiting, /gave up/)
    leave()
    leave()
    assert.deepEqual([queue.running, queue.waiting], [0, 0])
  })

  it('never runs more than its width, whatever the order of coming and going', async () => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: 4 }), fc.array(fc.boolean(), { maxLength: 40 }), async (width, depth, steps) => {
      const queue = new AdmissionQueue(width, depth)
      const leaves: (() => void)[] = []
      for (const comes of steps) {
        if (comes) queue.enter(never, 'in-1').then(leave => leaves.push(leave), () => undefined)
        else leaves.shift()?.()
        await Promise.resolve()
        await Promise.resolve()
        assert(queue.running <= width && queue.waiting <= depth)
      }
      while (queue.running > 0) {
        await Promise.resolve()
        leaves.shift()?.()
      }
      assert.equal(queue.waiting, 0)
    }), { numRuns: 200 })
  })
})
