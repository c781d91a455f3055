import assert from 'node:assert/strict'
import { AIOSMetrics, Batcher, Block, BlockTester, ChatSessions, defineLifecycle, defineSplitter, LanguageModel, LLMMetrics, ManualClock, Muxer, OnDataResult, PreProcessResult, SessionsManager, StateDict, StateDictV2, TimeBasedBatcher, type AiosContext, type AiosPacket, type Json } from '../../sdk/index.ts'
import { toJson } from '../../src/lib/json.ts'
import { instanceMetrics } from '../../src/metrics/instance-metrics.ts'

const packet = (seqNo: number, data: Json, sessionId = 's') => ({ sessionId, seqNo, ts: 0, data, files: [] })

/** AIOS's own shape of an example: its SDK as shipped fails both `PreProcessResult(packet=…, extra_data=…)` and `on_data(entry, is_ws)`. */
class Detector {
  readonly context: AiosContext
  readonly batcher = new Batcher<AiosPacket>({ N: 2 })
  constructor(context: AiosContext) {
    this.context = context
  }
  on_preprocess(given: AiosPacket): readonly [boolean, unknown] {
    const data = given.data as { readonly inputs?: readonly Json[] }
    return [true, (data.inputs ?? [given.data]).map(input => new PreProcessResult({ packet: given, extra_data: { input } }))]
  }
  on_data(entry: PreProcessResult, is_ws?: boolean): readonly [boolean, unknown] {
    const { input } = entry.extra_data as { readonly input: { readonly value?: number } }
    if (input.value === undefined) return [false, 'no value']
    this.context.events.push_event({ event_name: 'seen', event_data: { value: input.value } })
    this.context.side_cars.push_to_all_sidecars({ value: input.value })
    return [true, new OnDataResult({ value: input.value, passed: input.value > Number(this.context.block_init_parameters['threshold']), is_ws })]
  }
  on_update(parameters: Readonly<Record<string, Json>>): readonly [boolean, unknown] {
    return [true, parameters]
  }
  health(): Json {
    return { status: 'healthy' }
  }
  management(action: string, data: Json): Json {
    return { action, data }
  }
  get_muxer(): Muxer | null {
    return null
  }
}

describe("AIOS's SDK by its own names", () => {
  it('an example of AIOS runs as it is, where its own SDK refuses it', async () => {
    const tester = new BlockTester(new Block(Detector).run(), { parameters: { threshold: 0.5 }, initData: { side_cars: { audit: {} } } })
    assert.deepEqual(await tester.run({ value: 0.9 }), [{ value: 0.9, passed: true, is_ws: false }])
    assert.deepEqual(await tester.run({ inputs: [{ value: 0.1 }, { value: 0.6 }] }), [{ value: 0.1, passed: false, is_ws: false }, { value: 0.6, passed: true, is_ws: false }])
    await assert.rejects(tester.run({}), /no value/)
    assert.deepEqual(await tester.management('reset', { deep: 1 }), { action: 'reset', data: { deep: 1 } })
    assert.deepEqual([tester.events[0], tester.sideCars[0]], [{ name: 'seen', data: { value: 0.9 } }, { name: 'audit', data: { value: 0.9 } }])
  })

  it('a tester is made with a context, and takes files as pairs', async () => {
    class Files {
      on_data(entry: PreProcessResult): readonly [boolean, unknown] {
        return [true, { names: entry.packet.files.map(({ metadata, file_data }) => [metadata, file_data?.length]) }]
      }
    }
    assert.deepEqual(await BlockTester.init_with_context(Files, { block_init_parameters: { threshold: 1 }, block_data: { id: 'b' } }).run({}, [[{ filename: 'a.jpg' }, Uint8Array.of(1, 2)]]), [{ names: [[{ filename: 'a.jpg' }, 2]] }])
    const context = BlockTester.init_with_context(Detector, { block_init_parameters: { threshold: 0.1 } })
    assert.deepEqual(await context.run({ value: 0.2 }), [{ value: 0.2, passed: true, is_ws: false }])
  })

  it('what a class has in its context', async () => {
    let seen: AiosContext | undefined
    class Look {
      readonly context: AiosContext
      constructor(context: AiosContext) {
        seen = context
        this.context = context
      }
      async on_data(entry: PreProcessResult): Promise<readonly [boolean, unknown]> {
        await this.context.write_ws(entry.session_id, { first: true })
        return [true, { last: true }]
      }
    }
    const tester = new BlockTester(Look)
    assert.deepEqual(await tester.run({}, { sessionId: 'mine' }), [{ first: true }, { last: true }])
    const names = ['metrics', 'events', 'block_data', 'block_init_data', 'block_init_settings', 'block_init_parameters', 'sessions', 'side_cars', 'allocation_info', 'block_path', 'instance_path', 'common_path', 'write_ws'] as const
    assert.ok(seen)
    for (const name of names) assert.notEqual(seen[name], undefined, name)
    await assert.rejects(seen.write_ws('nobody', 1), /nobody waits for session nobody/)
  })

  it('fan-in joins what belongs together, also over many packets in any order', () => {
    const muxer = new Muxer({ N: 3 })
    const given = [1, 2, 1, 2, 2, 1].map((seqNo, at) => muxer.process_packet(packet(seqNo, at)))
    assert.deepEqual(given.filter(joined => joined !== undefined).map(({ seqNo, data }) => [seqNo, data]), [[2, { inputs: [1, 3, 4] }], [1, { inputs: [0, 2, 5] }]])
    assert.equal(muxer.pending, 0)
  })

  it('a time-based batcher runs at N items, again and again, and at T seconds', async () => {
    const clock = new ManualClock()
    const batches: number[] = []
    const batcher = new TimeBasedBatcher<number, number>(3, 0.5, items => {
      batches.push(items.length)
      return items.map(item => item + 1)
    }, clock)
    for (let round = 0; round < 4; round += 1) assert.deepEqual(await Promise.all([1, 2, 3].map(item => batcher.add_to_batch(item))), [2, 3, 4])
    const late = batcher.add_to_batch(9)
    clock.advance(500)
    assert.equal(await late, 10)
    assert.deepEqual(batches, [3, 3, 3, 3, 1])
    const plain = new Batcher<number>({ N: 2 })
    assert.deepEqual([plain.add_to_batch(1), plain.add_to_batch(2)], [undefined, [1, 2]])
  })

  it('sessions and state answer as AIOS\'s do', () => {
    const clock = new ManualClock()
    const sessions = new SessionsManager(clock)
    sessions.create_session('a', { count: 1 })
    const [ok, session] = sessions.get_session_object('a')
    assert.ok(ok && session.get_id() === 'a')
    assert.deepEqual(sessions.update_session_object('a', { count: 2 }), [true, 'session data updated'])
    assert.deepEqual(sessions.get_session_data('a'), [true, { count: 2 }])
    assert.deepEqual(sessions.get_session_data('b'), [false, 'session b not found'])
    assert.deepEqual(Object.keys(sessions.get_dict_ref()), ['a'])
    assert.equal(sessions.remove_sessions_data('a')[0], true)
    assert.deepEqual(sessions.remove_sessions_data('a'), [false, 'session a not found'])

    for (const state of [new StateDict<unknown>(clock), new StateDictV2<unknown>(clock)]) {
      state.update({ a: 1, b: [2] })
      assert.deepEqual([state.get('c', 3), state.setdefault('c', 4), state.pop('c'), [...state], state.items(), state.values()], [3, 4, 4, ['a', 'b'], [['a', 1], ['b', [2]]], [1, [2]]])
      assert.throws(() => state.pop('c'), /there is no c/)
      assert.deepEqual(state.popitem(), ['a', 1])
    }
    const kept = new StateDictV2<number[]>(clock)
    const list = [1]
    kept.set('list', list)
    list.push(2)
    assert.deepEqual(kept.get('list'), [1])
  })

  it('LLM metrics have every name of the list', () => {
    const clock = new ManualClock(1_000_000)
    const metrics = new AIOSMetrics(clock)
    const llm = new LLMMetrics(metrics, clock)
    llm.increase_active_sessions()
    llm.log_prompt(12)
    const start = clock.unix() / 1_000
    clock.advance(500)
    llm.observe_time_to_first_token(start)
    clock.advance(1_500)
    llm.observe_inference_time(start)
    llm.observe_time_per_output_token(start, 4)
    llm.log_response(4)
    llm.update_tokens_per_second(4, 2)
    llm.update_resource_utilization(30, 40, 5_000)
    llm.increment_inference_errors()
    const document = instanceMetrics({ block: 'b', instance: 'in-1', host: 'p', state: 'ready', at: 0, uptimeMs: 0, queued: 0, inFlight: 0, served: 0, failed: 0, latency: metrics.rolling('none').window(1), memoryMb: 0, cpuPercent: 0, reported: toJson(metrics.snapshot()) })
    assert.deepEqual(
      ['llm_prompts_total', 'llm_tokens_generated_total', 'llm_prompt_tokens_total', 'llm_active_sessions', 'llm_inference_duration_seconds_sum', 'llm_time_to_first_token_seconds_sum', 'llm_time_per_output_token_seconds_sum', 'llm_tokens_per_second', 'llm_cpu_utilization', 'llm_gpu_utilization', 'llm_memory_usage_bytes', 'llm_inference_errors_total'].map(name => document[name]),
      [1, 4, 12, 1, 2, 0.5, 0.5, 2, 30, 40, 5_000, 1],
    )
    llm.decrease_active_sessions()
  })

  it('conversations that nobody uses are forgotten', () => {
    const clock = new ManualClock()
    const chats = new ChatSessions(new LanguageModel({ model: 'm', url: 'http://127.0.0.1:1' }), 10, { idleMs: 1_000, clock })
    chats.create('a')
    chats.create('b')
    clock.advance(600)
    chats.add('b', 'user', 'hello')
    clock.advance(600)
    assert.deepEqual(chats.ids, ['b'])
    assert.throws(() => chats.turns('a'), /no conversation a/)
  })

  it('splitters and third-party lifecycles go begin, main, finish, each given what the one before answered', async () => {
    const splitter = new BlockTester(defineSplitter(class {
      readonly task: { readonly model: Json }
      constructor(task: { readonly model: Json }) {
        this.task = task
      }
      begin(): readonly [boolean, Json] { return [true, { layers: 8 }] }
      main(extra: Json): readonly [boolean, Json] { return [true, { ranges: [[0, 4], [4, (extra as { readonly layers: number }).layers]] }] }
      finish(extra: Json): readonly [boolean, Json] { return [true, { extra, model: this.task.model }] }
    }))
    const task = { task_data: { model_name: 'm' }, model: { layers: 8 } }
    const begun = await splitter.management('begin', task) as { readonly data: Json }
    const cut = await splitter.management('main', { ...task, extra: begun.data }) as { readonly data: Json }
    assert.deepEqual(cut, { ok: true, data: { ranges: [[0, 4], [4, 8]] } })
    assert.deepEqual(await splitter.management('finish', { task_data: task.task_data, parts: [], extra: cut.data }), { ok: true, data: { extra: cut.data, model: task.model } })

    const steps: string[] = []
    const lifecycle = new BlockTester(defineLifecycle(class {
      readonly mode: string
      constructor(_envs: object, block_data: Readonly<Record<string, Json>>, _cluster: object, k8s: null, mode: string) {
        assert.equal(k8s, null)
        this.mode = `${mode} ${String(block_data['id'])}`
      }
      begin(): Json { steps.push(`begin ${this.mode}`); return {} }
      main(): readonly [boolean, Json] { return this.mode.startsWith('remove') ? [false, 'it is still needed'] : [true, {}] }
      finish(): Json { return { inference_url: 'http://here' } }
    }))
    const job = { block_data: { id: 'vllm' }, operating_mode: 'creation' }
    await lifecycle.management('begin', job)
    assert.deepEqual(await lifecycle.management('finish', job), { ok: true, data: { inference_url: 'http://here' } })
    assert.deepEqual(await lifecycle.management('main', { ...job, operating_mode: 'remove' }), { ok: false, data: 'it is still needed' })
    assert.deepEqual(steps, ['begin create vllm'])
    await assert.rejects(lifecycle.management('reset'), /begin, main and finish/)
  })
})
