import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { granted, refused } from '../../protocols/errors.ts'
import { REGISTRY_VALUE_BYTES, type RegistryRecord } from '../../protocols/registry.ts'
import { BucketDigests } from '../../src/registries/digests.ts'
import { FUTURE_MS, RECORD_DOMAIN, checkRecord, type HeldRecord, type RecordRules } from '../../src/registries/record.ts'
import { MemoryView } from '../../src/registries/view.ts'
import { winner } from '../../src/registries/winner.ts'
import { seal } from '../../src/trust/seal.ts'
import { makeIdentity } from './ed25519.ts'

const peers = [makeIdentity(), makeIdentity(), makeIdentity()]
const rules: RecordRules = { identity: peers[0]!, mayWrite: () => granted(true), mayOperate: () => granted(true) }

function held(by: number, body: Omit<RegistryRecord, 'writer'>): HeldRecord {
  const verdict = checkRecord(seal(peers[by]!, RECORD_DOMAIN, { ...body, writer: peers[by]!.peer }), rules, 1_000_000)
  assert.ok(verdict.ok, verdict.ok ? '' : verdict.because)
  return verdict.value
}

const who = fc.nat(2)
const value = fc.uint8Array({ minLength: 1, maxLength: 2 })
const published = fc.record({ who, value, issuedAt: fc.nat(5) }).map(({ who, value, issuedAt }) => held(who, { registry: 'components', key: 'k', value, sequence: 0, issuedAt }))
const owned = fc
  .record({ who, owner: who, value: fc.option(value, { nil: null }), since: fc.nat(2), sequence: fc.integer({ min: 1, max: 4 }) })
  .map(({ who, owner, value, since, sequence }) => held(who, { registry: 'blocks', key: 'k', value, sequence, issuedAt: since + sequence, owner: peers[owner]!.peer, since }))
const rivals = fc.oneof(fc.array(published, { minLength: 1, maxLength: 6 }), fc.array(owned, { minLength: 1, maxLength: 6 }))

describe('the winner of a key', () => {
  it('does not depend on order, grouping or repetition', () => {
    fc.assert(fc.property(rivals, fc.infiniteStream(fc.nat()), (records, draws) => {
      const whole = records.reduce(winner)
      assert.equal(records.toReversed().reduce(winner).cid, whole.cid)
      const cut = draws.next().value % records.length
      const [left, right] = [records.slice(0, cut), records.slice(cut)]
      assert.equal([...(left.length === 0 ? [] : [left.reduce(winner)]), right.reduce(winner)].reduce(winner).cid, whole.cid)
      assert.equal([...records, ...records].reduce(winner).cid, whole.cid)
      for (const record of records) assert.equal(winner(record, record).cid, record.cid)
    }), { numRuns: 60 })
  })

  it('of a published name is the earliest', () => {
    const early = held(0, { registry: 'components', key: 'k', value: Uint8Array.of(9), sequence: 0, issuedAt: 1 })
    const late = held(1, { registry: 'components', key: 'k', value: Uint8Array.of(0), sequence: 0, issuedAt: 2 })
    assert.equal(winner(late, early), early)
  })

  it('of an owned key is the highest sequence of the earliest claim, whatever a later claimant counts up to', () => {
    const claim = { owner: peers[0]!.peer, since: 1 }
    const first = held(0, { registry: 'blocks', key: 'k', value: Uint8Array.of(1), sequence: 1, issuedAt: 1, ...claim })
    const changed = held(0, { registry: 'blocks', key: 'k', value: Uint8Array.of(2), sequence: 2, issuedAt: 3, ...claim })
    const squatter = held(1, { registry: 'blocks', key: 'k', value: Uint8Array.of(3), sequence: 99, issuedAt: 2 })
    assert.equal([squatter, first, changed].reduce(winner), changed)
  })
})

describe('views', () => {
  it('that took the same records in any order have the same digests and the same pages', () => {
    const keys = ['a', 'b', '__proto__', 'constructor']
    const record = fc
      .record({ who, key: fc.constantFrom(...keys), value, issuedAt: fc.nat(9) })
      .map(({ who, key, value, issuedAt }) => held(who, { registry: 'components', key, value, sequence: 0, issuedAt }))
    fc.assert(fc.property(fc.array(record, { maxLength: 12 }).chain(records => fc.tuple(fc.constant(records), fc.shuffledSubarray(records, { minLength: records.length }))), ([records, shuffled]) => {
      const [a, b] = [new MemoryView(), new MemoryView()]
      for (const record of records) a.merge([record])
      b.merge(shuffled)
      b.merge(records)
      assert.deepEqual(a.digests(), b.digests())
      assert.deepEqual(a.differing(b.digests()), [])
      const buckets = Array.from({ length: 256 }, (_, i) => i)
      assert.deepEqual(a.page(buckets, undefined, 100, 1e6), b.page(buckets, undefined, 100, 1e6))
    }), { numRuns: 40 })
  })

  it('that differ in one record differ in its bucket alone', () => {
    const [a, b] = [new MemoryView(), new MemoryView()]
    const one = held(0, { registry: 'components', key: 'x', value: Uint8Array.of(1), sequence: 0, issuedAt: 1 })
    a.merge([one])
    const [bucket] = a.differing(b.digests())
    assert.deepEqual(a.differing(b.digests()), [bucket])
    assert.deepEqual(a.page([bucket!], undefined, 10, 1e6).records, [one.envelope])
    assert.deepEqual(new BucketDigests().differing([]).length, 256)
  })

  it('refuse what is over their bound whole', () => {
    const view = new MemoryView(1)
    const [one, two] = ['x', 'y'].map(key => held(0, { registry: 'components', key, value: Uint8Array.of(1), sequence: 0, issuedAt: 1 }))
    assert.throws(() => view.merge([one!, two!]), /all that this peer keeps/)
    assert.equal(view.count(), 0)
  })
})

describe('a record', () => {
  const now = 1_000_000
  const body: RegistryRecord = { registry: 'components', key: 'k', value: Uint8Array.of(1), writer: peers[0]!.peer, sequence: 0, issuedAt: now }
  const judge = (body: unknown, by = 0, changed: Partial<RecordRules> = {}): string => {
    const verdict = checkRecord(seal(peers[by]!, RECORD_DOMAIN, body), { ...rules, mayOperate: undefined, ...changed }, now)
    return verdict.ok ? 'ok' : `${verdict.retryable ? 'later: ' : ''}${verdict.because}`
  }

  it('is taken when its writer signed it and may', () => assert.equal(judge(body), 'ok'))
  it('signed by another than its writer is refused', () => assert.match(judge(body, 1), /signed it/))
  it('with one byte changed is refused', () => {
    const envelope = seal(peers[0]!, RECORD_DOMAIN, body)
    for (let i = 0; i < envelope.payload.byteLength; i += 7) {
      const payload = Uint8Array.from(envelope.payload)
      payload[i]! ^= 1
      const verdict = checkRecord({ ...envelope, payload }, rules, now)
      assert.ok(!verdict.ok && /was not signed/.test(verdict.because))
    }
  })
  it('signed for another purpose is refused', () => {
    const verdict = checkRecord(seal(peers[0]!, 'bid', body), rules, now)
    assert.ok(!verdict.ok && /expected a signed registry/.test(verdict.because))
  })
  it('of another network is refused', () => {
    assert.match(judge(body, 0, { networkId: 'here' }), /another network/)
    assert.match(judge({ ...body, network: 'there' }, 0, { networkId: 'here' }), /another network/)
    assert.equal(judge({ ...body, network: 'here' }, 0, { networkId: 'here' }), 'ok')
  })
  it('over the size limit is refused', () => assert.match(judge({ ...body, value: new Uint8Array(REGISTRY_VALUE_BYTES + 1) }), /limit/))
  it('from a far future is refused for now', () => assert.match(judge({ ...body, issuedAt: now + FUTURE_MS + 1 }), /^later: /))
  it('without the right to it is refused', () => assert.match(judge(body, 0, { mayWrite: () => refused('holds join but not publish') }), /not publish/))
  it('of a published name with a sequence, a claim or no value is refused', () => {
    assert.match(judge({ ...body, sequence: 1 }), /no sequence/)
    assert.match(judge({ ...body, since: 1 }), /no sequence/)
    assert.match(judge({ ...body, value: null }), /cannot be withdrawn/)
  })
  it('on a key of another owner needs the right to operate on it', () => {
    const theirs = { ...body, registry: 'blocks', sequence: 2, owner: peers[1]!.peer, since: 1 }
    assert.match(judge(theirs), /belongs to/)
    assert.equal(judge(theirs, 0, { mayOperate: () => granted(true) }), 'ok')
  })
  it('that is not one at all is refused, not thrown', () => {
    for (const junk of [null, 1, 'x', [], {}, { ...body, key: '' }, { ...body, registry: 'nope' }, { ...body, issuedAt: 1.5 }, { ...body, key: 'a\0b' }]) assert.notEqual(judge(junk), 'ok')
  })
})
