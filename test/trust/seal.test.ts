import assert from 'node:assert/strict'
import { z } from 'zod'
import type { Signed } from '../../protocols/signed.ts'
import { KeyRing } from '../../simulations/identity.ts'
import { SeededRandom } from '../../simulations/random.ts'
import { seal, shared, unseal } from '../../src/trust/seal.ts'

const word = z.object({ text: z.string() })

function again({ domain, payload, signer, signature }: Signed): Signed {
  return { domain, payload: payload.slice(), signer, signature: signature.slice() }
}

describe('a sealed word', () => {
  const random = new SeededRandom('seal tests')
  const ring = new KeyRing()
  const { peer, secret } = ring.create(random)
  const identity = ring.identity(peer, secret, random)

  it('that came before is read without another check, and kept once', () => {
    const first = seal(identity, 'test', { text: 'hello' })
    const { value } = unseal(identity, 'test', word, first)
    const copy = again(first)
    assert.equal(unseal({ ...identity, verify: () => assert.fail('it was checked again') }, 'test', word, copy).value, value)
    assert.equal(shared(again(first)), shared(copy))
    assert.deepEqual(shared(copy), first)
  })

  it('with a byte changed, another signer or another purpose is another word, whatever was remembered', () => {
    const first = seal(identity, 'test', { text: 'mine' })
    unseal(identity, 'test', word, first)
    const changed = again(first)
    changed.payload[changed.payload.length - 1]! ^= 1
    assert.throws(() => unseal(identity, 'test', word, changed), { code: 'SIGNATURE_INVALID' })
    assert.equal(shared(changed), changed)
    const other = { ...again(first), signer: `${peer}x` }
    assert.throws(() => unseal(identity, 'test', word, other), { code: 'SIGNATURE_INVALID' })
    const replayed = { ...again(first), domain: 'other' }
    assert.throws(() => unseal(identity, 'other', word, replayed), { code: 'SIGNATURE_INVALID' })
    assert.equal(shared(replayed), replayed)
  })

  it('cannot be changed through the bytes it arrived in', () => {
    const first = seal(identity, 'test', { text: 'kept' })
    const arrived = again(first)
    unseal(identity, 'test', word, arrived)
    arrived.payload.fill(0)
    assert.deepEqual(shared(again(first)), first)
  })
})
