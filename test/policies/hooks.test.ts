import assert from 'node:assert/strict'
import { answerOnFailure, HOOKS } from '../../src/policies/hooks.ts'

describe('the hook catalogue', () => {
  it('says of every hook what it is asked, must answer, and what happens when it cannot', () => {
    for (const [name, hook] of Object.entries(HOOKS)) {
      for (const text of [hook.asked, hook.input, hook.answer, ...hook.names]) assert(text.length > 0, name)
      assert(hook.names.length > 0, name)
    }
  })

  it('names every pre-check action of the network and of clusters', () => {
    assert.equal(HOOKS.precheck.names.length, 12)
    assert.equal(new Set(HOOKS.precheck.names).size, 12)
  })

  it('has an answer of its own only where a wrong guess would open or close a door', () => {
    const closed = Object.entries(HOOKS).filter(([, hook]) => hook.onFailure === 'deny').map(([name]) => name)
    assert.deepEqual(closed.sort(), ['precheck', 'quotaChecker', 'resourceEstimator'])
    assert.equal(answerOnFailure('loadBalancer', {}, 'x'), undefined)
    assert.deepEqual(answerOnFailure('quotaChecker', {}, 'x'), { allowed: false, input_data: 'x' })
  })
})
