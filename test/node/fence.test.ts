import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checkFence } from '../../node/adapters/fence.ts'
import { judge, seccompFilter } from '../../node/adapters/fence-filter.ts'
import type { MeshError } from '../../protocols/errors.ts'
import type { RunningInstance } from '../../src/ports.ts'
import { ATTACKS, RAMPAGES } from './fence-attacks.ts'
import { answers, never, openBench, packetOf, realClock, type Bench } from './instance-bundle.ts'

const EPERM = 1
const ENOSYS = 38

describe('the filter of system calls', () => {
  for (const [architecture, numbers] of [['x64', { socket: 41, kill: 62, clone: 56, prlimit: 302, read: 0 }], ['arm64', { socket: 198, kill: 129, clone: 220, prlimit: 261, read: 63 }]] as const) {
    it(`refuses sockets, processes and other people’s processes on ${architecture}, and nothing everyday`, () => {
      const filter = seccompFilter(architecture, 4_321, { gpus: false })
      assert.equal(judge(filter, architecture, numbers.socket), EPERM)
      assert.equal(judge(filter, architecture, numbers.read), 'allow')
      assert.equal(judge(filter, architecture, numbers.kill, 4_321), 'allow')
      assert.equal(judge(filter, architecture, numbers.kill, 1), EPERM)
      assert.equal(judge(filter, architecture, numbers.clone, 0x1_0000), 'allow', 'a thread')
      assert.equal(judge(filter, architecture, numbers.clone, 17), EPERM, 'a process')
      assert.equal(judge(filter, architecture, numbers.prlimit, 0), 'allow')
      assert.equal(judge(filter, architecture, numbers.prlimit, 1), EPERM)
      assert.equal(judge(filter, architecture, 435), ENOSYS, 'clone3 cannot be inspected')
      assert.equal(judge(filter, architecture, 500), ENOSYS, 'calls of later kernels')
    })
  }

  it('ends a process that calls by another architecture’s numbers', () => {
    assert.equal(judge(seccompFilter('x64', 1, { gpus: false }), 'arm64', 0), 'kill')
    assert.equal(judge(seccompFilter('x64', 1, { gpus: false }), 'x64', 0x4000_0000), 'kill')
  })
})

describe('a hostile component', () => {
  let bench: Bench
  let folder: string
  let port: Server
  let socket: Server
  const facts: Record<string, string> = {}

  before(async function () {
    const fence = await checkFence()
    if (!fence.ok) {
      console.log(`      no fence here: ${fence.because}`)
      this.skip() // reason: this kernel has no Landlock, and instances run there only where the operator asks for no fence
    }
    bench = await openBench()
    folder = await mkdtemp(join(tmpdir(), 'aios-secret-'))
    await writeFile(join(folder, 'secret'), 'hunter2')
    port = createServer(connection => connection.end()).listen(0, '127.0.0.1')
    socket = createServer(connection => connection.end()).listen(join(folder, 'socket'))
    await Promise.all([port, socket].map(server => server.listening ? undefined : new Promise(resolve => server.once('listening', resolve))))
    Object.assign(facts, { SECRET: join(folder, 'secret'), OUTSIDE: join(folder, 'outside'), SOCKET: join(folder, 'socket'), PID: String(process.pid), PORT: String((port.address() as AddressInfo).port) })
  })

  after(async () => {
    port?.close()
    socket?.close()
    await bench?.[Symbol.asyncDispose]()
    if (folder !== undefined) await rm(folder, { recursive: true, force: true })
  })

  it(`gets nowhere with ${Object.keys(ATTACKS).length} attacks`, async () => {
    const fill = (source: string) => source.replaceAll(/\{\{(\w+)\}\}/g, (_all, name: string) => facts[name]!)
    const before = await stat(facts['SECRET']!)
    const succeeded: string[] = []
    // One instance that offers them all, and a fresh one after each that an attack took down.
    const entries = Object.entries(ATTACKS)
    const files = Object.fromEntries([['main.mjs', `export default { async data(entry, context) { const { default: attack } = await import('../bundle/' + entry.data); return attack.data(entry, context) } }`], ...entries.map(([, source], index) => [`a${index}.mjs`, fill(source)])])
    for (let index = 0; index < entries.length;) {
      const running = await bench.backend.start(bench.request({ files, diskMb: 8 }), never)
      for (; index < entries.length; index++) {
        try {
          const [answer] = await answers(running.infer(packetOf(`a${index}.mjs`), realClock.deadline(8_000)))
          const { succeeded: reached, how } = answer as { readonly succeeded: boolean; readonly how: string }
          if (reached) succeeded.push(`${entries[index]![0]}: ${how}`)
        } catch (error) {
          assert.ok(['INSTANCE_FAILED', 'DEADLINE'].includes((error as MeshError).code), String(error))
          index++
          break
        }
      }
      await running[Symbol.asyncDispose]()
    }
    assert.deepEqual(succeeded, [])
    const after = await stat(facts['SECRET']!)
    assert.deepEqual([after.mode, after.mtimeMs, await readFile(facts['SECRET']!, 'utf8')], [before.mode, before.mtimeMs, 'hunter2'])
    assert.equal(existsSync(facts['OUTSIDE']!), false)
  }).timeout(60_000)

  it('fills its disk up to its limit and is then ended', async () => {
    const source = `import fs from 'node:fs'
export default { data() { for (let i = 0; ; i++) { try { fs.writeFileSync('f' + i, Buffer.alloc(1 << 20, 1)) } catch (error) { return error.code } } } }`
    const running = await bench.backend.start(bench.request({ files: { 'main.mjs': source }, diskMb: 16 }), never)
    await assert.rejects(answers(running.infer(packetOf(null), never)), /MB of disk; its limit is 16 MB/)
    await running[Symbol.asyncDispose]()
  }).timeout(20_000)

  describe('on a rampage', () => {
    let neighbour: RunningInstance
    before(async () => {
      neighbour = await bench.backend.start(bench.request({ files: { 'main.mjs': 'export default { data: entry => entry.data }' } }), never)
    })
    after(() => neighbour[Symbol.asyncDispose]())

    for (const [name, source] of Object.entries(RAMPAGES)) {
      it(`may ${name}: its call fails, the daemon and its neighbour go on`, async () => {
        const hostile = await bench.backend.start(bench.request({ files: { 'main.mjs': source }, memoryMb: 64 }), never)
        const before = process.memoryUsage().rss
        await assert.rejects(answers(hostile.infer(packetOf(null), realClock.deadline(2_500))), (error: MeshError) => ['INSTANCE_FAILED', 'DEADLINE'].includes(error.code))
        assert.deepEqual(await answers(neighbour.infer(packetOf('still here'), never)), ['still here'])
        assert.ok(process.memoryUsage().rss - before < 150e6, 'the daemon holds what the instance sent')
        await hostile[Symbol.asyncDispose]()
        await hostile.exited
      }).timeout(30_000)
    }
  })

  it('that never comes back to a cancelled call is ended', async () => {
    const running = await bench.backend.start(bench.request({ files: { 'main.mjs': 'export default { data() { for (;;); } }' } }), never)
    await assert.rejects(answers(running.infer(packetOf(null), realClock.deadline(300))), (error: MeshError) => error.code === 'DEADLINE')
    assert.match((await running.exited).because, /its code holds the thread/)
  }).timeout(20_000)
})

describe('an instance without the fence', () => {
  it('runs only where the operator chose it, and says so', async () => {
    await using bench = await openBench({ isolation: 'L0' })
    assert.ok(bench.events.some(event => event.name === 'instances_unfenced'))
    const running = await bench.backend.start(bench.request({ files: { 'main.mjs': 'export default { data: entry => entry.data }' } }), never)
    assert.deepEqual(await answers(running.infer(packetOf(1), never)), [1])
    await running[Symbol.asyncDispose]()
  })
})
