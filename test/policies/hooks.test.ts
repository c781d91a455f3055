import assert from 'node:assert/strict'
import { readSources } from '../source.ts'
import { answerOnFailure, HOOKS } from '../../src/policies/hooks.ts'

describe('the hook catalogue', () => {
  it('says of every hook what it is asked, must answer, and what happens when it cannot', () => {
    for (const [name, hook] of Object.entries(HOOKS)) {
      for (const text of [hook.asked, hook.input, hook.answer, ...hook.names]) assert(text.length > 0, name)
      assert(hook.names.length > 0, name)
    }
  })

  it('has a place for every hook where it is asked: none is only written down', () => {
    const asking = readSources().filter(({ room, path }) => room === 'src' && path !== 'src/policies/hooks.ts' && path !== 'src/roles.ts')
    // Node policies are asked under the name they are given; a block's own around its code go the same way.
    const given: Readonly<Record<string, RegExp>> = { preprocessing: /#ask\('preprocessing'/, postprocessing: /#ask\('postprocessing'/ }
    for (const name of Object.keys(HOOKS)) {
      const place = given[name] ?? new RegExp(`hook: '${name}'`)
      assert.ok(asking.some(({ text }) => place.test(text)), `nobody asks at the hook ${name}`)
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
