import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createServer as createTcpServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { json, type Json } from '../../protocols/ids.ts'
import { Devnet } from '../../node/devnet/devnet.ts'
import type { JsonObject } from '../../src/lib/json.ts'
import { lastWords } from './last-words.ts'

const CLI = fileURLToPath(new URL('../../node/cli/main.ts', import.meta.url))
const MANIFEST = { componentId: { name: 'talker', version: '1.0.0', releaseTag: 'stable' }, componentType: 'node', runtime: { name: 'node', entry: 'main.mjs' }, resources: { cpu: '50m', memory: '96Mi' }, componentParameters: { greeting: 'hello' }, componentInitParametersProtocol: { greeting: { type: 'string' } } }
const CODE = `import { defineBlock } from 'aios-mesh/sdk'
export default defineBlock({
  data: (entry, context) => {
    console.log('asked ' + entry.data.n)
    context.events.push('asked', entry.data)
    context.sideCars.pushAll(entry.data)
    return { said: context.parameters.greeting, n: entry.data.n }
  },
  update: parameters => { if (parameters.greeting === 'bad') throw new Error('no such greeting') },
})
`
const RULE = 'export default class { constructor() { this.seen = [] } eval(parameters, input) { this.seen.push(input); return { success: true, data: parameters } } management() { return this.seen } }\n'

const status = z.looseObject({ state: z.string(), ready: z.int(), want: z.int(), instances: z.record(z.string(), z.looseObject({ nodeId: z.string() })) })
const told = z.looseObject({ success: z.boolean(), data: json })

async function until(reached: () => Promise<boolean> | boolean, what: string, limitMs = 60_000): Promise<void> {
  const ends = performance.now() + limitMs
  while (!(await Promise.resolve().then(reached).catch(() => false))) {
    assert(performance.now() < ends, `${what} did not happen within ${limitMs} ms`)
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

describe('blocks on real peers', function () {
  this.timeout(180_000)
  let dir: string
  let net: Devnet
  const posted: Json[] = []
  const pushed: string[] = []
  const web = createServer((request, response) => {
    let text = ''
    request.on('data', chunk => (text += String(chunk)))
    request.on('end', () => {
      posted.push(json.parse(JSON.parse(text)))
      response.end('taken')
    })
  })
  const redis = createTcpServer(socket => socket.on('data', chunk => {
    pushed.push(chunk.toString())
    socket.write(':1\r\n')
  }))

  const send = async (peer: number, path: string, body: Json): Promise<Json> => told.parse(await net.peer(peer).client.send('POST', path, body)).data
  const ask = async (peer: number, n: number): Promise<Json> => send(peer, '/v1/infer', { model: 'talk', data: { n } })
  const look = async (peer: number): Promise<z.infer<typeof status>> => status.parse(await net.peer(peer).client.get('/mesh/blocks/talk/status'))

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'aios-blocks-'))
    await new Promise<void>(resolve => web.listen(0, '127.0.0.1', resolve))
    await new Promise<void>(resolve => redis.listen(0, '127.0.0.1', resolve))
    const [http, list] = [web, redis].map(server => (server.address() as AddressInfo).port)
    const extra = ['--external', `http://127.0.0.1:${http}`, '--external', `redis://127.0.0.1:${list}`]
    net = new Devnet(dir)
    const first = await net.up(0, { extra })
    await net.up(1, { join: await net.invite(first), extra })
    await mkdir(join(dir, 'talker'))
    await mkdir(join(dir, 'notes', 'code'), { recursive: true })
    await writeFile(join(dir, 'talker', 'component.json'), JSON.stringify(MANIFEST))
    await writeFile(join(dir, 'talker', 'main.mjs'), CODE)
    await writeFile(join(dir, 'notes', 'policy.json'), JSON.stringify({ name: 'notes', version: '1.0', releaseTag: 'x' }))
    await writeFile(join(dir, 'notes', 'code', 'function.js'), RULE)
    for (const [path, directory] of [['/mesh/components', 'talker'], ['/mesh/policies', 'notes']] as const) for await (const _ of net.peer(0).client.lines('POST', path, { directory: join(dir, directory) })) continue
    const spec = {
      blockId: 'talk', blockComponentURI: 'node.talker:1.0.0-stable', minInstances: 0, maxInstances: 2,
      blockInitData: { events: { asked: 'notes:1.0-x' }, side_cars: { web: { external: true, url: `http://127.0.0.1:${http}/in` }, list: { external: true, external_redis_url: `redis://127.0.0.1:${list}/0/frames` }, closed: { external: true, url: 'http://127.0.0.1:9/' } } },
      policyRulesSpec: [{ values: { name: 'autoscaler', policyRuleURI: 'default', settings: { idleSeconds: 5, intervalSeconds: 600, firstRunSeconds: 600 } } }],
    }
    await until(async () => (await net.peer(1).client.send('POST', '/mesh/blocks', { spec })) !== null, 'the block is made')
  })
  afterEach(async function () {
    await lastWords(this, net?.running() ?? [])
  })
  after(async () => {
    await net?.[Symbol.asyncDispose]()
    web.close()
    redis.close()
    await rm(dir, { recursive: true, force: true })
  })

  it('one that sleeps is woken by its first call, whichever peer is asked', async () => {
    await until(async () => (await look(1)).state === 'asleep', 'it sleeps')
    const answers = await Promise.all([ask(0, 1), ask(1, 2)])
    assert.deepEqual(answers, [{ said: 'hello', n: 1 }, { said: 'hello', n: 2 }])
    assert.equal((await look(0)).ready, 1)
  })

  it('its events reach their rule, and its messages the side-cars that the host’s operator allows', async () => {
    await until(() => posted.length >= 2 && pushed.length >= 2, 'both calls are told')
    assert.ok(posted.some(one => Object(one).side_car === 'web' && Object(Object(one).data).n === 1))
    assert.match(pushed[0] ?? '', /RPUSH\r\n\$6\r\nframes\r\n/)
    const counted = async (): Promise<string> => (await Promise.all([0, 1].map(async index => (await net.peer(index).client.fetch('GET', '/metrics')).text()))).join('\n')
    await until(async () => /aios_block_events_total\{block="talk",outcome="delivered"\} 2/.test(await counted()), 'the rule heard of both')
    await until(async () => /aios_side_car_messages_total\{block="talk",outcome="failed"\} 2/.test(await counted()), 'what is not allowed is counted')
  })

  it('AIOS’s doors scale it, move an instance, change its parameters and command what runs around it', async () => {
    const cluster = z.looseObject({ peer: z.string() }).parse(await net.peer(0).client.get('/mesh/status')).peer
    assert.equal(Object(await send(0, `/controller/block-scaling/${cluster}`, { operation: 'scale', block_id: 'talk', instances_count: 1 })).instances, 2)
    await until(async () => (await look(1)).ready === 2, 'two are ready')
    const changed = z.looseObject({ parameters: json, instances: z.record(z.string(), json) }).parse(await net.peer(1).client.send('POST', '/mesh/blocks/talk/parameters', { greeting: 'good day' }))
    assert.equal(Object.keys(changed.instances).length, 2)
    assert.deepEqual(await ask(0, 3), { said: 'good day', n: 3 })
    // Beside its data, within it as AIOS documents it, or within a payload.
    const forms: readonly JsonObject[] = [{ block_id: 'talk', parameters: { greeting: 'bad' } }, { data: { block_id: 'talk', parameters: { greeting: 'bad' } } }, { payload: { blockId: 'talk', parameters: { greeting: 'bad' } } }]
    for (const asked of forms) await assert.rejects(send(0, '/executeAction', { action: 'parameter_update', ...asked }), { code: 'COMPONENT_ERROR', message: /no such greeting/ })
    await assert.rejects(send(0, '/executeAction', { action: 'query_init_container_data', data: { block_id: 'talk' } }), { code: 'NOT_FOUND', message: /no init lifecycle of talk/ })
    const [instance = ''] = Object.keys((await look(0)).instances)
    assert.equal(Object(await send(1, `/controller/reassign-instance/${cluster}`, { block_id: 'talk', instance_id: instance })).reassigned, true)
    await until(async () => {
      const seen = await Promise.all([look(0), look(1)])
      return seen.every(({ instances, ready }) => ready === 2 && !(instance in instances))
    }, 'another has come, as both see it')
    assert.deepEqual(await ask(1, 4), { said: 'good day', n: 4 }, 'one that came later has the parameters, too')
    assert.equal(Object(await send(1, '/mgmt', { block_id: 'talk', service: 'executor', mgmt_action: 'estimate', mgmt_data: {} })).instances, 2)
    const checked = Object(await send(0, '/blocks/mgmt', { block_id: 'talk', service: 'health', action: 'check', payload: null }))
    assert.equal(Object.keys(checked).length, 2, JSON.stringify({ checked, seen: await Promise.all([look(0), look(1)]) }))
    const streaming = Object(await send(0, '/block/talk/executor/mgmt', { mgmt_action: 'get_streaming_url', mgmt_data: { session_id: 's' } }))
    assert.match(String(streaming.url), /^ws:\/\/127\.0\.0\.1:\d+\/v1\/stream$/)
    await until(async () => told.parse(await net.peer(1).client.get('/block/talk/getInstancesCount')).data === 2, 'the other peer counts two as well')
    const [last = ''] = Object.keys((await look(0)).instances)
    await send(0, `/controller/removeInstance/${cluster}`, { block_id: 'talk', instance_id: last })
    await until(async () => (await look(1)).ready === 1, 'one is left')
    await assert.rejects(send(0, '/controller/removeInstance/nowhere', { block_id: 'talk', instance_id: last }), { code: 'NOT_FOUND', message: /cluster nowhere/ })
  })

  it('a failure policy is executed by name, and one that is not there is the asker’s mistake', async () => {
    assert.deepEqual(await net.peer(1).client.send('POST', '/executeFailurePolicy', { failure_policy_id: 'notes:1.0-x', inputs: { what: 'a disk' }, parameters: { retry: 1 } }).then(body => [told.parse(body).success, told.parse(body).data]), [true, { retry: 1 }])
    await assert.rejects(send(1, '/executeFailurePolicy', { failure_policy_id: 'none:1.0-x' }), { code: 'NOT_FOUND' })
    assert.deepEqual(await net.peer(1).client.get('/mesh/reviews'), [])
  })

  it('the terminal follows what it prints, and says how it is', async () => {
    const follow = spawn(process.execPath, [CLI, 'logs', '-f', 'talk', '--tail', '1', '--data', net.peer(0).dataDir], { stdio: ['ignore', 'pipe', 'ignore'] })
    let text = ''
    follow.stdout.on('data', chunk => (text += String(chunk)))
    try {
      await until(async () => (await ask(0, 70)) !== null && text.includes('asked 70'), 'what it prints is shown')
      await ask(1, 77)
      await until(() => /in-\w+ {2}asked 77/.test(text), 'what it prints now is shown')
    } finally {
      follow.kill('SIGKILL')
    }
    const { status: code, stdout } = spawnSync(process.execPath, [CLI, 'block', 'status', 'talk', '--data', net.peer(1).dataDir, '--json'], { encoding: 'utf8' })
    assert.equal(code, 0)
    assert.equal(status.parse(JSON.parse(stdout)).want, 1)
  })
})
