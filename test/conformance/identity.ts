import assert from 'node:assert/strict'
import type { Identity } from '../../src/ports.ts'

/** What every `Identity` promises. Two different ones that know each other's names only. */
export function identityConformance(name: string, setup: () => { readonly mine: Identity; readonly theirs: Identity }): void {
  describe(`identity: ${name}`, () => {
    const bytes = new TextEncoder().encode('what was said')

    it('what one signs the other can check, and nobody else signed it', () => {
      const { mine, theirs } = setup()
      const signature = mine.sign(bytes)
      assert.equal(theirs.verify(mine.peer, bytes, signature), true)
      assert.equal(theirs.verify(theirs.peer, bytes, signature), false)
      assert.equal(theirs.verify(mine.peer, bytes.subarray(1), signature), false)
    })

    it('a changed signature is none, nor is one of a peer that cannot be', () => {
      const { mine, theirs } = setup()
      const signature = mine.sign(bytes)
      for (let at = 0; at < signature.byteLength; at += 7) {
        const changed = signature.slice()
        changed[at] = (changed[at] ?? 0) ^ 1
        assert.equal(theirs.verify(mine.peer, bytes, changed), false)
      }
      assert.equal(theirs.verify(mine.peer, bytes, signature.subarray(1)), false)
      assert.equal(theirs.verify(mine.peer, bytes, new Uint8Array(0)), false)
      assert.equal(theirs.verify('not a peer at all', bytes, signature), false)
    })

    it('a minted key signs for its own name', () => {
      const { mine, theirs } = setup()
      const minted = mine.mint()
      assert.notEqual(minted.peer, mine.peer)
      assert.equal(theirs.verify(minted.peer, bytes, theirs.signWith(minted.privateKey, bytes)), true)
    })
  })
}
