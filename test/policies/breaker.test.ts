import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { Breaker } from '../../src/policies/breaker.ts'

const POLICY = { failures: 3, restMs: 100, maxRestMs: 800 }

describe('the breaker', () => {
  it('lets one call through after a rest, and the others wait for its outcome', () => {
    const breaker = new Breaker(POLICY)
    for (let i = 0; i < 3; i += 1) breaker.failed(0)
    assert.equal(breaker.enter(99), 1)
    assert.equal(breaker.enter(100), 0)
    assert.equal(breaker.enter(100), 100)
    breaker.succeeded()
    assert.equal(breaker.enter(100), 0)
    assert.equal(breaker.enter(100), 0)
  })

  it('never rests longer than its limit and always comes back, whatever happened before', () => {
    fc.assert(fc.property(fc.array(fc.record({ ok: fc.boolean(), waitMs: fc.integer({ min: 0, max: 2_000 }) }), { maxLength: 60 }), steps => {
      const breaker = new Breaker(POLICY)
      let now = 0
      for (const { ok, waitMs } of steps) {
        now += waitMs
        const restMs = breaker.enter(now)
        assert(restMs <= POLICY.maxRestMs)
        if (restMs > 0) continue
        if (ok) breaker.succeeded()
        else breaker.failed(now)
      }
      assert.equal(breaker.enter(now + POLICY.maxRestMs), 0)
    }))
  })
})
