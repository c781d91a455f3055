import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { z } from 'zod'
import { Devnet } from '../../node/devnet/devnet.ts'
import type { Json } from '../../protocols/ids.ts'
import { initContainerEntry, type InitContainerEntry } from '../../protocols/lifecycle.ts'
import { ROOT } from '../source.ts'

const EXAMPLES = join(ROOT, 'sdk/examples')
const chat = z.looseObject({ model: z.string(), stream: z.boolean().default(false), messages: z.array(z.object({ role: z.string(), content: z.string() })).default([]), input: z.array(z.string()).default([]) })

/** What stands for a third party: it speaks OpenAI's HTTP, answers in capitals, and fails as it is told to. */
async function shouter(model: string): Promise<{ readonly server: Server; readonly url: string; readonly asked: () => number }> {
  let asked = 0
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', chunk => { text += chunk }).on('end', () => {
      const say = (status: number, body: unknown): void => void response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      if (request.url === '/v1/models') return say(200, { object: 'list', data: [{ id: model, object: 'model' }] })
      asked += 1
      const body = chat.parse(JSON.parse(text))
      if (body.model !== model) return say(404, { error: { message: `no model ${body.model}` } })
      if (request.url === '/v1/embeddings') return say(200, { object: 'list', model, data: body.input.map((input, index) => ({ object: 'embedding', index, embedding: [input.length, 1] })), usage: { prompt_tokens: 1, total_tokens: 1 } })
      const words = (body.messages.at(-1)?.content ?? '').toUpperCase().split(' ')
      if (words[0] === 'FAIL') return say(500, { error: { message: 'a wheel came off' } })
      if (words[0] === 'REFUSE') return say(400, { error: { message: 'not this' } })
      if (words[0] === 'SLEEP') return undefined
      const shared = { id: 'c', created: 0, model }
      if (!body.stream) return say(200, { ...shared, object: 'chat.completion', choices: [{ index: 0, message: { role: 'assistant', content: words.join(' ') }, finish_reason: 'stop' }] })
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      for (const word of words) response.write(`data: ${JSON.stringify({ ...shared, object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content: `${word} ` }, finish_reason: null }] })}\n\n`)
      response.end('data: [DONE]\n\n')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked: () => asked }
}

describe('third-party systems', function () {
  this.timeout(120_000)
  let dir: string
  let net: Devnet
  let small: Awaited<ReturnType<typeof shouter>>
  let large: Awaited<ReturnType<typeof shouter>>

  const send = (peer: number, method: 'POST' | 'DELETE' | 'PUT', path: string, body: Json = {}): Promise<Json> => net.peer(peer).client.send(method, path, body)
  const publish = async (kind: 'components' | 'policies', directory: string): Promise<void> => {
    for await (const _ of net.peer(0).client.lines('POST', `/mesh/${kind}`, { directory }));
  }
  const infer = async (data: Json, deadline = 20_000): Promise<{ readonly status: number; readonly code: string | undefined; readonly message: string | undefined; readonly data: Json }> => {
    const response = await fetch(`${net.peer(1).http}/v1/infer`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: 'openai-1', data, deadline_ms: deadline }) })
    const body = z.looseObject({ data: z.json().default(null), error: z.looseObject({ code: z.string(), message: z.string() }).optional() }).parse(await response.json())
    return { status: response.status, code: body.error?.code, message: body.error?.message, data: body.data }
  }
  const entryOf = async (peer: number, block: string): Promise<InitContainerEntry | undefined> => {
    const response = await fetch(`${net.peer(peer).http}/initContainer/queryInitContainerData/any`, { method: 'POST', body: JSON.stringify({ block_id: block }) })
    return response.status === 404 ? undefined : initContainerEntry.parse(z.looseObject({ data: z.json() }).parse(await response.json()).data)
  }
  const until = async <T>(look: () => Promise<T | undefined>): Promise<T> => {
    for (;;) {
      const found = await look()
      if (found !== undefined) return found
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
  const managed = (blockId: string, contextTokens: number): Json => ({
    blockId, blockComponentURI: 'chat.managed-server:1.0.0-stable', minInstances: 1, maxInstances: 1, initSettings: { context_tokens: contextTokens },
    blockInitData: { servers: [{ url: small.url, model: 'small', contextTokens: 2_048 }, { url: large.url, model: 'large', contextTokens: 8_192 }] },
    policyRulesSpec: [{ values: { name: 'resourceAllocator', policyRuleURI: 'third-party-allocator:1.0.0-stable' } }],
  })

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-third-party-'))
    small = await shouter('small')
    large = await shouter('large')
    net = new Devnet(dir)
    const first = await net.up(0, { extra: ['--external', small.url, '--external', large.url] })
    await net.up(1, { join: await net.invite(first) })
    await publish('components', join(EXAMPLES, 'external-server/component'))
    await publish('components', join(EXAMPLES, 'managed-server/component'))
    await publish('policies', join(EXAMPLES, 'managed-server/allocator'))
    await send(0, 'POST', '/mesh/blocks', { spec: { blockId: 'openai-1', blockComponentURI: 'chat.openai-server:1.0.0-stable', minInstances: 1, maxInstances: 1, blockInitData: { inference_url: `${small.url}/v1` } } })
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    for (const { server } of [small, large]) {
      server.closeAllConnections()
      server.close()
    }
    await rm(dir, { recursive: true, force: true })
  })

  it('an OpenAI-compatible server answers as a block, to OpenAI’s own client at a peer that may not call it', async () => {
    const client = new OpenAI({ baseURL: `${net.peer(1).http}/v1`, apiKey: 'none', maxRetries: 0 })
    const messages = [{ role: 'user' as const, content: 'say it loud' }]
    assert.equal((await client.chat.completions.create({ model: 'openai-1', messages })).choices[0]?.message.content, 'SAY IT LOUD')
    let streamed = ''
    for await (const chunk of await client.chat.completions.create({ model: 'openai-1', messages, stream: true })) streamed += chunk.choices[0]?.delta.content ?? ''
    assert.equal(streamed, 'SAY IT LOUD ')
    assert.deepEqual((await client.embeddings.create({ model: 'openai-1', input: ['abc', 'abcde'], encoding_format: 'float' })).data.map(({ embedding }) => embedding), [[3, 1], [5, 1]])
    const hosts = z.looseObject({ instances: z.array(z.looseObject({ host: z.string() })) }).parse(await net.peer(1).client.get('/mesh/blocks/openai-1')).instances.map(({ host }) => host)
    assert.deepEqual(hosts, [net.peer(0).peer])
  })

  it('its failures are replies, and silence ends with the deadline', async () => {
    const refused = await infer('refuse this')
    assert.deepEqual([refused.status, refused.code], [422, 'COMPONENT_ERROR'])
    assert.match(refused.message ?? '', /the server answered 400: not this/)
    const failed = await infer('fail please', 3_000)
    assert.equal(failed.status >= 500, true, JSON.stringify(failed))
    assert.deepEqual((await infer('sleep', 500)).code, 'DEADLINE')
    assert.equal((await infer({ nothing: true })).code, 'BAD_INPUT')
  })

  it('a server that the operator of no host allows is refused, with the reason', async () => {
    const made = z.looseObject({ explanation: z.looseObject({ candidates: z.array(z.looseObject({ ok: z.boolean(), because: z.string() })) }) }).parse(await send(0, 'POST', '/mesh/blocks', { dryRun: true, spec: { blockId: 'far', blockComponentURI: 'chat.openai-server:1.0.0-stable', minInstances: 1, maxInstances: 1, blockInitData: { inference_url: 'http://169.254.169.254/latest' } } }))
    assert.deepEqual(made.explanation.candidates.map(({ ok }) => ok), [false, false])
    assert.match(made.explanation.candidates.map(({ because }) => because).join(), /may not call http:\/\/169\.254\.169\.254/)
  })

  it('a managed one is made by begin, main and finish, on record at every peer, and its finish is in blockInitData.initContainer', async () => {
    await send(0, 'POST', '/mesh/blocks', { spec: managed('managed-1', 4_000) })
    const entry = await until(async () => (await entryOf(1, 'managed-1'))?.status_data.done === true ? entryOf(1, 'managed-1') : undefined)
    assert.deepEqual([entry.status, entry.status_data.operating_mode, entry.status_data.stages.map(({ stage, ok }) => [stage, ok])], ['finish', 'create', [['begin', true], ['main', true], ['finish', true]]])
    const shown = z.looseObject({ block: z.looseObject({ initData: z.looseObject({ initContainer: z.looseObject({ inference_url: z.string(), model: z.string(), node_id: z.string() }) }) }), initContainer: z.json() }).parse(await net.peer(1).client.get('/mesh/blocks/managed-1'))
    const { inference_url: url, model, node_id: node } = shown.block.initData.initContainer
    assert.deepEqual([url, model], [large.url, 'large'])
    // What the resource allocator said to third_party_allocate.
    assert.equal(net.running().some(({ peer }) => peer === node), true)
    assert.deepEqual(shown.initContainer, z.json().parse(entry))
    const before = large.asked()
    const client = new OpenAI({ baseURL: `${net.peer(1).http}/v1`, apiKey: 'none', maxRetries: 0 })
    assert.equal((await client.chat.completions.create({ model: 'managed-1', messages: [{ role: 'user', content: 'hello' }] })).choices[0]?.message.content, 'HELLO')
    assert.equal(large.asked(), before + 1)
    await send(0, 'DELETE', '/mesh/blocks/managed-1')
    await until(async () => ((await entryOf(1, 'managed-1')) === undefined ? true : undefined))
  })

  it('one whose lifecycle fails makes no block, is rolled back, and says in which stage and why', async () => {
    await assert.rejects(send(0, 'POST', '/mesh/blocks', { spec: managed('managed-2', 100_000) }), /main failed: no server of the fleet holds 100000 tokens/)
    const entry = await until(() => entryOf(1, 'managed-2'))
    const settled = entry.status === 'failed' ? entry : await until(async () => (await entryOf(1, 'managed-2'))?.status === 'failed' ? entryOf(1, 'managed-2') : undefined)
    assert.equal(settled.status_data.rolled_back, true)
    assert.deepEqual(settled.status_data.stages.map(({ operating_mode, stage, ok }) => [operating_mode, stage, ok]), [['create', 'begin', true], ['create', 'main', false], ['remove', 'begin', true], ['remove', 'main', true], ['remove', 'finish', true]])
    await assert.rejects(net.peer(0).client.get('/mesh/blocks/managed-2'), { code: 'NOT_FOUND' })
    await send(0, 'DELETE', '/mesh/blocks/managed-2')
  })

  it('no door runs a debugger, takes an engine’s manifests, or listens beyond this host unless told to', async () => {
    const { http, grpc, oci } = net.peer(0)
    for (const address of [http.replace('http://', ''), grpc, oci]) assert.match(address, /^127\.0\.0\.1:/)
    for (const [path, init] of [['/cluster-actions/k8s-objects/create', { method: 'POST', body: '{"kind":"Pod"}' }], ['/cluster-actions/k8s-objects/remove', { method: 'POST', body: '{}' }], ['/console', {}], ['/?__debugger__=yes&cmd=1', {}]] as const) assert.equal((await fetch(`${http}${path}`, init)).status, 404, path)
    const broken = await fetch(`${http}/mesh/blocks`, { method: 'POST', body: '{"spec":' })
    assert.equal(broken.status, 400)
    assert.doesNotMatch(await broken.text(), /node:|\.ts:|at Object|Traceback/)
    assert.equal((await fetch(`${http}/mesh/blocks`, { headers: { origin: 'https://elsewhere.example' } })).status, 403)
  })

  it('one whose peer dies in the middle is rolled back when the peer is up again', async () => {
    const slow = join(dir, 'slow')
    await mkdir(slow)
    await writeFile(join(slow, 'component.json'), JSON.stringify({ componentId: { name: 'slow', version: '1.0.0', releaseTag: 'stable' }, componentType: 'chat', containerRegistryInfo: { componentMode: 'third_party' }, runtime: { name: 'external', entry: 'init.ts' } }))
    await writeFile(join(slow, 'init.ts'), `import { defineLifecycle } from 'aios-mesh/sdk'
      export default defineLifecycle(class {
        mode: string
        constructor(_envs: unknown, _block: unknown, _cluster: unknown, _k8s: null, mode: string) { this.mode = mode }
        begin() { return [true, null] }
        async main() { if (this.mode === 'create') await new Promise(resolve => setTimeout(resolve, 600_000)); return [true, null] }
        finish() { return [true, { inference_url: 'http://127.0.0.1:1' }] }
      })`)
    await publish('components', slow)
    const made = send(0, 'POST', '/mesh/blocks', { spec: { blockId: 'never', blockComponentURI: 'chat.slow:1.0.0-stable', minInstances: 1, maxInstances: 1 } }).then(() => 'made', () => 'not made')
    await until(async () => ((await entryOf(1, 'never'))?.status === 'main' ? true : undefined))
    await net.kill(0)
    assert.equal(await made, 'not made')
    await net.up(0, { extra: ['--external', small.url, '--external', large.url] })
    const entry = await until(async () => ((await entryOf(1, 'never'))?.status === 'failed' ? entryOf(1, 'never') : undefined))
    assert.deepEqual([entry.status_data.rolled_back, entry.status_data.because], [true, 'the peer that ran it went down in the middle'])
    assert.deepEqual(entry.status_data.stages.map(({ operating_mode, stage }) => [operating_mode, stage]), [['create', 'begin'], ['remove', 'begin'], ['remove', 'main'], ['remove', 'finish']])
  })

  it('calls fail while its server is away, and are answered when it is back', async () => {
    const { port } = new URL(small.url)
    small.server.closeAllConnections()
    await new Promise(resolve => small.server.close(resolve))
    assert.equal((await infer('anybody', 2_000)).status >= 500, true)
    small.server.listen(Number(port), '127.0.0.1')
    await until(async () => ((await infer('anybody', 5_000)).status === 200 ? true : undefined))
  })
})
