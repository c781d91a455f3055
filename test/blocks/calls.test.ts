import assert from 'node:assert/strict'
import { array, assert as holds, asyncProperty, boolean, integer, record } from 'fast-check'
import { MeshError } from '../../protocols/errors.ts'
import { invoke, type Packet } from '../../protocols/invoke.ts'
import { encode } from '../../protocols/codec.ts'
import { Kernel } from '../../simulations/kernel.ts'
import { KeyedCalls } from '../../src/blocks/keyed-calls.ts'
import type { Call } from '../../src/blocks/calls.ts'
import { ask, asking, BLOCK, echo, packet, Village, type Code } from './village.ts'

const never = new AbortController().signal
const slowly = (ms: number): Code => async function * (asked, at) {
  await at.clock.sleep(ms, at.signal)
  yield * echo(asked, at)
}
const call = (more: Partial<Call> = {}): Call => ({ kind: 'call', block: BLOCK, instance: 'in-a', epoch: 1, method: 'infer', deadlineMs: 5_000, ...more })

async function raw(village: Village): Promise<Awaited<ReturnType<ReturnType<Village['at']>['ports']['network']['open']>>> {
  return village.world.drive(village.at(0).ports.network.open(village.at(1).ports.network.self, invoke, never))
}

describe('calls', () => {
  describe('with a key', () => {
    it('two callers that race get one run and the same answer', async () => {
      const village = await new Village(3).open()
      village.code = slowly(500)
      await village.place(1, 'in-a')
      const answers = await village.world.drive(Promise.all([asking(village, 0, 'same', { key: 'k' }), asking(village, 2, 'same', { key: 'k' }), asking(village, 1, 'same', { key: 'k' })]))
      assert.equal(village.seen.ran.length, 1)
      for (const answer of answers) assert.deepEqual(answer, answers[0])
    })

    it('the work of a caller that vanished is there for whoever comes for it', async () => {
      const village = await new Village(3).open()
      village.code = slowly(3_000)
      await village.place(1, 'in-a')
      asking(village, 2, 'once', { key: 'k' }).catch(() => undefined)
      await village.world.run(village.world.now + 1_000)
      const host = village.world.hosts[2]
      assert(host)
      village.world.crash(host)
      await village.world.run(village.world.now + 500)
      assert.deepEqual(await ask(village, 0, 'once', { key: 'k' }), [{ asked: 'once', by: 'in-a' }])
      await village.world.run(village.world.now + 60_000)
      assert.deepEqual(await ask(village, 0, 'once', { key: 'k' }), [{ asked: 'once', by: 'in-a' }])
      assert.deepEqual(village.seen.ran, ['once'])
    })

    it('lasts as long as its most patient caller, and each waits no longer than it said', async () => {
      const village = await new Village(3).open()
      village.code = slowly(4_000)
      await village.place(1, 'in-a')
      const before = village.world.now
      const hasty = asking(village, 0, 1, { key: 'k', deadlineMs: 1_000 }).then(() => -1, () => village.world.now - before)
      const patient = asking(village, 1, 1, { key: 'k', deadlineMs: 9_000 })
      assert.deepEqual(await village.world.drive(patient), [{ asked: 1, by: 'in-a' }])
      assert.equal(await village.world.drive(hasty), 1_000)
      assert.equal(village.seen.ran.length, 1)
    })

    it('ends when the last of its callers would have gone', async () => {
      const village = await new Village(2).open()
      village.code = slowly(1_000_000)
      await village.place(1, 'in-a')
      const before = village.world.now
      for (const deadlineMs of [3_000, 1_000, 6_000, 2_000]) asking(village, 0, 1, { key: 'k', deadlineMs }).catch(() => undefined)
      await village.world.run(before + 5_900)
      assert.equal(village.at(1).instances.running()[0]?.inFlight, 1)
      await village.world.run(before + 6_500)
      assert.deepEqual([village.at(1).instances.running()[0]?.inFlight, village.seen.ran.length], [0, 1])
    })

    it('a run that failed is no answer: the next caller gets another', async () => {
      const village = await new Village(2).open()
      village.code = () => {
        throw new MeshError('COMPONENT_ERROR', 'no')
      }
      await village.place(1, 'in-a')
      await assert.rejects(ask(village, 0, 1, { key: 'k' }), { code: 'COMPONENT_ERROR' })
      village.code = echo
      assert.deepEqual(await ask(village, 0, 1, { key: 'k' }), [{ asked: 1, by: 'in-a' }])
    })

    it('other keys, and calls without one, are other calls', async () => {
      const village = await new Village(2).open()
      await village.place(1, 'in-a')
      for (const options of [{ key: 'a' }, { key: 'b' }, {}, {}]) await ask(village, 0, 1, options)
      assert.equal(village.seen.ran.length, 4)
    })

    it('what is remembered is bounded in number, in bytes and in time', async () => {
      const kernel = new Kernel(1)
      const calls = new KeyedCalls(kernel.clock(), { answers: 10, keptBytes: 4_000, rememberMs: 1_000, answerBytes: 8_000, packets: 3 })
      let runs = 0
      const of = (...sizes: readonly number[]) => async function * (): AsyncGenerator<Packet> {
        runs += 1
        for (const size of sizes) yield packet('x'.repeat(size))
      }
      const answer = (key: string, ...sizes: readonly number[]): Promise<readonly Packet[]> => kernel.drive(calls.answer(key, undefined, 1_000, never, of(...sizes)))
      for (let at = 0; at < 40; at += 1) await answer(`k${at}`, 300)
      assert(calls.keptBytes > 0 && calls.keptBytes <= 4_000, `${calls.keptBytes} bytes`)
      await answer('k39', 300)
      assert.equal(runs, 40)
      await answer('k0', 300)
      assert.equal(runs, 41)
      assert.equal((await answer('huge', 6_000)).length, 1)
      assert(calls.keptBytes <= 4_000)
      await assert.rejects(answer('over', 9_000), { code: 'COMPONENT_ERROR' })
      await assert.rejects(answer('many', 1, 1, 1, 1), { code: 'COMPONENT_ERROR' })
      const before = runs
      await answer('late', 10)
      await kernel.run(kernel.now + 1_001)
      await answer('late', 10)
      assert.equal(runs, before + 2)
    })

    it('a key used for another input is a conflict, while it runs and after', async () => {
      const kernel = new Kernel(1)
      const calls = new KeyedCalls(kernel.clock())
      const answer = (asked: string): Promise<readonly Packet[]> => calls.answer('key', asked, 1_000, never, async function * () {
        await kernel.clock().sleep(50)
        yield packet(asked)
      })
      const [first, same, other] = await kernel.drive(Promise.allSettled([answer('a'), answer('a'), answer('b')]))
      assert.deepEqual([first.status, same.status, other.status], ['fulfilled', 'fulfilled', 'rejected'])
      await assert.rejects(kernel.drive(answer('b')), { code: 'CONFLICT' })
      assert.equal((await kernel.drive(answer('a')))[0]?.data, 'a')
    })

    it('never two runs of a key at once, never two after one has answered, whatever the callers do', async () => {
      await holds(asyncProperty(array(record({ key: integer({ min: 0, max: 2 }), at: integer({ min: 0, max: 300 }), patience: integer({ min: 1, max: 200 }), leaves: boolean() }), { minLength: 1, maxLength: 12 }), integer({ min: 1, max: 150 }), async (callers, serviceMs) => {
        const kernel = new Kernel(1)
        const clock = kernel.clock()
        const calls = new KeyedCalls(clock)
        const under = new Set<number>()
        const answered = new Set<number>()
        await kernel.drive(Promise.all(callers.map(async ({ key, at, patience, leaves }) => {
          await clock.sleep(at)
          const gone = clock.deadline(leaves ? patience >> 1 : patience)
          await calls.answer(`${key}`, undefined, patience, gone, async function * (signal) {
            assert(!under.has(key) && !answered.has(key), `key ${key} runs twice`)
            under.add(key)
            try {
              await clock.sleep(serviceMs, signal)
              yield packet(key)
              answered.add(key)
            } finally {
              under.delete(key)
            }
          }).catch(error => assert(error instanceof MeshError && error.code === 'DEADLINE', String(error)))
        })))
      }), { numRuns: 100 })
    })
  })

  it('a stream that says nothing is closed, and one that begins with something else is told so', async () => {
    const village = await new Village(2).open()
    const silent = await raw(village)
    await assert.rejects(village.world.drive(silent[Symbol.asyncIterator]().next(), 20_000), { code: 'DEADLINE' })
    const wrong = await raw(village)
    await village.world.drive(wrong.send({ header: { kind: 'output', last: true }, body: new Uint8Array(0) }))
    const { value } = await village.world.drive(wrong[Symbol.asyncIterator]().next())
    assert.partialDeepStrictEqual(value, { header: { kind: 'error', code: 'MESSAGE_INVALID' } })
  })

  it('bodies that are no packet, nested without end or longer than said are refused, and the host lives', async () => {
    const village = await new Village(2).open()
    await village.place(1, 'in-a')
    let nested: unknown = 0
    for (let at = 0; at < 2_000; at += 1) nested = [nested]
    for (const [more, body, code] of [
      [{}, new Uint8Array([0xff]), 'MESSAGE_INVALID'],
      [{}, encode({ hello: 1 }), 'MESSAGE_INVALID'],
      [{ method: 'update' }, encode({ nested }), 'MESSAGE_INVALID'],
      [{ method: 'update' }, encode({ bytes: new Uint8Array(3) }), 'MESSAGE_INVALID'],
      [{ method: 'management' }, encode({ data: 1 }), 'BAD_INPUT'],
      [{ bodyCid: 'bafkreiaaaaaaaaaaaa' }, new Uint8Array(0), undefined],
      [{ epoch: 2 }, encode(packet(1)), 'EPOCH_FENCED'],
      [{ instance: 'in-zz' }, encode(packet(1)), 'EPOCH_FENCED'],
    ] as const) {
      const stream = await raw(village)
      await village.world.drive(stream.send({ header: call(more), body }))
      const { value } = await village.world.drive(stream[Symbol.asyncIterator]().next(), 60_000)
      assert(value?.header.kind === 'error')
      if (code !== undefined) assert.equal(value.header.code, code)
    }
    assert.deepEqual(await ask(village, 0, 1), [{ asked: 1, by: 'in-a' }])
  })

  it('a caller that does not read is let go at its deadline, and hung up on when it does not hear so', async () => {
    const village = await new Village(2).open()
    village.code = async function * (asked) {
      for (;;) yield asked
    }
    await village.place(1, 'in-a')
    const deaf = await raw(village)
    await village.world.drive(deaf.send({ header: call({ deadlineMs: 2_000 }), body: encode(packet('endless')) }))
    const running = (): number | undefined => village.at(1).instances.running()[0]?.inFlight
    await village.world.run(village.world.now + 1_500)
    assert.equal(running(), 1)
    await village.world.run(village.world.now + 1_000)
    assert.deepEqual([running(), deaf.signal.aborted], [0, false])
    await village.world.run(village.world.now + 6_000)
    assert.equal(deaf.signal.aborted, true)
  })

  it('a member whose rights ran out is refused, however old its connection', async () => {
    const village = await new Village(2).open()
    await village.place(1, 'in-a')
    await ask(village, 0, 1)
    village.at(1).without.set(village.at(0).ports.network.self, ['join'])
    await assert.rejects(ask(village, 0, 2), { code: 'UNAUTHENTICATED' })
    assert.deepEqual(village.seen.ran, [1])
  })
})
