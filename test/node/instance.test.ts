import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { MeshError } from '../../protocols/errors.ts'
import { BundleShelf, checkBundlePaths } from '../../node/adapters/backend-bundle.ts'
import { checkFence, type Isolation } from '../../node/adapters/fence.ts'
import { encodeFrame, FrameReader } from '../../node/instance/frames.ts'
import type { Packet } from '../../protocols/invoke.ts'
import type { RunningInstance } from '../../src/ports.ts'
import { backendConformance } from '../conformance/backend.ts'
import { answers, never, openBench, packetOf, realClock, type Bench, type Parts } from './instance-bundle.ts'

const code = (error: unknown) => (error as MeshError).code

/** One block that does everything the tests ask of it, by what it is sent. */
const BLOCK = `
import { ComponentError, defineBlock, record, Muxer } from 'aios-mesh/sdk'

export default defineBlock({
  async load(context) {
    console.log('loading', context.blockData.id)
    return { calls: 0, text: await context.assets.text('words.txt') }
  },
  async *data(entry: { data: unknown }, context) {
    const { what, ...rest } = record(entry.data)
    context.state.calls++
    context.metrics.counter('seen').increment()
    switch (what) {
      case 'echo': return yield rest
      case 'count': for (let i = 0; i < Number(rest.to); i++) yield i; return
      case 'refuse': throw new ComponentError('this cannot be answered')
      case 'fail': throw new TypeError('a mistake')
      case 'wait': return yield await new Promise((resolve, reject) => context.signal.addEventListener('abort', () => { console.log('gave up'); reject(new Error('gave up')) }))
      case 'event': context.events.push('noticed', { level: 3 }); return yield null
      case 'facts': return yield { parameters: context.parameters, settings: context.blockInitSettings, gpus: context.allocationInfo.gpus, text: context.state.text, vdag: context.vdag, cwd: process.cwd() }
      case 'missing': return yield await context.assets.text('nothing.txt')
      case 'compute': for (const ends = Date.now() + Number(rest.ms); Date.now() < ends;); return yield 'computed'
      case 'odd': return yield { at: () => 0 }
    }
  },
  management: (action, data) => ({ action, data }),
  health: context => ({ status: 'healthy', calls: context.state.calls }),
})
`

describe('an instance', () => {
  let isolation: Isolation = 'L1'
  let bench: Bench
  let running: RunningInstance
  const policies: string[] = []

  before(async () => {
    isolation = (await checkFence()).ok ? 'L1' : 'L0'
    bench = await openBench({ isolation })
    running = await bench.backend.start(bench.request({ files: { 'main.ts': BLOCK, 'words.txt': 'some words' }, parameters: { a: 1 }, initSettings: { depth: 2 }, packetPolicy: async (hook, packet) => { policies.push(hook); return packet } }), never)
  })
  after(async () => {
    await running?.[Symbol.asyncDispose]()
    await bench[Symbol.asyncDispose]()
  })
  const ask = (what: string, more: object = {}, signal = never) => answers(running.infer(packetOf({ what, ...more }), signal))
  const startOne = (parts: Parts) => bench.backend.start(bench.request(parts), never)

  it('runs a TypeScript entry that imports the SDK, with its context and its files', async () => {
    const [facts] = await answers(running.infer(packetOf({ what: 'facts' }), never, { uri: 'v:1', label: 'n' }))
    const { cwd, ...rest } = facts as Record<string, unknown>
    assert.deepEqual(rest, { parameters: { a: 1 }, settings: { depth: 2 }, gpus: [], text: 'some words', vdag: { uri: 'v:1', label: 'n' } })
    assert.match(String(cwd), /scratch$/)
  })

  it('answers many calls at once, each its own', async () => {
    const wait = new AbortController()
    const stuck = ask('wait', {}, wait.signal)
    const all = await Promise.all(Array.from({ length: 50 }, (_, n) => ask('echo', { n })))
    assert.deepEqual(all, Array.from({ length: 50 }, (_, n) => [{ n }]))
    wait.abort()
    await assert.rejects(stuck, error => code(error) === 'CANCELLED')
  })

  it('streams more than the window to a slow reader, and stops when the reader leaves', async () => {
    const seen: unknown[] = []
    for await (const packet of running.infer(packetOf({ what: 'count', to: 40 }), never)) {
      seen.push(packet.data)
      if (seen.length % 10 === 0) await realClock.sleep(2)
    }
    assert.deepEqual(seen, Array.from({ length: 40 }, (_, n) => n))
    for await (const packet of running.infer(packetOf({ what: 'count', to: 1e9 }), never)) if (packet.data === 3) break
    assert.deepEqual(await ask('echo', {}), [{}], 'it goes on')
  })

  it('says DEADLINE to the caller and tells the block', async () => {
    await assert.rejects(ask('wait', {}, realClock.deadline(50)), error => code(error) === 'DEADLINE')
    await ask('echo')
    assert.ok(running.logs(20).includes('gave up'))
  })

  it('that computes without a pause is not ended because it does not say how it is', async () => {
    const computing = ask('compute', { ms: 4_000 })
    // Asked until it has begun: before that it may still say how it is.
    const silence = async (): Promise<unknown> => {
      for (;;) await running.health(realClock.deadline(100))
    }
    await assert.rejects(silence(), error => code(error) === 'DEADLINE')
    assert.deepEqual(await computing, ['computed'])
  })

  it('calls a ComponentError terminal and any other error retryable', async () => {
    await assert.rejects(ask('refuse'), (error: MeshError) => error.code === 'COMPONENT_ERROR' && !error.retryable && error.message === 'this cannot be answered')
    await assert.rejects(ask('fail'), (error: MeshError) => error.code === 'INSTANCE_FAILED' && error.retryable && error.message === 'TypeError: a mistake')
    await assert.rejects(ask('missing'), /has no file "nothing\.txt"/)
    await assert.rejects(ask('odd'), /output\.at is a function/)
  })

  it('takes updates, management, health and reports its metrics, log, events and usage', async () => {
    assert.deepEqual(await running.update({ b: 2 }, never), { a: 1, b: 2 })
    assert.deepEqual(await running.management('reset', { deep: true }, never), { action: 'reset', data: { deep: true } })
    assert.equal((await running.health(never)).healthy, true)
    await ask('event')
    assert.ok(bench.events.some(event => event.name === 'block_event' && event.fields['name'] === 'noticed'))
    assert.ok(Object.hasOwn(running.metrics() as object, 'seen'))
    assert.ok(running.logs(50).includes('loading test-block'))
    assert.ok(isolation === 'L0' || running.usage().memoryMb > 20)
  })

  it('asks for its own policies only when its block has them', async () => {
    assert.equal(policies.length, 0)
    const own = await startOne({ files: { 'main.mjs': 'export default { data: entry => entry.data }' }, policies: { pre_processing: { policyRuleURI: 'p:1-stable' } }, packetPolicy: async (hook, packet) => { policies.push(hook); return packet } })
    assert.deepEqual(await answers(own.infer(packetOf('x'), never)), ['x'])
    assert.deepEqual(policies, ['pre_processing'])
    await own[Symbol.asyncDispose]()
  })

  it('carries files both ways', async () => {
    const own = await startOne({ files: { 'main.mjs': `export default class { on_data(entry) { return [true, entry.packet.files.map(file => file.file_data.length)] } }` } })
    const bytes = new Uint8Array(3_000_000)
    assert.deepEqual(await answers(own.infer(packetOf(null, { files: [{ metadata: null, bytes }] }), never)), [[3_000_000]])
    await own[Symbol.asyncDispose]()
  })

  it('that was stopped leaves nothing behind and refuses calls as retryable', async () => {
    const request = bench.request({ files: { 'main.mjs': 'export default { data: entry => entry.data, close() { console.log("closing") } }' } })
    const own = await bench.backend.start(request, never)
    await own[Symbol.asyncDispose]()
    assert.deepEqual(await own.exited, { because: 'stopped', crashed: false })
    assert.ok(own.logs(5).includes('closing'))
    await assert.rejects(answers(own.infer(packetOf(1), never)), error => code(error) === 'INSTANCE_FAILED')
    for (let tries = 0; tries < 50 && readdirSync(join(bench.dir, 'instances')).includes(request.instance); tries++) await realClock.sleep(10)
    assert.ok(!readdirSync(join(bench.dir, 'instances')).includes(request.instance))
  })

  it('that crashes in the middle of calls fails them all, retryable, and says how it ended', async () => {
    const own = await startOne({ files: { 'main.mjs': `export default { data(entry) { if (entry.data === 'die') process.exit(7); return new Promise(() => 0) } }` } })
    const waiting = answers(own.infer(packetOf('wait'), never))
    const dying = answers(own.infer(packetOf('die'), never))
    for (const call of [waiting, dying]) await assert.rejects(call, (error: MeshError) => error.code === 'INSTANCE_FAILED' && error.retryable && /code 7/.test(error.message))
    assert.equal((await own.exited).crashed, true)
  })

  it('that cannot load says why', async () => {
    const refusals: readonly (readonly [Parts, string, RegExp])[] = [
      [{ files: { 'main.mjs': 'export const nothing = 1' } }, 'COMPONENT_ERROR', /main\.mjs exports no block/],
      [{ files: { 'main.mjs': 'syntax error here' } }, 'COMPONENT_ERROR', /SyntaxError/],
      [{ files: { 'main.mjs': `import 'not-there'` } }, 'COMPONENT_ERROR', /not-there/],
      [{ files: { 'readme.txt': '' }, runtime: { name: 'node', entry: 'main.mjs' } }, 'SPEC_INVALID', /runtime\.entry is "main\.mjs", which the bundle does not hold/],
      [{ files: { 'readme.txt': '' }, runtime: { name: 'onnx' } }, 'SPEC_INVALID', /no \.onnx file/],
      [{ files: { 'main.mjs': '' }, runtime: { name: 'container' } }, 'RUNTIME_UNAVAILABLE', /not container/],
    ]
    for (const [parts, expected, message] of refusals) await assert.rejects(startOne(parts), (error: MeshError) => error.code === expected && message.test(error.message))
  }).timeout(60_000)

  it('is not started by a caller who gave up', async () => {
    await assert.rejects(bench.backend.start(bench.request({ files: { 'main.mjs': 'export default { load: () => new Promise(() => 0), data() {} }' } }), realClock.deadline(1_500)), error => code(error) === 'DEADLINE')
  })
})

describe('a bundle', () => {
  it('with a path that leaves it, or fights itself, is refused', () => {
    for (const path of ['../x', '/etc/x', 'a/../../x', 'a//b', './x', 'a\\b', 'C:/x', 'a\0b', '', 'a/', '..']) {
      assert.throws(() => checkBundlePaths([{ path }]), error => code(error) === 'SPEC_INVALID', JSON.stringify(path))
    }
    assert.throws(() => checkBundlePaths([{ path: 'a' }, { path: 'a' }]), /twice/)
    assert.throws(() => checkBundlePaths([{ path: 'a' }, { path: 'a/b' }]), /both as a file and as a folder/)
    checkBundlePaths([{ path: 'a/b..c/.d' }])
  })

  it('whose files are not what its manifest says is refused', async () => {
    await using bench = await openBench({ isolation: 'L0' })
    const request = bench.request({ files: { 'main.mjs': 'export default { data() {} }' } })
    const [file] = request.manifest.files
    const wrong = (size: number) => ({ ...request, manifest: { ...request.manifest, files: [{ ...file!, size }] } })
    await assert.rejects(bench.backend.start(wrong(5), never), error => code(error) === 'CONTENT_CORRUPT')
    await assert.rejects(bench.backend.start(wrong(500), never), error => code(error) === 'CONTENT_CORRUPT')
  })
})

describe('the bundle shelf', () => {
  it('keeps a file for as long as somebody holds it, through starts and ends at the same time', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'aios-shelf-'))
    const file = { path: 'a.txt', cid: 'bafytest', size: 3 }
    const shelf = new BundleShelf({ async *cat() { yield Uint8Array.of(1, 2, 3) } }, join(folder, 'files'))
    const live = async (n: number): Promise<void> => {
      for (let round = 0; round < 10; round++) {
        const target = join(folder, `${n}-${round}`)
        await shelf.layOut([file], target, never)
        assert.equal(readFileSync(join(target, 'a.txt')).length, 3)
        await shelf.release([file])
      }
    }
    await Promise.all([live(0), live(1), live(2)])
    assert.deepEqual(readdirSync(join(folder, 'files')), [])
    await rm(folder, { recursive: true })
  })
})

describe('frames', () => {
  it('come out whole however the pipe cuts them', () => {
    const sent: readonly Packet[] = [packetOf('a'), packetOf({ deep: [1, 2, 3] })]
    const bytes = Buffer.concat(sent.map((packet, id) => encodeFrame({ kind: 'output', id }, packet)))
    for (const size of [1, 2, 7, 64, bytes.length]) {
      const reader = new FrameReader()
      const headers: unknown[] = []
      for (let first = 0; first < bytes.length; first += size) for (const frame of reader.push(bytes.subarray(first, first + size))) headers.push(frame.header)
      assert.deepEqual(headers, [{ kind: 'output', id: 0 }, { kind: 'output', id: 1 }])
    }
  })

  it('that claim too much, or nothing, are refused before they are held', () => {
    assert.throws(() => [...new FrameReader().push(Uint8Array.of(255, 255, 255, 255))], error => code(error) === 'MESSAGE_TOO_LARGE')
    assert.throws(() => [...new FrameReader().push(Uint8Array.of(0, 0, 0, 0))], error => code(error) === 'MESSAGE_INVALID')
    assert.throws(() => [...new FrameReader().push(Uint8Array.of(5, 0, 0, 0, 200, 0, 0, 0, 1))], error => code(error) === 'MESSAGE_INVALID')
  })
})

const CONFORMING: Readonly<Record<string, string>> = {
  echo: 'export default { data: entry => entry.data }',
  counts: 'export default { *data(entry) { for (let i = 0; i < entry.data; i++) yield i } }',
  refuses: `export default { data() { throw Object.assign(new Error('no'), { [Symbol.for('aios-mesh/component-error')]: true }) } }`,
  crashes: 'export default { data() { process.exit(1) } }',
  hangs: 'export default { data: () => new Promise(() => 0) }',
}
backendConformance('processes', async () => {
  const bench = await openBench({ isolation: (await checkFence()).ok ? 'L1' : 'L0' })
  return { backend: bench.backend, clock: realClock, start: kind => bench.request({ files: { 'main.mjs': CONFORMING[kind]! } }), [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose]() }
})
