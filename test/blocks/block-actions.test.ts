import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { isJsonObject } from '../../src/lib/json.ts'
import { Town } from './town.ts'

describe('block actions', function () {
  this.timeout(60_000)

  it('of two blocks of one id that are made at the same time one stands, and the other’s maker hears so', async () => {
    const town = await new Town(4).open()
    for (const index of [0, 1, 2]) await town.world.drive(town.at(index).catalogue.component('node.answers:1.0.0-stable'))
    const made = await town.world.drive(Promise.allSettled([0, 1, 2].map(async index => {
      const { block } = await town.at(index).actions.createBlock({ blockId: 'wanted', blockComponentURI: 'node.answers:1.0.0-stable', minInstances: 1, maxInstances: 1, parameters: { by: index } })
      return town.at(index).actions.waitReady(block, 1, new AbortController().signal).then(() => index)
    })))
    const won = made.flatMap(one => (one.status === 'fulfilled' ? [one.value] : []))
    assert.equal(won.length, 1)
    const told = made.flatMap(one => (one.status === 'rejected' ? [one.reason instanceof MeshError ? `${one.reason.code}: ${one.reason.message}` : String(one.reason)] : []))
    assert.ok(told.every(text => text.startsWith('ALREADY_EXISTS: ') && text.includes('choose another blockId')), told.join('\n'))
    assert.ok(told.some(text => text.includes('at the same time, and that one stands')), told.join('\n'))
    for (const index of [0, 1, 2, 3]) assert.deepEqual((await town.world.drive(town.at(index).catalogue.block('wanted')))?.parameters, { by: won[0] })
    const { block } = await town.world.drive(town.at(0).actions.createBlock({ blockId: 'moon', blockComponentURI: 'node.answers:1.0.0-stable', minInstances: 1, maxInstances: 1, labels: { region: 'moon' } }))
    const { actions } = town.at(0)
    await town.world.drive(Promise.all([
      assert.rejects(actions.waitReady(block, 1, new AbortController().signal), { code: 'NOT_FOUND', message: /removed while it came up/ }),
      actions.remove('moon'),
    ]))
  })

  it('scale, downscale, remove an instance and reassign one, from a peer that is not the steward, as AIOS’s bodies say', async () => {
    const town = await new Town(5).open()
    await town.block({ blockId: 'sized', minInstances: 1, maxInstances: 3 })
    await town.untilReady('sized', 1)
    const { blocks } = town.bystander('sized')
    const free = town.world.hosts.map(({ peer }) => peer).find(peer => !town.anybody().view.instancesOf('sized').some(({ host }) => host === peer)) ?? ''
    const grown = await town.world.drive(blocks.scale({ operation: 'scale', block_id: 'sized', instances_count: 2, allocation_data: [{ node_id: free, gpu_ids: [] }] }))
    assert.deepEqual(grown, { operation: 'upscale', instances: 3, because: '2 more are asked for' })
    await town.untilReady('sized', 3)
    assert.ok(town.anybody().view.instancesOf('sized').some(({ host }) => host === free))
    await assert.rejects(town.world.drive(blocks.scale({ operation: 'scale', block_id: 'sized', instances_count: 1 })), { code: 'CONFLICT', message: /3 at most.*raise maxInstances/ })
    const [one = '', two = '', three = ''] = town.ready('sized')
    await town.world.drive(blocks.removeInstance('sized', one))
    await town.until('it is gone', () => !town.ready('sized').includes(one))
    await town.world.drive(blocks.scale({ operation: 'downscale', block_id: 'sized', instances_list: [two] }))
    await town.until('the other is gone', () => town.ready('sized').length === 1)
    await assert.rejects(town.world.drive(blocks.removeInstance('sized', three)), { code: 'CONFLICT', message: /keeps 1 instances at least.*lower minInstances/ })
    await assert.rejects(town.world.drive(blocks.removeInstance('sized', one)), { code: 'NOT_FOUND' })
    const before = town.anybody().view.instancesOf('sized')[0]?.host
    await town.world.drive(blocks.reassign('sized', three))
    await town.until('it is elsewhere', () => town.ready('sized').length === 1 && town.ready('sized')[0] !== three)
    assert.notEqual(town.anybody().view.instancesOf('sized')[0]?.host, before)
    await town.later(30_000)
    assert.equal(town.ready('sized').length, 1)
    // What was asked for until then gives way to a new least.
    await town.world.drive(blocks.scale({ operation: 'scale', block_id: 'sized', instances_count: 2 }))
    await town.untilReady('sized', 3)
    await town.world.drive(town.at(1).actions.scale('sized', 2))
    await town.untilReady('sized', 2)
    await town.later(10_000)
    assert.equal(town.ready('sized').length, 2)
  })

  it('instances of a scale order start with data of their own, and so does whoever comes in the place of one', async () => {
    const town = await new Town(5).open()
    await town.block({ blockId: 'cameras', minInstances: 1, maxInstances: 4, blockInitData: { fps: 5, camera: 'none' } })
    await town.untilReady('cameras', 1)
    const { blocks } = town.bystander('cameras')
    const startedWith = (instance: string): Json | undefined => town.told.find(told => told.instance === instance && told.what === 'started')?.initData
    const cameras = (): readonly string[] => town.ready('cameras').map(instance => JSON.stringify(startedWith(instance))).sort()
    await assert.rejects(town.world.drive(blocks.scale({ operation: 'scale', block_id: 'cameras', instances_count: 1, init_data: [{ text: 'x'.repeat(2_000) }] })), { code: 'SPEC_INVALID', message: /init_data\.0: an object with text is not usable here; give at most 1024 characters of JSON/ })
    const free = town.world.hosts.map(({ peer }) => peer).find(peer => !town.anybody().view.instancesOf('cameras').some(({ host }) => host === peer)) ?? ''
    await town.world.drive(blocks.scale({ operation: 'scale', block_id: 'cameras', instances_count: 2, allocation_data: [{ node_id: free }], init_data: [{ camera: 'north' }, { camera: 'south', fps: 25 }] }))
    await town.untilReady('cameras', 3)
    const [none, north, south] = [{ fps: 5, camera: 'none' }, { fps: 5, camera: 'north' }, { fps: 25, camera: 'south' }].map(data => JSON.stringify(data))
    const all = [none, north, south].sort()
    assert.deepEqual(cameras(), all)
    assert.equal(JSON.stringify(startedWith(town.anybody().view.instancesOf('cameras').find(({ host }) => host === free)?.ad.instance ?? '')), north)
    const southern = town.ready('cameras').find(instance => JSON.stringify(startedWith(instance)) === south) ?? ''
    await town.world.drive(blocks.reassign('cameras', southern))
    await town.until('another has come in its place', () => town.ready('cameras').length === 3 && !town.ready('cameras').includes(southern))
    assert.deepEqual(cameras(), all, 'sent elsewhere')
    const index = town.world.hosts.findIndex(({ peer }) => peer === free)
    town.world.crash(town.world.hosts[index]!)
    await town.until('its host is gone and it is back', () => town.ready('cameras').length === 3 && !town.anybody().view.instancesOf('cameras').some(({ host }) => host === free))
    assert.deepEqual(cameras(), all, 'its host died')
    const northern = town.ready('cameras').find(instance => JSON.stringify(startedWith(instance)) === north) ?? ''
    await town.world.drive(town.bystander('cameras').blocks.removeInstance('cameras', northern))
    await town.until('it is gone', () => town.ready('cameras').length === 2)
    await town.world.drive(town.bystander('cameras').blocks.scale({ operation: 'scale', block_id: 'cameras', instances_count: 1 }))
    await town.untilReady('cameras', 3)
    assert.deepEqual(cameras(), [none, none, south].sort(), 'one that was to go has no successor')
  })

  it('defect 16: neither policies nor people get more than maxInstances or fewer than minInstances', async () => {
    const town = await new Town(4).open()
    await town.rule('greedy:1.0-x', 'export default { eval: () => ({ skip: false, operation: "upscale", instances_count: 50 }) }')
    await town.rule('mean:1.0-x', 'export default { eval: (parameters, input) => ({ skip: false, operation: "downscale", instances_list: input.current_instances }) }')
    const scaler = (uri: string): Json => [{ values: { name: 'autoscaler', policyRuleURI: uri, settings: { intervalSeconds: 2, firstRunSeconds: 2 } } }]
    await town.block({ blockId: 'greedy', minInstances: 1, maxInstances: 2, policyRulesSpec: scaler('greedy:1.0-x') })
    await town.block({ blockId: 'mean', minInstances: 2, maxInstances: 3, policyRulesSpec: scaler('mean:1.0-x') })
    await town.untilReady('mean', 2)
    await town.untilReady('greedy', 2)
    for (let look = 0; look < 40; look += 1) {
      await town.later(500)
      assert.ok(town.ready('greedy').length <= 2)
      assert.ok(town.ready('mean').length >= 2)
    }
  })

  it('a parameter update reaches every instance, those that start later, and lasts; a refused one changes nothing', async () => {
    const town = await new Town(4).open()
    await town.block({ blockId: 'tuned', minInstances: 2, maxInstances: 4, parameters: { threshold: 0.5, kept: true } })
    await town.untilReady('tuned', 2)
    const { blocks, control } = town.bystander('tuned')
    const { parameters, instances } = await town.world.drive(blocks.updateParameters('tuned', { threshold: 0.9 }))
    assert.deepEqual(parameters, { threshold: 0.9, kept: true })
    assert.deepEqual(Object.keys(instances).sort(), [...town.ready('tuned')].sort())
    await town.later(3_000)
    const updates = town.told.filter(({ what }) => what === 'updated')
    assert.deepEqual(updates.map(({ parameters: told }) => told), [{ threshold: 0.9 }, { threshold: 0.9 }], 'once each, by whichever way it came')
    assert.equal(town.ready('tuned').length, 2, 'nobody was replaced')
    await town.world.drive(control.order('tuned', { do: 'scale', count: 1, at: [] }))
    await town.untilReady('tuned', 3)
    assert.deepEqual(town.told.filter(({ what }) => what === 'started').at(-1)?.parameters, { threshold: 0.9, kept: true })
    town.manners.update = () => {
      throw new MeshError('COMPONENT_ERROR', 'out of range')
    }
    await assert.rejects(town.world.drive(blocks.updateParameters('tuned', { threshold: 2 })), { code: 'COMPONENT_ERROR', message: /out of range/ })
    town.manners.update = told => told
    await town.world.drive(blocks.updateParameters('tuned', { other: 1 }))
    await town.later(3_000)
    const record = await town.world.drive(town.at(0).catalogue.block('tuned'))
    assert.deepEqual(record?.updates, { threshold: 0.9, other: 1 })
  })

  it('management commands answer per instance, and the executor, autoscaler and health have their own', async () => {
    const town = await new Town(3).open()
    await town.block({ blockId: 'asked', minInstances: 2, maxInstances: 2 })
    await town.untilReady('asked', 2)
    const { blocks } = town.bystander('asked')
    const ask = (service: 'instances' | 'executor' | 'autoscaler' | 'health' | 'stability_checker', action: string, data: Json = null, instance?: string): Promise<Json> => town.world.drive(blocks.command({ block: 'asked', service, action, data, instance }))
    const [one = '', two = ''] = town.ready('asked')
    assert.deepEqual(await ask('instances', 'reset', 1), { [one]: { action: 'reset', data: 1, by: one }, [two]: { action: 'reset', data: 1, by: two } })
    assert.deepEqual(Object.keys(Object(await ask('instances', 'reset', 1, two))), [two])
    assert.equal(Object(await ask('executor', 'estimate')).instances, 2)
    assert.equal(Object(await ask('executor', 'check_execute', { any: 'input' })).allowed, true)
    assert.deepEqual(Object.keys(Object(await ask('executor', 'health_check'))).sort(), [one, two].sort())
    assert.deepEqual(await ask('executor', 'get_logs', { instanceID: one, tail: 2 }), { [one]: ['two', 'three'] })
    assert.deepEqual(await ask('executor', 'is_streaming_enabled'), { streaming: true })
    assert.match(String(Object(await ask('executor', 'get_streaming_url', { session_id: 's' })).url), /\/v1\/stream$/)
    await ask('executor', 'disable_streaming')
    assert.deepEqual(await ask('executor', 'is_streaming_enabled'), { streaming: false })
    await assert.rejects(ask('executor', 'get_streaming_url'), { code: 'FORBIDDEN' })
    assert.deepEqual(await ask('executor', 'enable_streaming'), { streaming: true })
    await assert.rejects(ask('executor', 'dance'), { code: 'BAD_INPUT', message: /no command dance.*estimate/ })
    const checked = await ask('health', 'check')
    assert.ok(isJsonObject(checked))
    assert.deepEqual(Object.keys(checked).sort(), [one, two].sort())
    assert.equal(Object(await ask('autoscaler', 'status')).state, 'healthy')
    await assert.rejects(ask('autoscaler', 'dance'), { code: 'BAD_INPUT', message: /status and run/ })
  })

  it('defect 3: a replaced instance is called as soon as it is ready, by callers that knew the old one', async () => {
    const town = await new Town(4).open()
    await town.block({ blockId: 'mapped', minInstances: 2, maxInstances: 2 })
    await town.untilReady('mapped', 2)
    for (let call = 0; call < 8; call += 1) await town.world.drive(town.call(town.at(call % 4), 'mapped', call))
    const [victim, other] = town.anybody().view.instancesOf('mapped')
    const survivor = other?.ad.instance
    town.world.crash(town.host(victim?.host))
    const survivors = [...town.world.peers.values()].map(({ peer }) => peer)
    const [caller] = survivors
    assert.ok(caller)
    await town.until('another has come', () => town.ready('mapped').length === 2 && !town.ready('mapped').includes(victim?.ad.instance ?? ''), 20_000)
    const fresh = town.ready('mapped').filter(instance => instance !== survivor)
    const by = new Set<string>()
    for (let call = 0; call < 16; call += 1) by.add(String(Object(await town.world.drive(town.call(survivors[call % survivors.length] ?? caller, 'mapped', call))).by))
    assert.ok(fresh.length === 1 && by.has(fresh[0] ?? ''), 'the same count of instances, and yet the new one is seen at once')
  })

  it('a full block says so at once, with when to come again', async () => {
    const town = await new Town(2).open()
    town.manners.serviceMs = 4_000
    await town.block({ blockId: 'narrow', minInstances: 1, maxInstances: 1, blockInitData: { max_threads: 1, max_queue_size: 1 } })
    await town.untilReady('narrow', 1)
    const calls = Array.from({ length: 1_100 }, (_, index) => town.call(town.at(0), 'narrow', index, 5_000).then(() => 'answered', (error: unknown) => error))
    const settled = await town.world.drive(Promise.all(calls))
    const full = settled.filter(one => one instanceof Error && 'code' in one && one.code === 'OVERLOADED')
    assert.ok(full.length >= 100, `${full.length} were told that it is full`)
    const told = full.find(one => one instanceof Error && 'details' in one && one.message.startsWith('QUEUE_FULL'))
    assert.ok(told instanceof Error && 'details' in told)
    assert.ok(Number(Object(told.details).retryAfterMs) > 0)
  })
})
