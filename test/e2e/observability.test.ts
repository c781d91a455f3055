import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Client, credentials, Metadata } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { WebSocket } from 'ws'
import { z } from 'zod'
import { Devnet } from '../../node/devnet/devnet.ts'
import { AssetsRegistry, LLAMAUtils, TransformersUtils } from '../../sdk/index.ts'
import { makeModel } from '../fixtures/llm/make-model.ts'
import { Collector, type Collected } from './collector.ts'

const PROTO = fileURLToPath(new URL('../../protocols/proto/inference.proto', import.meta.url))
/** Counts what it is given, under AIOS's names, and says which trace it works for. */
const CODE = `
export class Counts {
  constructor(context) {
    this.context = context
    context.metrics.register_counter('things', 'seen')
    context.metrics.register_histogram('weight', 'of things', ['kind'], [1, 10])
  }
  on_data(entry) {
    const { metrics } = this.context
    const { value = 0 } = entry.packet.data.inputs?.[0] ?? entry.packet.data
    metrics.increment_counter('things')
    metrics.set_gauge('llm_active_sessions', value)
    metrics.observe_histogram('weight', value)
    metrics.observe_rolling('score', value)
    return [true, { value: value + 1, trace: entry.packet.traceparent ?? null }]
  }
}
`
const answer = z.object({ success: z.literal(true), data: z.json() }).loose()
const document = z.record(z.string(), z.json())
const blockDocument = z.object({ blockId: z.string(), instances: z.array(document), aggregate: document })

describe('a mesh that is looked at', function () {
  this.timeout(180_000)
  let dir: string
  let net: Devnet
  const collector = new Collector()

  const ask = async (path: string, body?: unknown, headers: Readonly<Record<string, string>> = {}, at = 0): Promise<z.infer<typeof answer>['data']> => {
    const response = await fetch(`${net.peer(at).http}${path}`, body === undefined ? { headers } : { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })
    const said: unknown = await response.json()
    assert.equal(response.status, 200, JSON.stringify(said))
    return answer.parse(said).data
  }
  const until = async <T>(what: string, look: () => Promise<T | undefined>): Promise<T> => {
    for (const ends = Date.now() + 20_000; Date.now() < ends; await new Promise(resolve => setTimeout(resolve, 100))) {
      const found = await look()
      if (found !== undefined) return found
    }
    return assert.fail(`${what} did not come about`)
  }
  const trace = (digit: string): { readonly id: string; readonly parent: string; readonly header: string } => ({ id: digit.repeat(32), parent: digit.repeat(16), header: `00-${digit.repeat(32)}-${digit.repeat(16)}-01` })
  /** The spans of a trace, once these are among them. */
  const traced = (id: string, names: readonly string[]): Promise<readonly Collected[]> => until(`a trace with ${names.join(', ')}`, async () => {
    const spans = collector.spans.filter(({ traceId }) => traceId === id)
    return names.every(name => spans.some(span => span.name === name)) ? spans : undefined
  })
  const named = (spans: readonly Collected[], name: string): Collected => spans.find(span => span.name === name) ?? assert.fail(`no ${name} among ${spans.map(span => span.name).join(', ')}`)

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-look-'))
    process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = await collector.open()
    process.env['OTEL_BSP_SCHEDULE_DELAY'] = '200'
    net = await Devnet.start(dir, 3, index => ({ place: `p${index}` }))
    const folder = join(dir, 'counts')
    await mkdir(folder)
    await writeFile(join(folder, 'index.mjs'), CODE)
    await writeFile(join(folder, 'component.json'), JSON.stringify({ componentId: { name: 'counts', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node' }))
    for await (const line of net.peer(0).client.lines('POST', '/mesh/components', { directory: folder })) assert(Object(line).error === undefined, JSON.stringify(line))
    for (const index of [1, 2]) await net.peer(0).client.send('POST', '/api/createBlock', { blockId: `counts-${index}`, blockComponentURI: 'node.counts:1.0.0-stable', minInstances: 1, maxInstances: 1, mode: 'allocate', labels: { place: `p${index}` } })
    await net.peer(0).client.send('POST', '/api/createvDAG', {
      vdagName: 'twice', vdagVersion: { version: '1.0.0', 'release-tag': 'stable' }, mode: 'create', discoveryTags: [], controller: {},
      nodes: [{ nodeLabel: 'first', nodeType: 'block', manualBlockId: 'counts-1' }, { nodeLabel: 'second', nodeType: 'block', manualBlockId: 'counts-2' }],
      graph: { connections: [{ nodeLabel: 'second', inputs: [{ nodeLabel: 'first' }] }], input: [{ nodeLabel: 'first' }], output: [{ nodeLabel: 'second' }] },
    })
  })
  after(async () => {
    delete process.env['OTEL_EXPORTER_OTLP_ENDPOINT']
    delete process.env['OTEL_BSP_SCHEDULE_DELAY']
    await net?.[Symbol.asyncDispose]()
    collector.close()
    await rm(dir, { recursive: true, force: true })
  })

  it('one trace goes from the caller through a vDAG on three peers into its blocks, each span below the one that caused it', async () => {
    const { id, parent, header } = trace('a')
    const data = z.object({ second: z.object({ trace: z.string() }) }).parse(await ask('/v1/infer', { model: 'twice:1.0.0-stable', session_id: 's', data: { value: 1 } }, { traceparent: header }))
    const spans = await traced(id, ['POST /v1/infer', 'infer twice:1.0.0-stable', 'run twice:1.0.0-stable', 'node first', 'node second', 'call counts-1', 'call counts-2', 'serve counts-1', 'serve counts-2'])
    const below = (child: string, above: string): void => assert.equal(named(spans, child).parentSpanId, named(spans, above).spanId, `${child} below ${above}`)
    assert.equal(named(spans, 'POST /v1/infer').parentSpanId, parent)
    below('infer twice:1.0.0-stable', 'POST /v1/infer')
    below('run twice:1.0.0-stable', 'infer twice:1.0.0-stable')
    for (const [label, block] of [['first', 'counts-1'], ['second', 'counts-2']] as const) {
      below(`node ${label}`, 'run twice:1.0.0-stable')
      below(`call ${block}`, `node ${label}`)
      below(`serve ${block}`, `call ${block}`)
    }
    assert.deepEqual(['POST /v1/infer', 'serve counts-1', 'serve counts-2'].map(name => named(spans, name).by), [0, 1, 2].map(index => net.peer(index).peer))
    assert.equal(data.second.trace, `00-${id}-${named(spans, 'serve counts-2').spanId}-01`, 'the block sees the span it works in')
    assert.ok(spans.every(({ status }) => status.code === 0))
    assert.deepEqual(collector.wrong, [])
  })

  it('every door takes a trace up: gRPC, WebSocket, OpenAI', async () => {
    const grpc = new Client(net.peer(0).grpc, credentials.createInsecure())
    const method = loadSync(PROTO, { keepCase: true, longs: String, defaults: true })['BlockInferenceService']
    assert.ok(method !== undefined && !('format' in method) && method['infer'] !== undefined)
    const { path, requestSerialize, responseDeserialize } = method['infer']
    const metadata = new Metadata()
    metadata.set('traceparent', trace('b').header)
    await new Promise<void>((resolve, reject) => grpc.makeUnaryRequest(path, requestSerialize, responseDeserialize, { block_id: 'counts-1', session_id: 's', seq_no: 1, data: '{"value":2}', ts: 1 }, metadata, {}, error => (error === null ? resolve() : reject(error))))
    grpc.close()

    const socket = new WebSocket(`${net.peer(0).http.replace('http', 'ws')}/v1/stream`, { headers: { traceparent: trace('c').header } })
    await new Promise<void>((resolve, reject) => {
      socket.on('open', () => socket.send(JSON.stringify({ model: 'counts-1', data: { value: 3 } })))
      socket.on('message', message => {
        if (z.object({ last: z.literal(true) }).loose().safeParse(JSON.parse(String(message))).success) resolve()
      })
      socket.on('error', reject)
    })
    socket.close()
    await fetch(`${net.peer(0).http}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json', traceparent: trace('d').header }, body: JSON.stringify({ model: 'counts-2', messages: [] }) })
    for (const [digit, block] of [['b', 'counts-1'], ['c', 'counts-1'], ['d', 'counts-2']] as const) {
      const spans = await traced(trace(digit).id, [`call ${block}`, `serve ${block}`])
      assert.equal(named(spans, `serve ${block}`).parentSpanId, named(spans, `call ${block}`).spanId)
    }
  })

  it('a split model\'s stages are spans of the generation that asked for them', async () => {
    const model = join(dir, 'tiny')
    makeModel(model, { variant: 'fused' })
    for await (const line of net.peer(0).client.lines('POST', '/mesh/models', { path: model })) assert(Object(line).error === undefined, JSON.stringify(line))
    await net.peer(0).client.send('POST', '/mesh/services', { model: 'tiny', service: 'tiny', shards: 2, contextTokens: 256, sessions: 2, standbys: 0 })
    const { id, header } = trace('e')
    const response = await fetch(`${net.peer(0).http}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json', traceparent: header }, body: JSON.stringify({ model: 'tiny', prompt: 'Licensed', max_tokens: 4, temperature: 0 }) })
    assert.equal(response.status, 200, await response.text())
    const spans = await traced(id, ['generate tiny', 'stage 0', 'stage 1'])
    assert.equal(named(spans, 'generate tiny').parentSpanId, named(spans, 'POST /v1/completions').spanId)
    for (const stage of ['stage 0', 'stage 1']) assert.equal(named(spans, stage).parentSpanId, named(spans, 'generate tiny').spanId)
    const [stage] = await until('the metrics of a stage', async () => {
      const { instances } = blockDocument.parse(await ask('/block/tiny-s0', undefined, {}, 2))
      return Number(instances[0]?.['llm_prompts_total'] ?? 0) > 0 ? instances : undefined
    })
    for (const name of ['llm_tokens_generated_total', 'llm_prompt_tokens_total', 'llm_active_sessions', 'llm_inference_duration_seconds_count', 'llm_cpu_utilization', 'llm_memory_usage_bytes', 'llm_inference_errors_total']) assert.equal(typeof stage?.[name], 'number', name)
  })

  it('the SDK\'s LLM classes and its registry of assets speak to any peer under AIOS\'s names', async () => {
    const llama = new LLAMAUtils('tiny', { url: net.peer(1).http })
    assert.deepEqual([await llama.load_model(), await new LLAMAUtils('none', { url: net.peer(1).http }).load_model(), await llama.supports_chat()], [true, false, true])
    llama.set_seed(7)
    const whole = await llama.run_inference('Licensed', false, { max_tokens: 6, stop: [] })
    let streamed = ''
    for await (const piece of llama.run_inference('Licensed', true, { max_tokens: 6, stop: [] })) streamed += piece
    assert.equal(whole.choices[0]?.text, streamed)
    assert.equal((await llama.generate_text('Licensed', 2, { max_tokens: 2 })).length, 2)
    assert.equal(await llama.detokenize(await llama.tokenize('Licensed under')), 'Licensed under')
    llama.create_chat_session('chat', 'Be brief.')
    llama.add_message_to_chat('chat', 'Who are you?')
    assert.equal(typeof await llama.run_chat_inference('chat', { max_tokens: 4 }), 'string')
    assert.deepEqual([llama.remove_chat_session('chat'), llama.remove_chat_session('chat')], [true, false])
    const transformers = new TransformersUtils('tiny', { url: net.peer(2).http, generation_config: { max_new_tokens: 3, temperature: 0 } })
    const { input_ids: [ids] } = await transformers.tokenize('Licensed')
    assert.equal(await transformers.decode(ids ?? []), 'Licensed')
    assert.ok((await transformers.generate_tokens('Licensed')).length > (ids?.length ?? 0))
    assert.deepEqual(await transformers.get_device_info().then(({ device, model, tensor_parallel }) => [device, model, tensor_parallel]), ['mesh', 'tiny', true])
    const assets = new AssetsRegistry({ url: net.peer(0).http })
    const bytes = new TextEncoder().encode('labels')
    await assets.upload_file_by_bytes('labels:1.0-stable', bytes)
    const there = new AssetsRegistry({ url: net.peer(2).http })
    assert.deepEqual(await until('the asset on another peer', () => there.download_file_as_bytes('labels:1.0-stable').catch(() => undefined)), bytes)
    await there.download_file_to_path('labels:1.0-stable', join(dir, 'labels.txt'))
    await assert.rejects(there.download_file_as_buffer('nothing:1.0-stable'), { code: 'NOT_FOUND' })
  })

  it('any peer answers for the metrics of every node, cluster, block and vDAG, in AIOS\'s shapes and within seconds', async () => {
    for (const value of [1, 2, 3]) await ask('/v1/infer', { model: 'counts-1', data: { value } })
    const began = Date.now()
    const block = await until('what the block just counted', async () => {
      const found = blockDocument.parse(await ask('/block/counts-1', undefined, {}, 2))
      return found.instances[0]?.['llm_active_sessions'] === 3 ? found : undefined
    })
    assert.ok(Date.now() - began < 5_000, `${Date.now() - began} ms`)
    const [instance] = block.instances
    assert.deepEqual([instance?.['nodeId'], z.object({ current: z.number() }).loose().parse(instance?.['score']).current, Number(instance?.['things']) >= 3, Number(instance?.['weight_count']) >= 3], [net.peer(1).peer, 3, true, true])
    for (const name of ['on_preprocess_latency', 'on_data_latency', 'end_to_end_latency', 'on_data_count', 'end_to_end_fps', 'queue_length', 'tasks_processed', 'latency', 'on_data_latency_p99']) assert.equal(typeof instance?.[name], 'number', name)
    assert.ok(Date.now() / 1_000 - Number(instance?.['timestamp']) < 5)

    const node = z.object({ nodeId: z.string(), metrics: z.object({ resource: z.object({ node: z.object({ vcpu: document, memory: document, storage: document, gpu: document }) }) }) }).parse(await ask(`/node/${net.peer(2).peer}`, undefined, {}, 1))
    assert.ok(Number(node.metrics.resource.node.memory['freeMem']) > 0 && Number(node.metrics.resource.node.vcpu['totalProcesses']) > 3)
    const cluster = z.object({ clusterId: z.string(), cluster: document, nodes: z.array(document) }).parse(await ask('/cluster'))
    assert.deepEqual(await ask(`/cluster/${cluster.clusterId}`, undefined, {}, 1).then(other => z.object({ clusterId: z.string() }).loose().parse(other).clusterId), cluster.clusterId)
    assert.equal(z.array(document).parse(await ask('/node/query', { 'metrics.resource.node.vcpu.load_15m': { $gte: 0 } })).length, 3)
    assert.equal(z.array(document).parse(await ask('/cluster/query', { 'cluster.memory.freeMem': { $gt: 1e9 } })).length, 0)
    assert.deepEqual(z.array(blockDocument).parse(await ask('/block/query', { 'instances.llm_active_sessions': { $gte: 3 }, blockId: { $regex: '^counts' } })).map(({ blockId }) => blockId), ['counts-1'])
    assert.deepEqual(z.looseObject({ data: z.array(blockDocument) }).parse(await net.peer(1).client.get('/block/query?blockId=counts-1')).data.map(({ blockId }) => blockId), ['counts-1'])
    assert.equal(z.object({ healthy: z.boolean() }).loose().parse(await ask('/block/health/counts-2', undefined, {}, 1)).healthy, true)
    const vdag = z.object({ vdagURI: z.string(), inference_requests_total: z.number(), inference_fps: z.number(), inference_latency_seconds: z.number() }).loose().parse(await ask('/metrics/vdag/twice:1.0.0-stable', undefined, {}, 1))
    assert.ok(vdag.inference_requests_total >= 1 && vdag.inference_latency_seconds > 0)
    await ask('/vdag-controller', { action: 'create_controller', payload: { vdag_controller_id: 'own', vdag_uri: 'twice:1.0.0-stable', config: { replicas: 1 } } })
    const { hosts } = z.object({ hosts: z.array(z.string()) }).loose().parse(await ask('/vdag-controller/own'))
    const own = z.object({ vdagControllerId: z.literal('own'), inference_requests_total: z.number() }).loose().parse(await ask('/vdag/own'))
    assert.equal(own.inference_requests_total, hosts.includes(net.peer(0).peer) ? vdag.inference_requests_total : 0, 'a controller answers for what its own peers answered')
    assert.equal(z.object({ count: z.number() }).loose().parse(await ask('/node/aggregate')).count, 3)
    const search = z.object({ success: z.literal(true), result: z.array(document) }).loose().parse(await net.peer(2).client.send('POST', '/api/filter', { matchType: 'block', filter: { blockMetricsQuery: { aggOperator: 'max', target: 'instances.llm_active_sessions', operator: '>=', value: '3' } } }))
    assert.ok(search.result.some(({ id }) => id === 'counts-1') && !search.result.some(({ id }) => id === 'counts-2'), JSON.stringify(search.result.map(({ id }) => id)))
  })

  it('a scrape has the node, the instances and what their authors count', async () => {
    const text = await (await fetch(`${net.peer(1).http}/metrics`)).text()
    for (const form of [/^aios_node_vcpu_load1m\{peer="[^"]+"\} [\d.]+$/m, /^aios_instance_things\{block="counts-1",instance="in-[a-z0-9]+",peer="[^"]+"\} \d+$/m, /^aios_instance_weight_bucket\{[^}]*le="\+Inf"\} \d+$/m, /^aios_instance_on_data_latency_quantile\{[^}]*quantile="0.99"\} [\d.e-]+$/m, /^aios_calls_served_total\{method="infer"\} \d+$/m]) assert.match(text, form)
  })
})
