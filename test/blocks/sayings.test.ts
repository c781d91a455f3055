import assert from 'node:assert/strict'
import type { Json } from '../../protocols/ids.ts'
import { MeshError } from '../../protocols/errors.ts'
import { Town } from './town.ts'

const said = (town: Town, name: string, labels: Readonly<Record<string, string>>): number => town.counted(name, labels)

describe('what instances say', function () {
  this.timeout(60_000)

  it('hook block events, defect 15: an event is put before the block’s rule for it, with AIOS’s input, and nobody waits', async () => {
    const town = await new Town(3).open()
    await town.rule('heard:1.0-x', `export default class { constructor() { this.events = [] }
      eval(parameters, input) { this.events.push(input); return null }
      management(action) { return { action, events: this.events } } }`)
    await town.block({ blockId: 'speaker', blockInitData: { events: { seen: 'heard:1.0-x', odd: { policyRuleURI: 'missing:1.0-x' } } } })
    await town.untilReady('speaker', 1)
    const [instance = ''] = town.ready('speaker')
    const emit = town.emitters.get(instance)
    assert.ok(emit)
    emit(false, 'seen', { animal: 'heron' })
    emit(false, 'unnamed', 1)
    emit(false, 'odd', 1)
    await town.later(4_000)
    const host = town.anybody().view.instancesOf('speaker')[0]?.host
    const { policies } = [...town.world.peers.values()].map(({ peer }) => peer).find(({ view }) => view.self === host) ?? town.anybody()
    const answer = await town.world.drive(policies.management({ policyRuleURI: 'heard:1.0-x', parameters: {}, settings: {} }, 'list', null, 'blockEvent', 'speaker'))
    assert.deepEqual(Object(answer).events, [{ block_id: 'speaker', event_name: 'seen', event_data: { animal: 'heron' } }])
    assert.deepEqual(['delivered', 'unheard', 'failed'].map(outcome => said(town, 'block_events_total', { block: 'speaker', outcome })), [1, 1, 1])
  })

  it('a message to a side-car reaches its block or its URL, and one that cannot be taken is dropped, not waited for', async () => {
    const sent: { readonly url: string; readonly message: Json }[] = []
    const outside = async (url: string, message: Json): Promise<void> => {
      if (!url.startsWith('http://car.example/')) throw new MeshError('FORBIDDEN', 'not allowed')
      sent.push({ url, message })
    }
    const town = await new Town(3, { config: { outside } }).open()
    await town.block({ blockId: 'car', minInstances: 1, maxInstances: 1 })
    await town.block({ blockId: 'driver', blockInitData: { side_cars: { near: { blockId: 'car' }, far: { external: true, url: 'http://car.example/in' }, closed: { external: true, external_redis_url: 'redis://elsewhere/0' } } } })
    await town.untilReady('driver', 1)
    await town.untilReady('car', 1)
    const [instance = ''] = town.ready('driver')
    const emit = town.emitters.get(instance)
    assert.ok(emit)
    emit(true, 'near', { frame: 1 })
    emit(true, 'far', { frame: 2 })
    emit(true, 'closed', { frame: 3 })
    emit(true, 'nobody', { frame: 4 })
    await town.later(2_000)
    assert.deepEqual(town.answered.filter(({ block }) => block === 'car').map(({ data }) => data), [{ frame: 1 }])
    assert.deepEqual(sent, [{ url: 'http://car.example/in', message: { block_id: 'driver', instance_id: instance, side_car: 'far', data: { frame: 2 } } }])
    assert.deepEqual(['delivered', 'failed'].map(outcome => said(town, 'side_car_messages_total', { block: 'driver', outcome })), [2, 2])
    town.manners.serviceMs = 60_000
    for (let at = 0; at < 2_000; at += 1) emit(true, 'near', at)
    assert.ok(said(town, 'side_car_messages_total', { block: 'driver', outcome: 'dropped' }) >= 900)
    // The block itself answers as if nothing was.
    town.manners.serviceMs = 20
    assert.equal(Object(await town.world.drive(town.call(town.at(0), 'driver', 'still'))).asked, 'still')
  })
})
