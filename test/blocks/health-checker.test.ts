import assert from 'node:assert/strict'
import type { BlockOrder } from '../../protocols/block-control.ts'
import type { Json } from '../../protocols/ids.ts'
import { healthRound, healthSettings, toReplace } from '../../src/blocks/health-round.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { Town } from './town.ts'

const INTERVAL = { stabilityChecker: { policyRuleURI: 'default', parameters: {}, settings: { health_check_interval: 5, unhealthy_rounds: 2 } } }
const named = (settings: Json, uri = 'default'): Json => [{ values: { name: 'stabilityChecker', policyRuleURI: uri, settings } }]

describe('health rounds', () => {
  it('count misses in a row, and one good answer forgives them', () => {
    const sick = { healthy: false, because: 'ill' }
    const well = { healthy: true, because: '' }
    const first = healthRound(new Map(), new Map([['in-a', sick], ['in-b', well]]), new Map([['in-c', 'it crashed 2 times']]))
    const second = healthRound(first, new Map([['in-a', sick], ['in-b', sick]]), new Map([['in-c', 'it crashed 3 times']]))
    assert.deepEqual([...second].map(([id, { misses }]) => [id, misses]), [['in-a', 2], ['in-b', 1], ['in-c', 2]])
    assert.equal(healthRound(second, new Map([['in-a', well]]), new Map()).get('in-a')?.misses, 0)
    // One that restarts by itself is not placed anew on top; of several one at a time.
    assert.deepEqual(toReplace(second, new Set(['in-a', 'in-b']), 2), ['in-a'])
  })

  it('are AIOS’s 30 s apart with 5 s to answer, unless the block says otherwise', () => {
    assert.deepEqual(healthSettings({ policies: {}, runtime: { name: 'node' } }), { intervalMs: 30_000, timeoutMs: 5_000, rounds: 3 })
    assert.deepEqual(healthSettings({ policies: INTERVAL, runtime: { name: 'node' } }), { intervalMs: 5_000, timeoutMs: 5_000, rounds: 2 })
  })
})

describe('health checker', function () {
  this.timeout(60_000)

  it('an instance that stays unhealthy is replaced, one that does not answer too, and callers turn to the well ones meanwhile', async () => {
    const town = await new Town(4).open()
    await town.block({ blockId: 'well', minInstances: 2, maxInstances: 3, policyRulesSpec: named({ health_check_interval: 5, unhealthy_rounds: 2 }) })
    await town.untilReady('well', 2)
    const [ill = '', mute = ''] = town.ready('well')
    town.manners.health = instance => ({ healthy: instance !== ill, detail: { status: instance === ill ? 'out of memory' : 'healthy' } })
    await town.until('it is told', () => town.anybody().view.instancesOf('well').some(({ ad }) => ad.instance === ill && ad.unhealthy === true), 20_000)
    for (let call = 0; call < 6; call += 1) assert.equal(Object(await town.world.drive(town.call(town.at(call % 4), 'well', call))).by, mute)
    await town.until('another has come', () => !town.ready('well').includes(ill), 40_000)
    town.manners.health = instance => (instance === mute ? 'silent' : { healthy: true, detail: { status: 'healthy' } })
    await town.until('the mute one is replaced', () => !town.ready('well').includes(mute) && town.ready('well').length === 2, 60_000)
    await town.later(30_000)
    assert.equal(town.ready('well').length, 2)
  })

  it('one that was killed and started again has no verdict of its earlier process', async () => {
    const town = await new Town(3).open()
    await town.block({ blockId: 'held', minInstances: 1, maxInstances: 1, policyRulesSpec: named({ health_check_interval: 20, unhealthy_rounds: 9 }) })
    await town.untilReady('held', 1)
    const [only = ''] = town.ready('held')
    const well = (): { readonly healthy: boolean; readonly detail: Json } => ({ healthy: true, detail: null })
    const status = async (): Promise<string> => {
      const { state, ready, instances } = Object(await town.world.drive(town.bystander('held').control.order('held', { do: 'status' })))
      return `${state}, ${ready} ready, ${instances[only]?.healthy}`
    }
    const till = async (wanted: string): Promise<void> => {
      for (let tries = 0; await status() !== wanted; tries += 1) {
        assert.ok(tries < 300, `${wanted}, not ${await status()}`)
        await town.later(100)
      }
    }
    town.manners.health = () => 'silent'
    await till('unhealthy, 1 ready, false')
    town.manners.health = well
    town.crash.get(only)?.()
    await till('healthy, 1 ready, null')
    await till('healthy, 1 ready, true')
    await town.later(65_000)
    // Killed while it is asked: the round that ends after that is of the one before, and so is one that finds it starting.
    let asked = false
    town.manners.health = () => {
      asked = true
      town.manners.health = well
      town.crash.get(only)?.()
      return 'silent'
    }
    await town.until('it is asked, and killed for it', () => asked)
    for (let look = 0; look < 100; look += 1) {
      assert.doesNotMatch(await status(), /1 ready, false/)
      await town.later(100)
    }
    assert.equal(await status(), 'healthy, 1 ready, null')
    await town.later(65_000)
    town.manners.startMs = 5_000
    town.crash.get(only)?.()
    await till('unhealthy, 0 ready, null')
    const checked = await town.world.drive(town.bystander('held').control.order('held', { do: 'command', service: 'stability_checker', action: 'check', data: null }))
    assert.equal(Object(Object(checked)[only]).healthy, false)
    await till('healthy, 1 ready, null')
    assert.deepEqual(town.ready('held'), [only])
  })

  it('one that its steward has released is not taken for ill, though its ad is late', async () => {
    const town = await new Town(3).open()
    await town.block({ blockId: 'moved', minInstances: 2, maxInstances: 3 })
    await town.untilReady('moved', 2)
    const [old = ''] = town.ready('moved')
    const order = async (what: BlockOrder): Promise<Json> => town.world.drive(town.bystander('moved').control.order('moved', what))
    await order({ do: 'reassign', instance: old })
    let held = [old]
    for (let round = 0; round < 2_000 && held.includes(old); round += 1) {
      const checked = Object(await order({ do: 'command', service: 'stability_checker', action: 'check', data: null }))
      held = Object.keys(Object(Object(await order({ do: 'status' })).instances))
      for (const [instance, { healthy, because }] of Object.entries<Json & { healthy?: Json; because?: Json }>(checked)) assert.equal(healthy, true, `${instance}: ${String(because)}`)
      await town.later(3)
    }
    assert.ok(!held.includes(old))
    for (let round = 0; round < 50; round += 1) {
      assert.deepEqual(Object.keys(Object(await order({ do: 'command', service: 'stability_checker', action: 'check', data: null }))).sort(), held.sort())
      await town.later(3)
    }
  })

  it('an instance that computes for so long that it does not answer is busy, as long as it serves', async () => {
    const town = await new Town(3).open()
    await town.block({ blockId: 'heavy', minInstances: 1, maxInstances: 1, policyRulesSpec: named({ health_check_interval: 6, unhealthy_rounds: 2 }) })
    await town.untilReady('heavy', 1)
    const [only = ''] = town.ready('heavy')
    town.manners.health = () => 'silent'
    for (let call = 0; call < 60; call += 1) {
      await town.world.drive(town.call(town.at(call % 3), 'heavy', call))
      await town.later(1_000)
    }
    assert.deepEqual(town.ready('heavy'), [only])
    await town.until('idle and mute, it is replaced', () => town.ready('heavy').length === 1 && town.ready('heavy')[0] !== only, 60_000)
  })

  it('hook stabilityChecker: it is told of every round as AIOS tells it, and may name instances to replace', async () => {
    const town = await new Town(4).open()
    await town.rule('stable:1.0-x', `export default class { constructor(id, settings) { this.settings = settings; this.rounds = [] }
      eval(parameters, input) {
        if (!input.block_data.id || !input.cluster_data.id || !this.settings.block_data.id) throw new Error('not as AIOS tells it')
        this.rounds.push(input.health_check_data)
        return this.rounds.length === 2 ? { replace: [input.instances[0]] } : null
      }
      management(action) { return { action, rounds: this.rounds } } }`)
    await town.block({ blockId: 'ruled', minInstances: 1, maxInstances: 2, policyRulesSpec: named({ health_check_interval: 4 }, 'stable:1.0-x') })
    await town.untilReady('ruled', 1)
    const [first = ''] = town.ready('ruled')
    await town.until('the rule has its way', () => town.ready('ruled').length === 1 && town.ready('ruled')[0] !== first, 60_000)
    const answer = await town.world.drive(town.bystander('ruled').control.order('ruled', { do: 'command', service: 'stability_checker', action: 'rounds', data: null }))
    assert.ok(isJsonObject(answer) && Array.isArray(answer['rounds']))
    assert.deepEqual(answer['rounds'][0], { [first]: true })
  })

  it('a block that no host takes says so, and why, whichever peer is asked', async () => {
    const town = await new Town(4).open()
    await town.block({ blockId: 'nowhere', minInstances: 1, maxInstances: 1, policyRulesSpec: [{ values: { name: 'clusterAllocator', policyRuleURI: '', parameters: { filter: { clusterQuery: { variable: 'regionId', operator: '==', value: 'moon' } } } } }] })
    await town.later(5_000)
    const status = Object(await town.world.drive(town.bystander('nowhere').control.order('nowhere', { do: 'status' })))
    assert.match(`${status.state}: ${status.because}`, /^unhealthy: no instance is ready: no host takes one \(…\w{8}: the filter of its clusterAllocator leaves it out; /)
    assert.ok(status.lastPlacement.candidates.every(({ step }: { readonly step: string }) => step === 'filter'))
  })

  it('defect 20: a crash-looping instance is unhealthy, its block is tried less and less often, and says why', async () => {
    const town = await new Town(4).open()
    town.manners.livesMs = (_, block) => (block === 'looping' ? 700 : undefined)
    await town.block({ blockId: 'looping', minInstances: 1, maxInstances: 1, policyRulesSpec: named({ health_check_interval: 2 }) })
    const status = async (): Promise<{ readonly [key: string]: Json }> => {
      const answer = await town.world.drive(town.bystander('looping').control.order('looping', { do: 'status' }))
      assert.ok(isJsonObject(answer))
      return answer
    }
    await town.later(6_000)
    const early = await status()
    assert.notEqual(early['state'], 'healthy', JSON.stringify([early, town.told.length, town.anybody().view.instancesOf('looping')]))
    let state = early
    await town.until('it counts as failing', () => town.told.length > 20, 300_000)
    state = await status()
    assert.equal(state['state'], 'failing', JSON.stringify(state))
    assert.match(String(state['because']), /\d+ instances failed in 10 min, the last one because it crashed 4 times: it crashed/)
    await town.later(180_000)
    const before = town.told.length
    await town.later(60_000)
    assert.ok(town.told.length - before <= 4, `${town.told.length - before} starts in a minute`)
    // Mended: it comes up without anybody starting it.
    town.manners.livesMs = () => undefined
    await town.untilReady('looping', 1, 130_000)
  })
})
