import assert from 'node:assert/strict'
import { assert as holds, integer, property, record } from 'fast-check'
import type { Json } from '../../protocols/ids.ts'
import { autoscaleSettings, defaultScale, demandSince, readScaling, type Demand } from '../../src/blocks/autoscale.ts'
import { LoadMeter } from '../../src/blocks/instance-load.ts'
import { Town } from './town.ts'

const settings = autoscaleSettings({ policies: {} }, true)
const demand = (busy: number, over: Partial<Demand> = {}): Demand => ({ busy, waiting: 0, width: 4, latencyMs: 20, idleMs: 0, ...over })

describe('autoscaling rule', () => {
  it('is of as many instances as keep what is under way and waiting at seven tenths of what they take', () => {
    assert.equal(defaultScale({ min: 1, max: 9, want: 1, demands: [demand(4, { waiting: 1.6 })], settings }).want, 2)
    assert.equal(defaultScale({ min: 1, max: 9, want: 2, demands: [demand(2.8), demand(2.8)], settings }).want, 2)
    assert.equal(defaultScale({ min: 1, max: 9, want: 3, demands: [demand(0), demand(0), demand(0)], settings }).want, 2)
  })

  it('grows by latency where a target is named, and keeps spare ones warm', () => {
    const wanting = autoscaleSettings({ policies: { autoscaler: { policyRuleURI: 'default', parameters: {}, settings: { targetLatencyMs: 100, spareInstances: 1 } } } }, true)
    assert.equal(defaultScale({ min: 1, max: 9, want: 2, demands: [demand(1, { latencyMs: 190 }), demand(1, { latencyMs: 190 })], settings: wanting }).want, 5)
  })

  it('never leaves the bounds, whatever the load', () => {
    holds(property(record({ min: integer({ min: 0, max: 5 }), more: integer({ min: 0, max: 5 }), want: integer({ min: 0, max: 12 }), busy: integer({ min: 0, max: 100 }), idleMs: integer({ min: 0, max: 600_000 }) }), ({ min, more, want, busy, idleMs }) => {
      const max = Math.max(1, min + more)
      const now = Math.min(max, Math.max(min, want))
      const next = defaultScale({ min, max, want: now, demands: [demand(busy, { idleMs })], settings }).want
      return next >= min && next <= max
    }))
  })

  it('takes means between two looks, not the moment', () => {
    let now = 0
    const meter = new LoadMeter({ monotonic: () => now })
    const first = meter.read(4, 0)
    meter.waits()
    meter.runs()
    now = 750
    meter.ends(true)
    now = 1_000
    const { busy, idleMs } = demandSince({ at: 0, load: first }, meter.read(4, 0), now)
    assert.equal(busy, 0.75)
    assert.equal(idleMs, 250)
  })

  it('of an author is held to minInstances and maxInstances, and hears what was cut', () => {
    const at = { want: 2, min: 1, max: 3, instances: ['in-a', 'in-b'] }
    const read = (said: Json): unknown => {
      const verdict = readScaling(said, at)
      return verdict.ok ? verdict.value : verdict.because
    }
    assert.deepEqual(read({ skip: true }), { do: 'nothing', because: 'the rule has nothing to change' })
    assert.deepEqual(read({ skip: false, operation: 'upscale', instances_count: 5, allocation_data: [{ node_id: 'p', gpu_ids: [0] }, { node_id: 'q' }] }), { do: 'up', want: 3, spots: [{ host: 'p', gpus: ['0'] }], because: '5 more are asked for, and 3 is the most' })
    assert.deepEqual(read({ skip: false, operation: 'downscale', instances_list: ['in-a', 'in-b', 'in-x'] }), { do: 'down', want: 1, instances: ['in-a'], because: '2 are to go, and 1 is the least' })
    assert.match(String(read({ skip: false, operation: 'sideways' })), /must return/)
  })
})

describe('autoscaler', function () {
  this.timeout(60_000)

  it('without a policy, gives a busy block more instances, up to its most, and takes them away when it is quiet', async () => {
    const town = await new Town(4).open()
    town.manners.serviceMs = 400
    await town.block({ blockId: 'busy', minInstances: 1, maxInstances: 3 })
    await town.untilReady('busy', 1)
    let asking = true
    const ask = async (index: number): Promise<void> => {
      while (asking) await town.call(town.at(index % 4), 'busy', index)
    }
    const callers = Array.from({ length: 24 }, (_, index) => ask(index))
    await town.untilReady('busy', 3, 90_000)
    await town.later(30_000)
    assert.equal(town.ready('busy').length, 3, 'never more than its most')
    asking = false
    await town.world.drive(Promise.all(callers))
    await town.untilReady('busy', 1, 400_000)
    await town.later(120_000)
    assert.equal(town.ready('busy').length, 1, 'never fewer than its least')
  })

  it('hook autoscaler: a rule is asked after a minute and each interval, with AIOS’s input, and places where it says', async () => {
    const town = await new Town(4).open()
    const where = town.at(2).view.self
    await town.rule('scaler:1.0-stable', `export default class { constructor(id, settings) { this.settings = settings; this.times = 0 }
      eval(parameters, input) {
        this.times += 1
        if (!Array.isArray(input.current_instances) || !input.block_data.id || !input.cluster_data.id) throw new Error('not as AIOS asks')
        if (this.times === 1) return { skip: false, operation: 'upscale', instances_count: 1, allocation_data: [{ node_id: '${where}' }] }
        if (this.times === 3) return { skip: false, operation: 'downscale', instances_list: input.current_instances }
        return { skip: true }
      }
      management(action, data) { return { action, times: this.times, data } } }`)
    await town.block({ blockId: 'ruled', minInstances: 1, maxInstances: 3, policyRulesSpec: [{ values: { name: 'autoscaler', policyRuleURI: 'scaler:1.0-stable', parameters: {}, settings: { intervalSeconds: 20 } } }] })
    await town.untilReady('ruled', 1)
    await town.later(50_000)
    assert.equal(town.ready('ruled').length, 1, 'not before a minute')
    await town.untilReady('ruled', 2, 30_000)
    assert.ok(town.anybody().view.instancesOf('ruled').some(({ host }) => host === where), 'one runs where the rule said')
    const asked = await town.world.drive(town.bystander('ruled').control.order('ruled', { do: 'command', service: 'autoscaler', action: 'count', data: 7 }))
    assert.deepEqual(asked, { action: 'count', times: 1, data: 7 })
    await town.untilReady('ruled', 1, 90_000)
    await town.later(60_000)
    assert.equal(town.ready('ruled').length, 1, 'and its least stays')
  })

  it('what was asked for survives the steward: its successor keeps as many', async () => {
    const town = await new Town(5).open()
    await town.block({ blockId: 'kept', minInstances: 1, maxInstances: 4, policyRulesSpec: [{ values: { name: 'autoscaler', policyRuleURI: 'default', settings: { intervalSeconds: 3_600, firstRunSeconds: 3_600 } } }] })
    await town.untilReady('kept', 1)
    await town.world.drive(town.bystander('kept').control.order('kept', { do: 'scale', count: 2, at: [] }))
    await town.untilReady('kept', 3)
    await town.later(2_000)
    town.world.crash(town.host(town.anybody().placement.stewardOf('kept')))
    await town.later(20_000)
    assert.equal(town.ready('kept').length, 3)
    await town.later(60_000)
    assert.equal(town.ready('kept').length, 3)
  })

  it('a block of no least sleeps when nobody calls it, and the first call wakes it: held, not refused', async () => {
    const town = await new Town(3).open()
    await town.block({ blockId: 'sleeper', minInstances: 0, maxInstances: 2, policyRulesSpec: [{ values: { name: 'autoscaler', policyRuleURI: 'default', settings: { idleSeconds: 30, intervalSeconds: 5, firstRunSeconds: 5 } } }] })
    await town.later(5_000)
    assert.deepEqual(town.ready('sleeper'), [])
    const status = await town.world.drive(town.bystander('sleeper').control.order('sleeper', { do: 'status' }))
    assert.equal(Object(status).state, 'asleep')
    // Its bundle is on the steward and its successors before anybody calls.
    const before = town.world.now
    const answers = await town.world.drive(Promise.all([0, 1, 2].map(index => town.call(town.at(index), 'sleeper', index))))
    assert.equal(answers.length, 3)
    assert.ok(town.world.now - before < 2_000, `${town.world.now - before} ms`)
    await town.until('it sleeps again', () => town.ready('sleeper').length === 0, 60_000)
    await town.world.drive(town.call(town.at(1), 'sleeper', 'again'))
    assert.equal(town.ready('sleeper').length, 1)
  })
})
