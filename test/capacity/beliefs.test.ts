import assert from 'node:assert/strict'
import fc from 'fast-check'
import { Beliefs } from '../../src/capacity/beliefs.ts'

const word = fc.record({ peer: fc.constantFrom('a', 'b', 'c', 'e', 'f'), state: fc.constantFrom('alive' as const, 'suspect' as const, 'dead' as const, 'left' as const), incarnation: fc.nat(5), look: fc.boolean() })

describe('who is believed to live', () => {
  it('is always the sorted list of those whose state says so, and a list handed out never changes', () => {
    fc.assert(fc.property(fc.array(word, { maxLength: 60 }), words => {
      const beliefs = new Beliefs('d')
      const handedOut: { readonly list: readonly string[]; readonly copy: readonly string[] }[] = []
      for (const { peer, state, incarnation, look } of words) {
        beliefs.hear(peer, state, incarnation, 0)
        if (!look) continue
        const list = beliefs.living()
        handedOut.push({ list, copy: [...list] })
      }
      const known = ['a', 'b', 'c', 'e', 'f'].filter(peer => beliefs.of(peer) !== undefined)
      const living = known.filter(peer => ['alive', 'suspect'].includes(beliefs.of(peer)?.state ?? ''))
      assert.deepEqual(beliefs.living(), [...living, 'd'].sort())
      assert.deepEqual([...beliefs.dead()].sort(), known.filter(peer => beliefs.of(peer)?.state === 'dead'))
      for (const { list, copy } of handedOut) assert.deepEqual(list, copy)
    }))
  })
})
