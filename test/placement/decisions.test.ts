import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import type { CapacityAd } from '../../protocols/capacity.ts'
import { blockRecord, type BlockRecord } from '../../protocols/specs.ts'
import { SeededRandom } from '../../simulations/random.ts'
import { rendezvous } from '../../src/lib/rendezvous.ts'
import { aiosFilter, clusterDocument } from '../../src/placement/cluster-document.ts'
import { isOpen, step, type ContractEvent, type HeldContract } from '../../src/placement/contract.ts'
import { lapse } from '../../src/placement/lapse.ts'
import { choices, rank, sample, suits } from '../../src/placement/rank.ts'
import { counts, outdated, reconcile, type Observed, type Situation } from '../../src/placement/reconcile.ts'
import { Succession } from '../../src/placement/succession.ts'

function ad(peer: string, over: Partial<CapacityAd> = {}): CapacityAd {
  const some = { cpuMilli: 4_000, memoryMb: 8_000, diskMb: 1_000, gpus: [] }
  return { peer, cluster: peer, incarnation: 1, sequence: 1, issuedAt: 0, ttlMs: 30_000, protocolMajor: 1, labels: {}, total: some, free: some, runtimes: [{ name: 'node', version: '24', providers: ['cpu'], gflops: 1 }], memoryGBs: 1, cpuLoad: 0, instances: [], holds: [], ...over }
}
const block = (over: Partial<BlockRecord> = {}): BlockRecord => ({ ...blockRecord.parse({ blockId: 'b', componentURI: 'x:1-s', component: 'bafyreisample', runtime: { name: 'node' }, minInstances: 1, maxInstances: 1, needs: {}, owner: '12D3KooWowner', revision: 0 }), ...over })
const NOWHERE = { hosting: new Map<string, number>(), rtt: () => 10 }

describe('ranking hosts', () => {
  it('a host outside the region is refused before its size is looked at', () => {
    const verdict = suits(block({ labels: { region: 'eu' }, needs: { cpuMilli: 99_000, memoryMb: 0, diskMb: 0, gpus: 0, gpuMemoryMb: 0 } }), ad('a', { labels: { region: 'us' } }))
    assert.ok(!verdict.ok && /region=us/.test(verdict.because) && !verdict.retryable)
    assert.ok(suits(block({ labels: { region: 'eu, ch' } }), ad('a', { labels: { region: 'ch' } })).ok)
  })

  it('says what is short, and that waiting may help', () => {
    const verdict = suits(block({ needs: { cpuMilli: 0, memoryMb: 9_000, diskMb: 0, gpus: 0, gpuMemoryMb: 0 } }), ad('a'))
    assert.ok(!verdict.ok && /9000 MiB of memory, 8000/.test(verdict.because) && verdict.retryable)
  })

  it('a warm host comes before a cold one, and one that runs the block already after both', () => {
    const ads = [ad('runs-it', { holds: ['bafyreisample'] }), ad('cold'), ad('warm', { holds: ['bafyreisample'] })]
    const { ranked } = rank(block(), ads, { hosting: new Map([['runs-it', 1]]), rtt: () => 10 })
    assert.deepEqual(ranked.map(({ peer }) => peer), ['warm', 'cold', 'runs-it'])
  })

  it('asks a bounded number of hosts however many there are', () => {
    const ads = Array.from({ length: 1_000 }, (_, at) => ad(`peer-${at}`))
    const { ranked } = rank(block(), ads, NOWHERE)
    const asked = sample(ranked, choices(1_000), new SeededRandom('x'))
    assert.equal(asked.length, 20)
    assert.equal(new Set(asked.map(({ peer }) => peer)).size, 20)
    assert.equal(choices(3), 8)
  })
})

describe('the filter of a clusterAllocator', () => {
  it('reads the words of AIOS, and refuses what it cannot read', () => {
    const document = clusterDocument([ad('a', { labels: { region: 'eu' } })])
    assert.ok(aiosFilter({ clusterQuery: { variable: 'regionId', operator: '==', value: 'eu' } }, document).ok)
    assert.ok(aiosFilter({ variable: 'vcpus.count', operator: '>=', value: '4' }, document).ok)
    assert.ok(!aiosFilter({ clusterMetricsQuery: { variable: 'memory.freeMem', operator: '>', value: 9_000 } }, document).ok)
    const unread = aiosFilter({ nonsense: 1 }, document)
    assert.ok(!unread.ok && /cannot be read/.test(unread.because))
  })
})

describe('the life of a contract', () => {
  const held: HeldContract = {
    contract: { id: 'c', block: 'b', instance: 'in-1', component: 'x', steward: 'S', host: 'H', needs: { cpuMilli: 1, memoryMb: 1, diskMb: 0, gpus: 0, gpuMemoryMb: 0 }, gpus: [], epoch: 3, leaseMs: 20_000, issuedAt: 0 },
    state: 'awarded', bornEpoch: 3, leaseEnds: 20_000, because: '',
  }
  const event: fc.Arbitrary<ContractEvent> = fc.oneof(
    fc.constantFrom<ContractEvent>({ type: 'start' }, { type: 'started' }, { type: 'crashed', because: '' }, { type: 'failed', because: '' }, { type: 'lapse', because: '' }, { type: 'stopped' }),
    fc.record({ type: fc.constant('lease' as const), steward: fc.constantFrom('S', 'T'), epoch: fc.nat(8), leaseMs: fc.constant(20_000), now: fc.nat(99_000), unix: fc.constant(0) }),
    fc.record({ type: fc.constant('release' as const), epoch: fc.nat(8), because: fc.constant('') }),
  )

  it('its epoch only rises, a lower one is never obeyed, and nothing leaves an end', () => {
    fc.assert(fc.property(fc.array(event, { maxLength: 30 }), events => {
      let now = held
      for (const each of events) {
        const verdict = step(now, each)
        if ((each.type === 'lease' || each.type === 'release') && each.epoch < now.contract.epoch) assert.ok(!verdict.ok)
        if (!isOpen(now)) assert.ok(!verdict.ok)
        if (!verdict.ok) continue
        assert.ok(verdict.value.contract.epoch >= now.contract.epoch)
        assert.ok(verdict.value.contract.steward === now.contract.steward || verdict.value.contract.epoch > now.contract.epoch)
        assert.ok(verdict.value.leaseEnds >= now.leaseEnds)
        if (now.state === 'draining') assert.ok(!['awarded', 'starting', 'running'].includes(verdict.value.state))
        now = verdict.value
      }
    }))
  })
})

describe('a lease that nobody renewed', () => {
  const lapsed = { overdueMs: 20_000, leaseMs: 20_000, epoch: 3, least: 1, elsewhere: [] }

  it('is no reason to die while nobody else may be there', () => {
    assert.ok(lapse(lapsed).ok)
    assert.ok(lapse({ ...lapsed, overdueMs: 9e9, elsewhere: [{ epoch: 3, state: 'ready' }] }).ok)
    assert.ok(lapse({ ...lapsed, elsewhere: [{ epoch: 4, state: 'starting' }] }).ok)
  })

  it('ends an instance that a later epoch replaced, or whose block is withdrawn, a whole lease later', () => {
    assert.ok(!lapse({ ...lapsed, elsewhere: [{ epoch: 4, state: 'ready' }] }).ok)
    assert.ok(!lapse({ ...lapsed, least: undefined }).ok)
    assert.ok(lapse({ ...lapsed, overdueMs: 19_999, least: undefined }).ok)
    assert.ok(lapse({ ...lapsed, least: 2, elsewhere: [{ epoch: 4, state: 'ready' }] }).ok)
  })
})

describe('reconciling', () => {
  const one = (at: number, over: Partial<Observed> = {}): Observed => ({ contract: `c${at}`, instance: `in-${at}`, host: `h${at}`, epoch: 2, state: 'ready', inFlight: 0, renewedAt: 1_000, terms: 'now', ...over })
  const calm: Situation = { terms: 'now', want: 2, observed: [one(1), one(2)], placing: 0, lost: 0, placedBefore: true, epoch: 2, now: 2_000, renewEveryMs: 4_000, surplusSince: undefined, surplusMs: 2_000, retryAt: 0 }

  it('does nothing when all is well', () => {
    assert.deepEqual(reconcile(calm), [])
  })

  it('adopts at once what stands under an older epoch', () => {
    assert.deepEqual(reconcile({ ...calm, epoch: 3 }).map(step => step.do), ['renew', 'renew'])
  })

  it('replaces the dead as AIOS calls it, and waits after a failure', () => {
    assert.deepEqual(reconcile({ ...calm, observed: [one(1)], lost: 1 }), [{ do: 'place', count: 1, action: 'reassignment', because: '1 instances are there, 0 on their way, 2 wanted' }])
    const because = '1 instances are there, 0 on their way, 3 wanted'
    assert.deepEqual(reconcile({ ...calm, want: 3, observed: [one(1)], lost: 1 }), [{ do: 'place', count: 1, action: 'reassignment', because }, { do: 'place', count: 1, action: 'scale', because }], 'one in the place of another, one more')
    assert.equal(reconcile({ ...calm, observed: [one(1)], retryAt: 9_000 })[0]?.do, 'wait')
    assert.deepEqual(reconcile({ ...calm, observed: [one(1)], placing: 1 }), [])
  })

  it('drains a surplus only when it lasts, and never one that is needed', () => {
    const three = [one(1, { inFlight: 5 }), one(2, { state: 'starting' }), one(3)]
    const early = reconcile({ ...calm, observed: three, surplusSince: 1_500 })
    assert.deepEqual(early.map(step => step.do), ['wait'])
    const late = reconcile({ ...calm, observed: three, surplusSince: 0 })
    assert.ok(late[0]?.do === 'release' && late[0].target.contract === 'c2')
    assert.deepEqual(reconcile({ ...calm, observed: [one(1), one(2, { state: 'starting' }), one(3, { state: 'starting' })], surplusSince: 0 }), [])
  })

  it('replaces instances of an earlier record one by one, and never has fewer ready than wanted', () => {
    const old = (at: number, over: Partial<Observed> = {}): Observed => one(at, { terms: 'before', ...over })
    const does = (observed: readonly Observed[], over: Partial<Situation> = {}): readonly string[] => reconcile({ ...calm, observed, ...over }).map(step => (step.do === 'release' ? `release ${step.target.contract}` : step.do === 'place' ? `place ${step.count}` : step.do))
    assert.deepEqual(does([old(1), old(2)]), ['place 1'])
    assert.deepEqual(does([old(1), old(2)], { placing: 1 }), [])
    assert.deepEqual(does([old(1), old(2), one(3, { state: 'starting' })], { surplusSince: 0 }), [])
    assert.deepEqual(does([old(1, { inFlight: 3 }), old(2), one(3)]), ['release c2', 'place 1'])
    assert.deepEqual(does([old(1), one(3)]), ['place 1'])
    assert.deepEqual(does([old(1), one(3), one(4)]), ['release c1'])
    assert.deepEqual(does([one(3), one(4)]), [])
    assert.deepEqual(does([old(1), old(2, { state: 'starting' })]), ['place 1'])
    assert.deepEqual(does([old(1, { state: 'starting' }), old(2, { state: 'starting' }), one(3)]), ['release c1', 'place 1'])
    assert.deepEqual(does([old(1), old(2)], { retryAt: 9_000 }), ['wait'])
    assert.deepEqual(does([one(1, { terms: undefined }), old(2)], { want: 1 }), ['release c2'])
    assert.deepEqual(does([old(1), old(2)], { want: 0, terms: undefined }), ['release c1', 'release c2'])
    assert.deepEqual(does([old(1, { inFlight: 1 }), old(2)], { want: 1 }), ['release c2', 'place 1'], 'there was one too many when the block was changed')
    assert.deepEqual(does([old(1), old(2, { state: 'starting' })], { want: 1 }), ['release c2', 'place 1'], 'it was changed again before the last change was carried out')
    assert.deepEqual(does([old(1, { state: 'starting' }), old(2, { state: 'starting' })], { want: 1 }), [], 'either may answer')
  })

  it('comes to what is wanted from wherever it begins, once what starts has started or failed', () => {
    const states = fc.constantFrom('awarded' as const, 'starting' as const, 'ready' as const, 'draining' as const)
    const found = fc.array(fc.record({ state: states, terms: fc.constantFrom('now', 'before', 'long before'), fails: fc.boolean() }), { maxLength: 8 })
    fc.assert(fc.property(fc.integer({ min: 1, max: 5 }), found, (want, begins) => {
      let there = begins.map(({ state, terms, fails }, at) => ({ seen: one(at, { state, terms }), fails }))
      let made = there.length
      for (let round = 0; round < 40; round += 1) {
        for (const step of reconcile({ ...calm, want, observed: there.map(({ seen }) => seen), surplusSince: 0 })) {
          if (step.do === 'release') there = there.filter(({ seen }) => seen.contract !== step.target.contract)
          else if (step.do === 'place') for (let left = step.count; left > 0; left -= 1) there.push({ seen: one(made++, { state: 'starting' }), fails: false })
        }
        there = there.filter(({ seen, fails }) => !fails || seen.state === 'ready' || seen.state === 'draining').map(({ seen, fails }) => ({ seen: { ...seen, state: seen.state === 'draining' ? 'draining' : 'ready' }, fails }))
      }
      const serving = there.filter(({ seen }) => counts(seen))
      assert.deepEqual(serving.map(({ seen: { state, terms } }) => [state, terms]), Array.from({ length: want }, () => ['ready', 'now']))
    }))
  })

  it('whatever it sees, never releases below what is wanted nor places above it', () => {
    const states = fc.constantFrom('awarded' as const, 'starting' as const, 'ready' as const, 'draining' as const, 'failed' as const)
    fc.assert(fc.property(fc.nat(5), fc.array(states, { maxLength: 8 }), fc.nat(3), fc.nat(5), fc.nat(255), (want, found, placing, epoch, old) => {
      const observed = found.map((state, at) => one(at, { state, terms: (old >> at) % 2 === 1 ? 'before' : 'now' }))
      const steps = reconcile({ ...calm, want, observed, placing, epoch, surplusSince: 0 })
      const counted = observed.filter(counts).length
      const released = steps.filter(step => step.do === 'release').length
      const placed = steps.reduce((sum, step) => sum + (step.do === 'place' ? step.count : 0), 0)
      const replacing = outdated({ want, terms: 'now', observed }).length > 0
      const ready = (some: readonly Observed[]): number => some.filter(({ state }) => state === 'ready').length
      const gone = steps.flatMap(step => (step.do === 'release' ? [step.target] : []))
      assert.ok(released === 0 || ready(gone) === 0 || ready(observed) - ready(gone) >= want)
      assert.ok(placed === 0 || counted - released + placing + placed <= want + (replacing ? 1 : 0))
      if (replacing) return
      assert.ok(released === 0 || counted - released >= want)
      assert.ok(released === 0 || ready(observed) >= want)
    }))
  })
})

describe('who stewards', () => {
  it('is the same whether peers came one by one or all at once', () => {
    const peers = Array.from({ length: 12 }, (_, at) => `peer-${at}`)
    fc.assert(fc.property(fc.array(fc.record({ peer: fc.constantFrom(...peers), here: fc.boolean() }), { maxLength: 30 }), moves => {
      const succession = new Succession()
      const here = new Set<string>()
      for (const move of moves) {
        if (move.here) here.add(move.peer)
        else here.delete(move.peer)
        succession.update(here)
        assert.deepEqual(succession.line('b'), rendezvous('b', [...here]).slice(0, 3))
      }
    }))
  })
})
