import assert from 'node:assert/strict'
import type { MeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import type { Backend, Clock, InstanceStart, RunningInstance } from '../../src/ports.ts'

/** What the suite needs of a backend: components that behave in five ways, in whatever form it runs them. */
export type BackendUnderTest = AsyncDisposable & {
  readonly backend: Backend
  readonly clock: Clock
  /**
   * A start request for a fresh instance of a component that: `echo` answers with its data; `counts` answers 0 … n-1 for
   * the number n; `refuses` throws ComponentError; `crashes` takes its instance down; `hangs` never answers.
   */
  start(kind: 'echo' | 'counts' | 'refuses' | 'crashes' | 'hangs'): InstanceStart
}

const never = new AbortController().signal

/** What every backend promises, real or simulated. */
export function backendConformance(name: string, open: () => Promise<BackendUnderTest>): void {
  describe(`backend: ${name}`, () => {
    let under: BackendUnderTest
    const begin = (kind: Parameters<BackendUnderTest['start']>[0]): Promise<RunningInstance> => under.backend.start(under.start(kind), never)

    before(async () => { under = await open() })
    after(() => under[Symbol.asyncDispose]())

    it('names the runtimes it starts, and starts no other', async () => {
      const request = under.start('echo')
      assert.ok(under.backend.runtimes().includes(request.manifest.runtime.name))
      const foreign: InstanceStart = { ...request, manifest: { ...request.manifest, runtime: { name: 'external' } } }
      if (under.backend.runtimes().includes('external')) return
      await assert.rejects(under.backend.start(foreign, never), (error: MeshError) => error.code === 'RUNTIME_UNAVAILABLE')
    })

    it('answers each call with its own data', async () => {
      await using running = await begin('echo')
      const all = await Promise.all([1, 2, 3].map(n => collect(running, n)))
      assert.deepEqual(all, [[1], [2], [3]])
      assert.equal((await running.health(never)).healthy, true)
    })

    it('streams answers in order', async () => {
      await using running = await begin('counts')
      assert.deepEqual(await collect(running, 12), Array.from({ length: 12 }, (_, n) => n))
    })

    it('tells a component’s refusal from a failed instance', async () => {
      await using refusing = await begin('refuses')
      await assert.rejects(collect(refusing, null), (error: MeshError) => error.code === 'COMPONENT_ERROR' && !error.retryable)
      const crashing = await begin('crashes')
      await assert.rejects(collect(crashing, null), (error: MeshError) => error.code === 'INSTANCE_FAILED' && error.retryable)
      assert.equal((await crashing.exited).crashed, true)
    })

    it('ends a call when its signal says so, and the instance lives', async () => {
      await using running = await begin('hangs')
      await assert.rejects(collect(running, null, under.clock.deadline(50)), (error: MeshError) => error.code === 'DEADLINE')
      assert.equal((await running.health(never)).healthy, true)
    })

    it('stops on dispose: exited resolves as no crash, and later calls fail as retryable', async () => {
      const running = await begin('echo')
      await running[Symbol.asyncDispose]()
      assert.equal((await running.exited).crashed, false)
      await assert.rejects(collect(running, 1), (error: MeshError) => error.code === 'INSTANCE_FAILED' && error.retryable)
    })
  })
}

async function collect(running: RunningInstance, data: Json, signal = never): Promise<readonly Json[]> {
  const out: Json[] = []
  for await (const packet of running.infer({ sessionId: 's', seqNo: 0, ts: 0, data, files: [] }, signal)) out.push(packet.data)
  return out
}
