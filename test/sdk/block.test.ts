import assert from 'node:assert/strict'
import { BlockTester, ComponentError, defineBlock, entry, Muxer, OnDataResult, record, type Json } from '../../sdk/index.ts'
import type { AiosBlock, AiosContext, AiosPacket, PreProcessResult } from '../../sdk/index.ts'
import { PreProcessResult as Prepared } from '../../sdk/index.ts'

describe('a block', () => {
  it('answers with what data returns and keeps what load returned', async () => {
    const block = defineBlock({ load: () => ({ factor: 3 }), data: (given, context) => Number(given.data) * context.state.factor })
    assert.deepEqual(await new BlockTester(block).run(4), [12])
  })

  it('streams a generator and what it sends before it returns, in order', async () => {
    const block = defineBlock({
      async *data(given, context) {
        yield 1
        await context.stream(2)
        yield given.data
      },
    })
    assert.deepEqual(await new BlockTester(block).run(3), [1, 2, 3])
  })

  it('answers a list as one value, and streams only generators', async () => {
    assert.deepEqual(await new BlockTester(defineBlock({ data: () => [1, 2] })).run(null), [[1, 2]])
  })

  it('runs data once for each entry that preprocess makes, and drops the packet when it makes none', async () => {
    const block = defineBlock({
      preprocess: packet => (packet.data === null ? undefined : (packet.data as readonly Json[]).map(item => entry(item, { extra: 'x' }))),
      data: given => `${String(given.data)}${String(given.extra)}`,
    })
    const tester = new BlockTester(block)
    assert.deepEqual(await tester.run(['a', 'b']), ['ax', 'bx'])
    assert.deepEqual(await tester.run(null), [])
  })

  it('merges new parameters into old ones unless it decides itself', async () => {
    const plain = new BlockTester(defineBlock({ data: (_given, context) => ({ ...context.parameters }) }), { parameters: { a: 1, b: 1 } })
    assert.deepEqual(await plain.update({ b: 2 }), { a: 1, b: 2 })
    assert.deepEqual(await plain.run(null), [{ a: 1, b: 2 }])
    const strict = new BlockTester(defineBlock({ data: () => null, update: given => ({ only: given['b'] }) }), { parameters: { a: 1 } })
    assert.deepEqual(await strict.update({ b: 2 }), { only: 2 })
  })

  it('is unhealthy when its health check throws or says so, and healthy without one', async () => {
    assert.equal((await new BlockTester(defineBlock({ data: () => null })).health()).healthy, true)
    assert.equal((await new BlockTester(defineBlock({ data: () => null, health: () => ({ status: 'degraded' }) })).health()).healthy, false)
    const thrown = await new BlockTester(defineBlock({ data: () => null, health() { throw new Error('disk gone') } })).health()
    assert.deepEqual(thrown, { healthy: false, detail: { status: 'unhealthy', error: 'disk gone' } })
  })

  it('carries files with a result and not those of its input', async () => {
    const block = defineBlock({ data: given => (given.files.length === 1 ? new OnDataResult('made', [{ metadata: { name: 'out' } }]) : 'none') })
    const tester = new BlockTester(block)
    const [answer] = await tester.packets({ sessionId: 's', seqNo: 1, ts: 5, data: null, files: [{ metadata: null }] })
    assert.deepEqual(answer, { sessionId: 's', seqNo: 1, ts: 5, data: 'made', files: [{ metadata: { name: 'out' } }] })
  })

  it('turns what JSON lacks into JSON, and names what it cannot', async () => {
    const tester = new BlockTester(defineBlock({ data: () => ({ a: Float32Array.of(1, Number.NaN), b: undefined, c: 5n }) }))
    assert.deepEqual(await tester.run(null), [{ a: [1, null], c: 5 }])
    await assert.rejects(new BlockTester(defineBlock({ data: () => ({ f: () => 1 }) })).run(null), /output\.f is a function/)
  })

  it('sees its own policies around each packet in AIOS’s order', async () => {
    const { BlockRunner } = await import('../../sdk/runner.ts')
    const { ManualClock } = await import('../../sdk/clock.ts')
    const seen: string[] = []
    const block = defineBlock({ preprocess: packet => { seen.push('preprocess'); return packet.data }, data: given => { seen.push(`data ${String(given.data)}`); return 'out' } })
    const runner = await BlockRunner.load(block, { blockData: {}, blockInitData: {}, blockInitSettings: {}, blockInitParameters: {}, allocationInfo: { gpus: [], node_id: '', cluster_id: '', instance_id: '' } }, {
      clock: new ManualClock(), assets: { read: async () => new Uint8Array(), text: async () => '', json: async () => null, path: path => path },
      model: () => Promise.reject(new Error('none')), event() {}, sideCar() {}, log() {},
      policy: async (hook, packet) => { seen.push(hook); return { ...packet, data: `${String(packet.data)}+` } },
    })
    const answers: Json[] = []
    for await (const packet of runner.infer({ sessionId: 's', seqNo: 0, ts: 0, data: 'in', files: [] }, { signal: new AbortController().signal, vdag: null })) answers.push(packet.data)
    assert.deepEqual(seen, ['pre_processing', 'preprocess', 'data in+', 'post_processing'])
    assert.deepEqual(answers, ['out+'])
  })

  it('is refused when it has no data function', () => {
    assert.throws(() => new BlockTester({} as never), ComponentError)
  })
})

describe('fan-in', () => {
  it('joins the packets of one session and number, and only those', async () => {
    const tester = new BlockTester(defineBlock({ muxer: () => 2, data: given => given.data }))
    assert.deepEqual(await tester.run('a', { sessionId: 'x', seqNo: 1 }), [])
    assert.deepEqual(await tester.run('b', { sessionId: 'y', seqNo: 1 }), [])
    assert.deepEqual(await tester.run('c', { sessionId: 'x', seqNo: 1 }), [{ inputs: ['a', 'c'] }])
    assert.deepEqual(await tester.run('d', { sessionId: 'x', seqNo: 1 }), [])
  })

  it('a packet that was joined on the way passes; what only looks like one waits', async () => {
    const tester = new BlockTester(defineBlock({ muxer: () => 2, data: given => given.data }))
    assert.deepEqual(await tester.run({ inputs: ['a', 'b'] }), [{ inputs: ['a', 'b'] }])
    assert.deepEqual(await tester.run({ inputs: ['a'] }, { sessionId: 'x', seqNo: 1 }), [])
    assert.deepEqual(await tester.run({ inputs: ['b', 'c'], more: 1 }, { sessionId: 'x', seqNo: 1 }), [{ inputs: [{ inputs: ['a'] }, { inputs: ['b', 'c'], more: 1 }] }])
  })

  it('in a vDAG nothing waits: its engine has joined what arrived, also when that was less than usual', async () => {
    const tester = new BlockTester(defineBlock({ muxer: () => 3, data: given => given.data }))
    const vdag = { uri: 'v:1-stable', label: 'join', run: 'run-1' }
    assert.deepEqual(await tester.run({ inputs: ['a', 'b', 'c'] }, { vdag }), [{ inputs: ['a', 'b', 'c'] }])
    assert.deepEqual(await tester.run({ inputs: ['a', 'c'] }, { vdag }), [{ inputs: ['a', 'c'] }])
    assert.deepEqual(await tester.run({ only: 'a' }, { vdag }), [{ inputs: [{ only: 'a' }] }])
  })

  it('gives up on groups that never complete, by age and by number', () => {
    let now = 0
    const muxer = new Muxer(2, { pending: 3, waitMs: 10 }, { monotonic: () => now })
    const packet = (seqNo: number) => ({ sessionId: 's', seqNo, ts: 0, data: seqNo, files: [] })
    for (let seqNo = 0; seqNo < 5; seqNo++) muxer.process(packet(seqNo))
    assert.equal(muxer.pending, 3)
    assert.equal(muxer.process(packet(0)), undefined, 'the oldest group was dropped')
    now = 10
    muxer.process(packet(9))
    assert.equal(muxer.pending, 1)
    assert.ok(muxer.dropped >= 5)
  })
})

describe('a class with AIOS’s callbacks', () => {
  class Detector implements AiosBlock {
    readonly #context: AiosContext
    constructor(context: AiosContext) {
      this.#context = context
    }
    on_preprocess(packet: AiosPacket): unknown {
      const { items } = record(packet.data)
      return [true, (items as readonly Json[]).map(item => new Prepared(packet, { item }))]
    }
    on_data(given: PreProcessResult): unknown {
      const { item } = given.extra_data as { readonly item: Json }
      if (item === 'bad') return [false, 'cannot read it']
      return [true, { item, session: given.session_id, threshold: this.#context.block_init_parameters['threshold'] ?? null }]
    }
    on_update(parameters: Readonly<Record<string, Json>>): unknown {
      return [true, { ...parameters, seen: true }]
    }
    management(action: string): unknown {
      return [true, { did: action }]
    }
    get_muxer(): unknown {
      return null
    }
  }

  it('runs as it is: tuples, several entries, snake-case context', async () => {
    const tester = new BlockTester(Detector, { parameters: { threshold: 0.5 } })
    assert.deepEqual(await tester.run({ items: ['a', 'b'] }, { sessionId: 'q' }), [{ item: 'a', session: 'q', threshold: 0.5 }, { item: 'b', session: 'q', threshold: 0.5 }])
    assert.deepEqual(await tester.update({ threshold: 1 }), { threshold: 1, seen: true })
    assert.deepEqual(await tester.management('reset'), { did: 'reset' })
  })

  it('finds a frame pointer where AIOS has it, and not among its files', async () => {
    class Seeing {
      on_data({ packet }: PreProcessResult): readonly [boolean, OnDataResult] {
        return [true, new OnDataResult({ frame: packet.frame_ptr ?? null, files: packet.files.map(({ file_data }) => file_data?.length ?? -1) })]
      }
    }
    const pointer = { framedb_id: 'f-1', key: 'video' }
    assert.deepEqual(await new BlockTester(Seeing).run({}, { files: [{ metadata: { frame_ptr: pointer } }, { metadata: {}, bytes: Uint8Array.of(1, 2) }] }), [{ frame: pointer, files: [2] }])
    assert.deepEqual(await new BlockTester(Seeing).run({}), [{ frame: null, files: [] }])
  })

  it('refuses a packet for good when it answers false', async () => {
    await assert.rejects(new BlockTester(Detector).run({ items: ['bad'] }), (error: unknown) => error instanceof ComponentError && /on_data refused: cannot read it/.test(error.message))
  })
})
