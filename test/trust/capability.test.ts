import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { right, type CapabilityChain, type Right } from '../../protocols/membership.ts'
import { KeyRing } from '../../simulations/identity.ts'
import { SeededRandom } from '../../simulations/random.ts'
import type { Identity } from '../../src/ports.ts'
import { ALL_RIGHTS, issue, proveChain } from '../../src/trust/capability.ts'
import { foundNetwork, networkOf, readGenesis, readInvite, writeInvite } from '../../src/trust/invitation.ts'

const NOW = 1_700_000_000_000
const DAY = 86_400_000

function cast(count: number): { readonly people: readonly Identity[]; readonly random: SeededRandom } {
  const random = new SeededRandom('capability tests')
  const ring = new KeyRing()
  const people = Array.from({ length: count }, () => {
    const { peer, secret } = ring.create(random)
    return ring.identity(peer, secret, random)
  })
  return { people, random }
}

describe('capability chains', () => {
  const { people: [owner, anna, boris, mallory], random } = cast(4)
  assert(owner && anna && boris && mallory)
  const home = foundNetwork(owner, random, 'home', NOW)
  const pass = (from: Identity, to: Identity, rights: readonly Right[], behind: CapabilityChain, expires = NOW + DAY): CapabilityChain =>
    [issue(from, { network: home.network, subject: to.peer, rights: [...rights], notBefore: NOW, expires, nonce: 'n' }), ...behind]
  const prove = (chain: CapabilityChain, now = NOW) => proveChain(anna, home.network, owner.peer, chain, now)

  it('the owner proves every right', () => {
    const proof = prove(home.chain)
    assert(proof.ok)
    assert.deepEqual(new Set(proof.value.rights), new Set(ALL_RIGHTS))
    assert.equal(proof.value.subject, owner.peer)
  })

  it('a member invited by a member is a member', () => {
    const proof = prove(pass(anna, boris, ['join', 'host'], pass(owner, anna, ['join', 'host', 'invite'], home.chain)))
    assert(proof.ok)
    assert.equal(proof.value.subject, boris.peer)
    assert.deepEqual([...proof.value.rights].sort(), ['host', 'join'])
  })

  it('whoever may not invite cannot pass anything on', () => {
    const proof = prove(pass(anna, boris, ['join'], pass(owner, anna, ['join', 'host'], home.chain)))
    assert(!proof.ok)
    assert.match(proof.because, /may not pass rights on/)
  })

  it('a chain that somebody else issued, or that widens, or that is out of date is refused with the reason', () => {
    const refusals: [CapabilityChain, RegExp, number?][] = [
      [pass(mallory, mallory, ALL_RIGHTS, home.chain), /does not hold the right/],
      [pass(anna, boris, ['publish'], pass(owner, anna, ['join', 'invite'], home.chain)), /grants publish, which its issuer does not hold/],
      [pass(owner, anna, ['join'], home.chain, NOW + DAY), /expired/, NOW + 2 * DAY],
      [pass(owner, anna, ['join'], home.chain), /not valid yet/, NOW - DAY],
      [pass(owner, anna, ['join'], []), /does not hold|empty|issued by/, NOW],
    ]
    for (const [chain, reason, now] of refusals) {
      const proof = prove(chain, now)
      if (proof.ok) assert.equal(chain.length, 1, 'only the owner alone may sign a chain of one link')
      else assert.match(proof.because, reason)
    }
  })

  it('no chain, however it is put together, grants more than each of its links', () => {
    const rights = fc.subarray([...right.options])
    fc.assert(fc.property(fc.array(fc.record({ by: fc.integer({ min: 0, max: 3 }), to: fc.integer({ min: 0, max: 3 }), rights }), { minLength: 1, maxLength: 5 }), links => {
      const people = [owner, anna, boris, mallory]
      let chain: CapabilityChain = home.chain
      for (const link of links) chain = pass(people[link.by]!, people[link.to]!, link.rights, chain)
      const proof = prove(chain)
      if (!proof.ok) return
      let holder = owner.peer
      for (const link of links) {
        assert.equal(people[link.by]!.peer, holder, 'every link was issued by the one before')
        holder = people[link.to]!.peer
        for (const granted of proof.value.rights) assert(granted === 'join' || link.rights.includes(granted), `${granted} appears from nowhere`)
      }
    }), { numRuns: 300 })
  })

  it('one changed byte anywhere in a link breaks the chain', () => {
    const chain = pass(owner, anna, ['join', 'host', 'invite'], home.chain)
    const [leaf, ...rest] = chain
    assert(leaf)
    for (let at = 0; at < leaf.payload.byteLength; at += 1) {
      const payload: Uint8Array = Uint8Array.from(leaf.payload)
      payload[at] = (leaf.payload[at] ?? 0) ^ 1
      assert.equal(prove([{ ...leaf, payload }, ...rest]).ok, false)
    }
  })
})

describe('invites', () => {
  const { people: [owner, anna], random } = cast(2)
  assert(owner && anna)
  const home = foundNetwork(owner, random, 'home', NOW)

  it('an invite survives copying with line breaks and carries what is needed to enter', () => {
    const text = writeInvite(owner, random, home, { addresses: ['/ip4/127.0.0.1/tcp/4001'], rights: ['join', 'host'], now: NOW, validMs: DAY })
    const read = readInvite(`  ${text.slice(0, 40)}\n${text.slice(40)} `)
    assert.equal(networkOf(read.genesis), home.network)
    assert.deepEqual(read.secret, home.secret)
    assert.equal(readGenesis(anna, read.genesis).owner, owner.peer)
    const proof = proveChain(anna, home.network, owner.peer, read.chain, NOW)
    assert(proof.ok)
    assert.notEqual(proof.value.bearer, undefined)
    assert.equal(proof.value.subject, undefined)
  })

  it('what is no invite, or half of one, is refused with what to do', () => {
    const text = writeInvite(owner, random, home, { addresses: [], rights: ['join'], now: NOW, validMs: DAY })
    for (const wrong of ['', 'hello', text.slice(0, 60), `${text}x`, text.slice(5)]) assert.throws(() => readInvite(wrong), /copy the whole line/)
  })
})
