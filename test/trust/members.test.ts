import assert from 'node:assert/strict'
import { array, assert as holds, constantFrom, integer, property, record, shuffledSubarray, subarray } from 'fast-check'
import { hex } from '../../protocols/codec.ts'
import { right, type CapabilityChain } from '../../protocols/membership.ts'
import { KeyRing } from '../../simulations/identity.ts'
import { SeededRandom } from '../../simulations/random.ts'
import type { Identity } from '../../src/ports.ts'
import { issue } from '../../src/trust/capability.ts'
import { foundNetwork } from '../../src/trust/invitation.ts'
import { Members } from '../../src/trust/members.ts'

const NOW = 1_700_000_000_000
const DAY = 86_400_000

describe('members', () => {
  const random = new SeededRandom('members tests')
  const ring = new KeyRing()
  const cast = (count: number): readonly Identity[] => Array.from({ length: count }, () => {
    const { peer, secret } = ring.create(random)
    return ring.identity(peer, secret, random)
  })
  const [owner, ...people] = cast(6)
  assert(owner)
  const home = foundNetwork(owner, random, 'home', NOW)
  const chainFor = (peer: string, rights: readonly (typeof right.options)[number][], expires = NOW + DAY, nonce = 'n'): CapabilityChain =>
    [issue(owner, { network: home.network, subject: peer, rights: [...rights], notBefore: NOW, expires, nonce }), ...home.chain]
  const empty = (clock = { unix: () => NOW }): Members => new Members(owner, home.network, owner.peer, clock)

  it('whatever the order, and however often, all who heard the same know the same', () => {
    const statement = record({ who: integer({ min: 0, max: people.length - 1 }), rights: subarray([...right.options]), days: integer({ min: 1, max: 3 }), nonce: constantFrom('a', 'b') })
    holds(property(array(statement, { minLength: 1, maxLength: 12 }).chain(all => record({ one: shuffledSubarray(all, { minLength: all.length }), other: shuffledSubarray([...all, ...all], { minLength: all.length * 2 }) })), ({ one, other }) => {
      const [first, second] = [one, other].map(statements => {
        const members = empty()
        for (const { who, rights, days, nonce } of statements) {
          const peer = people[who]?.peer ?? ''
          assert(members.learn(peer, chainFor(peer, rights, NOW + days * DAY, nonce)).ok)
        }
        return members
      })
      assert(first && second)
      assert.deepEqual(first.all().map(({ peer, chain }) => [peer, chain]).sort(), second.all().map(({ peer, chain }) => [peer, chain]).sort())
      assert.equal(hex(first.digest()), hex(second.digest()))
    }), { numRuns: 100 })
  })

  it('a narrower chain does not take away what a wider one proved', () => {
    const members = empty()
    const peer = people[0]?.peer ?? ''
    assert.deepEqual(members.learn(peer, chainFor(peer, ['host', 'publish'])), { ok: true, value: true })
    assert.deepEqual(members.learn(peer, chainFor(peer, ['host'], NOW + 2 * DAY)), { ok: true, value: false })
    assert.deepEqual(members.get(peer)?.rights, ['join', 'host', 'publish'])
  })

  it('a chain that ran out gives nothing, makes room for a narrower one, and leaves no trace in the digest', () => {
    let now = NOW
    const members = empty({ unix: () => now })
    const peer = people[0]?.peer ?? ''
    const nobody = hex(members.digest())
    members.learn(peer, chainFor(peer, ['host', 'publish'], NOW + DAY))
    now += 2 * DAY
    assert.equal(members.get(peer), undefined)
    assert.deepEqual(members.page(undefined).page, { members: [] })
    assert.deepEqual(members.learn(peer, chainFor(peer, ['host'], NOW + 3 * DAY)), { ok: true, value: true })
    now += 2 * DAY
    assert.equal(members.forgetExpired(), 1)
    assert.deepEqual([members.size, hex(members.digest())], [0, nobody])
  })

  it('what does not prove its peer is refused', () => {
    const members = empty()
    const [anna, boris] = people
    assert(anna && boris)
    assert.equal(members.learn(anna.peer, chainFor(boris.peer, ['host'])).ok, false)
    assert.equal(members.learn(anna.peer, []).ok, false)
    assert.equal(members.learn(anna.peer, [issue(anna, { network: home.network, subject: anna.peer, rights: ['host'], notBefore: NOW, expires: NOW + DAY, nonce: 'n' })]).ok, false)
    assert.equal(members.size, 0)
  })

  it('a page holds whom the asker does not name, and nobody else', () => {
    const [all, some] = [empty(), empty()]
    for (const [at, { peer }] of people.entries()) {
      all.learn(peer, chainFor(peer, ['host']))
      if (at % 2 === 0) some.learn(peer, chainFor(peer, ['host']))
    }
    // The same peer by another chain is not the same word.
    const changed = people[0]?.peer ?? ''
    all.learn(changed, chainFor(changed, ['host', 'publish']))
    const { page, unknown } = all.page(undefined, undefined, some.marks())
    // The chain of the changed one that the asker has is none of ours.
    assert.equal(unknown, true)
    assert.deepEqual(page.members.map(({ peer }) => peer).sort(), people.filter(({ peer }, at) => at % 2 === 1 || peer === changed).map(({ peer }) => peer).sort())
    for (const { peer, chain } of page.members) some.learn(peer, chain)
    assert.deepEqual(all.page(undefined, undefined, some.marks()), { page: { members: [] }, unknown: false })
  })

  it('pages name everybody once, whatever the number', () => {
    const members = empty()
    for (const { peer } of cast(300)) members.learn(peer, chainFor(peer, ['host']))
    const seen: string[] = []
    let after: string | undefined
    let pages = 0
    do {
      const { page } = members.page(after)
      seen.push(...page.members.map(({ peer }) => peer))
      after = page.next
      pages += 1
    } while (after !== undefined && pages < 10)
    assert.deepEqual(seen, members.all().map(({ peer }) => peer).sort())
    assert.equal(pages, 3)
  })
})
