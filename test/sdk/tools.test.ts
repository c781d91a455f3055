import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import { Batcher, definePolicy, ManualClock, Metrics, SessionsManager, StateDict, TimeBasedBatcher } from '../../sdk/index.ts'

describe('batching', () => {
  it('hands out every item once, in order, in full batches', () => {
    fc.assert(fc.property(fc.array(fc.integer()), fc.integer({ min: 1, max: 7 }), (items, size) => {
      const batcher = new Batcher<number>(size)
      const batches = items.map(item => batcher.push(item)).filter(batch => batch !== undefined)
      assert.ok(batches.every(batch => batch.length === size))
      assert.deepEqual([...batches, batcher.flush()].flat(), items)
    }))
  })

  it('runs a batch when it is full without waiting, and a part of one when time is up', async () => {
    const clock = new ManualClock()
    const sizes: number[] = []
    const batcher = new TimeBasedBatcher<number, number>({ size: 2, waitMs: 50 }, items => { sizes.push(items.length); return items.map(item => item * 10) }, clock)
    assert.deepEqual(await Promise.all([batcher.push(1), batcher.push(2)]), [10, 20])
    const late = batcher.push(3)
    clock.advance(49)
    assert.deepEqual(sizes, [2])
    clock.advance(1)
    assert.equal(await late, 30)
    assert.deepEqual(sizes, [2, 1])
    assert.equal(batcher.pending, 0)
  })

  it('tells every caller when a batch fails, and goes on', async () => {
    let fail = true
    const batcher = new TimeBasedBatcher<number, number>({ size: 2, waitMs: 50 }, items => { if (fail) throw new Error('no'); return items }, new ManualClock())
    const outcomes = await Promise.allSettled([batcher.push(1), batcher.push(2)])
    assert.deepEqual(outcomes.map(outcome => outcome.status), ['rejected', 'rejected'])
    fail = false
    assert.deepEqual(await Promise.all([batcher.push(3), batcher.push(4)]), [3, 4])
  })

  it('refuses more than it may hold', async () => {
    const batcher = new TimeBasedBatcher<number, number>({ size: 10, waitMs: 50, pending: 1 }, items => items, new ManualClock())
    void batcher.push(1)
    await assert.rejects(batcher.push(2), /already wait/)
  })
})

describe('state', () => {
  it('forgets the least recently used beyond its bound, and idle keys after their time', () => {
    const clock = new ManualClock()
    const state = new StateDict<number>(clock, { entries: 2, idleMs: 100 })
    state.set('a', 1)
    state.set('b', 2)
    state.get('a')
    state.set('c', 3)
    assert.deepEqual(state.keys(), ['a', 'c'])
    clock.advance(100)
    assert.equal(state.size, 0)
  })

  it('keeps what a session writes into its dictionary', () => {
    const sessions = new SessionsManager(new ManualClock())
    sessions.data('s')['count'] = 2
    assert.deepEqual(sessions.data('s'), { count: 2 })
    sessions.setObject('s', 'object')
    assert.equal(sessions.object('s'), 'object')
    sessions.remove('s')
    assert.equal(sessions.has('s'), false)
  })
})

describe('metrics', () => {
  it('roll over windows of 1, 5 and 15 minutes', () => {
    const clock = new ManualClock()
    const rolling = new Metrics(clock).rolling('latency')
    rolling.observe(10)
    clock.advance(4 * 60_000)
    rolling.observe(30)
    assert.deepEqual([60_000, 300_000, 900_000].map(ms => rolling.window(ms).count), [1, 2, 2])
    assert.equal(rolling.window(300_000).mean, 20)
    clock.advance(12 * 60_000)
    assert.equal(rolling.window(900_000).count, 1)
    clock.advance(60 * 60_000)
    assert.equal(rolling.window(900_000).count, 0)
  })

  it('report no more series than their bound, whatever labels come', () => {
    const metrics = new Metrics(new ManualClock())
    for (let index = 0; index < 1_000; index++) {
      metrics.counter('calls', { user: String(index) }).increment()
      metrics.counter(`name-${index}`).increment()
    }
    const snapshot = metrics.snapshot()
    assert.ok(Object.keys(snapshot).length <= 256)
    assert.equal((snapshot['calls'] as { readonly series: readonly unknown[] }).series.length, 128)
  })
})

describe('a policy rule', () => {
  it('is the class AIOS constructs, with state of its own', () => {
    const Rule = definePolicy({ init: ({ settings }) => ({ calls: Number(settings['from']) }), eval: (parameters, input, _context, rule) => ({ calls: ++rule.state.calls, limit: parameters['limit'] ?? null, id: rule.ruleId, asked: input['asked'] ?? null }) })
    const rule = new Rule('r:1-stable', { from: 5 }, {})
    assert.deepEqual(rule.eval({ limit: 1 }, { asked: true }, {}), { calls: 6, limit: 1, id: 'r:1-stable', asked: true })
    assert.deepEqual(rule.eval({}, {}, {}), { calls: 7, limit: null, id: 'r:1-stable', asked: null })
    assert.throws(() => rule.management('reset', null), /does not know "reset"/)
  })
})
