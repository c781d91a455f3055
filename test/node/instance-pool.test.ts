import assert from 'node:assert/strict'
import type { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { checkFence } from '../../node/adapters/fence.ts'
import { addMetrics } from '../../node/instance/pool-metrics.ts'
import type { RunningInstance } from '../../src/ports.ts'
import { ManualClock, Metrics } from '../../sdk/index.ts'
import { toJson } from '../../src/lib/json.ts'
import { answers, never, openBench, packetOf, realClock, type Bench } from './instance-bundle.ts'

const BLOCK = `
import { threadId } from 'node:worker_threads'
import { readFile, writeFile } from 'node:fs/promises'
import { ComponentError, defineBlock } from 'aios-mesh/sdk'
export default defineBlock({
  async *data({ data }, context) {
    context.metrics.counter('seen').increment()
    context.metrics.rolling('size').observe(data.size ?? 1)
    if (data.hold) for (const until = Date.now() + data.hold; Date.now() < until;);
    for (let name = 0; name < (data.many ?? 0); name++) for (let label = 0; label < 100; label++) context.metrics.gauge('many_' + name, { label: 'value-' + label }).set(label)
    if (data.refuse) throw new ComponentError('not this')
    if (data.write) await writeFile(context.blockPath + '/note.txt', data.write)
    if (data.read) return yield await readFile(context.blockPath + '/note.txt', 'utf8')
    for (let at = 0; at < (data.times ?? 1); at += 1) yield { thread: threadId, parameters: context.parameters, streams: context.streams }
  },
  health: context => ({ status: context.parameters.sick === threadId ? 'unwell' : 'healthy' }),
  management: (action, data) => ({ action, data }),
})
`

describe('an instance with several threads', function () {
  this.timeout(60_000)
  let bench: Bench
  let running: RunningInstance
  before(async () => {
    bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
    running = await bench.backend.start(bench.request({ files: { 'main.mjs': BLOCK }, initData: { enable_thread_pool: true, max_threads: 3, sticky_sessions: true, thread_pool_mode: 'process' }, memoryMb: 512, diskMb: 8 }), never)
  })
  after(async () => {
    await running?.[Symbol.asyncDispose]()
    await bench[Symbol.asyncDispose]()
  })
  const ask = async (data: Json, sessionId: string): Promise<readonly unknown[]> => answers(running.infer({ ...packetOf(data), sessionId }, never, null, { streams: true }))
  const threadOf = async (sessionId: string): Promise<unknown> => ((await ask({}, sessionId))[0] as { readonly thread: number }).thread

  it('computes in them at the same time, each session in its own', async () => {
    const sessions = Array.from({ length: 12 }, (_, at) => `session-${at}`)
    const threads = await Promise.all(sessions.map(threadOf))
    assert.equal(new Set(threads).size, 3)
    assert.deepEqual(await Promise.all(sessions.map(threadOf)), threads)
    const other = sessions[threads.findIndex(thread => thread !== threads[0])] ?? ''
    const order: string[] = []
    await Promise.all([ask({ hold: 1_500 }, sessions[0] ?? '').then(() => order.push('held')), ask({}, other).then(() => order.push('free'))])
    assert.deepEqual(order, ['free', 'held'])
  })

  it('streams, refuses, and asks all of them for health, updates and commands', async () => {
    assert.equal((await ask({ times: 20 }, 's')).length, 20)
    await assert.rejects(ask({ refuse: true }, 's'), (error: MeshError) => error.code === 'COMPONENT_ERROR' && error.message === 'not this')
    const [told] = await ask({}, 's') as readonly [{ readonly thread: number; readonly streams: boolean }]
    assert.equal(told.streams, true)
    assert.deepEqual(await running.update({ limit: 3 }, never), { limit: 3 })
    const seen = await Promise.all(['a', 'b', 'c', 'd', 'e', 'f'].map(session => ask({}, session)))
    assert.ok(seen.every(([answer]) => (answer as { readonly parameters: { readonly limit: number } }).parameters.limit === 3))
    assert.deepEqual(await running.management('reset', { deep: true }, never), { action: 'reset', data: { deep: true } })
    assert.equal((await running.health(never)).healthy, true)
    await running.update({ sick: told.thread }, never)
    assert.equal((await running.health(never)).healthy, false)
    await running.update({ sick: 0 }, never)
  })

  it('counts what all of them count', async () => {
    for (let at = 0; at < 9; at += 1) await ask({ size: at }, `count-${at}`)
    const seen = (): number => (running.metrics() as Record<string, { readonly series: readonly { readonly value: number }[] }>)['seen']?.series[0]?.value ?? 0
    for (const ends = Date.now() + 5_000; seen() < 30 && Date.now() < ends;) await realClock.sleep(20)
    assert.ok(seen() >= 30, `${seen()}`)
    await ask({ many: 200 }, 'many')
    await ask({}, 'after')
    const told = (): object => running.metrics() as object
    for (const ends = Date.now() + 5_000; !Object.hasOwn(told(), 'many_0') && Date.now() < ends;) await realClock.sleep(20)
    assert.ok(Object.hasOwn(told(), 'many_0') && Object.hasOwn(told(), 'seen') && !Object.hasOwn(told(), 'many_199'), 'too many for one report hide no others')
    const [one, other] = [new Metrics(new ManualClock()), new Metrics(new ManualClock())]
    for (const [metrics, values] of [[one, [1, 2]], [other, [3]]] as const) for (const value of values) {
      metrics.counter('calls', { kind: 'a' }).increment()
      metrics.histogram('sizes', {}, [2]).observe(value)
      metrics.rolling('size').observe(value)
    }
    const whole = addMetrics([toJson(one.snapshot()), toJson(other.snapshot()), null]) as Record<string, { readonly series: readonly { readonly value: unknown }[] }>
    assert.deepEqual(whole['calls']?.series, [{ labels: { kind: 'a' }, value: 3 }])
    assert.deepEqual(whole['sizes']?.series[0]?.value, { count: 3, sum: 6, buckets: [[2, 2]] })
    const { current, '1m': window } = (whole['size']?.series[0]?.value ?? {}) as { readonly current: number; readonly '1m': { readonly count: number; readonly mean: number; readonly min: number; readonly max: number } }
    assert.deepEqual([current, window.count, window.mean, window.min, window.max], [3, 3, 2, 1, 3])
  })

  it('shares its block\'s folder with the block\'s other instances on the host', async () => {
    const other = await bench.backend.start(bench.request({ files: { 'main.mjs': BLOCK }, diskMb: 8 }), never)
    await ask({ write: 'from the other' }, 's')
    assert.deepEqual(await answers(other.infer(packetOf({ read: true }), never)), ['from the other'])
    await other[Symbol.asyncDispose]()
  })

  it('ends when one of them holds on after its caller left, and another instance is started for it', async () => {
    const own = await bench.backend.start(bench.request({ files: { 'main.mjs': BLOCK }, initData: { enable_thread_pool: true, max_threads: 2 }, memoryMb: 512 }), never)
    await assert.rejects(answers(own.infer(packetOf({ hold: 30_000 }), realClock.deadline(100))), { code: 'DEADLINE' })
    const { because, crashed } = await own.exited
    assert.ok(crashed && /its code holds it/.test(because), because)
  })
})
