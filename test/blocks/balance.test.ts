import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import type { InstanceAd } from '../../protocols/capacity.ts'
import { namedInstance, pickInstance, type Candidate } from '../../src/blocks/balance.ts'

const ad = (instance: string, load: Partial<InstanceAd> = {}): InstanceAd =>
  ({ block: 'b', instance, contract: `c-${instance}`, component: 'x', epoch: 1, steward: '12D3KooWsteward', state: 'ready', inFlight: 0, queued: 0, latencyMs: 10, ...load })
const candidate = (instance: string, load: Partial<InstanceAd> = {}, ours = 0): Candidate => ({ host: `12D3KooW${instance}`, ad: ad(instance, load), ours })

describe('balancing', () => {
  it('of the two drawn, the one that would answer sooner is taken', () => {
    const busy = candidate('in-a', { inFlight: 9 })
    const idle = candidate('in-b')
    const slow = candidate('in-c', { latencyMs: 500 })
    for (const rolls of [[0, 0], [0.99, 0]] as const) {
      const picked = pickInstance([busy, idle], rolls)
      assert(picked.ok && picked.value === idle)
    }
    const picked = pickInstance([slow, busy], [0, 0])
    assert(picked.ok && picked.value === busy)
  })

  it('calls of our own that no ad shows yet count', () => {
    const picked = pickInstance([candidate('in-a', {}, 5), candidate('in-b')], [0, 0])
    assert(picked.ok && picked.value.ad.instance === 'in-b')
  })

  it('always picks one of those offered, and refuses retryably when there is none', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 6 }), fc.double({ min: 0, max: 0.999_999, noNaN: true }), fc.double({ min: 0, max: 0.999_999, noNaN: true }), (count, one, two) => {
      const all = Array.from({ length: count }, (_, at) => candidate(`in-${at}`))
      const picked = pickInstance(all, [one, two])
      assert(count === 0 ? !picked.ok && picked.retryable : picked.ok && all.includes(picked.value))
    }))
  })

  it('a policy can only name an instance on offer', () => {
    assert.equal(namedInstance([candidate('in-a')], 'in-a').ok, true)
    assert.equal(namedInstance([candidate('in-a')], '1').ok, false)
  })
})
