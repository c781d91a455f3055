import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { asMeshError } from '../../protocols/errors.ts'
import type { Json } from '../../protocols/ids.ts'
import { Devnet, type DevPeer } from '../../node/devnet/devnet.ts'
import { makeModel, tokenizerOf } from '../fixtures/llm/make-model.ts'
import { writeConfigurations, writeModel } from '../fixtures/llm/model-directory.ts'
import { sentenceEncoderGraph } from '../fixtures/llm/sentence-encoder.ts'
import { randomWeights, shapeOf } from '../fixtures/llm/shapes.ts'
import { until as reached } from './node-under-test.ts'

const plan = z.object({ stages: z.array(z.object({ peer: z.string(), first: z.int(), end: z.int() })), latencyMs: z.number(), refused: z.array(z.unknown()) })
const stage = z.object({ block: z.string(), first: z.int(), end: z.int(), instances: z.array(z.object({ host: z.string(), instance: z.string(), state: z.string() })) })
const service = z.object({ service: z.string(), modelURI: z.string(), standbys: z.int(), stages: z.array(stage) })
type Service = z.infer<typeof service>

async function refusal(work: Promise<Json>): Promise<{ readonly code: string; readonly message: string }> {
  try {
    assert.fail(`expected a refusal, got ${JSON.stringify(await work)}`)
  } catch (error) {
    const { code, message } = asMeshError(error)
    return { code, message }
  }
}

describe('a model over three real peers', function () {
  this.timeout(240_000)
  let dir: string
  let net: Devnet

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-models-'))
    makeModel(join(dir, 'tiny'), { variant: 'fused' })
    net = await Devnet.start(dir, 3, index => ({ region: index === 2 ? 'us' : 'eu' }))
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  const imported = async (path: string): Promise<string> => {
    for await (const line of net.peer(0).client.lines('POST', '/mesh/models', { path })) {
      const done = z.object({ result: z.object({ uri: z.string() }) }).safeParse(line)
      if (done.success) return done.data.result.uri
    }
    assert.fail('the import ended without a result')
  }
  const served = async (peer: DevPeer, name: string): Promise<Service> => service.parse(await peer.client.get(`/mesh/services/${name}`))
  const until = async (peer: DevPeer, name: string, reached: (now: Service) => boolean, what: string): Promise<Service> => {
    const ends = performance.now() + 90_000
    for (;;) {
      const now = await served(peer, name)
      if (reached(now)) return now
      assert(performance.now() < ends, `${what} did not happen: ${JSON.stringify(now.stages)}`)
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
  const ready = ({ stages }: Service, count: number): boolean => stages.every(({ instances }) => instances.filter(({ state }) => state === 'ready').length === count)

  it('is imported on one, planned on another and served from the third', async () => {
    assert.equal(await imported(join(dir, 'tiny')), 'tiny:1.0.0-stable')
    const planned = plan.parse(await net.peer(1).client.send('POST', '/mesh/models/tiny/plan', { shards: 3, contextTokens: 128 }))
    assert.equal(new Set(planned.stages.map(({ peer }) => peer)).size, 3)
    assert.deepEqual(planned.stages.map(({ first }) => first), [0, ...planned.stages.slice(0, -1).map(({ end }) => end)])
    assert.equal(planned.stages.at(-1)?.end, 6)
    const replicas = z.object({ spans: z.array(z.object({ first: z.int(), end: z.int() })), throughput: z.number(), bound: z.number(), single: z.array(z.int()) }).parse(await net.peer(1).client.send('POST', '/mesh/models/tiny/plan', { contextTokens: 128, replicas: true }))
    // Each of the three can hold all of it.
    assert.deepEqual(replicas.spans.map(({ first, end }) => [first, end]), [[0, 6], [0, 6], [0, 6]])
    assert.deepEqual(replicas.single, [])
    const within = plan.parse(await net.peer(1).client.send('POST', '/mesh/models/tiny/plan', { shards: 2, contextTokens: 128, labels: { region: 'eu' } }))
    assert(within.stages.every(({ peer }) => peer !== net.peer(2).peer))
    assert.equal((await refusal(net.peer(1).client.send('POST', '/mesh/models/tiny/plan', { contextTokens: 128, labels: { region: 'mars' } }))).code, 'NO_CAPACITY')

    await net.peer(2).client.send('POST', '/mesh/services', { model: 'tiny', service: 'chat', shards: 2, contextTokens: 128, sessions: 2 })
    const whole = await until(net.peer(1), 'chat', now => ready(now, 2), 'a primary and a standby of each stage')
    for (const { instances } of whole.stages) assert.equal(new Set(instances.map(({ host }) => host)).size, 2)
    assert.equal((await refusal(net.peer(0).client.send('POST', '/mesh/services', { model: 'tiny', service: 'chat' }))).code, 'ALREADY_EXISTS')

  })

  it('is served whole or not at all, and says why not', async () => {
    const [peer, other] = net.running()
    assert(peer && other)
    const tooMany = await refusal(peer.client.send('POST', '/mesh/services', { model: 'tiny', service: 'huge', contextTokens: 512, sessions: 100_000 }))
    assert.equal(tooMany.code, 'NO_CAPACITY')
    assert.match(tooMany.message, /fewer sessions or a shorter context/)
    const blocks = z.array(z.object({ blockId: z.string() })).parse(await other.client.get('/mesh/blocks')).map(({ blockId }) => blockId)
    assert(!blocks.some(id => id.startsWith('huge')), blocks.join(', '))
    assert.equal((await refusal(peer.client.send('POST', '/mesh/services', { model: 'tiny', service: 'long', contextTokens: 100_000 }))).code, 'BAD_INPUT')
    assert.equal((await refusal(peer.client.send('POST', '/mesh/services', { model: 'none' }))).code, 'NOT_FOUND')
  })

  it('is cut into parts as AIOS\'s split jobs ask, evenly or where they say, and its parts are found again', async () => {
    const part = z.object({ model_layer_hash: z.string(), model_component_registry_uri: z.string(), model_layer_rank: z.int(), model_world_size: z.int() })
    const answer = z.object({ result: z.object({ world_size: z.int(), layers: z.array(part), block_specs: z.array(z.object({ blockComponentURI: z.string() })) }) })
    const split = async (task: Json) => answer.parse(await net.peer(1).client.send('POST', '/api/startModelSplitJob', { header: { templateUri: 'Parser/V1' }, body: { spec: { values: { task_data: task } } } })).result
    const even = await split({ model_name: 'tiny', world_size: 3 })
    assert.deepEqual(even.layers.map(({ model_layer_rank: rank, model_world_size: size }) => [rank, size]), [[0, 3], [1, 3], [2, 3]])
    const said = await split({ model_name: 'tiny', model_split_config: { split_2: [4, 6], split_1: [0, 4] } })
    assert.deepEqual(said.block_specs.map(spec => spec.blockComponentURI), ['llm.tiny-l0-4:1.0.0-stable', 'llm.tiny-l4-6:1.0.0-stable'])
    assert.deepEqual((await split({ model_name: 'tiny', model_split_config: { split_1: [0, 4], split_2: [4, 6] } })).layers, said.layers)
    assert.equal((await refusal(net.peer(1).client.send('POST', '/api/startModelSplitJob', { task_data: { model_name: 'tiny', model_split_config: { split_1: [0, 4], split_2: [5, 6] } } }))).code, 'SPEC_INVALID')
    const listed = z.object({ result: z.array(part) }).parse(await net.peer(2).client.send('POST', '/api/queryLayers', { model_name: 'tiny:1.0.0-stable' })).result
    for (const { model_layer_hash: hash } of [...even.layers, ...said.layers]) assert(listed.some(one => one.model_layer_hash === hash))
  })

  it('is cut where a splitter of an author\'s own says, step by step; what it refuses is refused in its words', async () => {
    const folder = join(dir, 'splitter')
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, 'component.json'), JSON.stringify({ componentId: { name: 'first-alone', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node' }))
    await writeFile(join(folder, 'index.ts'), `import { defineBlock } from 'aios-mesh/sdk'
export default defineBlock({
  data: entry => entry.data,
  management: (action, given) => {
    if (action === 'begin') return given.task_data.deny ? [false, 'not on a Friday'] : [true, { layers: given.model.layers.length }]
    if (action === 'main') return [true, { ranges: [[0, 1], [1, given.extra.layers]] }]
    return [true, { parts: given.parts.length, extra: given.extra }]
  },
})`)
    const { client } = net.peer(0)
    for await (const line of client.lines('POST', '/mesh/components', { directory: folder })) assert(!JSON.stringify(line).startsWith('{"error"'), JSON.stringify(line))
    await client.send('POST', '/api/createBlock', { blockId: 'first-alone', blockComponentURI: 'node.first-alone:1.0.0-stable', minInstances: 1, maxInstances: 1, mode: 'allocate' })
    const { result } = z.object({ result: z.object({ block_specs: z.array(z.object({ blockComponentURI: z.string() })), finish: z.json() }) }).parse(await client.send('POST', '/api/startModelSplitJob', { task_data: { model_name: 'tiny', splitter: 'first-alone' } }))
    assert.deepEqual(result.block_specs.map(spec => spec.blockComponentURI), ['llm.tiny-l0-1:1.0.0-stable', 'llm.tiny-l1-6:1.0.0-stable'])
    assert.deepEqual(result.finish, { parts: 2, extra: { ranges: [[0, 1], [1, 6]] } })
    const denied = await refusal(client.send('POST', '/api/startModelSplitJob', { task_data: { model_name: 'tiny', splitter: 'first-alone', deny: true } }))
    assert.deepEqual([denied.code, /in begin.*not on a Friday/.test(denied.message)], ['RUN_FAILED', true])
    await client.send('DELETE', '/mesh/blocks/first-alone')
    // Who is killed next keeps what it took on its disk, and tells others when it is back: what it was told is heard first.
    const listed = z.array(z.object({ blockId: z.string() }))
    for (const { client: other } of net.running()) await reached(async () => listed.parse(await other.get('/mesh/blocks')).every(({ blockId }) => blockId !== 'first-alone'))
  })

  it('lives on when the host of a stage dies', async () => {
    const whole = await served(net.peer(0), 'chat')
    const victim = whole.stages[1]!.instances[0]!.host
    const index = net.running().findIndex(({ peer }) => peer === victim)
    await net.kill(index)
    const survivor = net.running()[0]!
    const after = await until(survivor, 'chat', now => ready(now, 2) && now.stages.every(({ instances }) => instances.every(({ host }) => host !== victim)), 'stages on the two that are left')
    assert.equal(after.stages.length, 2)
  })

  it('ends with all its stages when nobody wants it any more, and can be served again under the same name', async () => {
    const [peer] = net.running()
    assert(peer)
    await peer.client.send('DELETE', '/mesh/services/chat')
    assert.equal((await refusal(peer.client.get('/mesh/services/chat'))).code, 'NOT_FOUND')
    const blocks = z.array(z.object({ blockId: z.string() })).parse(await peer.client.get('/mesh/blocks'))
    assert.deepEqual(blocks, [])
    // What was promised is free again once the old stages have drained.
    const ends = performance.now() + 60_000
    const serve = (): Promise<unknown> => peer.client.send('POST', '/mesh/services', { model: 'tiny', service: 'chat', shards: 1, contextTokens: 64, sessions: 1, standbys: 0 }).catch(async error => {
      assert(asMeshError(error).code === 'NO_CAPACITY' && performance.now() < ends, asMeshError(error).message)
      await new Promise(resolve => setTimeout(resolve, 500))
      return serve()
    })
    await serve()
    const again = await until(peer, 'chat', now => ready(now, 1), 'serving again')
    assert.equal(again.stages.length, 1)
  })

  it('takes a sentence encoder too, and serves it as one block that any peer asks for embeddings', async () => {
    const [peer, other] = net.running()
    assert(peer && other)
    const path = join(dir, 'sentences')
    const shape = shapeOf('tiny')
    writeModel(path, sentenceEncoderGraph(shape, randomWeights(shape, 3)), { external: true })
    writeConfigurations(path, shape, tokenizerOf(shape.vocab))
    let uri = ''
    for await (const line of peer.client.lines('POST', '/mesh/models', { path })) uri = z.object({ result: z.object({ uri: z.string() }) }).safeParse(line).data?.result.uri ?? uri
    assert.equal(uri, 'embeddings.sentences:1.0.0-stable')
    await peer.client.send('POST', '/mesh/services', { model: 'sentences', standbys: 0 })
    const answered = z.object({ data: z.array(z.object({ embedding: z.array(z.number()) })) }).parse(await other.client.send('POST', '/v1/embeddings', { model: 'sentences', input: ['one', 'another'] }))
    assert.deepEqual(answered.data.map(({ embedding }) => embedding.length), [shape.hidden, shape.hidden])
  })
})
