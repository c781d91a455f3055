import assert from 'node:assert/strict'
import { array, assert as holds, asyncProperty, jsonValue } from 'fast-check'
import { MeshError } from '../../protocols/errors.ts'
import { INLINE_BYTES } from '../../protocols/invoke.ts'
import { ask, asking, BLOCK, collect, echo, packet, Village } from './village.ts'

const by = (answers: readonly unknown[]): readonly string[] => answers.map(answer => (answer !== null && typeof answer === 'object' && 'by' in answer ? String(answer.by) : ''))

describe('invoker', () => {
  it('calls an instance of this host and one of another alike', async () => {
    const village = await new Village(2).open()
    await village.place(1, 'in-far')
    assert.deepEqual(await ask(village, 0, { q: 1 }), [{ asked: { q: 1 }, by: 'in-far' }])
    assert.deepEqual(await ask(village, 1, { q: 2 }), [{ asked: { q: 2 }, by: 'in-far' }])
  })

  it('a block nobody knows is told apart from one without instances, which is told at the deadline', async () => {
    const village = await new Village(1).open()
    await assert.rejects(village.world.drive(collect(village.at(0).invoker.infer('nobody', packet(1), { deadlineMs: 1_000 }))), { code: 'NOT_FOUND' })
    const before = village.world.now
    await assert.rejects(ask(village, 0, 1, { deadlineMs: 3_000 }), { code: 'NO_INSTANCE', message: /no instance: `aios block show answers`/ })
    assert.equal(village.world.now - before, 3_000)
  })

  it('waits within its deadline for an instance to come up', async () => {
    const village = await new Village(2).open()
    const answer = asking(village, 0, 1)
    await village.world.run(village.world.now + 4_000)
    await village.place(1, 'in-late')
    assert.deepEqual(by(await village.world.drive(answer)), ['in-late'])
  })

  it('a stale epoch is refused by the host and answered elsewhere', async () => {
    const village = await new Village(3).open()
    await village.place(1, 'in-old', 4)
    const stale = village.at(1).promise('in-old', 5, village.block)
    village.advertise(village.at(1).ports.network.self, { ...stale, epoch: 4 })
    await assert.rejects(ask(village, 0, 1, { deadlineMs: 1_000 }), { code: 'EPOCH_FENCED', message: /under epoch 5, not 4/ })
    assert.deepEqual(village.seen.ran, [])
    await village.place(2, 'in-new', 5)
    for (let at = 0; at < 8; at += 1) assert.deepEqual(by(await ask(village, 0, at)), ['in-new'])
  })

  it('an instance of another block is not called, whatever an ad says', async () => {
    const village = await new Village(2, {}).open()
    await village.place(1, 'in-other')
    const contract = village.at(1).promise('in-other', 1, { ...village.block, blockId: 'private' })
    village.advertise(village.at(1).ports.network.self, { ...contract, block: BLOCK })
    await assert.rejects(ask(village, 0, 1, { deadlineMs: 1_000 }), { code: 'EPOCH_FENCED', message: /an instance of private, not of answers/ })
  })

  it('an answer that is taken whole survives the death of its host in the middle of it; a streamed one says that it broke', async () => {
    for (const whole of [true, false]) {
      const village = await new Village(3).open()
      village.code = async function * (asked, at) {
        yield * echo(asked, at)
        await at.clock.sleep(1_000, at.signal)
        yield * echo(asked, at)
      }
      await village.place(1, 'in-a', 1, { latencyMs: 1 })
      const answer = asking(village, 0, 'x', { whole })
      await village.world.run(village.world.now + 500)
      await village.place(2, 'in-b', 1)
      village.world.crash(village.world.hosts[1]!)
      if (whole) assert.deepEqual(by(await village.world.drive(answer)), ['in-b', 'in-b'])
      else await assert.rejects(village.world.drive(answer), { retryable: true })
    }
  })

  it('a host that crashes in the middle of a call is replaced by another instance, and nothing is lost', async () => {
    const village = await new Village(3).open()
    village.code = async function * (asked, at) {
      await at.clock.sleep(1_000, at.signal)
      yield * echo(asked, at)
    }
    await village.place(1, 'in-a', 1, { latencyMs: 1 })
    await village.place(2, 'in-b', 1, { latencyMs: 1_000 })
    const calls = Array.from({ length: 20 }, (_, at) => asking(village, 0, at))
    await village.world.run(village.world.now + 500)
    const host = village.world.hosts[1]
    assert(host)
    village.world.crash(host)
    village.ads.delete('in-a')
    const answers = await village.world.drive(Promise.all(calls))
    assert.deepEqual(answers.map(([answer]) => answer), Array.from({ length: 20 }, (_, at) => ({ asked: at, by: 'in-b' })))
  })

  it('calls to a host that lost its power go elsewhere when it is believed dead, not when their connection notices', async () => {
    const village = await new Village(3).open()
    await village.place(1, 'in-a')
    const answer = asking(village, 0, 1, { deadlineMs: 60_000 })
    const host = village.world.hosts[1]
    assert(host)
    village.code = async function * (asked, at) {
      if (at.instance === 'in-a') await at.clock.sleep(50_000, at.signal)
      yield * echo(asked, at)
    }
    await village.world.run(village.world.now + 100)
    const before = village.world.now
    village.world.crash(host, true)
    village.ads.delete('in-a')
    await village.place(2, 'in-b')
    await village.world.run(before + 1_500)
    village.tell(host.peer, 'dead')
    assert.deepEqual(by(await village.world.drive(answer)), ['in-b'])
    assert(village.world.now - before < 3_000, `${village.world.now - before} ms`)
  })

  it('an instance that is full sends its callers to another, and gets them when it is the only one', async () => {
    const village = await new Village(3, { initData: { max_threads: 1, max_queue_size: 0 } }).open()
    village.code = async function * (asked, at) {
      await at.clock.sleep(100, at.signal)
      yield * echo(asked, at)
    }
    await village.place(1, 'in-a')
    const alone = await village.world.drive(Promise.all(Array.from({ length: 6 }, (_, at) => asking(village, 0, at))))
    assert.equal(alone.flat().length, 6)
    await village.place(2, 'in-b')
    const both = await village.world.drive(Promise.all(Array.from({ length: 10 }, (_, at) => asking(village, 0, at))))
    assert.deepEqual(new Set(by(both.flat())), new Set(['in-a', 'in-b']))
  })

  it('sessions stay with their instance when the block asks for it, and move when it is gone', async () => {
    const village = await new Village(3, { initData: { sticky_sessions: 'true' } }).open()
    for (const [index, name] of [[0, 'in-a'], [1, 'in-b'], [2, 'in-c']] as const) await village.place(index, name)
    const first = await ask(village, 0, 0, { session: 'anna' })
    // All at once: none may slip past the others to another instance.
    const crowd = await village.world.drive(Promise.all(Array.from({ length: 8 }, (_, at) => asking(village, 0, at, { session: 'boris' }))))
    assert.equal(new Set(by(crowd.flat())).size, 1)
    for (let at = 0; at < 12; at += 1) assert.deepEqual(by(await ask(village, 0, at, { session: 'anna' })), by(first))
    const [home] = by(first)
    village.ads.delete(home ?? '')
    const moved = by(await ask(village, 0, 1, { session: 'anna' }))
    assert.notDeepEqual(moved, by(first))
    for (let at = 0; at < 12; at += 1) assert.deepEqual(by(await ask(village, 0, at, { session: 'anna' })), moved)
    village.blocks = [{ ...village.block, initData: { sticky_sessions: 'false' } }]
    const seen = new Set<string>()
    for (let at = 0; at < 20; at += 1) for (const name of by(await ask(village, 0, at, { session: 'carla' }))) seen.add(name)
    assert(seen.size > 1, 'without it, sessions go wherever there is room')
  })

  it('obeys the load balancer of the block, and nothing it says about instances that are not on offer', async () => {
    const village = await new Village(3, { policies: { loadBalancer: { policyRuleURI: 'first:1.0-stable', parameters: {}, settings: {} } } }).open()
    for (const [index, name] of [[0, 'in-a'], [1, 'in-b'], [2, 'in-c']] as const) await village.place(index, name)
    village.rules.set('first:1.0-stable', 'export default (parameters, input) => ({ instance_id: input.instances.at(-1) })')
    for (let at = 0; at < 6; at += 1) assert.deepEqual(by(await ask(village, 0, at)), ['in-c'])

    village.rules.set('liar:1.0-stable', 'export default () => ({ instance_id: "in-zz" })')
    village.blocks = [{ ...village.block, policies: { loadBalancer: { policyRuleURI: 'liar:1.0-stable', parameters: {}, settings: {} } } }]
    const answered = new Set<string>()
    for (let at = 0; at < 30; at += 1) for (const name of by(await ask(village, 0, at))) answered.add(name)
    assert.deepEqual([...answered].sort(), ['in-a', 'in-b', 'in-c'])
  })

  it('instances the caller wants to avoid are not asked, however long it takes', async () => {
    const village = await new Village(2).open()
    await village.place(1, 'in-a')
    const answer = asking(village, 0, 1, { avoid: ['in-a'] })
    await village.world.run(village.world.now + 5_000)
    assert.deepEqual(village.seen.ran, [])
    await village.place(0, 'in-b')
    assert.deepEqual(by(await village.world.drive(answer)), ['in-b'])
  })

  it('all instances failed once: they get another go, also while ads keep coming', async () => {
    const village = await new Village(2).open()
    let failures = 2
    village.code = (asked, at) => {
      if (failures-- > 0) throw new MeshError('INSTANCE_FAILED', 'not this time')
      return echo(asked, at)
    }
    await village.place(1, 'in-a')
    const answer = asking(village, 0, 1)
    for (let at = 0; at < 40; at += 1) {
      await village.world.run(village.world.now + 100)
      village.tell(village.at(1).ports.network.self, 'ad')
    }
    assert.deepEqual(by(await village.world.drive(answer, 1)), ['in-a'])
  })

  it('what a component refuses is not tried again, and its code and words travel', async () => {
    const village = await new Village(2).open()
    village.code = () => {
      throw new MeshError('COMPONENT_ERROR', 'the age must be a number')
    }
    await village.place(1, 'in-a')
    await assert.rejects(ask(village, 0, 1), { code: 'COMPONENT_ERROR', message: 'the age must be a number', retryable: false })
    assert.equal(village.seen.ran.length, 1)
  })

  it('a packet that instances fail at with the same words is given up after three of them, long before its deadline', async () => {
    const village = await new Village(2).open()
    village.code = () => {
      throw new MeshError('INSTANCE_FAILED', 'TypeError: cannot read that')
    }
    await village.place(0, 'in-a')
    await village.place(1, 'in-b')
    await assert.rejects(ask(village, 0, 1, { deadlineMs: 60_000 }), { code: 'INSTANCE_FAILED', message: /cannot read that/ })
    assert.equal(village.seen.ran.length, 3)
    assert(village.world.now < 5_000, `gave up after ${village.world.now} ms`)
  })

  it('what was answered in part is not asked again', async () => {
    const village = await new Village(2).open()
    village.code = async function * (asked) {
      yield asked
      throw new MeshError('INSTANCE_FAILED', 'half way')
    }
    await village.place(1, 'in-a')
    const got: unknown[] = []
    await assert.rejects(village.world.drive((async () => {
      for await (const { data } of village.at(0).invoker.infer(BLOCK, packet(1), { deadlineMs: 5_000 })) got.push(data)
    })()), { code: 'INSTANCE_FAILED' })
    assert.deepEqual([got, village.seen.ran.length], [[1], 1])
  })

  it('a caller that gives up is told at once, and so is the instance', async () => {
    const village = await new Village(2).open()
    let stopped: unknown
    village.code = async function * (asked, { clock, signal }) {
      await clock.sleep(60_000, signal).catch(error => {
        stopped = error
        throw error
      })
      yield asked
    }
    await village.place(1, 'in-a')
    const gone = new AbortController()
    const answer = asking(village, 0, 1, { signal: gone.signal, deadlineMs: 60_000 })
    answer.catch(() => undefined)
    await village.world.run(village.world.now + 1_000)
    gone.abort(new DOMException('the browser was closed', 'AbortError'))
    await assert.rejects(village.world.drive(answer, 100), { code: 'CANCELLED' })
    await village.world.run(village.world.now + 1_000)
    assert(stopped instanceof MeshError)
    assert.equal(village.at(1).instances.running()[0]?.inFlight, 0)
  })

  it('a host that shows us the door is not asked again; another may be kinder', async () => {
    const village = await new Village(3).open()
    village.at(1).without.set(village.at(0).ports.network.self, ['join'])
    await village.place(1, 'in-a')
    const before = village.world.now
    await assert.rejects(ask(village, 0, 1, { deadlineMs: 60_000 }), { code: 'UNAUTHENTICATED', message: /lacks join/ })
    assert(village.world.now - before < 1_000, 'waiting would change nothing')
    await village.place(2, 'in-b')
    for (let at = 0; at < 8; at += 1) assert.deepEqual(by(await ask(village, 0, at)), ['in-b'])
  })

  it('leaves no listener behind, whatever becomes of a call', async () => {
    const village = await new Village(2).open()
    await village.place(1, 'in-a')
    const before = village.listeners
    const gone = new AbortController()
    await ask(village, 0, 1, { signal: gone.signal })
    await assert.rejects(ask(village, 0, 1, { signal: gone.signal, avoid: ['in-a'], deadlineMs: 50 }))
    for await (const first of village.at(1).invoker.infer(BLOCK, packet(1), { deadlineMs: 1_000 })) {
      assert(first)
      break
    }
    assert.equal(village.listeners, before)
  })

  it('forgets the rules of a block that was withdrawn', async () => {
    const village = await new Village(1).open()
    village.withdraw(BLOCK)
    assert.deepEqual(village.released, [BLOCK])
  })

  describe('bodies', () => {
    it('large ones travel by CID, there and back, and arrive whole', async () => {
      const village = await new Village(2).open()
      await village.place(1, 'in-a')
      const big = 'x'.repeat(INLINE_BYTES * 3)
      assert.deepEqual(await ask(village, 0, big), [{ asked: big, by: 'in-a' }])
      assert(village.world.content.local(village.at(0).ports.network.self).size >= 6, 'question and answer were fetched as files')
    })

    it('what no message can say is refused here, by name', async () => {
      const village = await new Village(1).open()
      await village.place(0, 'in-a')
      await assert.rejects(village.world.drive(collect(village.at(0).invoker.infer(BLOCK, { ...packet(1), seqNo: -1 }, { deadlineMs: 1_000 }))), { code: 'BAD_INPUT', message: /seqNo/ })
    })
  })

  describe('streams', () => {
    it('many packets arrive in order, and a slow reader holds the instance back', async () => {
      const village = await new Village(2).open()
      let made = 0
      village.code = async function * (asked) {
        for (; made < 1_000; made += 1) yield { ...asked, seqNo: made, data: made }
      }
      await village.place(1, 'in-a')
      const clock = village.world.kernel.clock()
      const seen: unknown[] = []
      await village.world.drive((async () => {
        for await (const { data } of village.at(0).invoker.infer(BLOCK, packet(0), { deadlineMs: 600_000 })) {
          if (seen.length === 0) {
            await clock.sleep(10_000)
            assert(made < 200, `${made} packets were made for a reader that took one`)
          }
          seen.push(data)
        }
      })())
      assert.deepEqual(seen, Array.from({ length: 1_000 }, (_, at) => at))
    })

    it('a reader that stops reading keeps its place in the queue no longer than its deadline', async () => {
      const village = await new Village(2, { initData: { max_threads: 1 } }).open()
      village.code = async function * (asked) {
        for (;;) yield asked
      }
      await village.place(1, 'in-a')
      const stuck = village.at(0).invoker.infer(BLOCK, packet('endless'), { deadlineMs: 2_000 })
      await village.world.drive(stuck.next())
      village.code = echo
      assert.deepEqual(by(await ask(village, 0, 'patient', { deadlineMs: 60_000 })), ['in-a'])
    })

    it('whatever a component streams arrives: as much, and in that order', async () => {
      await holds(asyncProperty(array(jsonValue({ maxDepth: 2 }), { maxLength: 90 }), async values => {
        const said = values.map(value => JSON.parse(JSON.stringify(value)))
        const village = await new Village(2).open()
        village.code = async function * (asked) {
          for (const data of said) yield { ...asked, data }
        }
        await village.place(1, 'in-a')
        assert.deepEqual(await ask(village, 0, 0), said)
      }), { numRuns: 15 })
    })
  })

  describe('management', () => {
    it('asks every instance and gathers what each says, errors too', async () => {
      const village = await new Village(3).open()
      await village.place(0, 'in-a')
      await village.place(1, 'in-b')
      await village.place(2, 'in-c')
      village.at(2).promise('in-c', 9, village.block)
      const answers = await village.world.drive(village.at(0).invoker.management(BLOCK, undefined, 'fail in-b', { level: 3 }, { deadlineMs: 5_000 }))
      assert.deepEqual(answers['in-a'], { action: 'fail in-b', data: { level: 3 } })
      assert.partialDeepStrictEqual(answers['in-b'], { error: { code: 'COMPONENT_ERROR', message: 'in-b will not' } })
      assert.partialDeepStrictEqual(answers['in-c'], { error: { code: 'EPOCH_FENCED' } })
      assert.deepEqual(await village.world.drive(village.at(0).invoker.management(BLOCK, 'in-a', 'reset', null, { deadlineMs: 5_000 })), { 'in-a': { action: 'reset', data: null } })
      assert.deepEqual(await village.world.drive(village.at(0).invoker.update(BLOCK, { rate: 2 }, { deadlineMs: 5_000 })).then(all => [all['in-a'], all['in-b']]), [{ rate: 2 }, { rate: 2 }])
      await assert.rejects(village.world.drive(village.at(0).invoker.management(BLOCK, 'in-zz', 'reset', null, { deadlineMs: 5_000 })), { code: 'NO_INSTANCE' })
    })

    it('health says why an instance could not be asked, logs as many lines as were asked for', async () => {
      const village = await new Village(3).open()
      await village.place(1, 'in-a')
      await village.place(2, 'in-b')
      const host = village.world.hosts[2]
      assert(host)
      village.world.crash(host)
      await village.world.run(village.world.now + 1_000)
      const health = await village.world.drive(village.at(0).invoker.health(BLOCK, { deadlineMs: 5_000 }))
      assert.deepEqual(health['in-a'], { healthy: true, detail: { status: 'healthy' } })
      assert.partialDeepStrictEqual(health['in-b'], { healthy: false, detail: { error: { code: 'PEER_UNREACHABLE' } } })
      assert.deepEqual((await village.world.drive(village.at(0).invoker.logs(BLOCK, 'in-a', 2, { deadlineMs: 5_000 })))['in-a'], ['two', 'three'])
    })

    it('takes the right to operate, on the host that is asked', async () => {
      const village = await new Village(2).open()
      await village.place(1, 'in-a')
      village.at(1).without.set(village.at(0).ports.network.self, ['operate'])
      const { invoker } = village.at(0)
      assert.deepEqual(by(await ask(village, 0, 1)), ['in-a'])
      for (const answer of [await village.world.drive(invoker.management(BLOCK, undefined, 'reset', null, { deadlineMs: 5_000 })), await village.world.drive(invoker.update(BLOCK, {}, { deadlineMs: 5_000 }))]) assert.partialDeepStrictEqual(answer['in-a'], { error: { code: 'FORBIDDEN' } })
      assert.equal((await village.world.drive(invoker.health(BLOCK, { deadlineMs: 5_000 })))['in-a']?.healthy, true)
    })
  })
})
