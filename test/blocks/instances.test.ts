import assert from 'node:assert/strict'
import { MeshError } from '../../protocols/errors.ts'
import { ask, asking, BLOCK, echo, Village, type Code } from './village.ts'

const never = new AbortController().signal
const slowly = (ms: number): Code => async function * (asked, at) {
  await at.clock.sleep(ms, at.signal)
  yield * echo(asked, at)
}

describe('instances', () => {
  it('the same instance is started once, however often it is asked for', async () => {
    const village = await new Village(1).open()
    const { instances } = village.at(0)
    const contract = village.at(0).promise('in-a', 1, village.block)
    await village.world.drive(Promise.all([instances.start(contract, village.block, never), instances.start(contract, village.block, never)]))
    await village.world.drive(instances.start(contract, village.block, never))
    assert.equal(village.seen.started, 1)
    assert.deepEqual(instances.running().map(({ instance, state }) => [instance, state]), [['in-a', 'ready']])
  })

  it('draining takes no new calls, waits for those it has, and stops then', async () => {
    const village = await new Village(2, { initData: { max_threads: 1 } }).open()
    village.code = slowly(1_000)
    await village.place(1, 'in-a')
    const [first, second] = [asking(village, 0, 1), asking(village, 0, 2)]
    await village.world.run(village.world.now + 300)
    const { instances } = village.at(1)
    const before = village.world.now
    const stopped = instances.stop('in-a', 10_000, 'it is not needed').then(() => village.world.now - before)
    await village.world.run(village.world.now + 1)
    assert.equal(instances.running()[0]?.state, 'draining')
    await assert.rejects(ask(village, 0, 3, { deadlineMs: 100 }), { code: 'NO_INSTANCE', message: /being stopped/ })
    assert.deepEqual(await village.world.drive(Promise.all([first, second])), [[{ asked: 1, by: 'in-a' }], [{ asked: 2, by: 'in-a' }]])
    const took = await village.world.drive(stopped)
    assert(took > 1_500 && took < 2_500, `${took} ms`)
    assert.deepEqual([village.seen.stopped, instances.running()], [['in-a'], []])
  })

  it('what draining cannot wait for is answered by another instance', async () => {
    const village = await new Village(3).open()
    village.code = async function * (asked, at) {
      await at.clock.sleep(at.instance === 'in-a' ? 60_000 : 10, at.signal)
      yield * echo(asked, at)
    }
    await village.place(1, 'in-a')
    const answer = asking(village, 0, 1, { deadlineMs: 30_000 })
    await village.world.run(village.world.now + 300)
    await village.place(2, 'in-b')
    village.ads.delete('in-a')
    const stopped = village.at(1).instances.stop('in-a', 1_000, 'it moves')
    assert.deepEqual(await village.world.drive(answer), [{ asked: 1, by: 'in-b' }])
    await village.world.drive(stopped)
  })

  it('a second, more hasty stop shortens the first', async () => {
    const village = await new Village(2).open()
    village.code = slowly(50_000)
    await village.place(1, 'in-a')
    asking(village, 0, 1, { deadlineMs: 60_000 }).catch(() => undefined)
    await village.world.run(village.world.now + 100)
    const { instances } = village.at(1)
    const before = village.world.now
    const both = Promise.all([instances.stop('in-a', 40_000, 'slowly'), instances.stopAll(500)])
    await village.world.drive(both)
    assert(village.world.now - before < 1_000)
    assert.deepEqual(village.seen.stopped, ['in-a'])
  })

  it('one that is stopped while it starts never runs, and is gone when stop resolves', async () => {
    const village = await new Village(1).open()
    village.startMs = 5_000
    const { instances } = village.at(0)
    const contract = village.at(0).promise('in-a', 1, village.block)
    const starting = instances.start(contract, village.block, never).then(() => 'started', error => error)
    await village.world.run(village.world.now + 100)
    await village.world.drive(instances.stop('in-a', 1_000, 'changed my mind'), 1_000)
    const failure: unknown = await village.world.drive(starting, 1)
    assert(failure instanceof MeshError && failure.message.includes('changed my mind'))
    assert.deepEqual([village.seen.started, instances.running()], [0, []])
    // Its name is free again.
    village.startMs = 10
    await village.world.drive(instances.start(contract, village.block, never))
    assert.equal(instances.running()[0]?.state, 'ready')
  })

  it('a crash is told once, and sends those who ran or waited elsewhere at once', async () => {
    const village = await new Village(3, { initData: { max_threads: 1 } }).open()
    village.code = async function * (asked, at) {
      if (at.instance === 'in-a') {
        await at.clock.sleep(500, at.signal)
        throw new Error('crash')
      }
      yield * echo(asked, at)
    }
    await village.place(1, 'in-a')
    const exits: unknown[] = []
    village.at(1).instances.onExit((...how) => {
      exits.push(how)
      village.ads.delete('in-a')
    })
    const before = village.world.now
    const calls = [1, 2, 3].map(at => asking(village, 0, at))
    await village.world.run(village.world.now + 100)
    await village.place(2, 'in-b')
    const answers = await village.world.drive(Promise.all(calls))
    assert.deepEqual(answers, [1, 2, 3].map(asked => [{ asked, by: 'in-b' }]))
    assert(village.world.now - before < 1_500, 'each would have waited for its turn to fail')
    assert.deepEqual(exits, [['in-a', 'it crashed', true]])
    assert.deepEqual(village.seen.stopped, [])
  })

  it('one that was stopped on purpose has not crashed', async () => {
    const village = await new Village(1).open()
    await village.place(0, 'in-a')
    const exits: unknown[] = []
    village.at(0).instances.onExit((...how) => exits.push(how))
    await village.world.drive(village.at(0).instances.stop('in-a', 0, 'done'))
    await village.world.run(village.world.now + 1_000)
    assert.deepEqual(exits, [])
  })

  it('what its policies know is forgotten with the last instance of a block here, not before', async () => {
    const village = await new Village(1).open()
    await village.place(0, 'in-a')
    await village.place(0, 'in-b')
    const { instances } = village.at(0)
    await village.world.drive(instances.stop('in-a', 0, 'done'))
    assert.deepEqual(village.released, [])
    await village.world.drive(instances.stop('in-b', 0, 'done'))
    assert.deepEqual(village.released, [`${BLOCK}/instances`])
  })

  it('policies see packets before and after the code, and may not change whose they are', async () => {
    const count = 'let seen = 0\nexport default (parameters, { packet }) => ({ packet: { session_id: "mallory", data: { ...packet.data, [parameters.as]: ++seen } } })'
    const village = await new Village(2, {
      policies: {
        pre_processing: { policyRuleURI: 'count:1.0-stable', parameters: { as: 'before' }, settings: {} },
      },
    }).open()
    village.rules.set('count:1.0-stable', count)
    village.code = async function * (asked, at) {
      yield * echo(await at.start.packetPolicy('pre_processing', asked), at)
    }
    await village.place(1, 'in-a')
    await ask(village, 0, { q: 1 })
    assert.deepEqual(await ask(village, 0, { q: 2 }), [{ asked: { q: 2, before: 2 }, by: 'in-a' }])
    // Its state went with the instance.
    await village.world.drive(village.at(1).instances.stop('in-a', 0, 'done'))
    village.ads.clear()
    await village.place(1, 'in-b')
    assert.deepEqual(await ask(village, 0, { q: 3 }), [{ asked: { q: 3, before: 1 }, by: 'in-b' }])
  })

  it('pre_processing is asked with the packet before it enters the code, post_processing with what the code gave, each with the block it is about', async () => {
    const ref = (policyRuleURI: string) => ({ policyRuleURI, parameters: {}, settings: {} })
    const village = await new Village(2, { policies: { pre_processing: ref('pre:1.0-stable'), post_processing: ref('post:1.0-stable') } }).open()
    village.rules.set('pre:1.0-stable', 'export default (parameters, { packet, block_data }) => ({ packet: { ...packet, data: { ...packet.data, pre: block_data.blockId } } })')
    village.rules.set('post:1.0-stable', 'export default (parameters, { packet, block_data }) => ({ packet: { ...packet, data: { ...packet.data, post: block_data.blockId } } })')
    village.code = async function * (asked, at) {
      for await (const answer of echo(await at.start.packetPolicy('pre_processing', asked), at)) yield await at.start.packetPolicy('post_processing', answer)
    }
    await village.place(1, 'in-a')
    assert.deepEqual(await ask(village, 0, { q: 1 }), [{ asked: { q: 1, pre: BLOCK }, by: 'in-a', post: BLOCK }])
    village.rules.set('bad:1.0-stable', 'export default () => { throw new Error("no") }')
    village.blocks = [{ ...village.block, policies: { pre_processing: ref('bad:1.0-stable'), post_processing: ref('bad:1.0-stable') } }]
    village.block = village.blocks[0]!
    await village.place(1, 'in-b')
    village.ads.delete('in-a')
    assert.deepEqual(await ask(village, 0, { q: 2 }), [{ asked: { q: 2 }, by: 'in-b' }], 'a rule that fails leaves the packet as it was')
  })
})
