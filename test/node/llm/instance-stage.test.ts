import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { MeshError } from '../../../protocols/errors.ts'
import type { StageSpec } from '../../../protocols/stage-file.ts'
import { InstanceStage } from '../../../node/adapters/instance-stage.ts'
import { FrameReader } from '../../../node/instance/frames.ts'
import { decodeOrder, decodeReport, encodeOrder, encodeReport, type StageOrder, type StageReport } from '../../../node/instance/llm/stage-frames.ts'
import { feed } from './stage-bundle.ts'

const SPEC: StageSpec = { first: 0, end: 2, layers: 2, vocab: 10, inputBytes: 0, outputBytes: 0, kvBytes: 8, contextTokens: 100, kvTokens: 200 }

const u32 = fc.nat({ max: 0xffff_ffff })
const bytes = fc.uint8Array({ maxLength: 40 })
const order: fc.Arbitrary<StageOrder> = fc.oneof(
  fc.record({ kind: fc.constant('open' as const), id: u32, session: u32, tokens: u32, prefix: fc.array(fc.stringMatching(/^[0-9a-f]{1,32}$/), { maxLength: 5 }) }),
  fc.record({ kind: fc.constant('step' as const), id: u32, session: u32, position: u32, count: u32, want: fc.constantFrom('hidden' as const, 'greedy' as const, 'logits' as const, 'none' as const), all: fc.boolean(), kv: fc.boolean(), tokens: fc.constant(undefined), hidden: bytes }),
  fc.record({ kind: fc.constant('step' as const), id: u32, session: u32, position: u32, count: u32, want: fc.constant('greedy' as const), all: fc.boolean(), kv: fc.boolean(), tokens: fc.array(u32, { minLength: 1, maxLength: 9 }).map(values => Uint32Array.from(values)), hidden: fc.constant(new Uint8Array(0)) }),
  fc.record({ kind: fc.constant('write' as const), id: u32, session: u32, position: u32, count: u32, rows: bytes }),
  fc.record({ kind: fc.constant('read' as const), id: u32, session: u32, position: u32, count: u32 }),
  fc.record({ kind: fc.constant('close' as const), session: u32, keep: fc.boolean() }),
  fc.record({ kind: fc.constant('cancel' as const), id: u32 }),
)
const report: fc.Arbitrary<StageReport> = fc.oneof(
  fc.record({ kind: fc.constant('done' as const), id: u32, held: u32 }),
  fc.record({ kind: fc.constant('failed' as const), id: u32, held: u32, code: fc.constantFrom('NO_CAPACITY' as const, 'BAD_INPUT' as const, 'INSTANCE_FAILED' as const), message: fc.string({ maxLength: 50 }) }),
  fc.record({
    kind: fc.constant('output' as const), id: u32, held: u32, batch: fc.nat({ max: 65_535 }), computeMs: fc.double({ min: 0, max: 1e6, noNaN: true }),
    hidden: fc.option(bytes, { nil: undefined }), kv: fc.option(bytes, { nil: undefined }),
    ids: fc.option(fc.array(u32, { maxLength: 5 }).map(values => Uint32Array.from(values)), { nil: undefined }),
    logits: fc.option(fc.float32Array({ maxLength: 9 }), { nil: undefined }),
  }),
)
const bodyOf = (frame: Uint8Array) => [...new FrameReader().push(frame)][0]!.body

/** A stage whose instance is played by `answer`. */
function played(answer: (order: StageOrder, stage: InstanceStage) => StageReport | undefined, spec: Partial<StageSpec> = {}): InstanceStage {
  const stage: InstanceStage = new InstanceStage({ ...SPEC, ...spec }, frame => {
    const said = answer(decodeOrder(bodyOf(frame)), stage)
    if (said !== undefined) queueMicrotask(() => stage.hear(bodyOf(encodeReport(said))))
  })
  return stage
}

const honest = (order: StageOrder): StageReport | undefined => {
  if (order.kind === 'open') return { kind: 'done', id: order.id, held: 0 }
  if (order.kind === 'step') return { kind: 'output', id: order.id, held: order.position + order.count, batch: 1, computeMs: 1, hidden: undefined, ids: Uint32Array.of(3), logits: undefined, kv: undefined }
  return undefined
}

describe('frames of a stage', () => {
  it('say what was meant, however the pipe cuts them', () => {
    fc.assert(fc.property(fc.array(order, { minLength: 1, maxLength: 5 }), fc.integer({ min: 1, max: 50 }), (orders, size) => {
      const sent = Buffer.concat(orders.map(encodeOrder))
      const reader = new FrameReader()
      const got: StageOrder[] = []
      for (let from = 0; from < sent.length; from += size) for (const { header, body } of reader.push(sent.subarray(from, from + size))) {
        assert.equal(header, undefined)
        got.push(decodeOrder(body))
      }
      assert.deepEqual(got.map(plain), orders.map(plain))
    }))
    fc.assert(fc.property(report, said => { assert.deepEqual(plain(decodeReport(bodyOf(encodeReport(said)))), plain(said)) }))
  })

  it('that are nonsense are refused, whatever they are', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), garbage => {
      try {
        decodeReport(garbage)
      } catch (error) {
        assert.equal((error as MeshError).code, 'MESSAGE_INVALID')
      }
    }))
  })

  it('too large for the pipe are refused before they are sent', () => {
    assert.throws(() => encodeOrder({ kind: 'write', id: 1, session: 1, position: 0, count: 1, rows: new Uint8Array(67_108_864) }), (error: MeshError) => error.code === 'MESSAGE_TOO_LARGE')
  })
})

describe('a stage as its host sees it', () => {
  it('counts what it promised, before and after the instance does', async () => {
    const stage = played(honest)
    await Promise.all([stage.open('a', 90, []), stage.open('b', 90, [])])
    await assert.rejects(stage.open('c', 30, []), (error: MeshError) => error.code === 'NO_CAPACITY' && /20 of 200/.test(error.message))
    assert.deepEqual((await feed(stage, 'a', 0, [1, 2])).ids, [3])
    assert.equal(stage.position('a'), 2)
    stage.close('a', false)
    assert.deepEqual(stage.load(), { sessions: 1, freeTokens: 110, waiting: 0 })
  })

  it('forgets a session that the instance refused', async () => {
    const stage = played(order => (order.kind === 'open' ? { kind: 'failed', id: order.id, held: 0, code: 'NO_CAPACITY', message: 'no memory' } : undefined))
    await assert.rejects(stage.open('a', 90, []), (error: MeshError) => error.code === 'NO_CAPACITY')
    assert.deepEqual(stage.load(), { sessions: 0, freeTokens: 200, waiting: 0 })
  })

  it('believes nothing that does not fit what was asked', async () => {
    const good = { kind: 'output' as const, held: 1, batch: 1, computeMs: 1, hidden: undefined, ids: Uint32Array.of(3), logits: undefined, kv: undefined }
    const lies: readonly ((id: number) => StageReport)[] = [
      id => ({ ...good, id: id + 1_000 }),
      id => ({ ...good, id, held: 91 }),
      id => ({ ...good, id, batch: 0 }),
      id => ({ ...good, id, computeMs: NaN }),
      id => ({ ...good, id, computeMs: -1 }),
      id => ({ ...good, id, ids: undefined }),
      id => ({ ...good, id, ids: Uint32Array.of(10) }),
      id => ({ ...good, id, ids: Uint32Array.of(1, 2) }),
      id => ({ ...good, id, logits: new Float32Array(10) }),
      id => ({ ...good, id, hidden: new Uint8Array(4) }),
      id => ({ ...good, id, kv: new Uint8Array(8) }),
      id => ({ kind: 'done', id, held: 1 }),
    ]
    for (const lie of lies) {
      let asked = 0
      const stage = played(order => {
        if (order.kind !== 'step') return honest(order)
        asked = order.id
        return undefined
      })
      await stage.open('a', 90, [])
      const step = feed(stage, 'a', 0, [1])
      step.catch(() => undefined)
      assert.throws(() => stage.hear(bodyOf(encodeReport(lie(asked)))), (error: MeshError) => error.code === 'MESSAGE_INVALID', JSON.stringify(lie(asked)))
      // Its supervisor ends the instance then.
      stage.fail(new Error('ended'))
      await assert.rejects(step, /ended/)
    }
  })

  it('lets no more wait in the instance than it may hold', async () => {
    const orders: StageOrder[] = []
    const stage = played(order => {
      orders.push(order)
      return order.kind === 'open' ? honest(order) : undefined
    }, { inputBytes: 1_000_000 })
    await stage.open('a', 90, [])
    const step = (position: number, count: number) => stage.step({ session: 'a', position, count, input: { hidden: new Uint8Array(count * 1_000_000) }, want: 'greedy', rows: 'last', kv: false }, new AbortController().signal)
    const first = step(0, 60)
    await assert.rejects(step(60, 10), (error: MeshError) => error.code === 'OVERLOADED' && error.retryable)
    const second = step(60, 5)
    for (const order of orders.slice(1)) stage.hear(bodyOf(encodeReport(honest(order)!)))
    await Promise.all([first, second])
    const third = step(65, 10)
    stage.hear(bodyOf(encodeReport(honest(orders.at(-1)!)!)))
    await third
  })

  it('tells the instance of a step nobody waits for, and takes its late answer', async () => {
    const orders: StageOrder[] = []
    const stage = played(order => {
      orders.push(order)
      return order.kind === 'open' ? honest(order) : undefined
    })
    await stage.open('a', 90, [])
    const abort = new AbortController()
    const step = feed(stage, 'a', 0, [1], {}, abort.signal)
    abort.abort()
    await assert.rejects(step, (error: MeshError) => error.code === 'CANCELLED')
    const [, asked, cancelled] = orders
    assert.ok(asked?.kind === 'step')
    assert.deepEqual(cancelled, { kind: 'cancel', id: asked.id })
    assert.equal(stage.load().waiting, 1)
    stage.hear(bodyOf(encodeReport(honest(asked)!)))
    assert.deepEqual([stage.load().waiting, stage.position('a')], [0, 1])
  })
})

/** Numbers and bytes without the memory they lie in. */
function plain(said: StageOrder | StageReport): unknown {
  return Object.fromEntries(Object.entries(said).map(([name, value]) => [name, ArrayBuffer.isView(value) ? Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex') : value]))
}
