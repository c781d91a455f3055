import assert from 'node:assert/strict'
import fc from 'fast-check'
import { comesFirst, foremost, rendezvous } from '../../src/lib/rendezvous.ts'

const peers = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 12 }), { maxLength: 40 })

describe('the order of peers for a key', () => {
  it('its first few are found without ranking the others', () => {
    fc.assert(fc.property(fc.string(), peers, fc.nat(6), (key, them, count) => {
      assert.deepEqual(foremost(key, them, count), rendezvous(key, them).slice(0, count))
    }))
  })

  it('whether one comes first is found without ranking anybody', () => {
    fc.assert(fc.property(fc.string(), peers, (key, them) => {
      assert.deepEqual(them.filter(peer => comesFirst(key, peer, them)), rendezvous(key, them).slice(0, 1))
    }))
  })
})
