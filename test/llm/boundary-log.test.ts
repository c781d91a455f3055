import assert from 'node:assert/strict'
import fc from 'fast-check'
import { BoundaryLog, LogBudget } from '../../src/llm/boundary-log.ts'

const step = (position: number, count: number, mark = 0) => ({ position, count, hidden: Uint8Array.from({ length: count * 2 }, (_, at) => position + (at >> 1) + mark) })

describe('the boundary log', () => {
  it('gives steps again whole, from the one that holds a position on', () => {
    const log = new BoundaryLog(new LogBudget(1_000))
    for (const each of [step(0, 8), step(8, 1), step(9, 1)]) log.append(each)
    assert.deepEqual(log.since(3).map(({ position, count }) => [position, count]), [[0, 8], [8, 1], [9, 1]])
    assert.deepEqual(log.since(9), [step(9, 1)])
    assert.deepEqual([log.from, log.end], [0, 10])
  })

  it('forgets what a step writes over, and what the standby of the next stage holds', () => {
    const log = new BoundaryLog(new LogBudget(1_000))
    for (const each of [step(0, 4), step(4, 4)]) log.append(each)
    log.append(step(6, 1, 100))
    assert.deepEqual(log.since(0).map(({ position, count }) => [position, count]), [[0, 4], [4, 2], [6, 1]])
    log.trim(5)
    assert.equal(log.from, 4)
    log.trim(6)
    assert.equal(log.from, 6)
  })

  it('a gap begins it anew', () => {
    const log = new BoundaryLog(new LogBudget(1_000))
    log.append(step(0, 4))
    log.append(step(9, 1))
    assert.deepEqual([log.from, log.end], [9, 10])
  })

  it('all logs of a host stay within its budget, are contiguous, and count their bytes', () => {
    const act = fc.record({ log: fc.nat({ max: 2 }), count: fc.integer({ min: 1, max: 9 }), back: fc.nat({ max: 5 }), what: fc.constantFrom('append', 'append', 'append', 'trim', 'cut', 'clear') })
    fc.assert(fc.property(fc.array(act, { maxLength: 60 }), acts => {
      const budget = new LogBudget(60)
      const logs = [0, 1, 2].map(() => new BoundaryLog(budget))
      for (const { log: which, count, back, what } of acts) {
        const log = logs[which]!
        const end = log.end ?? 0
        if (what === 'append') log.append(step(Math.max(0, end - back), count))
        else if (what === 'trim') log.trim(Math.max(0, end - back))
        else if (what === 'cut') log.cut(Math.max(0, end - back))
        else log.clear()
        assert(budget.used <= budget.limit)
        assert.equal(budget.used, logs.reduce((sum, { bytes }) => sum + bytes, 0))
        let next = log.from
        for (const each of log.since(0)) {
          assert.equal(each.position, next)
          assert.equal(each.hidden.byteLength, each.count * 2)
          assert.equal(each.hidden[0], each.position)
          next = each.position + each.count
        }
      }
    }))
  })
})
