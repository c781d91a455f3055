import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import type { CapacityAd, CapacityDelta } from '../../protocols/capacity.ts'
import { checkAd, checkDelta, difference, isNews } from '../../src/capacity/ad.ts'
import { Beliefs } from '../../src/capacity/beliefs.ts'
import { Marks } from '../../src/capacity/marks.ts'
import { AdView, isNewer } from '../../src/capacity/view.ts'

const PEER = '12D3KooWabcdefgh'
const ENVELOPE = { domain: 'capacity', payload: new Uint8Array(0), signer: PEER, signature: new Uint8Array(0) }

function ad(over: Partial<CapacityAd> = {}): CapacityAd {
  const some = { cpuMilli: 4_000, memoryMb: 8_000, diskMb: 1_000, gpus: [] }
  return { peer: PEER, cluster: 'c', incarnation: 1, sequence: 1, issuedAt: 0, ttlMs: 30_000, protocolMajor: 1, labels: {}, total: some, free: some, runtimes: [], memoryGBs: 1, cpuLoad: 0, instances: [], holds: [], ...over }
}

type Word = { readonly whole: CapacityAd } | { readonly delta: CapacityDelta }

/** One peer's whole history over several lives: whole ads with deltas on the newest of them. */
const history: fc.Arbitrary<readonly Word[]> = fc.array(fc.record({ life: fc.boolean(), whole: fc.boolean(), load: fc.nat(9) }), { minLength: 1, maxLength: 20 }).map(steps => {
  const words: Word[] = []
  let [incarnation, sequence, base] = [1, 0, 0]
  for (const { life, whole, load } of steps) {
    if (life) [incarnation, sequence, base] = [incarnation + 1, 0, 0]
    sequence += 1
    if (whole || base === 0) {
      base = sequence
      words.push({ whole: ad({ incarnation, sequence, cpuLoad: load }) })
    } else words.push({ delta: { peer: PEER, incarnation, base, sequence, issuedAt: 0, changed: { cpuLoad: load } } })
  }
  return words
})

function told(words: readonly Word[]): AdView {
  const view = new AdView()
  for (const word of words) {
    if ('whole' in word) view.hear(word.whole, ENVELOPE, 0)
    else view.apply(word.delta, ENVELOPE, 0)
  }
  return view
}

describe('the view of the mesh', () => {
  it('comes out the same whatever the order and repetition of what was heard', () => {
    fc.assert(fc.property(history.chain(words => fc.tuple(fc.constant(words), fc.shuffledSubarray([...words, ...words], { minLength: words.length * 2, maxLength: words.length * 2 }))), ([words, heard]) => {
      assert.deepEqual(told(heard).ad(PEER), told(words).ad(PEER))
    }))
  })

  it('never goes back, whatever is lost', () => {
    fc.assert(fc.property(history.chain(words => fc.shuffledSubarray([...words, ...words])), heard => {
      const view = new AdView()
      let before: CapacityAd | undefined
      for (const word of heard) {
        if ('whole' in word) view.hear(word.whole, ENVELOPE, 0)
        else view.apply(word.delta, ENVELOPE, 0)
        const now = view.ad(PEER)
        assert.ok(before === undefined || now === before || (now !== undefined && isNewer(now, before)))
        before = now
      }
    }))
  })

  it('a ghost cannot outlive its successor, not even after the successor is forgotten', () => {
    const view = new AdView()
    view.hear(ad({ incarnation: 2, sequence: 4 }), ENVELOPE, 0)
    assert.deepEqual(view.expire(30_001, 'nobody'), [PEER])
    assert.equal(view.hear(ad({ incarnation: 1, sequence: 99 }), ENVELOPE, 30_002), 'stale')
    assert.equal(view.hear(ad({ incarnation: 2, sequence: 4 }), ENVELOPE, 30_002), 'stale')
    assert.equal(view.hear(ad({ incarnation: 2, sequence: 5 }), ENVELOPE, 30_002), 'new')
  })

  it('the TTL counts from the last new word, not from repetitions', () => {
    const view = new AdView()
    view.hear(ad(), ENVELOPE, 0)
    view.hear(ad(), ENVELOPE, 29_000)
    assert.deepEqual(view.expire(30_001, 'nobody'), [PEER])
  })

  it('a word lasts as long as words do in a mesh of this size, and no longer once the mesh is small again', () => {
    const view = new AdView()
    view.hear(ad(), ENVELOPE, 0)
    assert.deepEqual(view.expire(31_000, 'nobody', 120_000), [])
    assert.deepEqual(view.expire(50_000, 'nobody', 30_000), [PEER])
  })

  it('an instance is found under its block until its host says otherwise', () => {
    const view = new AdView()
    const instance = { block: 'b', instance: 'in-1', contract: 'c1', component: 'x', epoch: 1, steward: PEER, state: 'ready' as const, inFlight: 0, queued: 0, latencyMs: 0 }
    view.hear(ad({ instances: [instance] }), ENVELOPE, 0)
    assert.equal([...view.hostsOf('b')].length, 1)
    view.apply({ peer: PEER, incarnation: 1, base: 1, sequence: 2, issuedAt: 0, changed: { instances: [] } }, ENVELOPE, 0)
    assert.equal([...view.hostsOf('b')].length, 0)
  })
})

describe('what is passed on', () => {
  it('leaves out what the asker names: all of it, or the whole under a delta', () => {
    const [view, asker] = [new AdView(), new AdView()]
    const word = { peer: PEER, incarnation: 1, base: 1, sequence: 2, issuedAt: 0, changed: { cpuLoad: 1 } }
    const later = { ...ENVELOPE, domain: 'capacity-delta' }
    view.hear(ad(), ENVELOPE, 0)
    asker.hear(ad(), ENVELOPE, 0)
    assert.deepEqual(view.envelopes(PEER, new Marks(new AdView().marks(10))), [ENVELOPE])
    view.apply(word, later, 0)
    assert.deepEqual(view.envelopes(PEER), [ENVELOPE, later])
    assert.deepEqual(view.envelopes(PEER, new Marks(asker.marks(10))), [later])
    assert.equal(new Marks(asker.marks(10)).has(view.mark(PEER)), false)
    asker.apply(word, later, 0)
    assert.equal(new Marks(asker.marks(10)).has(view.mark(PEER)), true)
  })
})

describe('what two peers compare', () => {
  const peers = fc.uniqueArray(fc.nat(40), { maxLength: 30 })

  it('names who is lacking and how much is unknown, whoever came and went before', () => fc.assert(fc.property(peers, peers, peers, (mine, theirs, gone) => {
    const name = (n: number): string => `12D3KooW${'abcdefgh'[n % 8]}${n}`
    const [view, other] = [new AdView(), new AdView()]
    for (const n of gone) view.hear(ad({ peer: name(n) }), ENVELOPE, 0)
    for (const n of gone) view.forget(name(n))
    for (const n of mine) view.hear(ad({ peer: name(n), incarnation: 2 }), ENVELOPE, 0)
    for (const n of theirs) other.hear(ad({ peer: name(n), incarnation: 2 }), ENVELOPE, 0)
    const { lacking, unknown } = view.compared(new Marks(other.marks(1_000)))
    assert.deepEqual(lacking.sort(), mine.filter(n => !theirs.includes(n)).map(name).sort())
    assert.equal(unknown, theirs.filter(n => !mine.includes(n)).length)
  })))

  it('a mark that comes twice counts once', () => {
    const twice = new Marks(Uint8Array.of(0, 0, 0, 7, 0, 0, 0, 7, 255, 0, 0, 1))
    assert.deepEqual([twice.size, twice.has(7), twice.has(0xff000001), twice.has(8)], [2, true, true, false])
  })
})

describe('an ad', () => {
  const limits = { skewMs: 60_000, ttlMs: [1_000, 900_000] as const }

  it('counts only when its own peer signed it, it is fresh and promises no more than there is', () => {
    const now = 1_000_000
    assert.ok(checkAd(ad({ issuedAt: now }), PEER, now, limits).ok)
    assert.ok(!checkAd(ad({ issuedAt: now }), '12D3KooWsomebodyelse', now, limits).ok)
    assert.ok(!checkAd(ad({ issuedAt: now + 61_000 }), PEER, now, limits).ok)
    assert.ok(!checkAd(ad({ issuedAt: now - 91_000 }), PEER, now, limits).ok)
    assert.ok(!checkAd(ad({ issuedAt: now, ttlMs: 9e9 }), PEER, now, limits).ok)
    const more = { cpuMilli: 5_000, memoryMb: 1, diskMb: 1, gpus: [] }
    assert.ok(!checkAd(ad({ issuedAt: now, free: more }), PEER, now, limits).ok)
    const delta = { peer: PEER, incarnation: 1, base: 1, sequence: 2, issuedAt: now, changed: { free: more } }
    assert.ok(!checkDelta(delta, PEER, now, limits, ad().total).ok)
    assert.ok(!checkDelta({ ...delta, sequence: 1, changed: {} }, PEER, now, limits).ok)
  })

  it('says what changed and nothing else, and a wavering load is no news', () => {
    const { peer: _p, incarnation: _i, sequence: _s, issuedAt: _t, ...body } = ad()
    assert.equal(difference(body, { ...body }), undefined)
    assert.deepEqual(difference(body, { ...body, cpuLoad: 0.5, labels: { region: 'eu' } }), { cpuLoad: 0.5, labels: { region: 'eu' } })
    assert.ok(!isNews(body, { ...body, cpuLoad: 0.9 }))
    assert.ok(isNews(body, { ...body, free: { ...body.free, cpuMilli: 1 } }))
  })
})

describe('beliefs about who lives', () => {
  const word = fc.record({ state: fc.constantFrom('alive' as const, 'suspect' as const, 'dead' as const, 'left' as const), incarnation: fc.nat(4) })

  it('do not depend on the order or repetition of the words', () => {
    fc.assert(fc.property(fc.array(word, { minLength: 1, maxLength: 12 }).chain(words => fc.tuple(fc.constant(words), fc.shuffledSubarray([...words, ...words], { minLength: words.length * 2, maxLength: words.length * 2 }))), ([words, heard]) => {
      const end = (all: typeof words): unknown => {
        const beliefs = new Beliefs('me')
        for (const { state, incarnation } of all) beliefs.hear(PEER, state, incarnation, 0)
        return beliefs.of(PEER)
      }
      assert.deepEqual(end(heard), end(words))
    }))
  })

  it('everybody is watched by as many peers as there are to watch', () => {
    const names = Array.from({ length: 9 }, (_, at) => `peer-${at}`)
    const watchers = new Map(names.map(name => [name, 0]))
    for (const me of names) {
      const beliefs = new Beliefs(me)
      for (const peer of names) if (peer !== me) beliefs.hear(peer, 'alive', 1, 0)
      for (const peer of beliefs.watched(3)) watchers.set(peer, watchers.get(peer)! + 1)
    }
    assert.deepEqual([...watchers.values()], names.map(() => 3))
  })
})
