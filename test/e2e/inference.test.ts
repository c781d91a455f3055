import assert from 'node:assert/strict'
import { mkdtemp, mkdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { WebSocket } from 'ws'
import { z } from 'zod'
import { Devnet } from '../../node/devnet/devnet.ts'

const PROTO = fileURLToPath(new URL('../../protocols/proto/inference.proto', import.meta.url))
const answer = z.object({ session_id: z.string(), seq_no: z.string(), data: z.string(), ts: z.number(), files: z.array(z.object({ metadata: z.string(), file_data: z.instanceof(Uint8Array) })) }).loose()
type Answer = z.infer<typeof answer>

/** Adds `step` to a number; says what files it was given; streams when asked to; fails when asked to. */
const CODE = `import { defineBlock } from 'aios-mesh/sdk'
export default defineBlock({
  async *data({ data, files }, context) {
    if (data.fail) throw new Error('told to fail')
    if (data.slow) await new Promise(resolve => setTimeout(resolve, 60000))
    for (let at = 0; at < (data.times ?? 1); at += 1) yield { value: (data.value ?? data.inputs?.[0]?.value ?? 0) + (context.parameters.step ?? 1), files: (files ?? []).map(file => [file.metadata, file.bytes?.length ?? 0]) }
  },
})
`

describe('the inference server of a real peer', function () {
  this.timeout(120_000)
  let dir: string
  let net: Devnet
  let grpc: Client

  const call = (service: string, request: object, metadata: Record<string, string> = {}, deadlineMs = 20_000): Promise<Answer> => new Promise((resolve, reject) => {
    const method = loadSync(PROTO, { keepCase: true, longs: String, defaults: true })[service]
    if (method === undefined || 'format' in method || method['infer'] === undefined) return reject(new Error(`no ${service}`))
    const { path, requestSerialize, responseDeserialize } = method['infer']
    const headers = new Metadata()
    for (const [name, value] of Object.entries(metadata)) headers.set(name, value)
    return grpc.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, headers, { deadline: Date.now() + deadlineMs }, (error: ServiceError | null, value?: object) => (error === null ? resolve(service === 'InferenceProxy' ? Object(value) : answer.parse(value)) : reject(error)))
  })
  const done = async (path: string, directory: string): Promise<void> => {
    for await (const line of net.peer(0).client.lines('POST', path, { directory })) assert(Object(line).error === undefined, JSON.stringify(line))
  }
  const packet = (block: string, data: unknown): object => ({ block_id: block, session_id: 's-1', seq_no: 7, data: JSON.stringify(data), ts: 1_234_567_890.5 })
  const http = async (path: string, body: unknown): Promise<z.infer<typeof httpAnswer>> => httpAnswer.parse(await net.peer(0).client.send('POST', path, z.json().parse(body)))
  const httpAnswer = z.object({ success: z.literal(true), data: z.json() }).loose()

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-inference-'))
    net = await Devnet.start(dir, 2)
    const folder = join(dir, 'adder')
    await mkdir(folder)
    await writeFile(join(folder, 'index.ts'), CODE)
    await writeFile(join(folder, 'component.json'), JSON.stringify({ componentId: { name: 'adder', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', componentMetadata: { algorithmType: 'adder' }, componentParameters: { step: 1 } }))
    await done('/mesh/components', folder)
    for (const [id, step] of [['add-one', 1], ['add-ten', 10]] as const) {
      await net.peer(0).client.send('POST', '/api/createBlock', { blockId: id, blockComponentURI: 'node.adder:1.0.0-stable', minInstances: 1, maxInstances: 1, mode: 'allocate', parameters: { step } })
    }
    grpc = new Client(net.peer(1).grpc, credentials.createInsecure())
  })
  after(async () => {
    grpc?.close()
    await net?.[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  it("answers AIOS's gRPC client by block id, from a peer that may not host it, keeping session and sequence", async () => {
    const said = await call('BlockInferenceService', { ...packet('add-ten', { value: 5 }), files: [{ metadata: '{"file_name":"a.txt"}', file_data: Buffer.from('hello') }] })
    assert.deepEqual([said.session_id, said.seq_no, JSON.parse(said.data)], ['s-1', '7', { value: 15, files: [[{ file_name: 'a.txt' }, 5]] }])
  })

  it('answers by search, and by a graph of blocks', async () => {
    const query = { body: { values: { matchType: 'block', rankingPolicyRule: { values: { policyRuleURI: 'none:1.0.0-stable', parameters: { filterRule: { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'add-ten' } } } } } } } } }
    const found = await call('BlockInferenceService', { ...packet('', { value: 1 }), query_parameters: JSON.stringify(query) })
    assert.equal(JSON.parse(found.data).value, 11)
    const chained = await call('BlockInferenceService', { ...packet('add-one', { value: 1 }), output_ptr: JSON.stringify({ graph: { 'add-one': ['add-ten'], 'add-ten': [] } }) })
    assert.equal(JSON.parse(chained.data).value, 12)
  })

  it("answers a client that was made from AIOS's own protocol: its field numbers, written out by hand", async () => {
    // As AIOS's tutorial sends it (block_id 1, session_id 3, seq_no 4, data 6, ts 8, files 9 { metadata 1, file_data 2 }) and reads it (1, 2, 4, 5, 7).
    const asked = Buffer.concat([field(1, 'add-ten'), field(3, 'session-1'), Buffer.from([4 << 3, 7]), field(6, '{"value":5}'), Buffer.from([(8 << 3) | 1]), doubleOf(1_234_567_890.5), field(9, Buffer.concat([field(1, '{"file_name":"a.txt"}'), field(2, 'hello')]))])
    const raw = (path: string, bytes: Buffer): Promise<Buffer> => new Promise((resolve, reject) => {
      grpc.makeUnaryRequest(path, (value: Buffer) => value, (value: Buffer) => value, bytes, new Metadata(), { deadline: Date.now() + 20_000 }, (error: ServiceError | null, value?: Buffer) => (error === null && value !== undefined ? resolve(value) : reject(error ?? new Error('nothing'))))
    })
    const said = fieldsOf(await raw('/BlockInferenceService/infer', asked))
    assert.deepEqual([String(said.get(1)), said.get(2), JSON.parse(String(said.get(4)))], ['session-1', 7, { value: 15, files: [[{ file_name: 'a.txt' }, 5]] }])
    await assert.rejects(raw('/BlockInferenceService/infer', field(1, 'nobody')), /NOT_FOUND/)
  })

  it('packets of several blocks behind one door go each to its own block', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, (_, at) => call('BlockInferenceService', { ...packet(at % 2 === 0 ? 'add-one' : 'add-ten', { value: at }), session_id: 'shared', seq_no: at })))
    assert.deepEqual(answers.map(({ data }) => JSON.parse(data).value), answers.map((_, at) => at + (at % 2 === 0 ? 1 : 10)))
  })

  it('ten requests that fail leave the eleventh served at once', async () => {
    const failed = await Promise.allSettled(Array.from({ length: 10 }, () => call('BlockInferenceService', packet('add-ten', { fail: true }))))
    assert.ok(failed.every(({ status }) => status === 'rejected'))
    assert.equal(JSON.parse((await call('BlockInferenceService', packet('add-ten', { value: 1 }))).data).value, 11)
  })

  it('answers failures with a status and a reason, never with silence', async () => {
    await assert.rejects(call('BlockInferenceService', packet('nobody', {})), /NOT_FOUND: no block is called nobody/)
    await assert.rejects(call('BlockInferenceService', packet('add-one', { fail: true })), /INSTANCE_FAILED: .*told to fail/)
    await assert.rejects(call('BlockInferenceService', packet('add-one', { slow: true }), {}, 700), /DEADLINE/)
    await assert.rejects(call('BlockInferenceService', packet('', {})), /BAD_INPUT: .*block_id/)
    await assert.rejects(call('BlockInferenceService', { ...packet('', {}), output_ptr: '{"graph":{"Not A Block":[]}}' }), /SPEC_INVALID: graph/)
  })

  it("takes a packet at a block's own ingress", async () => {
    const bytes = loadSync(PROTO, { keepCase: true, longs: String, defaults: true })['AIOSPacket']
    assert(bytes !== undefined && 'serialize' in bytes && typeof bytes.serialize === 'function')
    const taken = await call('InferenceProxy', { rpc_data: bytes.serialize({ session_id: 's', seq_no: 1, data: '{"value":1}', ts: 1, files: [] }) }, { 'x-service-name': 'add-one' })
    assert.equal(Object(taken).message, true)
  })

  it('runs the vDAG that a header or the session names', async () => {
    const vdag = { vdagName: 'sum', vdagVersion: { version: '1.0.0', 'release-tag': 'stable' }, nodes: ['add-one', 'add-ten'].map(id => ({ nodeLabel: id, nodeType: 'block', manualBlockId: id })), graph: { connections: [{ nodeLabel: 'add-ten', inputs: [{ nodeLabel: 'add-one' }] }] } }
    await net.peer(0).client.send('POST', '/api/createvDAG', vdag)
    const ask = { session_id: 's', seq_no: 1, data: '{"value":1}', ts: 1, files: [] }
    assert.equal(JSON.parse((await call('vDAGInferenceService', ask, { 'x-vdag-uri': 'sum:1.0.0-stable' })).data).value, 12)
    assert.equal(JSON.parse((await call('vDAGInferenceService', { ...ask, session_id: 'vdag::sum:1.0.0-stable::mine' })).data).value, 12)
    await assert.rejects(call('vDAGInferenceService', ask), /BAD_INPUT: name the vDAG/)
  })

  describe('through vDAG controllers', () => {
    const publish = async (name: string, source: string): Promise<string> => {
      const folder = join(dir, name)
      await mkdir(join(folder, 'code'), { recursive: true })
      await writeFile(join(folder, 'policy.json'), JSON.stringify({ name, version: '1.0', release_tag: 'stable' }))
      await writeFile(join(folder, 'code/function.js'), `class AIOSv1PolicyRule { eval(parameters, input) { ${source} } }`)
      await done('/mesh/policies', folder)
      return `${name}:1.0-stable`
    }
    const vdag = async (name: string, controller: unknown): Promise<string> => {
      await net.peer(0).client.send('POST', '/api/createvDAG', z.json().parse({ vdagName: name, vdagVersion: { version: '1.0.0', 'release-tag': 'stable' }, nodes: [{ nodeLabel: 'one', nodeType: 'block', manualBlockId: 'add-one' }], controller }))
      const uri = `${name}:1.0.0-stable`
      await net.peer(1).client.get(`/mesh/vdags/${uri}`).catch(() => new Promise(resolve => setTimeout(resolve, 1_000)))
      return uri
    }
    const ask = (peer: number, model: string, session = 's'): Promise<string> => net.peer(peer).client.send('POST', '/v1/infer', { model, session_id: session, data: { value: 1 } }).then(() => 'ok', (error: unknown) => String(Object(error).code))

    it('a quota is one quota, whichever peer is asked', async () => {
      const uri = await vdag('counted', { quota: { limit: 6, windowSeconds: 60 } })
      const created = await net.peer(1).client.send('POST', '/vdag-controller/any', { action: 'create_controller', payload: { vdag_controller_id: 'counted-1', vdag_uri: uri, config: { replicas: 2 } } })
      assert.deepEqual(new Set(z.object({ data: z.object({ hosts: z.array(z.string()) }).loose() }).loose().parse(created).data.hosts), new Set([net.peer(0).peer, net.peer(1).peer]))
      const answers: string[] = []
      for (let at = 0; at < 10; at += 1) answers.push(await ask(at % 2, uri))
      assert.deepEqual(answers.filter(answer => answer === 'ok').length, 6)
      assert.deepEqual(new Set(answers.slice(6)), new Set(['RATE_LIMITED']))
    })

    it('a controller answers by its id, where AIOS’s gateway maps it, and for its only vDAG where nothing is named', async () => {
      const { client } = net.peer(0)
      // As AIOS's clients send it: all the ways to say who answers, those unused empty.
      const asked = { session_id: 'by-id', seq_no: 3, data: { value: 1 }, graph: {}, selection_query: {} }
      for (const [path, body] of [['/v1/infer', { ...asked, model: 'counted-1' }], ['/counted-1/v1/infer', asked], ['/v1/infer', asked]] as const) await assert.rejects(client.send('POST', path, body), { code: 'RATE_LIMITED', message: /counted:1\.0\.0-stable/ }, path)
      await assert.rejects(client.send('POST', '/nobody/v1/infer', asked), { code: 'NOT_FOUND', message: /no block is called nobody/ })
      assert.equal(httpAnswer.parse(await net.peer(1).client.get('/counted-1/server/head_block')).data, 'add-one')
      assert.equal(Object(httpAnswer.parse(await client.get('/counted-1/server/quota/s')).data).session_id, 's')
      await assert.rejects(client.get('/counted-2/server/l3_graph'), { code: 'NOT_FOUND', message: /no vDAG controller is called counted-2/ })
    })

    it('a quota rule counts each session; what it throws denies', async () => {
      const rule = await publish('three-each', 'if (input.session_id === "odd") throw new Error("no"); return { allowed: input.quota <= 3 }')
      const uri = await vdag('ruled', { quotaChecker: { enabled: true, quotaCheckerPolicyRule: { policyRuleURI: rule } } })
      assert.deepEqual([await ask(0, uri, 'a'), await ask(0, uri, 'a'), await ask(0, uri, 'a'), await ask(0, uri, 'a'), await ask(0, uri, 'b'), await ask(0, uri, 'odd')], ['ok', 'ok', 'ok', 'RATE_LIMITED', 'ok', 'RATE_LIMITED'])
      assert.equal(z.object({ data: z.object({ quota: z.int() }) }).loose().parse(await net.peer(0).client.get(`/quota/a?vdag_uri=${uri}`)).data.quota, 4)
    })

    it('a health rule closes the door, a quality rule hands answers to people', async () => {
      const [health, quality] = [await publish('healthy-if-ready', 'return { overall_healthy: Object.values(input.health_check_data).every(block => block.healthy) }'), await publish('look-at-it', 'return { review: input.input_data.response.one.value === 2 }')]
      const uri = await vdag('watched', { healthChecker: { healthCheckerPolicyRule: { policyRuleURI: health } }, qualityChecker: { framesInterval: 2, qualityCheckerPolicyRule: { policyRuleURI: quality } } })
      assert.deepEqual([await ask(0, uri), await ask(0, uri), await ask(0, uri)], ['ok', 'ok', 'ok'])
      const reviews = z.array(z.object({ vdag: z.string(), decided: z.string(), at: z.number() }).loose())
      let waiting = reviews.parse(await net.peer(0).client.get('/mesh/reviews'))
      for (let attempt = 0; waiting.length === 0 && attempt < 50; attempt += 1) {
        await new Promise(resolve => setTimeout(resolve, 100))
        waiting = reviews.parse(await net.peer(0).client.get('/mesh/reviews'))
      }
      assert.deepEqual(waiting.map(({ vdag, decided }) => [vdag, decided]), [[uri, 'open']])
      // Answered at another peer, by the time that people see.
      for (let attempt = 0; reviews.parse(await net.peer(1).client.get('/mesh/reviews')).length === 0 && attempt < 50; attempt += 1) await new Promise(resolve => setTimeout(resolve, 100))
      await net.peer(1).client.send('POST', '/mesh/reviews', { at: waiting[0]?.at ?? 0, decided: 'approved' })
      const unhealthy = await vdag('sick', { healthChecker: { healthCheckerPolicyRule: { policyRuleURI: await publish('never-healthy', 'return { overall_healthy: false }') } } })
      assert.equal(await ask(0, unhealthy), 'NO_INSTANCE')
    })
  })

  it('takes the same over HTTP: graph, search, multipart; and logs who asked what', async () => {
    assert.deepEqual((await http('/v1/infer', { model: 'add-one', session_id: 'log-me', seq_no: 3, data: { value: 1 } })).data, { value: 2, files: [] })
    assert.deepEqual((await http('/v1/infer', { graph: { 'add-one': ['add-ten'] }, data: { value: 1 } })).data, { value: 12, files: [] })
    const form = new FormData()
    form.set('model', 'add-one')
    form.set('data', '{"value":1}')
    form.set('picture', new Blob([new Uint8Array(9)], { type: 'image/png' }), 'p.png')
    const posted = httpAnswer.parse(await (await fetch(`${net.peer(0).http}/v1/infer-multipart`, { method: 'POST', body: form })).json())
    assert.deepEqual(posted.data, { value: 2, files: [[{ field: 'picture', file_name: 'p.png', content_type: 'image/png' }, 9]] })
    form.set('picture_metadata', '{"name": "input.pdf", "type": "document"}')
    const remarked = httpAnswer.parse(await (await fetch(`${net.peer(0).http}/v1/infer-multipart`, { method: 'POST', body: form })).json())
    assert.deepEqual(Object(remarked.data).files[0][0], { field: 'picture', file_name: 'p.png', content_type: 'image/png', name: 'input.pdf', type: 'document' })
    form.set('picture_metadata', '[1]')
    assert.match(await (await fetch(`${net.peer(0).http}/v1/infer-multipart`, { method: 'POST', body: form })).text(), /picture_metadata: a list of 1 is not usable here; give a record/)
    const search = { body: { values: { matchType: 'cluster', rankingPolicyRule: { values: { policyRuleURI: 'default', parameters: { filterRule: { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'add-ten' } } } } } } } } }
    for (const body of [{ model: '', graph: {}, selection_query: search }, { block_id: '', output_ptr: '', query_parameters: JSON.stringify(search) }]) assert.equal(Object((await http('/v1/infer', { ...body, data: { value: 1 } })).data).value, 11)
    const log = await net.peer(0).client.get('/logs/session/log-me')
    assert.deepEqual(z.object({ data: z.array(z.object({ target: z.string(), seqNo: z.number(), outcome: z.string() })) }).parse(log).data.map(({ target, seqNo, outcome }) => [target, seqNo, outcome]), [['add-one', 3, 'ok']])
  })

  it('takes a batch, each input answered for itself, and says where blocks and graphs are', async () => {
    const batch = z.object({ outputs: z.array(z.object({ success: z.boolean(), seq_no: z.int(), data: z.json().optional() }).loose()) }).loose()
      .parse(await net.peer(1).client.send('POST', '/v1/infer-batch', { model: 'add-one', session_id: 'batch', seq_no: 5, inputs: [{ value: 1 }, { fail: true }, { value: 3 }] }))
    assert.deepEqual(batch.outputs.map(({ success, seq_no, data }) => [success, seq_no, Object(data ?? {}).value]), [[true, 5, 2], [false, 6, undefined], [true, 7, 4]])
    const summed = z.object({ outputs: z.array(z.object({ data: z.json() }).loose()) }).loose().parse(await net.peer(0).client.send('POST', '/v1/infer-batch', { model: 'sum:1.0.0-stable', inputs: [{ value: 1 }, { value: 2 }] }))
    assert.deepEqual(summed.outputs.map(({ data }) => Object(data).value), [12, 13])
    assert.match(JSON.stringify(await net.peer(1).client.get('/discovery/get_url/add-one')), new RegExp(`"rpc_url":"${net.peer(1).http}/v1/infer"`))
    assert.equal(Object((await http('/discovery/check_execute', { block_id: 'add-one', inputs: { value: 1 } })).data).allowed, true)
    assert.equal(typeof (await http('/discovery/estimate', { block_id: 'add-one' })).data, 'object')
    const found = { matchType: 'block', rankingPolicyRule: { policyRuleURI: 'default', parameters: { filterRule: { matchType: 'block', filter: { blockQuery: { variable: 'id', operator: '==', value: 'add-one' } } } } } }
    assert.equal(Object((await http('/discovery/check_execute', { block_id: null, search_query: found, query_params: { value: 1 } })).data).allowed, true)
    assert.equal(Object(await net.peer(1).client.send('POST', '/discovery/get_url/add-one', {})).queue_url, net.peer(1).http)
    const resolved = (await http('/discovery/resolve_graph', { graph: { 'add-one': ['add-ten'], 'add-ten': [] } })).data
    assert.deepEqual([Object(resolved).is_graph, Object(resolved).graph['add-one'].outputs[0].block_id, Object(resolved).graph.final.outputs[0].block_id], [true, 'add-ten', 'add-ten'])
    const [document, route, head] = await Promise.all(['/vdag', '/l3_graph', '/head_block'].map(path => net.peer(0).client.get(`${path}?vdag_uri=sum`)))
    assert.deepEqual([Object(document).data.assignment_info, Object(route).data['add-one'].outputs[0].block_id, Object(head).data], [{ 'add-one': 'add-one', 'add-ten': 'add-ten' }, 'add-ten', 'add-one'])
    assert.equal(Object(await net.peer(0).client.send('POST', '/health/check?vdag_uri=sum', {})).data.overall_healthy, true)
    await assert.rejects(net.peer(0).client.send('POST', '/quota/mgmt?vdag_uri=sum', { mgmt_action: 'reset', mgmt_data: {} }), /has no quotaChecker/)
  })

  it('streams over a WebSocket, each packet as it comes, and errors as messages', async () => {
    const socket = new WebSocket(`${net.peer(1).http.replace('http', 'ws')}/v1/stream`)
    const heard: Record<string, unknown>[] = []
    const done = Promise.withResolvers<void>()
    socket.on('error', done.reject)
    socket.on('message', data => {
      heard.push(JSON.parse(String(data)))
      if (heard.filter(message => message['last'] === true).length === 2) done.resolve()
    })
    await new Promise(resolve => socket.once('open', resolve))
    socket.send(JSON.stringify({ connect: true, model: 'add-one', session_id: 'w' }))
    socket.send(JSON.stringify({ seq_no: 1, data: { value: 1, times: 3 } }))
    socket.send(JSON.stringify({ seq_no: 2, data: { fail: true } }))
    await done.promise
    socket.close()
    const first = heard.filter(message => message['seq_no'] === 1)
    assert.deepEqual(first.map(({ data, last }) => last ?? Object(data).value), [2, 2, 2, true], JSON.stringify(heard))
    assert.match(JSON.stringify(heard.find(message => message['seq_no'] === 2)), /told to fail/)
  })

  it('keeps strangers out of the stream', async () => {
    const socket = new WebSocket(`${net.peer(1).http.replace('http', 'ws')}/v1/stream`, { headers: { origin: 'https://elsewhere.example' } })
    await assert.rejects(new Promise((_, reject) => socket.once('error', reject)), /403/)
  })
})

/** One length-delimited field of a protobuf message. */
function field(number: number, value: string | Buffer): Buffer {
  const bytes = Buffer.from(value)
  assert(bytes.length < 128 && number < 16)
  return Buffer.concat([Buffer.from([(number << 3) | 2, bytes.length]), bytes])
}

function doubleOf(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleLE(value)
  return bytes
}

/** By number: bytes, or the number of a varint; doubles are passed over. */
function fieldsOf(message: Buffer): ReadonlyMap<number, Buffer | number> {
  const found = new Map<number, Buffer | number>()
  let at = 0
  const varint = (): number => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = message.readUInt8(at)
      at += 1
      value += (byte & 127) * 2 ** shift
      if (byte < 128) return value
    }
  }
  while (at < message.length) {
    const tag = varint()
    if ((tag & 7) === 0) found.set(tag >> 3, varint())
    else if ((tag & 7) === 1) at += 8
    else {
      const length = varint()
      found.set(tag >> 3, message.subarray(at, at + length))
      at += length
    }
  }
  return found
}
